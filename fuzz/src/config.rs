//! The filter's configuration: a sound one keeps its bounds, any other is refused with a reason, and no
//! reason tells the token.

use purser_filter::config::{Config, Unidentified};
use purser_protocol::MAX_NAME_BYTES;
use serde_json::Value;

/// The input: a configuration.
pub fn check(data: &[u8]) {
    match Config::parse(data) {
        Ok(config) => check_bounds(&config),
        Err(mistakes) => {
            assert!(!mistakes.0.is_empty(), "refused without a mistake");
            let text = mistakes.to_string();
            assert!(!text.is_empty());
            check_secret(data, &text);
        }
    }
}

fn check_bounds(config: &Config) {
    let backend = &config.backend;
    assert!((16..=4096).contains(&backend.token.len()));
    assert!((1..=60_000).contains(&backend.hold_timeout_ms));
    assert!((1..=600_000).contains(&backend.settle_timeout_ms));
    assert!((1..=3_600).contains(&backend.renew_interval_s));
    assert!((1_024..=256 << 20).contains(&config.max_request_body_bytes));
    assert!((1_024..=256 << 20).contains(&config.max_metered_body_bytes));
    assert!((1..=256).contains(&config.outbox.batch_items));
    let identity = &config.identity;
    for header in &identity.stripped {
        assert!(header.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
    }
    if let Unidentified::Payer(payer) = &config.unidentified {
        for name in [Some(&payer.org), payer.team.as_ref(), payer.user.as_ref()].into_iter().flatten() {
            assert!((1..=MAX_NAME_BYTES).contains(&name.len()));
        }
    }
    assert!(!format!("{config:?}").contains(&format!("\"{}\"", backend.token)), "the token is shown");
}

/// A token that stands nowhere else must not be in what is said about the configuration.
fn check_secret(data: &[u8], said: &str) {
    let tree: Option<Value> = serde_json::from_slice(data).ok();
    let token = tree.as_ref().and_then(|tree| tree["backend"]["token"].as_str());
    let Some(token) = token.filter(|token| token.len() >= 16 && token.is_ascii()) else { return };
    let times = String::from_utf8_lossy(data).matches(token).count();
    assert!(times != 1 || !said.contains(token), "the token is told: {said}");
}

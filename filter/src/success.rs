//! What an answer that came through tells of its budgets.

use purser_protocol::{Allow, TierRemaining, Window, format_usd};

use crate::config::AnswerHeaders;
use crate::headers::HeaderEdit;

/// Nano-USD in the unit of the `RateLimit` fields.
const NANOUSD_PER_MICROUSD: i64 = 1_000;

/// Most warnings in a header.
const MAX_WARNINGS: usize = 16;

/// The headers that a grant puts on the answer. `degraded_from` is the model asked for, when another ran.
#[must_use]
pub fn headers(wanted: AnswerHeaders, allow: &Allow, degraded_from: Option<&str>) -> Vec<HeaderEdit> {
    let mut edits = Vec::new();
    if wanted.remaining {
        edits.extend(allow.remaining.iter().map(|left| {
            let name = format!("x-purser-remaining-{}", left.tier.as_str());
            HeaderEdit::set(name, format_usd(left.remaining_nanousd))
        }));
    }
    if wanted.warnings && !allow.warnings.is_empty() {
        let warnings = allow.warnings.iter().take(MAX_WARNINGS).map(|warning| {
            let (tier, window) = (warning.tier.as_str(), warning.window.as_str());
            format!("{tier};window={window};used={}", warning.used_percent)
        });
        edits.push(HeaderEdit::set("x-purser-warning", warnings.collect::<Vec<_>>().join(", ")));
    }
    if wanted.ratelimit && !allow.remaining.is_empty() {
        let list = |item: fn(&TierRemaining) -> String| {
            allow.remaining.iter().map(item).collect::<Vec<_>>().join(", ")
        };
        edits.push(HeaderEdit::set("ratelimit-policy", list(policy)));
        edits.push(HeaderEdit::set("ratelimit", list(limit)));
    }
    edits.extend(degraded_from.map(|model| HeaderEdit::set("x-purser-degraded-from", visible(model))));
    let clamped_to = allow.rewrite.as_ref().and_then(|rewrite| rewrite.max_output_tokens);
    if let Some(tokens) = clamped_to.filter(|_| allow.clamped) {
        edits.push(HeaderEdit::set("x-purser-clamped-to", tokens.to_string()));
    }
    edits
}

/// One item of `RateLimit-Policy`. Months differ in length and a total has none, so these name no window.
fn policy(left: &TierRemaining) -> String {
    let window = match left.window {
        Window::Day => ";w=86400",
        Window::Week => ";w=604800",
        Window::Month | Window::Total => "",
    };
    format!("\"{}\";q={};qu=\"micro-usd\"{window}", left.tier.as_str(), microusd(left.limit_nanousd))
}

/// One item of `RateLimit`.
fn limit(left: &TierRemaining) -> String {
    let resets = left.resets_in_s.map_or(String::new(), |seconds| format!(";t={seconds}"));
    format!("\"{}\";r={}{resets}", left.tier.as_str(), microusd(left.remaining_nanousd))
}

fn microusd(nanousd: i64) -> i64 {
    nanousd.max(0).div_euclid(NANOUSD_PER_MICROUSD)
}

/// A model's name as it may stand in a header: what isn't visible ASCII is percent-encoded.
fn visible(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use purser_protocol::{Rewrite, Tier, Warning};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn allow() -> Allow {
        let left = |tier, window, remaining_nanousd, resets_in_s| TierRemaining {
            tier,
            window,
            limit_nanousd: 5_000_000_999,
            remaining_nanousd,
            resets_in_s,
        };
        let warning = |tier, window, used_percent| Warning { budget_id: 1, tier, window, used_percent };
        Allow {
            remaining: vec![
                left(Tier::Org, Window::Day, 1_500_000_999, Some(60)),
                left(Tier::Team, Window::Month, -7, Some(9)),
                left(Tier::User, Window::Total, 3_000, None),
            ],
            warnings: vec![warning(Tier::Org, Window::Day, 95), warning(Tier::User, Window::Total, 101)],
            rewrite: Some(Rewrite { model: Some("b".to_owned()), max_output_tokens: Some(7) }),
            clamped: true,
            ..Allow::default()
        }
    }

    fn shown(wanted: AnswerHeaders, allow: &Allow, from: Option<&str>) -> Vec<String> {
        let line = |edit: HeaderEdit| match edit {
            HeaderEdit::Set(name, value) => format!("{name}: {value}"),
            HeaderEdit::Remove(name) => panic!("{name}"),
        };
        headers(wanted, allow, from).into_iter().map(line).collect()
    }

    #[test]
    fn each_switch_has_its_headers() {
        let off = AnswerHeaders { remaining: false, warnings: false, ratelimit: false };
        let always = ["x-purser-degraded-from: a", "x-purser-clamped-to: 7"];
        assert_eq!(shown(off, &allow(), Some("a")), always);
        let all = AnswerHeaders { remaining: true, warnings: true, ratelimit: true };
        assert_eq!(
            shown(all, &allow(), Some("a")),
            [
                "x-purser-remaining-org: 1.500000999",
                "x-purser-remaining-team: -0.000000007",
                "x-purser-remaining-user: 0.000003",
                "x-purser-warning: org;window=day;used=95, user;window=total;used=101",
                "ratelimit-policy: \"org\";q=5000000;qu=\"micro-usd\";w=86400, \
                 \"team\";q=5000000;qu=\"micro-usd\", \"user\";q=5000000;qu=\"micro-usd\"",
                "ratelimit: \"org\";r=1500000;t=60, \"team\";r=0;t=9, \"user\";r=3",
                always[0],
                always[1],
            ]
        );
        assert!(shown(all, &Allow::default(), None).is_empty());
        // A cap that is written in for another reason is no clamp.
        assert!(shown(off, &Allow { clamped: false, ..allow() }, None).is_empty());
    }

    #[test]
    fn no_name_breaks_out_of_its_header() {
        let off = AnswerHeaders { remaining: false, warnings: false, ratelimit: false };
        let found = shown(off, &Allow::default(), Some("a b\r\nx: \u{e4}%"));
        assert_eq!(found, ["x-purser-degraded-from: a%20b%0D%0Ax:%20%C3%A4%25"]);
    }
}

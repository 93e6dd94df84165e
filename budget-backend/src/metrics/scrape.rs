//! The text of a scrape, in the OpenMetrics format.

use std::collections::BTreeMap;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::{Labels, METRICS};

/// What a budget has left in its running period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetLeft {
    /// The organisation.
    pub org: String,
    /// The team, or `""`; of a `*` budget the one counted.
    pub team: String,
    /// The user, or `""`.
    pub user: String,
    /// `org`, `team` or `user`.
    pub tier: &'static str,
    /// `day`, `week`, `month` or `total`.
    pub window: String,
    /// Its number.
    pub budget_id: i64,
    /// Its limit with top-ups, nano-USD.
    pub limit_nanousd: i64,
    /// What is neither spent nor held, nano-USD.
    pub remaining_nanousd: i64,
}

/// Everything counted, with what budgets have left (`None` when it could not be read) and how many were
/// left out of it.
///
/// # Errors
/// What could not be written as text.
pub fn text(budgets: Option<&[BudgetLeft]>, left_out: i64) -> Result<String, std::fmt::Error> {
    let mut registry = METRICS.registry();
    build_info(&mut registry);
    add_budgets(&mut registry, budgets, left_out);
    let mut process = Registry::default();
    if let Some(bytes) = resident_bytes() {
        let memory = Gauge::<i64>::default();
        memory.set(bytes);
        process.register_with_unit("process_resident_memory", "Resident memory", Unit::Bytes, memory);
    }
    let mut text = String::new();
    encode(&mut text, &process)?;
    // Each registry ends its text; only the last end counts.
    let mut whole = text.trim_end_matches("# EOF\n").to_owned();
    let mut text = String::new();
    encode(&mut text, &METRICS.gen_ai.registry())?;
    whole.push_str(text.trim_end_matches("# EOF\n"));
    encode(&mut whole, &registry)?;
    Ok(whole)
}

fn build_info(registry: &mut Registry) {
    let labels = [("version", env!("CARGO_PKG_VERSION").to_owned())];
    registry.register("build", "What is running", Info::new(labels));
}

fn add_budgets(registry: &mut Registry, budgets: Option<&[BudgetLeft]>, left_out: i64) {
    let gauge = |value: i64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        gauge
    };
    let readable = gauge(i64::from(budgets.is_some()));
    registry.register("budgets_readable", "Whether the budgets could be read for this scrape", readable);
    let Some(budgets) = budgets else { return };
    let (remaining, limit) = (Family::<Labels<6>, Gauge>::default(), Family::<Labels<6>, Gauge>::default());
    let mut by_tier: BTreeMap<&str, i64> = BTreeMap::new();
    for budget in budgets {
        let labels = [
            ("org", budget.org.clone()),
            ("team", budget.team.clone()),
            ("user", budget.user.clone()),
            ("tier", budget.tier.to_owned()),
            ("window", budget.window.clone()),
            ("budget_id", budget.budget_id.to_string()),
        ];
        remaining.get_or_create(&labels).set(budget.remaining_nanousd);
        limit.get_or_create(&labels).set(budget.limit_nanousd);
        let exhausted = by_tier.entry(budget.tier).or_default();
        *exhausted = exhausted.saturating_add(i64::from(budget.remaining_nanousd <= 0));
    }
    let exhausted = Family::<Labels<1>, Gauge>::default();
    for (tier, count) in by_tier {
        exhausted.get_or_create(&[("tier", tier.to_owned())]).set(count);
    }
    let help = "Neither spent nor held in the running period, nano-USD; the tightest budgets only";
    registry.register("budget_remaining_nanousd", help, remaining);
    let help = "The limit of the running period with top-ups, nano-USD; the tightest budgets only";
    registry.register("budget_limit_nanousd", help, limit);
    registry.register("budgets_exhausted", "Listed budgets with nothing left, by tier", exhausted);
    registry.register("budgets_left_out", "Budgets beyond the number that is listed", gauge(left_out));
}

/// The process's resident memory; `None` where the system doesn't tell.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

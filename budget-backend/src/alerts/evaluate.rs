//! One look at what there is to tell.

use purser_protocol::format_usd;
use serde_json::json;
use sqlx::{PgConnection, PgPool, Row};

use super::AlertSettings;
use super::rules::{gone_at_unix_s, reached, recent_s, spike_from_nanousd};
use super::store::{self, NewAlert};
use crate::admin::standings::{self, Running};
use crate::window::rfc3339;

/// Budgets looked at in one query.
const PAGE: i64 = 1_000;

/// Most pages in one round; the budgets after them wait for nobody: a message says so.
const MAX_PAGES: usize = 500;

/// Most of each other kind in one round.
const MOST: i64 = 1_000;

/// Looks once, unless another replica is looking; gives how many alerts are new.
///
/// # Errors
/// The database's; then nothing was written.
pub async fn round(pool: &PgPool, settings: &AlertSettings) -> sqlx::Result<u64> {
    let mut transaction = pool.begin().await?;
    for setting in
        ["set local statement_timeout = '30s'", "set local idle_in_transaction_session_timeout = '30s'"]
    {
        sqlx::query(setting).execute(&mut *transaction).await?;
    }
    let turn = "select pg_try_advisory_xact_lock(hashtext('purser.alerts'))";
    if !sqlx::query(turn).fetch_one(&mut *transaction).await?.try_get::<bool, _>(0)? {
        return Ok(0);
    }
    let mut raised = budgets(&mut transaction, settings).await?;
    let mut others = unknown_prices(&mut transaction).await?;
    others.extend(fail_open(&mut transaction).await?);
    others.extend(spikes(&mut transaction, settings.least_spike_nanousd).await?);
    raised = raised.saturating_add(store::raise(&mut transaction, &others).await?);
    transaction.commit().await?;
    Ok(raised)
}

async fn budgets(connection: &mut PgConnection, settings: &AlertSettings) -> sqlx::Result<u64> {
    let mut raised = 0_u64;
    let mut after = (String::new(), 0, String::new());
    for _ in 0..MAX_PAGES {
        let page = standings::spent_after(connection, (&after.0, after.1, &after.2), PAGE).await?;
        let mut alerts: Vec<NewAlert> =
            page.iter().flat_map(|budget| thresholds(budget, &settings.percents)).collect();
        alerts.extend(forecasts(connection, &page).await?);
        raised = raised.saturating_add(store::raise(connection, &alerts).await?);
        match page.last() {
            Some(last) if i64::try_from(page.len()) == Ok(PAGE) => {
                after = (last.org.clone(), last.budget_id, last.subject.clone());
            }
            _ => return Ok(raised),
        }
    }
    tracing::warn!("more budgets than one round looks at; the last of them are not looked at");
    Ok(raised)
}

/// Each percentage reached; only the highest is told, since the others were passed at the same time or
/// have been told before.
fn thresholds(budget: &Running, percents: &[i32]) -> Vec<NewAlert> {
    let reached = reached(budget, percents);
    let highest = reached.last().copied();
    let of = |percent: i32| {
        let mut facts = budget_facts(budget);
        facts["threshold_percent"] = json!(percent);
        NewAlert {
            threshold: percent,
            told: Some(percent) == highest,
            ..budget_alert(budget, "budget_threshold", facts)
        }
    };
    reached.into_iter().map(of).collect()
}

async fn forecasts(connection: &mut PgConnection, page: &[Running]) -> sqlx::Result<Vec<NewAlert>> {
    // As if all that was spent was spent just now: if that is no reason, nothing is.
    let may_be = |budget: &&Running| gone_at_unix_s(budget, budget.spent_nanousd, 1).is_some();
    let budgets: Vec<&Running> = page.iter().filter(may_be).collect();
    let keys: Vec<_> = budgets
        .iter()
        .map(|b| (b.org.as_str(), b.budget_id, b.subject.as_str(), b.period_start_unix_s))
        .collect();
    let without = store::without_forecast(connection, &keys).await?;
    let mut alerts = Vec::new();
    for (budget, _) in budgets.into_iter().zip(without).filter(|(_, without)| !without) {
        let Some(span_s) = recent_s(&budget.window) else { continue };
        let from = budget.now_unix_s.saturating_sub(span_s).max(budget.period_start_unix_s);
        let from = from.saturating_sub(from.rem_euclid(3_600));
        let (team, user) = budget.place();
        let recent = store::recent(connection, (&budget.org, team, user), from).await?;
        if let Some(at_unix_s) = gone_at_unix_s(budget, recent.nanousd, recent.seconds) {
            let mut facts = budget_facts(budget);
            facts["gone_at"] = json!(rfc3339(at_unix_s));
            facts["recent_usd"] = json!(format_usd(recent.nanousd));
            facts["recent_s"] = json!(recent.seconds);
            alerts.push(budget_alert(budget, "budget_forecast", facts));
        }
    }
    Ok(alerts)
}

fn budget_facts(budget: &Running) -> serde_json::Value {
    let (team, user) = budget.place();
    let place = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    json!({
        "tier": budget.tier(), "team": place(team), "user": place(user), "window": budget.window,
        "limit_usd": format_usd(budget.limit_nanousd), "spent_usd": format_usd(budget.spent_nanousd),
        "held_usd": format_usd(budget.held_nanousd), "resets_at": budget.period_end_unix_s.and_then(rfc3339),
    })
}

fn budget_alert(budget: &Running, kind: &'static str, facts: serde_json::Value) -> NewAlert {
    NewAlert {
        org: budget.org.clone(),
        kind,
        budget_id: budget.budget_id,
        subject: budget.subject.clone(),
        period_start_unix_s: budget.period_start_unix_s,
        threshold: 0,
        facts,
        told: true,
    }
}

fn of_org(org: String, kind: &'static str, facts: serde_json::Value) -> NewAlert {
    NewAlert {
        org,
        kind,
        budget_id: 0,
        subject: String::new(),
        period_start_unix_s: 0,
        threshold: 0,
        facts,
        told: true,
    }
}

async fn unknown_prices(connection: &mut PgConnection) -> sqlx::Result<Vec<NewAlert>> {
    let found = store::unknown_prices(connection, MOST).await?;
    let alert = |(org, provider, model, flag, calls): (String, String, String, String, i64)| {
        let subject = format!("{provider} {model}");
        let facts = json!({"provider": provider, "model": model, "flag": flag, "calls": calls});
        NewAlert { subject, ..of_org(org, "unknown_price", facts) }
    };
    Ok(found.into_iter().map(alert).collect())
}

async fn fail_open(connection: &mut PgConnection) -> sqlx::Result<Vec<NewAlert>> {
    let found = store::fail_open_hours(connection, MOST).await?;
    let alert = |(org, hour, calls, nanousd): (String, i64, i64, i64)| {
        let facts = json!({"hour": rfc3339(hour), "calls": calls, "cost_usd": format_usd(nanousd)});
        NewAlert { period_start_unix_s: hour, ..of_org(org, "fail_open", facts) }
    };
    Ok(found.into_iter().map(alert).collect())
}

async fn spikes(connection: &mut PgConnection, least_nanousd: i64) -> sqlx::Result<Vec<NewAlert>> {
    let found = store::busy_hours(connection, least_nanousd, MOST).await?;
    let alert = |hours: store::Hours| {
        let from = spike_from_nanousd(hours.before_nanousd, least_nanousd)?;
        if hours.spent_nanousd <= from {
            return None;
        }
        let facts = json!({"hour": rfc3339(hours.hour_unix_s), "spent_usd": format_usd(hours.spent_nanousd),
            "usual_at_most_usd": format_usd(from)});
        Some(NewAlert { period_start_unix_s: hours.hour_unix_s, ..of_org(hours.org, "spend_anomaly", facts) })
    };
    Ok(found.into_iter().filter_map(alert).collect())
}

//! Budgets as they are shown: what was set, what they stand at, and when they run out at the recent rate.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use purser_protocol::{Tier, Window, format_usd};
use serde::Serialize;
use utoipa::ToSchema;

use super::budgets::{BudgetId, period_at, visible};
use super::page::Page;
use super::{ApiError, AppState};
use crate::access::Caller;
use crate::admin::budgets::{self, Listed, PeriodRow, counted_place};
use crate::admin::standings::Running;
use crate::admin::{self, BudgetRow, Standing};
use crate::alerts::rules::{gone_at_unix_s, recent_s};
use crate::budget::{EACH, Mode};
use crate::ladder::Ladder;
use crate::window::{Period, rfc3339};

/// Seconds of an hour, in which the rollup counts.
const HOUR_S: i64 = 3_600;

/// A budget and what it stands at in the running period.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Budget)]
pub struct BudgetView {
    budget_id: i64,
    /// For one counted under a `*` budget: that budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    default_of: Option<i64>,
    #[schema(value_type = super::openapi::TierName)]
    tier: Tier,
    org: String,
    #[schema(required)]
    team: Option<String>,
    #[schema(required)]
    user: Option<String>,
    #[schema(value_type = super::openapi::WindowName)]
    window: Window,
    time_zone: String,
    mode: Mode,
    strict: bool,
    models: Vec<String>,
    #[serde(skip_serializing_if = "Ladder::is_empty")]
    #[schema(required = false)]
    ladder: Ladder,
    limit_usd: String,
    /// Added to the limit in the running period.
    topped_up_usd: String,
    #[schema(required)]
    period_start: Option<String>,
    #[schema(required)]
    resets_at: Option<String>,
    spent_usd: String,
    held_usd: String,
    remaining_usd: String,
    /// Spent, of the limit with top-ups, rounded down.
    spent_percent: i64,
    /// Spent and held, of the limit with top-ups, rounded down.
    used_percent: i64,
    /// When it is gone at the recent rate, where that is before it resets.
    #[schema(required)]
    forecast: Option<Forecast>,
    /// When it stopped counting.
    #[schema(required)]
    archived_at: Option<String>,
}

/// When a budget is gone at the recent rate.
#[derive(Debug, Serialize, ToSchema)]
pub struct Forecast {
    #[schema(required)]
    gone_at: Option<String>,
    /// What was spent lately.
    recent_usd: String,
    /// In how many seconds.
    recent_s: i64,
}

/// Part of a listing; `next_cursor` continues it.
#[derive(Debug, Serialize, ToSchema)]
pub struct BudgetList {
    budgets: Vec<BudgetView>,
    #[schema(required)]
    next_cursor: Option<String>,
}

/// A budget in its running period, counted for one subject.
struct Shown {
    row: BudgetRow,
    period: Period,
    standing: Standing,
}

/// One budget.
pub(super) async fn one(state: &AppState, row: BudgetRow) -> Result<BudgetView, ApiError> {
    let now_unix_s = admin::now_unix_s(&state.pool).await?;
    let period = period_at(&row, now_unix_s)?;
    let key = [(row.budget_id, period.start_unix_s)];
    let listed = Listed { org: row.set.scope.org.clone(), limit: 1, ..Listed::default() };
    // No subject comes before the empty one, and none has this number but this budget.
    let before = (row.budget_id.saturating_sub(1), "");
    let mut standings = budgets::standings_after(&state.pool, &listed, &key, before).await?;
    let counted = standings.remove(&row.budget_id).unwrap_or_default();
    let standing = counted.into_iter().find(|standing| standing.subject.is_empty()).unwrap_or_default();
    let mut views = views(state, vec![Shown { row, period, standing }], now_unix_s).await?;
    views.pop().ok_or_else(|| ApiError::unavailable("the budget can't be shown"))
}

/// Part of an org's budgets, in the order of their numbers and subjects.
pub(super) async fn listing(
    state: &AppState,
    mut listed: Listed,
    cursor: Option<&str>,
) -> Result<BudgetList, ApiError> {
    let limit = usize::try_from(listed.limit).unwrap_or(usize::MAX);
    listed.limit = listed.limit.saturating_add(1);
    let after = cursor.map(read_cursor).transpose()?;
    listed.from_id = after.as_ref().map_or(0, |after| after.0);
    let now_unix_s = admin::now_unix_s(&state.pool).await?;
    let mut rows = Vec::new();
    for row in budgets::page(&state.pool, &listed).await? {
        let period = period_at(&row, now_unix_s)?;
        rows.push((row, period));
    }
    let periods: Vec<(i64, i64)> =
        rows.iter().map(|(row, period)| (row.budget_id, period.start_unix_s)).collect();
    // In the same order as they are shown, each shown one takes one at most.
    let (id, subject) = after.clone().unwrap_or_default();
    let standings = budgets::standings_after(&state.pool, &listed, &periods, (id, &subject)).await?;
    let mut shown = merged(rows, standings, &listed, after.as_ref());
    let next_cursor = (shown.len() > limit).then(|| {
        shown.truncate(limit);
        shown.last().map(|last| write_cursor(last.row.budget_id, &last.standing.subject))
    });
    Ok(BudgetList { budgets: views(state, shown, now_unix_s).await?, next_cursor: next_cursor.flatten() })
}

/// Each budget, then those counted under it, from after a place on.
fn merged(
    rows: Vec<(BudgetRow, Period)>,
    mut standings: BTreeMap<i64, Vec<Standing>>,
    listed: &Listed,
    after: Option<&(i64, String)>,
) -> Vec<Shown> {
    let mut shown = Vec::new();
    for (row, period) in rows {
        let mut counted = standings.remove(&row.budget_id).unwrap_or_default();
        let scope = &row.set.scope;
        // What everybody gets is shown to those who see everybody.
        let other =
            (scope.team == EACH && listed.team.is_some()) || (scope.user == EACH && listed.user.is_some());
        let was_shown = after.is_some_and(|after| after.0 == row.budget_id);
        if !other && !was_shown && !counted.iter().any(|standing| standing.subject.is_empty()) {
            counted.insert(0, Standing::default());
        }
        shown.extend(counted.into_iter().map(|standing| Shown { row: row.clone(), period, standing }));
    }
    shown
}

fn write_cursor(budget_id: i64, subject: &str) -> String {
    use std::fmt::Write as _;
    let mut cursor = format!("b{budget_id}.");
    for byte in subject.bytes() {
        // Writing into a text can't fail.
        let _written = write!(cursor, "{byte:02x}");
    }
    cursor
}

fn read_cursor(cursor: &str) -> Result<(i64, String), ApiError> {
    let read = || {
        let (id, subject) = cursor.strip_prefix('b')?.split_once('.')?;
        let digits = subject.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        let subject = String::from_utf8(digits.collect::<Option<Vec<u8>>>()?).ok()?;
        Some((id.parse().ok()?, subject)).filter(|(_, subject)| !subject.contains('\0'))
    };
    read().ok_or_else(|| ApiError::invalid_parameter("cursor: expected the next_cursor of an earlier answer"))
}

/// As the alerts see it.
fn running(shown: &Shown, now_unix_s: i64) -> Running {
    let (set, standing) = (&shown.row.set, &shown.standing);
    Running {
        org: set.scope.org.clone(),
        budget_id: shown.row.budget_id,
        team: set.scope.team.clone(),
        user: set.scope.user.clone(),
        subject: standing.subject.clone(),
        window: set.window.as_str().to_owned(),
        limit_nanousd: set.limit_nanousd.saturating_add(standing.topped_up_nanousd),
        spent_nanousd: standing.spent_nanousd,
        held_nanousd: standing.held_nanousd,
        period_start_unix_s: shown.period.start_unix_s,
        period_end_unix_s: shown.period.end_unix_s,
        now_unix_s,
        warn_at_percent: None,
    }
}

/// Shows them, with a forecast where there is one. The rollup knows what a place spent on all models; what
/// a budget of some models spends is forecast from its whole period.
async fn views(state: &AppState, shown: Vec<Shown>, now_unix_s: i64) -> Result<Vec<BudgetView>, ApiError> {
    let mut asked = Vec::new();
    let mut places = Vec::new();
    for (number, one) in shown.iter().enumerate() {
        let running = running(one, now_unix_s);
        let Some(span_s) = recent_s(&running.window).filter(|_| one.row.archived_at_unix_s.is_none()) else {
            continue;
        };
        // As if all that was spent was spent just now: if that is no reason, nothing is.
        if gone_at_unix_s(&running, running.spent_nanousd, 1).is_none() {
            continue;
        }
        let from = now_unix_s.saturating_sub(span_s).max(running.period_start_unix_s);
        let from = from.saturating_sub(from.rem_euclid(HOUR_S));
        let (team, user) = counted_place(&one.row.set.scope, &one.standing.subject);
        places.push((team, user, from));
        asked.push((number, running, from));
    }
    let mut forecasts = BTreeMap::new();
    if let Some(org) = shown.first().map(|one| one.row.set.scope.org.clone()).filter(|_| !asked.is_empty()) {
        let recent = budgets::recent(&state.pool, &org, &places).await?;
        for ((number, running, from), mut recent_nanousd) in asked.into_iter().zip(recent) {
            let mut seconds = now_unix_s.saturating_sub(from);
            if shown.get(number).is_some_and(|one| !one.row.set.models.names().is_empty()) {
                recent_nanousd = running.spent_nanousd;
                seconds = now_unix_s.saturating_sub(running.period_start_unix_s);
            }
            if let Some(at_unix_s) = gone_at_unix_s(&running, recent_nanousd, seconds) {
                let recent_usd = format_usd(recent_nanousd);
                forecasts
                    .insert(number, Forecast { gone_at: rfc3339(at_unix_s), recent_usd, recent_s: seconds });
            }
        }
    }
    let view = |(number, one): (usize, Shown)| BudgetView {
        forecast: forecasts.remove(&number),
        ..view(&one.row, one.period, &one.standing)
    };
    Ok(shown.into_iter().enumerate().map(view).collect())
}

fn percent(part_nanousd: i64, limit_nanousd: i64) -> i64 {
    if limit_nanousd <= 0 {
        return 100;
    }
    let percent = i128::from(part_nanousd).saturating_mul(100).checked_div(i128::from(limit_nanousd));
    percent.and_then(|percent| i64::try_from(percent).ok()).unwrap_or(i64::MAX)
}

pub(super) fn view(row: &BudgetRow, period: Period, standing: &Standing) -> BudgetView {
    let set = &row.set;
    let scope = &set.scope;
    let each = !standing.subject.is_empty();
    let place = |name: &str| {
        let shown = if each && name == EACH { standing.subject.as_str() } else { name };
        (!shown.is_empty()).then(|| shown.to_owned())
    };
    let limit_nanousd = set.limit_nanousd.saturating_add(standing.topped_up_nanousd);
    let used_nanousd = standing.spent_nanousd.saturating_add(standing.held_nanousd);
    let left = limit_nanousd.saturating_sub(standing.spent_nanousd).saturating_sub(standing.held_nanousd);
    BudgetView {
        budget_id: row.budget_id,
        default_of: each.then_some(row.budget_id),
        tier: scope.tier(),
        org: scope.org.clone(),
        team: place(&scope.team),
        user: place(&scope.user),
        window: set.window,
        time_zone: set.time_zone.clone(),
        mode: set.mode,
        strict: set.strict,
        models: set.models.names().to_vec(),
        ladder: set.ladder.clone(),
        limit_usd: format_usd(set.limit_nanousd),
        topped_up_usd: format_usd(standing.topped_up_nanousd),
        period_start: rfc3339(period.start_unix_s),
        resets_at: period.end_unix_s.and_then(rfc3339),
        spent_usd: format_usd(standing.spent_nanousd),
        held_usd: format_usd(standing.held_nanousd),
        remaining_usd: format_usd(left),
        spent_percent: percent(standing.spent_nanousd, limit_nanousd),
        used_percent: percent(used_nanousd, limit_nanousd),
        forecast: None,
        archived_at: row.archived_at_unix_s.and_then(rfc3339),
    }
}

/// What a budget stood at in one of its periods. The limit of then is in the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct PeriodView {
    #[schema(required)]
    period_start: Option<String>,
    #[schema(required)]
    period_end: Option<String>,
    /// For a `*` budget the team or user counted.
    #[schema(required)]
    subject: Option<String>,
    spent_usd: String,
    held_usd: String,
    topped_up_usd: String,
}

/// Part of a listing; `next_cursor` continues it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PeriodList {
    periods: Vec<PeriodView>,
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Lists a budget's periods, the latest first; of an archived budget as well.
#[utoipa::path(get, path = "/v1/budgets/{budget_id}/periods", tag = "budgets", params(BudgetId, Page),
    responses((status = 200, description = "Part of the listing.", body = PeriodList)))]
pub async fn periods(
    State(state): State<AppState>,
    caller: Caller,
    Path(budget_id): Path<String>,
    asked: Result<Query<Page>, QueryRejection>,
) -> Result<Json<PeriodList>, ApiError> {
    let Query(asked) = asked?;
    let row = visible(&state, &caller, &budget_id).await?;
    let before = asked.cursor.as_deref().map(read_cursor).transpose()?;
    let limit = asked.limit()?;
    let before = before.as_ref().map(|(start, subject)| (*start, subject.as_str()));
    let mut rows = budgets::periods(&state.pool, &row, None, before, limit.saturating_add(1)).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let next_cursor = (rows.len() > most).then(|| {
        rows.truncate(most);
        rows.last().map(|last| write_cursor(last.start_unix_s, &last.standing.subject))
    });
    let periods = rows.into_iter().map(|period| period_view(&row, period));
    let periods = periods.collect::<Result<_, ApiError>>()?;
    Ok(Json(PeriodList { periods, next_cursor: next_cursor.flatten() }))
}

fn period_view(
    row: &BudgetRow,
    PeriodRow { start_unix_s, standing }: PeriodRow,
) -> Result<PeriodView, ApiError> {
    Ok(PeriodView {
        period_start: rfc3339(start_unix_s),
        period_end: period_at(row, start_unix_s)?.end_unix_s.and_then(rfc3339),
        spent_usd: format_usd(standing.spent_nanousd),
        held_usd: format_usd(standing.held_nanousd),
        topped_up_usd: format_usd(standing.topped_up_nanousd),
        subject: Some(standing.subject).filter(|subject| !subject.is_empty()),
    })
}

//! The rows of what is set at scopes, read together with the version they are of.

use std::collections::BTreeSet;

use purser_protocol::Tier;
use serde::Deserialize;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};

use super::policies::{Policies, ScopePolicy};
use crate::budget::{Budget, BudgetColumns, Scope};
use crate::pattern::Patterns;
use crate::rules::{Override, Rule};

/// Reads what is set at `scopes` into `policies`; gives back the database's clock, microseconds since the
/// Unix epoch.
///
/// # Errors
/// The database's; a row that can't be read.
pub async fn read_policies(
    conn: &mut PgConnection,
    scopes: &BTreeSet<Scope>,
    policies: &mut Policies,
) -> sqlx::Result<i64> {
    let column = |of: fn(&Scope) -> &str| scopes.iter().map(of).collect::<Vec<&str>>();
    let rows = sqlx::query(READ_POLICIES)
        .bind(column(|scope| &scope.org))
        .bind(column(|scope| &scope.team))
        .bind(column(|scope| &scope.user))
        .fetch_all(conn)
        .await?;
    let mut now_unix_us = 0;
    for row in &rows {
        now_unix_us = row.try_get("now_us")?;
        let scope = Scope::new(row.try_get("org")?, row.try_get("team")?, row.try_get("user_name")?);
        let policy = scope_policy(row, &scope)?;
        policies.insert(row.try_get("version")?, scope, policy);
    }
    Ok(now_unix_us)
}

const READ_POLICIES: &str = "
    select s.org, s.team, s.user_name, coalesce(v.version, 0) as version,
           (extract(epoch from clock_timestamp()) * 1000000)::bigint as now_us,
           coalesce((select json_agg(json_build_object('budget_id', b.budget_id, 'window_kind', b.window_kind,
                            'time_zone', b.time_zone, 'limit_nanousd', b.limit_nanousd, 'mode', b.mode,
                            'strict', b.strict, 'models', b.models, 'ladder', b.ladder))
                       from budgets b
                      where b.org = s.org and b.team = s.team and b.user_name = s.user_name
                        and b.archived_at is null), '[]') as budgets,
           (select json_build_object('blocked', r.blocked, 'reason', r.reason,
                   'allowed_models', r.allowed_models, 'denied_models', r.denied_models,
                   'required_tiers', r.required_tiers,
                   'unknown_models', r.unknown_models)
              from call_rules r
             where r.org = s.org and r.team = s.team and r.user_name = s.user_name) as rule,
           coalesce((select json_agg(json_build_object('override_id', o.override_id,
                            'expires_unix_us', (extract(epoch from least(o.expires_at, '9999-12-31')) * 1000000)::bigint)
                            order by o.override_id)
                       from overrides o
                      where o.org = s.org and o.team = s.team and o.user_name = s.user_name
                        and o.ended_at is null and o.expires_at > now()), '[]') as overrides
      from unnest($1::text[], $2::text[], $3::text[]) as s (org, team, user_name)
      left join budget_versions v on v.org = s.org";

#[derive(Deserialize)]
struct RuleColumns {
    blocked: bool,
    reason: String,
    allowed_models: Patterns,
    denied_models: Patterns,
    required_tiers: Vec<Tier>,
    unknown_models: String,
}

#[derive(Deserialize)]
struct OverrideColumns {
    override_id: i64,
    expires_unix_us: i64,
}

fn scope_policy(row: &PgRow, scope: &Scope) -> sqlx::Result<ScopePolicy> {
    let Json(budgets): Json<Vec<BudgetColumns>> = row.try_get("budgets")?;
    let rule: Option<Json<RuleColumns>> = row.try_get("rule")?;
    let Json(overrides): Json<Vec<OverrideColumns>> = row.try_get("overrides")?;
    let budgets = budgets
        .into_iter()
        .map(|columns| Budget::from_columns(scope.clone(), columns))
        .collect::<Result<Vec<_>, String>>()
        .map_err(|problem| sqlx::Error::Decode(problem.into()))?;
    let rule = rule.map(|Json(columns)| Rule {
        scope: scope.clone(),
        blocked: columns.blocked,
        reason: columns.reason,
        allowed_models: columns.allowed_models,
        denied_models: columns.denied_models,
        required_tiers: columns.required_tiers,
        // A word nobody knows is not a permission.
        deny_unknown_models: columns.unknown_models != "ceiling",
    });
    let overrides = overrides.into_iter().map(|columns| Override {
        override_id: columns.override_id,
        expires_unix_us: columns.expires_unix_us,
    });
    Ok(ScopePolicy { budgets, rule, overrides: overrides.collect() })
}

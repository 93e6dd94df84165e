//! The SQL of alerts: writing them down with their deliveries, and what there is to look at.

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};

/// An alert to write down, unless it was.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAlert {
    /// The organisation.
    pub org: String,
    /// As in the table.
    pub kind: &'static str,
    /// The budget; 0 when none is concerned.
    pub budget_id: i64,
    /// For a `*` budget the team or user; for an unknown price the provider and the model.
    pub subject: String,
    /// First second of the period or the hour; 0 for what is told once.
    pub period_start_unix_s: i64,
    /// Percent of the limit, or 0.
    pub threshold: i32,
    /// What there is to tell.
    pub facts: serde_json::Value,
    /// Whether it is told. What a later threshold passed over is only noted.
    pub told: bool,
}

/// Writes alerts down; those that are new get their deliveries. Gives how many are new.
///
/// # Errors
/// The database's.
pub async fn raise(connection: &mut PgConnection, alerts: &[NewAlert]) -> sqlx::Result<u64> {
    let records: Vec<serde_json::Value> = alerts
        .iter()
        .map(|a| {
            serde_json::json!({
                "org": a.org, "kind": a.kind, "budget_id": a.budget_id, "subject": a.subject,
                "start": a.period_start_unix_s, "threshold": a.threshold, "facts": a.facts, "told": a.told,
            })
        })
        .collect();
    let row = sqlx::query(
        "with asked as materialized (
             select * from jsonb_to_recordset($1) as r (org text, kind text, budget_id bigint, subject text,
                 start bigint, threshold integer, facts jsonb, told boolean)),
         raised as (
             insert into alerts (org, kind, budget_id, subject, period_start, threshold, facts)
             select org, kind, budget_id, subject, to_timestamp(start), threshold, facts from asked
              order by org, kind, budget_id, subject, start, threshold
             on conflict do nothing
             returning org, alert_id, kind, budget_id, subject, period_start, threshold),
         told as (
             insert into alert_deliveries (org, alert_id, webhook_id)
             select r.org, r.alert_id, w.webhook_id
               from raised r
               join asked a on (a.org, a.kind, a.budget_id, a.subject, to_timestamp(a.start), a.threshold)
                             = (r.org, r.kind, r.budget_id, r.subject, r.period_start, r.threshold) and a.told
               join webhooks w on w.archived_at is null and w.org in (r.org, '*')
             returning 1)
         select count(*) as raised, (select count(*) from told) as told from raised",
    )
    .bind(Json(records))
    .fetch_one(connection)
    .await?;
    let raised: i64 = row.try_get("raised")?;
    Ok(raised.unsigned_abs())
}

/// What a budget's place has spent recently.
#[derive(Debug, Clone, Copy)]
pub struct Recent {
    /// Nano-USD.
    pub nanousd: i64,
    /// In so many seconds.
    pub seconds: i64,
}

/// What was spent in a place since `seconds` ago, in whole hours of the rollup, but not before a period
/// began. `*` never stands here. Of all models.
///
/// # Errors
/// The database's.
pub async fn recent(
    connection: &mut PgConnection,
    place: (&str, &str, &str),
    from_unix_s: i64,
) -> sqlx::Result<Recent> {
    let row = sqlx::query(
        "select least(coalesce(sum(u.cost_nanousd), 0), 9223372036854775807)::bigint as spent,
                extract(epoch from now() - to_timestamp($4))::bigint as seconds
           from usage_hourly u
          where u.org = $1 and ($2 = '' or u.team = $2) and ($3 = '' or u.user_name = $3)
            and u.hour >= to_timestamp($4)",
    )
    .bind(place.0)
    .bind(place.1)
    .bind(place.2)
    .bind(from_unix_s)
    .fetch_one(connection)
    .await?;
    Ok(Recent { nanousd: row.try_get("spent")?, seconds: row.try_get("seconds")? })
}

/// Budgets whose forecast was told for their running period already, and those for some models only, of
/// which the rollup doesn't tell the spend.
///
/// # Errors
/// The database's.
pub async fn without_forecast(
    connection: &mut PgConnection,
    keys: &[(&str, i64, &str, i64)],
) -> sqlx::Result<Vec<bool>> {
    let orgs: Vec<&str> = keys.iter().map(|key| key.0).collect();
    let ids: Vec<i64> = keys.iter().map(|key| key.1).collect();
    let subjects: Vec<&str> = keys.iter().map(|key| key.2).collect();
    let starts: Vec<i64> = keys.iter().map(|key| key.3).collect();
    let rows = sqlx::query(
        "select exists (select from alerts a where a.org = k.org and a.kind = 'budget_forecast'
                            and a.budget_id = k.budget_id and a.subject = k.subject
                            and a.period_start = to_timestamp(k.start) and a.threshold = 0)
                or exists (select from budgets b where b.org = k.org and b.budget_id = k.budget_id
                               and b.models <> '{}') as without
           from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) with ordinality
                as k (org, budget_id, subject, start, place)
          order by k.place",
    )
    .bind(orgs)
    .bind(ids)
    .bind(subjects)
    .bind(starts)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| row.try_get("without")).collect()
}

/// Most models without a known price that are told of one org within a day: whoever makes up names could
/// otherwise raise an alert with each. All of them are listed by the API.
pub const MAX_UNKNOWN_PRICES_PER_DAY: i64 = 20;

/// Models whose calls were lately not priced by a known price, for another reason than that their usage
/// never comes back: org, provider, model, flag, calls. Of an org those that cost most, as many as may
/// still be told today.
///
/// # Errors
/// The database's.
pub async fn unknown_prices(
    connection: &mut PgConnection,
    limit: i64,
) -> sqlx::Result<Vec<(String, String, String, String, i64)>> {
    let rows = sqlx::query(
        "with found as (
         select r.org, r.provider, r.model, min(r.price_flag) as flag, count(*) as calls,
                row_number() over (partition by r.org
                                   order by sum(r.cost_nanousd) desc, r.provider, r.model) as place
           from llm_requests r
          where r.price_flag <> '' and r.unpriced <> '{usage}' and r.occurred_at > now() - interval '2 hours'
            and not exists (select from alerts a where a.org = r.org and a.kind = 'unknown_price'
                                and a.budget_id = 0 and a.subject = r.provider || ' ' || r.model
                                and a.period_start = timestamptz 'epoch' and a.threshold = 0)
          group by r.org, r.provider, r.model)
         select f.org, f.provider, f.model, f.flag, f.calls
           from found f
          where f.place <= $2
            and f.place <= $2 - (select count(*) from alerts a
                                   where a.org = f.org and a.kind = 'unknown_price'
                                     and a.raised_at > now() - interval '1 day')
          order by f.org, f.provider, f.model limit $1",
    )
    .bind(limit)
    .bind(MAX_UNKNOWN_PRICES_PER_DAY)
    .fetch_all(connection)
    .await?;
    let read = |row: &PgRow| {
        Ok((
            row.try_get("org")?,
            row.try_get("provider")?,
            row.try_get("model")?,
            row.try_get("flag")?,
            row.try_get("calls")?,
        ))
    };
    rows.iter().map(read).collect()
}

/// Orgs with calls that went out without a verdict, by hour: org, first second of the hour, calls, nano-USD.
///
/// # Errors
/// The database's.
pub async fn fail_open_hours(
    connection: &mut PgConnection,
    limit: i64,
) -> sqlx::Result<Vec<(String, i64, i64, i64)>> {
    let rows = sqlx::query(
        "select org, extract(epoch from date_trunc('hour', occurred_at))::bigint as hour, count(*) as calls,
                least(sum(cost_nanousd), 9223372036854775807)::bigint as cost
           from llm_requests
          where admission = 'fail_open' and entry = 0
            and occurred_at >= date_trunc('hour', now() - interval '1 hour')
          group by 1, 2 order by 1, 2 limit $1",
    )
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let read = |row: &PgRow| {
        Ok((row.try_get("org")?, row.try_get("hour")?, row.try_get("calls")?, row.try_get("cost")?))
    };
    rows.iter().map(read).collect()
}

/// An org's running hour and the hours of the week before.
#[derive(Debug)]
pub struct Hours {
    /// The organisation.
    pub org: String,
    /// First second of the running hour.
    pub hour_unix_s: i64,
    /// What it has spent so far, nano-USD.
    pub spent_nanousd: i64,
    /// What each hour before it spent, from the first that spent anything, nano-USD.
    pub before_nanousd: Vec<i64>,
}

/// The hours of orgs that spent at least so much in the running one.
///
/// # Errors
/// The database's.
pub async fn busy_hours(
    connection: &mut PgConnection,
    least_nanousd: i64,
    limit: i64,
) -> sqlx::Result<Vec<Hours>> {
    let rows = sqlx::query(
        "with busy as materialized (
             select org, sum(cost_nanousd) as spent from usage_hourly
              where hour = date_trunc('hour', now()) group by org having sum(cost_nanousd) >= $1
              order by org limit $2),
         past as materialized (
             select b.org, u.hour, sum(u.cost_nanousd) as spent
               from busy b join usage_hourly u on u.org = b.org
              where u.hour >= date_trunc('hour', now()) - interval '7 days' and u.hour < date_trunc('hour', now())
              group by b.org, u.hour),
         every as (
             select f.org, h.hour from (select org, min(hour) as first from past group by org) f
              cross join lateral generate_series(f.first, date_trunc('hour', now()) - interval '1 hour',
                                                 interval '1 hour') as h (hour))
         select b.org, extract(epoch from date_trunc('hour', now()))::bigint as hour,
                least(b.spent, 9223372036854775807)::bigint as spent,
                coalesce((select array_agg(least(greatest(coalesce(p.spent, 0), 0), 9223372036854775807)::bigint)
                            from every e left join past p on p.org = e.org and p.hour = e.hour
                           where e.org = b.org), '{}') as before
           from busy b order by b.org",
    )
    .bind(least_nanousd)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let read = |row: &PgRow| {
        Ok(Hours {
            org: row.try_get("org")?,
            hour_unix_s: row.try_get("hour")?,
            spent_nanousd: row.try_get("spent")?,
            before_nanousd: row.try_get("before")?,
        })
    };
    rows.iter().map(read).collect()
}

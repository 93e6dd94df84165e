//! Calls one by one: their latest, the refused ones, and the whole story of one.

use sqlx::postgres::{PgPool, PgRow};
use sqlx::types::Json;
use sqlx::{Postgres, QueryBuilder, Row};
use uuid::Uuid;

/// A listing may take longer than a check.
const LIMITS: &str = "set local statement_timeout = '10s'";

/// Longest way back of a listing, days.
const BACK_DAYS: i32 = 400;

/// Which calls to list.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The org.
    pub org: String,
    /// Only this team's; `""` for calls without one.
    pub team: Option<String>,
    /// Only this user's, of the team.
    pub user: Option<String>,
    /// Only before this: Unix microseconds and id of the last call told.
    pub before: Option<(i64, Uuid)>,
    /// How many.
    pub limit: i64,
}

/// A call in a listing.
#[derive(Debug, Clone)]
pub struct CallRow {
    /// Its id.
    pub hold_id: Uuid,
    /// When it was decided or refused, Unix microseconds.
    pub at_unix_us: i64,
    /// Team, user, provider, model, API.
    pub names: [String; 5],
    /// Model asked for, when a cheaper one ran.
    pub asked_model: Option<String>,
    /// Where the latest amount comes from.
    pub cause: String,
    /// The upstream's status; 0 when no answer came.
    pub http_status: i32,
    /// What it cost with every correction, nano-USD.
    pub cost_nanousd: i64,
}

/// A refused call.
#[derive(Debug, Clone)]
pub struct DenialRow {
    /// Organisation; empty where nobody was known.
    pub org: String,
    /// The hold asked for.
    pub hold_id: Uuid,
    /// When, Unix microseconds.
    pub at_unix_us: i64,
    /// Team, user, provider, model, API.
    pub names: [String; 5],
    /// Why.
    pub reason: String,
    /// How many calls.
    pub calls: i64,
    /// The budget that refused; 0 when none did.
    pub budget_id: i64,
    /// Its tier and window, or empty.
    pub tier: String,
    /// Its window, or empty.
    pub window: String,
    /// Limit, spent, held, needed then, nano-USD.
    pub amounts_nanousd: [Option<i64>; 4],
    /// When it starts anew, Unix seconds.
    pub resets_at_unix_s: Option<i64>,
    /// What the caller was told.
    pub message: String,
}

/// The hours in which the ledger has calls of a payer are read from the rollup first: a user of few calls is
/// found without looking through those of the whole team.
const LATEST_OF_USER: &str = "
    from (select distinct hour from usage_hourly
           where org = $1 and team = $2 and user_name = $3
             and hour <= coalesce(timestamptz 'epoch' + $4::bigint * interval '1 microsecond', now())
             and hour > now() - $5 * interval '1 day'
           order by hour desc) h
   cross join lateral (
         select * from llm_requests q
          where q.org = $1 and q.team = $2 and q.user_name = $3 and q.entry = 0
            and q.occurred_at >= h.hour and q.occurred_at < h.hour + interval '1 hour'
            and ($4::bigint is null or (q.occurred_at, q.hold_id)
                 < (timestamptz 'epoch' + $4::bigint * interval '1 microsecond', $6::uuid))
          order by q.occurred_at desc, q.hold_id desc limit $7) r
   order by h.hour desc, r.occurred_at desc, r.hold_id desc limit $7";

/// The latest calls that were let through, the latest first.
///
/// # Errors
/// The database's.
pub async fn latest(pool: &PgPool, wanted: &Wanted) -> sqlx::Result<Vec<CallRow>> {
    let mut transaction = pool.begin().await?;
    sqlx::query(LIMITS).execute(&mut *transaction).await?;
    let mut built = latest_statement(wanted, false);
    let rows = built.build().persistent(false).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    rows.iter().map(call).collect()
}

/// How the database would find the latest calls, as JSON.
///
/// # Errors
/// The database's.
pub async fn latest_plan(pool: &PgPool, wanted: &Wanted) -> sqlx::Result<serde_json::Value> {
    latest_statement(wanted, true).build_query_scalar().persistent(false).fetch_one(pool).await
}

fn latest_statement(wanted: &Wanted, explained: bool) -> QueryBuilder<Postgres> {
    const COLUMNS: &str = "select l.hold_id, (extract(epoch from l.occurred_at) * 1000000)::bigint as at_us, l.team,
        l.user_name, l.provider, l.model, l.api, l.asked_model, e.cause, e.http_status, e.cost from (select r.*";
    // Corrections are few: they are looked for only for the calls told.
    const CORRECTED: &str = ") l cross join lateral (
         select sum(cost_nanousd)::bigint as cost, (array_agg(cause order by entry desc))[1] as cause,
                max(http_status) as http_status
           from llm_requests c where c.org = l.org and c.hold_id = l.hold_id) e
       order by l.occurred_at desc, l.hold_id desc";
    let mut sql = QueryBuilder::new(if explained { "explain (format json) " } else { "" });
    sql.push(COLUMNS);
    let (at, id) = wanted.before.map_or((None, None), |(at, id)| (Some(at), Some(id)));
    if let (Some(team), Some(user)) = (&wanted.team, &wanted.user) {
        // The parameters in the order of their numbers; what is bound twice is said twice.
        let mut parts = LATEST_OF_USER.split('$');
        sql.push(parts.next().unwrap_or_default());
        for part in parts {
            let (number, text) = part.split_at(1);
            match number {
                "1" => sql.push_bind(wanted.org.clone()),
                "2" => sql.push_bind(team.clone()),
                "3" => sql.push_bind(user.clone()),
                "4" => sql.push_bind(at),
                "5" => sql.push_bind(BACK_DAYS),
                "6" => sql.push_bind(id),
                _ => sql.push_bind(wanted.limit),
            };
            sql.push(text);
        }
    } else {
        sql.push(" from llm_requests r where r.entry = 0 and r.org = ");
        sql.push_bind(wanted.org.clone());
        if let Some(team) = &wanted.team {
            sql.push(" and r.team = ");
            sql.push_bind(team.clone());
        }
        if let (Some(at), Some(id)) = (at, id) {
            sql.push(" and (r.occurred_at, r.hold_id) < (timestamptz 'epoch' + ");
            sql.push_bind(at);
            sql.push(" * interval '1 microsecond', ");
            sql.push_bind(id);
            sql.push(")");
        }
        sql.push(" order by r.occurred_at desc, r.hold_id desc limit ");
        sql.push_bind(wanted.limit);
    }
    sql.push(CORRECTED);
    sql
}

fn names(row: &PgRow) -> sqlx::Result<[String; 5]> {
    Ok([
        row.try_get("team")?,
        row.try_get("user_name")?,
        row.try_get("provider")?,
        row.try_get("model")?,
        row.try_get("api")?,
    ])
}

fn call(row: &PgRow) -> sqlx::Result<CallRow> {
    Ok(CallRow {
        hold_id: row.try_get("hold_id")?,
        at_unix_us: row.try_get("at_us")?,
        names: names(row)?,
        asked_model: row.try_get("asked_model")?,
        cause: row.try_get("cause")?,
        http_status: row.try_get("http_status")?,
        cost_nanousd: row.try_get("cost")?,
    })
}

const DENIAL_COLUMNS: &str = "org, hold_id, (extract(epoch from denied_at) * 1000000)::bigint as at_us, team, user_name,
    provider, model, api, reason, calls, budget_id, tier, window_kind, limit_nanousd, spent_nanousd, held_nanousd,
    needed_nanousd, extract(epoch from resets_at)::bigint as resets_unix_s, message";

fn denial(row: &PgRow) -> sqlx::Result<DenialRow> {
    Ok(DenialRow {
        org: row.try_get("org")?,
        hold_id: row.try_get("hold_id")?,
        at_unix_us: row.try_get("at_us")?,
        names: names(row)?,
        reason: row.try_get("reason")?,
        calls: row.try_get("calls")?,
        budget_id: row.try_get("budget_id")?,
        tier: row.try_get("tier")?,
        window: row.try_get("window_kind")?,
        amounts_nanousd: [
            row.try_get("limit_nanousd")?,
            row.try_get("spent_nanousd")?,
            row.try_get("held_nanousd")?,
            row.try_get("needed_nanousd")?,
        ],
        resets_at_unix_s: row.try_get("resets_unix_s")?,
        message: row.try_get("message")?,
    })
}

/// The latest refused calls, the latest first.
///
/// # Errors
/// The database's.
pub async fn denied(pool: &PgPool, wanted: &Wanted) -> sqlx::Result<Vec<DenialRow>> {
    let mut built = denied_statement(wanted, false);
    let rows = built.build().persistent(false).fetch_all(pool).await?;
    rows.iter().map(denial).collect()
}

/// How the database would find them, as JSON.
///
/// # Errors
/// The database's.
pub async fn denied_plan(pool: &PgPool, wanted: &Wanted) -> sqlx::Result<serde_json::Value> {
    denied_statement(wanted, true).build_query_scalar().persistent(false).fetch_one(pool).await
}

fn denied_statement(wanted: &Wanted, explained: bool) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(if explained { "explain (format json) " } else { "" });
    sql.push(format!("select {DENIAL_COLUMNS} from denials where org = "));
    sql.push_bind(wanted.org.clone());
    for (column, value) in [("team", &wanted.team), ("user_name", &wanted.user)] {
        if let Some(value) = value {
            sql.push(format!(" and {column} = "));
            sql.push_bind(value.clone());
        }
    }
    if let Some((at, id)) = wanted.before {
        sql.push(" and (denied_at, hold_id) < (timestamptz 'epoch' + ");
        sql.push_bind(at);
        sql.push(" * interval '1 microsecond', ");
        sql.push_bind(id);
        sql.push(")");
    }
    sql.push(" order by denied_at desc, hold_id desc limit ");
    sql.push_bind(wanted.limit);
    sql
}

/// Everything that is known of one id, as the tables have it.
#[derive(Debug, Clone)]
pub struct Story {
    /// Whose it is.
    pub org: String,
    /// Its refusal.
    pub denial: Option<DenialRow>,
    /// Its hold, as JSON of the columns; gone an hour after it closed.
    pub hold: Option<serde_json::Value>,
    /// Its ledger entries in their order, as JSON of the columns.
    pub entries: Vec<serde_json::Value>,
    /// The budgets that it counts in, archived ones as well, as JSON.
    pub budgets: Vec<serde_json::Value>,
    /// The version of the price used, as JSON of the columns.
    pub price: Option<serde_json::Value>,
    /// Why its settlement could not be recorded.
    pub quarantined: Option<String>,
}

/// Every org that has anything, one after another along the keys: orgs are few and calls many.
fn orgs() -> String {
    let of = |table: &str| {
        format!(
            "(with recursive orgs as (
                  (select org from {table} order by org limit 1)
                  union all
                  select (select t.org from {table} t where t.org > o.org order by t.org limit 1)
                    from orgs o where o.org is not null)
              select org from orgs where org is not null)"
        )
    };
    ["cost_daily_summary", "holds", "denials"].map(of).join(" union ")
}

/// Which org an id belongs to, among `org` or all of them.
///
/// # Errors
/// The database's.
pub async fn org_of(pool: &PgPool, org: Option<&str>, hold_id: Uuid) -> sqlx::Result<Option<String>> {
    let sql = format!(
        "select o.org from (select $1::text as org where $1 is not null
                             union select org from ({}) as every where $1 is null) o
          where exists (select from holds t where t.org = o.org and t.hold_id = $2)
             or exists (select from denials t where t.org = o.org and t.hold_id = $2)
             or exists (select from llm_requests t where t.org = o.org and t.hold_id = $2)
          order by o.org limit 1",
        orgs()
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(org).bind(hold_id).fetch_optional(pool).await
}

/// What is known of an org's id, in one snapshot; `None` when nothing is.
///
/// # Errors
/// The database's.
pub async fn story(pool: &PgPool, org: &str, hold_id: Uuid) -> sqlx::Result<Option<Story>> {
    let mut transaction = pool.begin().await?;
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *transaction)
        .await?;
    let sql = format!("select {DENIAL_COLUMNS} from denials where org = $1 and hold_id = $2");
    let refused = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(org).bind(hold_id);
    let refused = refused.fetch_optional(&mut *transaction).await?;
    let row = sqlx::query(
        "with h as (select * from holds where org = $1 and hold_id = $2),
              e as (select * from llm_requests where org = $1 and hold_id = $2),
              c as (select distinct (c ->> 0)::bigint as budget_id, c ->> 1 as subject, (c ->> 2)::bigint as start_unix_s
                      from (select counters from h union all select counters from e) every
                     cross join jsonb_array_elements(every.counters) c)
         select (select to_jsonb(h) from h) as hold,
                coalesce((select jsonb_agg(to_jsonb(e) order by entry) from e), '[]') as entries,
                coalesce((select jsonb_agg(jsonb_build_object(
                                     'budget_id', c.budget_id, 'subject', c.subject, 'start_unix_s', c.start_unix_s,
                                     'team', b.team, 'user', b.user_name, 'window', b.window_kind,
                                     'time_zone', b.time_zone, 'mode', b.mode, 'strict', b.strict,
                                     'limit_nanousd', b.limit_nanousd, 'archived', b.archived_at is not null)
                                 order by (b.team <> '')::integer + (b.user_name <> '')::integer, c.budget_id)
                            from c left join budgets b on b.org = $1 and b.budget_id = c.budget_id), '[]') as budgets,
                (select to_jsonb(p) from model_prices p
                  where p.price_id = (select price_id from e where price_id is not null order by entry desc limit 1)) as price,
                (select reason from quarantined_settlements
                  where org = $1 and hold_id = $2 order by received_at desc limit 1) as quarantined",
    )
    .bind(org)
    .bind(hold_id)
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let value = |column: &str| {
        row.try_get::<Option<Json<serde_json::Value>>, _>(column).map(|json| json.map(|j| j.0))
    };
    let list = |column: &str| {
        value(column).map(|json| json.and_then(|json| json.as_array().cloned()).unwrap_or_default())
    };
    let story = Story {
        org: org.to_owned(),
        denial: refused.as_ref().map(denial).transpose()?,
        hold: value("hold")?,
        entries: list("entries")?,
        budgets: list("budgets")?,
        price: value("price")?,
        quarantined: row.try_get("quarantined")?,
    };
    let known = story.denial.is_some()
        || story.hold.is_some()
        || !story.entries.is_empty()
        || story.quarantined.is_some();
    Ok(known.then_some(story))
}

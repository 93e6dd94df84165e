//! Erasure of a user's name from what calls leave behind. Amounts, tokens and times stay, under a name that was
//! made up for it and is kept nowhere beside the old one.
//!
//! One transaction: nobody ever sees half of it, and counters and the rows that name them change together.
//! It takes its locks in the order of every writer: the days concerned, exclusively, as a recomputation
//! does; counters; holds; entries and summaries.

use serde_json::json;
use sqlx::{PgConnection, PgPool, Row};

use super::Editor;
use super::policies::begin_edit;

/// A user with a long history takes a while; settlements of the org's days wait for it meanwhile.
const LIMITS: [&str; 3] = [
    "set local statement_timeout = '60s'",
    "set local lock_timeout = '10s'",
    "set local idle_in_transaction_session_timeout = '5s'",
];

/// Whose name is to go.
#[derive(Debug, Clone)]
pub struct Erasure {
    /// The org.
    pub org: String,
    /// Of this team alone; of every team without one.
    pub team: Option<String>,
    /// The user.
    pub user: String,
    /// The name in its place.
    pub pseudonym: String,
}

/// How many rows told of the user, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erased(pub Vec<(&'static str, i64)>);

impl Erased {
    /// How many in all.
    #[must_use]
    pub fn rows(&self) -> i64 {
        self.0.iter().map(|(_, rows)| *rows).fold(0, i64::saturating_add)
    }
}

/// The counters under `*` budgets of users that count this user: their subject is the name.
const BUDGETS: &str = "select coalesce(array_agg(budget_id), '{}') from budgets
    where org = $1 and user_name = '*' and ($2::text is null or team = $2)";

/// The places of a row's counters, with the name replaced where one of these budgets counts it.
macro_rules! renamed {
    () => {
        "(select coalesce(jsonb_agg(case when c ->> 1 = $3 and (c ->> 0)::bigint = any($5)
                                         then jsonb_build_array(c -> 0, $4::text, c -> 2) else c end order by i), '[]')
            from jsonb_array_elements(counters) with ordinality as e (c, i))"
    };
}

/// Each in the order of the locks. Parameters: org, team or null, user, pseudonym, budgets.
const STEPS: [(&str, &str); 11] = [
    (
        "budget_counters",
        "with mine as (select ctid from budget_counters
                        where org = $1 and $2 is not distinct from $2 and budget_id = any($5) and subject = $3
                        order by org, budget_id, subject, period_start for update)
         update budget_counters k set subject = $4 from mine where k.ctid = mine.ctid",
    ),
    (
        "budget_top_ups",
        "update budget_top_ups set subject = $4
          where org = $1 and $2 is not distinct from $2 and budget_id = any($5) and subject = $3",
    ),
    (
        "holds",
        concat!(
            "with mine as (select hold_id from holds
                            where org = $1 and ($2::text is null or team = $2) and user_name = $3
                            order by hold_id for update)
             update holds h set user_name = $4, counters = ",
            renamed!(),
            " from mine where h.org = $1 and h.hold_id = mine.hold_id"
        ),
    ),
    (
        "llm_requests",
        concat!(
            "update llm_requests set user_name = $4, counters = ",
            renamed!(),
            " where org = $1 and ($2::text is null or team = $2) and user_name = $3"
        ),
    ),
    (
        "usage_hourly",
        "update usage_hourly set user_name = $4
          where org = $1 and ($2::text is null or team = $2) and user_name = $3 and $5::bigint[] is not null",
    ),
    (
        "cost_daily_summary",
        "update cost_daily_summary set user_name = $4
          where org = $1 and ($2::text is null or team = $2) and user_name = $3 and $5::bigint[] is not null",
    ),
    (
        "verdicts_hourly",
        "update verdicts_hourly set user_name = $4
          where org = $1 and ($2::text is null or team = $2) and user_name = $3 and $5::bigint[] is not null",
    ),
    (
        "denials",
        "update denials set user_name = $4, message = ''
          where org = $1 and ($2::text is null or team = $2) and user_name = $3 and $5::bigint[] is not null",
    ),
    (
        "alerts",
        "update alerts set subject = $4, facts = facts || jsonb_build_object('user', $4::text)
          where org = $1 and $2 is not distinct from $2 and budget_id = any($5) and subject = $3",
    ),
    (
        // A budget of the user's own tells of it in the facts alone.
        "alerts of own budgets",
        "update alerts set facts = facts || jsonb_build_object('user', $4::text)
          where org = $1 and facts ->> 'user' = $3 and ($2::text is null or facts ->> 'team' = $2)
            and $5::bigint[] is not null",
    ),
    (
        "quarantined_settlements",
        "update quarantined_settlements set item = replace(item, to_json($3::text)::text, to_json($4::text)::text)
          where org = $1 and $2 is not distinct from $2 and $5::bigint[] is not null
            and strpos(item, 'user: Some(' || to_json($3::text)::text) > 0",
    ),
];

/// Erases a name; gives what told of it, nothing when it was erased before.
///
/// # Errors
/// The database's; nothing was changed then.
pub async fn erase(pool: &PgPool, editor: &Editor, erasure: &Erasure) -> sqlx::Result<Erased> {
    let mut transaction = begin_edit(pool, editor).await?;
    for limit in LIMITS {
        sqlx::query(limit).execute(&mut *transaction).await?;
    }
    lock_days(&mut transaction, erasure).await?;
    let budgets: Vec<i64> = sqlx::query_scalar(BUDGETS)
        .bind(&erasure.org)
        .bind(&erasure.team)
        .fetch_one(&mut *transaction)
        .await?;
    let mut erased = Erased::default();
    for (table, sql) in STEPS {
        let done = sqlx::query(sql)
            .bind(&erasure.org)
            .bind(&erasure.team)
            .bind(&erasure.user)
            .bind(&erasure.pseudonym)
            .bind(&budgets)
            .execute(&mut *transaction)
            .await?;
        erased.0.push((table, i64::try_from(done.rows_affected()).unwrap_or(i64::MAX)));
    }
    if erased.rows() > 0 {
        audit(&mut transaction, editor, erasure, &erased).await?;
    }
    transaction.commit().await?;
    Ok(erased)
}

/// Keeps writers and recomputations off the days of which anything is to change, and off today.
async fn lock_days(connection: &mut PgConnection, erasure: &Erasure) -> sqlx::Result<()> {
    // One after another in their order, as those who lock several do.
    let days = sqlx::query(
        "select distinct d.day - date '1970-01-01' as number
           from (select day from cost_daily_summary
                  where org = $1 and ($2::text is null or team = $2) and user_name = $3
                 union select (held_at at time zone 'UTC')::date from holds
                  where org = $1 and ($2::text is null or team = $2) and user_name = $3
                 union select (now() at time zone 'UTC')::date) as d (day)
          order by 1",
    )
    .bind(&erasure.org)
    .bind(&erasure.team)
    .bind(&erasure.user)
    .fetch_all(&mut *connection)
    .await?;
    for day in &days {
        sqlx::query("select pg_advisory_xact_lock(hashtext($1), $2)")
            .bind(&erasure.org)
            .bind(day.try_get::<i32, _>("number")?)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The log says that, who and how much, and not whose name it was.
async fn audit(
    connection: &mut PgConnection,
    editor: &Editor,
    erasure: &Erasure,
    erased: &Erased,
) -> sqlx::Result<()> {
    let rows: serde_json::Map<String, serde_json::Value> =
        erased.0.iter().map(|(table, rows)| ((*table).to_owned(), json!(rows))).collect();
    let after = json!({"team": erasure.team, "pseudonym": erasure.pseudonym, "rows": rows});
    sqlx::query(
        "insert into audit_log (org, actor, action, object, after) values ($1, $2, 'update', 'erasures', $3)",
    )
    .bind(&erasure.org)
    .bind(&editor.name)
    .bind(sqlx::types::Json(after))
    .execute(connection)
    .await?;
    Ok(())
}

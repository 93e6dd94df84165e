//! What budgets stand at in their running periods, over all orgs.

use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use crate::budget::EACH;

/// One budget, or one of those counted under a `*` budget, in its running period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The organisation.
    pub org: String,
    /// Its number.
    pub budget_id: i64,
    /// The team, `*`, or `""`.
    pub team: String,
    /// The user, `*`, or `""`.
    pub user: String,
    /// For a `*` budget the team or user counted; else `""`.
    pub subject: String,
    /// `day`, `week`, `month` or `total`.
    pub window: String,
    /// The limit with top-ups, nano-USD.
    pub limit_nanousd: i64,
    /// Settled, nano-USD.
    pub spent_nanousd: i64,
    /// Held, nano-USD.
    pub held_nanousd: i64,
    /// First second of the period; 0 for `total`.
    pub period_start_unix_s: i64,
    /// First second of the next one; `None` for `total`.
    pub period_end_unix_s: Option<i64>,
    /// The database's clock, Unix seconds.
    pub now_unix_s: i64,
    /// From which percentage on its own ladder warns.
    pub warn_at_percent: Option<i32>,
}

/// The counters of the running periods. `numeric`, since a limit with its top-ups may be beyond `bigint`.
const RUNNING: &str = "
    from budgets b
    join budget_counters c on c.org = b.org and c.budget_id = b.budget_id
    cross join lateral (select least(b.limit_nanousd::numeric + c.topped_up_nanousd, 9223372036854775807)::bigint
                            as limit_nanousd) l
    cross join lateral (select period_end(c.period_start, b.window_kind, b.time_zone) as at) e
    where b.archived_at is null and c.period_start <= now() and now() < e.at
      and c.period_start > now() - case b.window_kind when 'day' then interval '26 hours'
          when 'week' then interval '8 days' when 'month' then interval '32 days' else interval '999 years' end";

const COLUMNS: &str = "b.org, b.budget_id, b.team, b.user_name, c.subject, b.window_kind, l.limit_nanousd,
    c.spent_nanousd, c.held_nanousd, extract(epoch from c.period_start)::bigint as start_unix_s,
    case when e.at < 'infinity' then extract(epoch from e.at)::bigint end as end_unix_s,
    extract(epoch from now())::bigint as now_unix_s, b.ladder ->> 'warn_at_percent' as warn_at_percent";

fn running(row: &PgRow) -> sqlx::Result<Running> {
    Ok(Running {
        org: row.try_get("org")?,
        budget_id: row.try_get("budget_id")?,
        team: row.try_get("team")?,
        user: row.try_get("user_name")?,
        subject: row.try_get("subject")?,
        window: row.try_get("window_kind")?,
        limit_nanousd: row.try_get("limit_nanousd")?,
        spent_nanousd: row.try_get("spent_nanousd")?,
        held_nanousd: row.try_get("held_nanousd")?,
        period_start_unix_s: row.try_get("start_unix_s")?,
        period_end_unix_s: row.try_get("end_unix_s")?,
        now_unix_s: row.try_get("now_unix_s")?,
        warn_at_percent: row
            .try_get::<Option<String>, _>("warn_at_percent")?
            .and_then(|percent| percent.parse().ok())
            .filter(|percent| (1..=100).contains(percent)),
    })
}

/// The tightest `limit` of them, and how many there are beyond.
///
/// # Errors
/// The database's; a time-out after two seconds.
pub async fn tightest(pool: &PgPool, limit: i64) -> sqlx::Result<(Vec<Running>, i64)> {
    let mut transaction = pool.begin().await?;
    sqlx::query("set local statement_timeout = '2s'").execute(&mut *transaction).await?;
    let sql = format!(
        "select {COLUMNS}, count(*) over () as every {RUNNING}
          order by (c.spent_nanousd + c.held_nanousd::numeric) / greatest(l.limit_nanousd, 1) desc,
                   b.org, b.budget_id, c.subject
          limit $1"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(limit).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    let every: i64 = rows.first().map_or(Ok(0), |row| row.try_get("every"))?;
    let listed = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    Ok((rows.iter().map(running).collect::<sqlx::Result<_>>()?, every.saturating_sub(listed)))
}

/// Those after a place in the order of org, number and subject that have spent anything; at most `limit`.
///
/// # Errors
/// The database's.
pub async fn spent_after(
    connection: &mut sqlx::PgConnection,
    after: (&str, i64, &str),
    limit: i64,
) -> sqlx::Result<Vec<Running>> {
    let sql = format!(
        "select {COLUMNS} {RUNNING} and c.spent_nanousd > 0 and (b.org, b.budget_id, c.subject) > ($1, $2, $3)
          order by b.org, b.budget_id, c.subject limit $4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(after.0)
        .bind(after.1)
        .bind(after.2)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter().map(running).collect()
}

impl Running {
    /// Team and user counted here: of a `*` budget the subject in its place.
    #[must_use]
    pub fn place(&self) -> (&str, &str) {
        match (self.team == EACH, self.user == EACH) {
            (true, _) => (&self.subject, &self.user),
            (false, true) => (&self.team, &self.subject),
            (false, false) => (&self.team, &self.user),
        }
    }

    /// `org`, `team` or `user`.
    #[must_use]
    pub const fn tier(&self) -> &'static str {
        match (self.team.is_empty(), self.user.is_empty()) {
            (true, true) => "org",
            (false, true) => "team",
            (_, false) => "user",
        }
    }

    /// What is neither spent nor held, nano-USD; below zero when more was spent than there was.
    #[must_use]
    pub const fn remaining_nanousd(&self) -> i64 {
        self.limit_nanousd.saturating_sub(self.spent_nanousd).saturating_sub(self.held_nanousd)
    }
}

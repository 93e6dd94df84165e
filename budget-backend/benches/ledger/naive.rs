//! The variant compared with: every check is a transaction of its own that locks the counters it
//! touches, in key order, decides, writes and commits. Async, its statements prepared once, and in no
//! more round trips than it needs: begin, lock and read, raise, insert, commit.

use budget_backend::ledger::HoldAsk;
use sqlx::{PgPool, Row as _};

const LOCK: &str = "
    select c.budget_id, c.subject, extract(epoch from c.period_start)::bigint as period_unix_s,
           b.limit_nanousd - c.spent_nanousd - c.held_nanousd as left_nanousd
      from budgets b
      join budget_counters c on c.org = b.org and c.budget_id = b.budget_id and c.subject = ''
       and c.period_start = case b.window_kind when 'total' then timestamptz 'epoch'
                                               else date_trunc(b.window_kind, now(), b.time_zone) end
     where b.org = $1 and b.archived_at is null
       and (b.team, b.user_name) in (('', ''), ($2, ''), ($2, $3))
     order by c.org, c.budget_id, c.subject, c.period_start
       for update of c";

const RAISE: &str = "
    update budget_counters c set held_nanousd = c.held_nanousd + $5
      from unnest($2::bigint[], $3::text[], $4::bigint[]) as k (budget_id, subject, period_unix_s)
     where c.org = $1 and c.budget_id = k.budget_id and c.subject = k.subject
       and c.period_start = to_timestamp(k.period_unix_s)";

const OPEN: &str = "
    insert into holds (org, hold_id, team, user_name, provider, model, api, state, held_nanousd, counters,
                       held_at, expires_at)
    values ($1, $2, $3, $4, $5, $6, $7, 'open', $8, $9, now(), now() + interval '900 seconds')";

/// Asks for one hold; gives whether it was granted.
pub async fn hold(pool: &PgPool, ask: &HoldAsk) -> sqlx::Result<bool> {
    let (team, user) = (ask.payer.team.as_deref().unwrap_or(""), ask.payer.user.as_deref().unwrap_or(""));
    let mut transaction = pool.begin().await?;
    let rows =
        sqlx::query(LOCK).bind(&ask.payer.org).bind(team).bind(user).fetch_all(&mut *transaction).await?;
    let mut counters = Vec::with_capacity(rows.len());
    let mut fits = true;
    for row in &rows {
        let key: (i64, String, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        counters.push(key);
        fits &= row.try_get::<i64, _>("left_nanousd")? >= ask.quote.amount_nanousd;
    }
    // A period that has just begun has no counter yet; the run is then to be started again.
    if !fits || counters.len() != 3 {
        return Ok(false);
    }
    sqlx::query(RAISE)
        .bind(&ask.payer.org)
        .bind(counters.iter().map(|key| key.0).collect::<Vec<_>>())
        .bind(counters.iter().map(|key| key.1.as_str()).collect::<Vec<_>>())
        .bind(counters.iter().map(|key| key.2).collect::<Vec<_>>())
        .bind(ask.quote.amount_nanousd)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(OPEN)
        .bind(&ask.payer.org)
        .bind(ask.hold_id)
        .bind(team)
        .bind(user)
        .bind(&ask.provider)
        .bind(&ask.model)
        .bind(ask.api.as_str())
        .bind(ask.quote.amount_nanousd)
        .bind(sqlx::types::Json(&counters))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(true)
}

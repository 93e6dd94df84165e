//! The repair of what a check found.

use std::collections::{BTreeMap, BTreeSet};

use postgres::Client;

use super::check::NAMED;
use super::{Amounts, CounterDifference, Findings, VerifyError};
use crate::aggregate::recompute_day;
use crate::ledger::counters::KeyColumns;
use crate::ledger::decide::CounterKey;

/// Puts right what differs: missing counters first, then the others, then the days.
pub(super) fn repair(client: &mut Client, findings: &Findings) -> Result<(), VerifyError> {
    let mut by_org: BTreeMap<&str, Vec<&CounterDifference>> = BTreeMap::new();
    for difference in &findings.counter_differences {
        by_org.entry(&difference.org).or_default().push(difference);
    }
    for (org, differences) in by_org {
        let (missing, other): (Vec<&CounterDifference>, Vec<_>) =
            differences.into_iter().partition(|difference| difference.missing);
        insert_missing(client, org, &missing)?;
        add_differences(client, &other)?;
    }
    let days: BTreeSet<_> =
        findings.rollup_differences.iter().map(|found| (found.org.as_str(), found.day)).collect();
    for (org, day) in days {
        recompute_day(client, org, day)?;
    }
    Ok(())
}

/// Makes counters that rows name, at what those rows sum to. Whoever else misses one waits on its key
/// until that is committed, so it is never seen at zero. What its period had spent before the budget
/// was made is not known any more, and counts as nothing.
fn insert_missing(client: &mut Client, org: &str, missing: &[&CounterDifference]) -> Result<(), VerifyError> {
    if missing.is_empty() {
        return Ok(());
    }
    let keys: BTreeSet<CounterKey> = missing.iter().map(|difference| difference.key()).collect();
    let k = KeyColumns::new(&keys);
    let mut transaction = client.transaction()?;
    let made = transaction.query(
        "insert into budget_counters (org, budget_id, subject, period_start)
         select k.org, k.budget_id, k.subject, to_timestamp(k.period_unix_s)
           from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) as k (org, budget_id, subject, period_unix_s)
          order by k.org, k.budget_id, k.subject, k.period_unix_s
         on conflict do nothing
         returning budget_id, subject, extract(epoch from period_start)::bigint",
        &[&k.orgs, &k.budget_ids, &k.subjects, &k.periods],
    )?;
    // One that somebody else has made meanwhile is theirs, and right from its start.
    let (mut budget_ids, mut subjects, mut periods) = (Vec::new(), Vec::new(), Vec::new());
    for row in &made {
        budget_ids.push(row.try_get::<_, i64>(0)?);
        subjects.push(row.try_get::<_, String>(1)?);
        periods.push(row.try_get::<_, i64>(2)?);
    }
    transaction.execute(
        &format!(
            "with {NAMED}
             update budget_counters c
                set spent_nanousd = coalesce(n.spent, 0)::bigint, held_nanousd = coalesce(n.held, 0)::bigint,
                    topped_up_nanousd = coalesce(t.topped_up, 0)::bigint
               from (select $1::text as org, budget_id, subject, to_timestamp(period_unix_s) as period_start
                       from unnest($2::bigint[], $3::text[], $4::bigint[]) as m (budget_id, subject, period_unix_s)) k
               left join named n using (org, budget_id, subject, period_start)
               left join topped t using (org, budget_id, subject, period_start)
              where c.org = k.org and c.budget_id = k.budget_id and c.subject = k.subject
                and c.period_start = k.period_start"
        ),
        &[&org, &budget_ids, &subjects, &periods],
    )?;
    transaction.commit()?;
    Ok(())
}

/// Locks counters in key order and adds to each what it was short of. Exact however much was held and
/// settled since the check: all of that moved counter and rows alike.
fn add_differences(client: &mut Client, differences: &[&CounterDifference]) -> Result<(), VerifyError> {
    if differences.is_empty() {
        return Ok(());
    }
    let by_key: BTreeMap<CounterKey, &CounterDifference> =
        differences.iter().map(|difference| (difference.key(), *difference)).collect();
    let k = KeyColumns::new(by_key.keys());
    let short = |of: fn(&CounterDifference) -> Option<Amounts>| -> Result<Vec<i64>, VerifyError> {
        by_key.values().map(|difference| of(difference).map_or(Ok(0), shortage)).collect()
    };
    let (spent, held, topped_up) =
        (short(|found| found.spent)?, short(|found| found.held)?, short(|found| found.topped_up)?);
    let mut transaction = client.transaction()?;
    transaction.execute(
        "select from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) as k (org, budget_id, subject, period_unix_s)
           join budget_counters c on c.org = k.org and c.budget_id = k.budget_id and c.subject = k.subject
                                 and c.period_start = to_timestamp(k.period_unix_s)
          order by c.org, c.budget_id, c.subject, c.period_start
            for update of c",
        &[&k.orgs, &k.budget_ids, &k.subjects, &k.periods],
    )?;
    transaction.execute(
        "update budget_counters c
            set spent_nanousd = c.spent_nanousd + k.spent, held_nanousd = c.held_nanousd + k.held,
                topped_up_nanousd = c.topped_up_nanousd + k.topped_up
           from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
                as k (org, budget_id, subject, period_unix_s, spent, held, topped_up)
          where c.org = k.org and c.budget_id = k.budget_id and c.subject = k.subject
            and c.period_start = to_timestamp(k.period_unix_s)",
        &[&k.orgs, &k.budget_ids, &k.subjects, &k.periods, &spent, &held, &topped_up],
    )?;
    transaction.commit()?;
    Ok(())
}

fn shortage(amounts: Amounts) -> Result<i64, VerifyError> {
    amounts.should_be_nanousd.checked_sub(amounts.stands_at_nanousd).ok_or_else(|| {
        VerifyError::Database(format!(
            "a counter stands at {} and should be at {} nano-USD: too far apart to repair",
            amounts.stands_at_nanousd, amounts.should_be_nanousd
        ))
    })
}

//! The check of the books and its repair.

use budget_backend::verify::{Findings, VerifyError, check, check_and_repair};
use postgres::{Client, NoTls};
use sqlx::PgPool;

use crate::operator::*;
use crate::support::*;

async fn checked(pool: &PgPool) -> Findings {
    with_client(pool, |client| check(client, None)).await.unwrap()
}

async fn repaired(pool: &PgPool) -> (Findings, Findings) {
    with_client(pool, |client| check_and_repair(client, None)).await.unwrap()
}

/// Two budgets, one of them topped up, with two settled calls and one open hold.
async fn books(pool: &PgPool) -> (i64, i64) {
    let org = budget(pool, "", "", "month", 1_000_000).await;
    let each = budget(pool, "search", "*", "day", 1_000_000).await;
    let ledger = ledger(pool);
    for number in 1..=3 {
        granted(&ledger, id(number), 100).await;
    }
    let ids: Vec<uuid::Uuid> =
        sqlx::query_scalar("select hold_id from holds order by hold_id").fetch_all(pool).await.unwrap();
    record(pool, vec![settle(ids[0], 40), settle(ids[1], 2)]).await;
    for sql in [
        "update budget_counters set opening_nanousd = 9, spent_nanousd = spent_nanousd + 9 where subject = 'ann'",
        "insert into budget_top_ups (org, budget_id, subject, period_start, amount_nanousd, reason)
         select org, budget_id, subject, period_start, 500, 'test' from budget_counters where subject = 'ann'",
        "update budget_counters set topped_up_nanousd = 500 where subject = 'ann'",
    ] {
        execute(pool, sql).await;
    }
    (org, each)
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn books_that_balance_are_clean(pool: PgPool) {
    books(&pool).await;
    let found = checked(&pool).await;
    assert!(found.is_clean(), "{found:?}");
    assert_eq!((found.counters, found.spent_unchecked, found.days), (2, 0, 1));
    assert_eq!(found.whole_from, "-infinity");
    let output = backend(&pool, &["verify"]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("checked 2 counters, 1 days") && stdout(&output).contains("all agrees"));
    let output = backend(&pool, &["verify", "--repair", "--json"]).await;
    assert_eq!((output.status.code(), &json(&output)["clean"]), (Some(0), &serde_json::json!(true)));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn each_kind_of_damage_is_found_and_repaired(pool: PgPool) {
    let (org, each) = books(&pool).await;
    // What is broken, the counter columns and rollup tables that differ, and what is said of it.
    let cases: [(String, &[&str], &[&str], &str); 9] = [
        (
            format!("update budget_counters set spent_nanousd = spent_nanousd + 3 where budget_id = {org}"),
            &["spent"],
            &[],
            "spent stands at 0.000000045 USD, should be 0.000000042 USD, difference 0.000000003 USD",
        ),
        (
            format!("update budget_counters set spent_nanousd = 0 where budget_id = {each}"),
            &["spent"],
            &[],
            "(ann), period from",
        ),
        (
            "update budget_counters set held_nanousd = 0".to_owned(),
            &["held", "held"],
            &[],
            "held stands at 0.00 USD, should be 0.0000001 USD, difference -0.0000001 USD",
        ),
        (
            "update budget_counters set topped_up_nanousd = 499 where topped_up_nanousd > 0".to_owned(),
            &["topped_up"],
            &[],
            "topped_up stands at 0.000000499 USD",
        ),
        (
            "update budget_counters set spent_nanousd = 1, held_nanousd = 1, topped_up_nanousd = 1"
                .to_owned(),
            &["spent", "held", "topped_up", "spent", "held", "topped_up"],
            &[],
            "difference",
        ),
        (
            "update usage_hourly set cost_nanousd = cost_nanousd - 1".to_owned(),
            &[],
            &["usage_hourly"],
            "usage_hourly differs from the detail in 1 rows",
        ),
        (
            "update cost_daily_summary set requests = requests + 1".to_owned(),
            &[],
            &["cost_daily_summary"],
            "3 calls, should be 2",
        ),
        (
            // Same sums in all, but not where they belong.
            "update cost_daily_summary set user_name = 'bob'".to_owned(),
            &[],
            &["cost_daily_summary"],
            "in 2 rows",
        ),
        (
            "truncate usage_hourly, cost_daily_summary".to_owned(),
            &[],
            &["cost_daily_summary", "usage_hourly"],
            "0 calls",
        ),
    ];
    for (damage, columns, tables, said) in cases {
        execute(&pool, &damage).await;
        let found = checked(&pool).await;
        let differing: Vec<&str> = found
            .counter_differences
            .iter()
            .flat_map(|counter| counter.columns().map(|(column, _)| column))
            .collect();
        assert_eq!(differing, columns, "{damage}: {found:?}");
        let rollups: Vec<&str> = found.rollup_differences.iter().map(|day| day.table.as_str()).collect();
        assert_eq!(rollups, tables, "{damage}: {found:?}");
        let output = backend(&pool, &["verify"]).await;
        assert_eq!(output.status.code(), Some(3), "{damage}");
        assert!(stdout(&output).contains(said), "{damage}: {}", stdout(&output));
        let output = backend(&pool, &["verify", "--repair"]).await;
        assert_eq!(output.status.code(), Some(0), "{damage}: {}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).contains("repaired; all agrees now"), "{damage}: {}", stdout(&output));
        assert!(checked(&pool).await.is_clean(), "{damage}");
        assert_books_balance(&pool).await;
        assert_eq!(standing(&pool, org).await, (42, 100), "{damage}");
        assert_eq!(standing(&pool, each).await, (51, 100), "{damage}");
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_counter_that_rows_name_but_that_is_gone_is_made_again(pool: PgPool) {
    let (org, each) = books(&pool).await;
    execute(&pool, "delete from budget_counters").await;
    let output = backend(&pool, &["verify", "--json"]).await;
    assert_eq!(output.status.code(), Some(3));
    let found = json(&output);
    assert_eq!(found["found"]["counter_differences"][0]["missing"], true, "{found}");
    assert_eq!(
        found["found"]["counter_differences"][0]["spent"]["difference_usd"], "-0.000000042",
        "{found}"
    );
    let (found, left) = repaired(&pool).await;
    assert_eq!(found.counter_differences.len(), 2);
    assert!(left.is_clean(), "{left:?}");
    assert_eq!(standing(&pool, org).await, (42, 100));
    // What it had opened with is not in any row; its top-up is.
    assert_eq!(standing(&pool, each).await, (42, 100));
    assert_eq!(
        number(&pool, "select topped_up_nanousd from budget_counters where subject = 'ann'").await,
        500
    );
    // The same for a budget that is gone altogether.
    execute(&pool, "delete from budget_counters").await;
    execute(&pool, "delete from budgets").await;
    assert!(repaired(&pool).await.1.is_clean());
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn repairs_are_exact_while_holds_and_settlements_go_on(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000_000).await;
    let user = budget(&pool, "search", "ann", "day", 1_000_000).await;
    granted(&ledger(&pool), id(1_000_000), 5).await;
    let writer = pool.clone();
    let writing = tokio::spawn(async move {
        let ledger = ledger(&writer);
        let mut steps = steps(&writer);
        for round in 0..60 {
            let ids: Vec<uuid::Uuid> = (0..4).map(|number| id(round * 4 + number)).collect();
            for hold_id in &ids {
                granted(&ledger, *hold_id, 10).await;
            }
            // One in four stays open.
            steps.step(ids[..3].iter().map(|hold_id| settle(*hold_id, 7)).collect()).await.unwrap();
        }
    });
    let mut rounds = 0;
    while !writing.is_finished() {
        execute(
            &pool,
            "update budget_counters set spent_nanousd = spent_nanousd + 13, held_nanousd = held_nanousd + 11",
        )
        .await;
        execute(&pool, "update usage_hourly set cost_nanousd = cost_nanousd + 17").await;
        let (found, left) = repaired(&pool).await;
        assert!(!found.is_clean());
        assert!(left.is_clean(), "round {rounds}: {left:?}");
        rounds += 1;
    }
    writing.await.unwrap();
    assert!(rounds > 0, "they ran side by side");
    assert_books_balance(&pool).await;
    for budget in [org, user] {
        assert_eq!(standing(&pool, budget).await, (60 * 3 * 7, 60 * 10 + 5));
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_a_counter_spent_before_the_detail_is_whole_is_not_judged(pool: PgPool) {
    let (org, _) = books(&pool).await;
    execute(&pool, "update ledger_coverage set whole_from = current_date + 1").await;
    execute(&pool, "delete from llm_requests").await;
    let output = backend(&pool, &["verify"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("2 counters began before"), "{}", stdout(&output));
    // What it holds is judged all the same.
    execute(&pool, &format!("update budget_counters set held_nanousd = 0 where budget_id = {org}")).await;
    let (found, left) = repaired(&pool).await;
    assert_eq!(found.counter_differences.len(), 1);
    assert!(found.counter_differences[0].spent.is_none() && left.is_clean(), "{found:?}");
    assert_eq!(standing(&pool, org).await, (42, 100));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn only_the_org_asked_for_is_judged_and_only_one_repair_runs(pool: PgPool) {
    books(&pool).await;
    execute(&pool, "update budget_counters set held_nanousd = 0").await;
    let other = with_client(&pool, |client| check(client, Some("other"))).await.unwrap();
    assert!(other.is_clean() && other.counters == 0, "{other:?}");
    let url = url(&pool);
    let busy = with_client(&pool, move |client| {
        let mut first = Client::connect(&url, NoTls).unwrap();
        first.execute("select pg_advisory_lock(hashtext('purser.repair'))", &[]).unwrap();
        check_and_repair(client, None)
    })
    .await;
    assert!(matches!(busy, Err(VerifyError::Busy)), "{busy:?}");
    assert!(repaired(&pool).await.1.is_clean());
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_is_wrong_with_a_call_is_said_in_plain_words(pool: PgPool) {
    execute(&pool, "drop table ledger_coverage").await;
    let output = backend(&pool, &["verify"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("budget-backend: ") && said.contains("ledger_coverage"), "{said}");
    assert_eq!(backend(&pool, &["verify", "--fix"]).await.status.code(), Some(2));
}

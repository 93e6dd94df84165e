//! Prices that were wrong are put right by new entries.

use budget_backend::tracker::Item;
use budget_backend::tracker::model::{Cost, HoldKey, Settle};
use purser_protocol::Usage;
use sqlx::PgPool;

use crate::operator::{backend, json, stderr, stdout};
use crate::support::*;

fn days() -> [String; 2] {
    let today = jiff::Timestamp::now().as_second() / 86_400;
    [today - 1, today + 1].map(|day| jiff::Timestamp::from_second(day * 86_400).unwrap().to_string())
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn corrections_are_new_entries_that_books_and_rollup_follow_and_come_once(pool: PgPool) {
    let budget_id = budget(&pool, "search", "", "day", 1_000_000_000).await;
    let ledger = ledger(&pool);
    for number in 1..=3 {
        granted(&ledger, id_of(number), 5_000_000).await;
    }
    // 1,000 tokens in and 100 out: 0.15 and 0.60 USD a million, so 210,000.
    let usage = Usage { input_tokens: 1_000, output_tokens: 100, ..Usage::default() };
    let settled = |number, cost: Option<i64>| {
        let (key, item) = settle_for(&ann(), id_of(number), cost);
        let Item::Settle(mut settle) = item else { panic!() };
        settle.facts.usage = usage;
        (key, Item::Settle(settle))
    };
    record(&pool, vec![settled(1, Some(210_000)), settled(2, Some(100)), settled(3, None)]).await;
    // One without a hold and one of another model.
    let (key, item) = settled(5, Some(210_000));
    let Item::Settle(mut other) = item else { panic!() };
    other.subject.model = "gpt-4o".into();
    other.charge.priced_as = "gpt-4o".into();
    record(&pool, vec![settled(4, Some(210_000)), (key, Item::Settle(other))]).await;
    let spent = standing(&pool, budget_id).await.0;
    let [from, to] = days();
    let reprice = async |more: &[&str]| {
        let arguments = ["reprice", "--model", "gpt-4o-mini", "--from", &from, "--to", &to, "--json"];
        json(&backend(&pool, &[arguments.as_slice(), more].concat()).await)["repriced"].clone()
    };
    // The list says what all but the second were charged.
    let found = reprice(&["--dry-run"]).await;
    let expected = |changed: i64, difference: &str| serde_json::json!({"calls": 4, "changed": changed, "left_alone": 1, "difference_usd": difference});
    assert_eq!(found, expected(1, "0.0002099"));
    assert_eq!(standing(&pool, budget_id).await.0, spent, "a dry run writes nothing");
    let set = backend(
        &pool,
        &[
            "prices",
            "set",
            "--provider",
            "openai",
            "--model",
            "gpt-4o-mini",
            "--effective-from",
            "2025-01-01",
            "--rate",
            "input=0.10",
            "--rate",
            "output=0.20",
        ],
    )
    .await;
    assert!(set.status.success(), "{}", stderr(&set));
    // 120,000 each: 90,000 less for two, 119,900 more for one.
    assert_eq!(reprice(&[]).await, expected(3, "-0.0000601"));
    assert_eq!(standing(&pool, budget_id).await, (spent - 60_100, 0));
    assert_books_balance(&pool).await;
    assert_eq!(number(&pool, "select sum(requests)::bigint from usage_hourly").await, 5);
    assert_eq!(number(&pool, "select sum(estimated_requests)::bigint from usage_hourly").await, 1);
    let corrections = "select count(*) from llm_requests r join model_prices p using (price_id)
                        where r.cause = 'repriced' and r.entry = 1 and p.source = 'operator'";
    assert_eq!(number(&pool, corrections).await, 3);
    assert_eq!(reprice(&[]).await, expected(0, "0.00"), "twice changes nothing");
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, 8);
    let checked = backend(&pool, &["verify"]).await;
    assert!(checked.status.success(), "{}", stdout(&checked));
    let today = jiff::Timestamp::now().to_string();
    let aggregated = backend(&pool, &["aggregate", "--day", &today[..10]]).await;
    assert!(stdout(&aggregated).contains("1 of them were right already"), "{}", stdout(&aggregated));
    // A settlement that comes again is a duplicate still.
    record(&pool, vec![settled(1, Some(210_000))]).await;
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, 8);
    let backwards = backend(&pool, &["reprice", "--model", "m", "--from", &to, "--to", &from]).await;
    assert_eq!(backwards.status.code(), Some(2), "{}", stderr(&backwards));
}

/// A settlement of 1,000 tokens in and 100 out.
fn settled(number: u64, cost: Cost, change: impl FnOnce(&mut Settle)) -> (HoldKey, Item) {
    let (key, item) = settle_for(&ann(), id_of(number), Some(0));
    let Item::Settle(mut settle) = item else { panic!() };
    settle.facts.usage = Usage { input_tokens: 1_000, output_tokens: 100, ..Usage::default() };
    settle.facts.usage_quality = "exact";
    settle.charge.cost = cost;
    change(&mut settle);
    (key, Item::Settle(settle))
}

async fn repriced(pool: &PgPool, more: &[&str]) -> (i64, i64, i64) {
    let [from, to] = days();
    let arguments = ["reprice", "--from", &from, "--to", &to, "--json"];
    let done = json(&backend(pool, &[arguments.as_slice(), more].concat()).await)["repriced"].clone();
    let figure = |name: &str| done[name].as_i64().unwrap();
    (figure("calls"), figure("changed"), figure("left_alone"))
}

async fn did(pool: &PgPool, arguments: &[&str]) {
    let done = backend(pool, arguments).await;
    assert!(done.status.success(), "{}", stderr(&done));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn calls_priced_as_a_model_are_repriced_with_it_whatever_they_were_sent_to(pool: PgPool) {
    let sent_to = |model: &'static str, priced_as: &'static str| {
        move |settle: &mut Settle| {
            settle.subject.model = model.into();
            settle.charge.priced_as = priced_as.into();
            if model == "prod" {
                settle.subject.provider = "azure".into();
            }
        }
    };
    did(
        &pool,
        &["prices", "alias", "prod", "--provider", "azure", "--model", "gpt-4o", "--to-provider", "openai"],
    )
    .await;
    let (one, cost) = (&pool, || Cost::Exactly(1));
    record(
        one,
        vec![
            settled(1, cost(), sent_to("gpt-4o", "gpt-4o")),
            settled(2, cost(), sent_to("gpt-4o-2024-12-24", "gpt-4o")),
            settled(3, cost(), sent_to("prod", "gpt-4o")),
            // Had no price then.
            settled(4, cost(), sent_to("gpt-4o-2024-12-25", "*")),
            settled(5, cost(), sent_to("gpt-4o-mini", "gpt-4o-mini")),
            settled(6, cost(), sent_to("gone", "gpt-4o")),
        ],
    )
    .await;
    let model = ["--model", "gpt-4o", "--dry-run"];
    assert_eq!(repriced(&pool, &model).await.0, 5);
    assert_eq!(repriced(&pool, &[&model[..], &["--provider", "azure"]].concat()).await, (1, 1, 0));
    assert_eq!(repriced(&pool, &[&model[..], &["--provider", "nobody"]].concat()).await.0, 0);
    assert_eq!(repriced(&pool, &["--model", "gpt-4o"]).await, (5, 5, 0));
    assert_eq!(repriced(&pool, &["--model", "gpt-4o"]).await, (5, 0, 0));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_call_that_waited_for_the_price_of_a_unit_is_repriced_once_it_is_set(pool: PgPool) {
    let widgets = |settle: &mut Settle| {
        settle.facts.units = [("computer_calls".to_owned(), 3)].into();
        settle.charge.price_flag = "partial";
        settle.charge.unpriced = vec!["computer_calls".to_owned()];
    };
    let least = || Cost::AtLeast(210_000);
    record(
        &pool,
        vec![
            settled(1, least(), widgets),
            // Nobody knows all that these used.
            settled(2, least(), |settle| {
                widgets(settle);
                settle.facts.usage_quality = "at_least";
            }),
            settled(3, least(), |_| ()),
            settled(4, least(), |settle| {
                widgets(settle);
                settle.subject.api = "openai_batches".into();
            }),
        ],
    )
    .await;
    let model = ["--model", "gpt-4o-mini"];
    assert_eq!(repriced(&pool, &model).await, (4, 0, 4));
    let set = ["prices", "set", "--provider", "openai", "--model", "gpt-4o-mini", "--effective-from"];
    let rates = ["2025-01-01", "--rate", "input=0.15", "--rate", "output=0.60"];
    did(&pool, &[&set[..], &rates, &["--unit", "computer_calls=2"]].concat()).await;
    assert_eq!(repriced(&pool, &model).await, (4, 1, 3));
    let charged = "select sum(cost_nanousd)::bigint from llm_requests
                    where hold_id = (select hold_id from llm_requests where cause = 'repriced')";
    assert_eq!(number(&pool, charged).await, 210_000 + 3 * 2_000_000_000);
    assert_eq!(repriced(&pool, &model).await, (4, 0, 3));
    let checked = backend(&pool, &["verify"]).await;
    assert!(checked.status.success(), "{}", stdout(&checked));
}

/// The same id each time: the clock is in it.
fn id_of(number: u64) -> uuid::Uuid {
    static START: std::sync::OnceLock<uuid::Uuid> = std::sync::OnceLock::new();
    let start = START.get_or_init(|| id(0)).as_u128();
    uuid::Uuid::from_u128(start | u128::from(number))
}

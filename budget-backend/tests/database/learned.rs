//! What answers needed, from settlements through the table to what is held for the next call.

use budget_backend::admin;
use budget_backend::learned::LearnedLengths;
use budget_backend::tracker::{HoldKey, Item};
use purser_protocol::Payer;
use sqlx::PgPool;

use crate::support::*;

/// A settlement that says how long its answer was.
fn answered(payer: &Payer, number: u64, answer_tokens: i64) -> (HoldKey, Item) {
    let (key, item) = settle_for(payer, id(number), Some(1));
    let Item::Settle(mut settle) = item else { panic!("not a settlement") };
    settle.facts.answer_tokens = Some(answer_tokens);
    (key, Item::Settle(settle))
}

async fn learned(pool: &PgPool) -> (LearnedLengths, i64) {
    let (rows, latest_unix_us) = admin::output_lengths_since(pool, 0).await.unwrap();
    let mut learned = LearnedLengths::new(95);
    assert_eq!(learned.apply(rows), 0);
    (learned, latest_unix_us)
}

fn tokens(learned: &LearnedLengths, team: &str) -> Option<u64> {
    learned.output_tokens("acme", team, "openai", "gpt-4o-mini")
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_team_s_recent_answers_say_what_its_next_one_needs(pool: PgPool) {
    let mut steps = steps(&pool);
    let (search, ads) = (payer("search", "ann"), payer("ads", "bob"));
    let mut items: Vec<_> = (0..19).map(|number| answered(&search, number, 100)).collect();
    // A repeat is no second answer, and one without usage or under a cap says nothing.
    items.extend([items[0].clone(), settle_for(&search, id(90), None), settle(id(91), 1)]);
    steps.step(items).await.unwrap();
    assert_eq!(tokens(&learned(&pool).await.0, "search"), None, "19 answers are few");
    steps.step(vec![answered(&search, 19, 100), answered(&ads, 20, 2_000)]).await.unwrap();
    let (before, latest_unix_us) = learned(&pool).await;
    assert_eq!(tokens(&before, "search"), Some(111));
    assert_eq!(tokens(&before, "ads"), Some(111), "20 of the org's 21 are 95 in a hundred");
    assert_eq!(tokens(&before, ""), Some(111));
    // Only what changed since is read again.
    steps.step(vec![answered(&ads, 21, 2_000)]).await.unwrap();
    let (rows, later_unix_us) = admin::output_lengths_since(&pool, latest_unix_us).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.team.as_str()).collect::<Vec<_>>(), ["ads"]);
    assert!(later_unix_us > latest_unix_us);
    let mut after = before;
    after.apply(rows);
    assert_eq!(tokens(&after, "ads"), Some(2_047));
    assert_eq!(tokens(&after, "search"), Some(111));
    assert_eq!(admin::output_lengths_since(&pool, later_unix_us).await.unwrap().0, []);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn when_answers_become_many_the_old_ones_weigh_half(pool: PgPool) {
    let mut steps = steps(&pool);
    let ann = ann();
    steps.step(vec![answered(&ann, 1, 1)]).await.unwrap();
    // Elements count from 1: the second is answers of one token, the third of two.
    let counts = "select seen[2] * 1000000 + seen[3] from output_lengths";
    assert_eq!(number(&pool, counts).await, 1_000_000);
    sqlx::query("update output_lengths set seen[2] = 999, seen[3] = 1").execute(&pool).await.unwrap();
    steps.step(vec![answered(&ann, 2, 2), answered(&ann, 3, 2)]).await.unwrap();
    assert_eq!(number(&pool, counts).await, 999_000_003, "1,000 are not too many");
    steps.step(vec![answered(&ann, 4, 2)]).await.unwrap();
    assert_eq!(number(&pool, counts).await, 499_000_002, "1,002 are: halved, then added to");
    // The model came to give longer answers: after enough of them that is what counts.
    let longer = (0..512).map(|number| answered(&ann, 100 + number, 600)).collect();
    steps.step(longer).await.unwrap();
    assert_eq!(tokens(&learned(&pool).await.0, "search"), Some(639));
}

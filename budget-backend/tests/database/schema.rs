//! The schema explains itself.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::PgPool;

use crate::support::*;

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn every_table_and_column_has_a_comment(pool: PgPool) {
    let silent: Vec<String> = sqlx::query_scalar(
        "select c.relname || coalesce('.' || a.attname, '')
           from pg_class c
           left join lateral (
               select attname, attnum from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped
               union all select null, 0) a on true
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
            and c.relname <> '_sqlx_migrations' and col_description(c.oid, a.attnum) is null
            and (a.attnum > 0 or obj_description(c.oid, 'pg_class') is null)
          order by 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(silent.is_empty(), "without a comment: {silent:?}");
    let commented: i64 = sqlx::query_scalar("select count(*) from pg_description where objsubid > 0 and classoid = 'pg_class'::regclass and objoid = 'llm_requests'::regclass")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(commented > 30, "the question is asked of the right tables");
}

/// Tables that are read or written with each call or edit: an org's rows lie together in each.
const HOT_TABLES: [&str; 13] = [
    "budgets",
    "budget_counters",
    "holds",
    "llm_requests",
    "usage_hourly",
    "cost_daily_summary",
    "verdicts_hourly",
    "output_lengths",
    "budget_top_ups",
    "call_rules",
    "overrides",
    "audit_log",
    "denials",
];

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_primary_key_of_every_hot_table_leads_with_the_org(pool: PgPool) {
    let leads: BTreeMap<String, String> = sqlx::query_as(
        "select c.relname::text, a.attname::text
           from pg_class c
           join pg_index i on i.indrelid = c.oid and i.indisprimary
           join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')",
    )
    .fetch_all(&pool)
    .await
    .unwrap()
    .into_iter()
    .collect();
    for table in HOT_TABLES {
        assert_eq!(leads.get(table).map(String::as_str), Some("org"), "{table}");
    }
}

/// An index of a ledger partition that is read, its columns and the condition it is searched with.
/// Partitions with next to nothing in them are left out: there any index is as good.
async fn ledger_indexes(pool: &PgPool, query: &str) -> Vec<(String, Vec<String>, String)> {
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("set local enable_seqscan = off").execute(&mut *transaction).await.unwrap();
    let explain = sqlx::AssertSqlSafe(format!("explain (format json) {query}"));
    let plan: Value = sqlx::query_scalar(explain).fetch_one(&mut *transaction).await.unwrap();
    let mut scans = Vec::new();
    collect_scans(&plan[0]["Plan"], &mut scans);
    let mut indexes = Vec::new();
    for (index, condition) in scans {
        let (rows, columns): (f32, Vec<String>) = sqlx::query_as(
            "select t.reltuples, array(select attname::text from pg_attribute where attrelid = i.indexrelid order by attnum)
               from pg_index i join pg_class t on t.oid = i.indrelid where i.indexrelid = $1::text::regclass",
        )
        .bind(&index)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
        if rows > 100.0 {
            indexes.push((index, columns, condition));
        }
    }
    assert!(!indexes.is_empty(), "{plan:#}");
    indexes
}

/// Every index scan of a plan: its index and the condition it is searched with.
fn collect_scans(node: &Value, scans: &mut Vec<(String, String)>) {
    assert_ne!(node["Node Type"].as_str(), Some("Seq Scan"), "{node:#}");
    if let Some(index) = node["Index Name"].as_str() {
        scans.push((index.to_owned(), node["Index Cond"].as_str().unwrap_or_default().to_owned()));
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        collect_scans(child, scans);
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_team_s_month_and_one_request_are_found_by_index(pool: PgPool) {
    budget_backend::db::migrate(&pool).await.unwrap();
    let call = id(0);
    record(&pool, vec![settle(call, 1)]).await;
    // 20 teams over two months, so that the planner has something to choose by.
    sqlx::query(
        "insert into llm_requests
         select (jsonb_populate_record(r, jsonb_build_object('team', 't' || n % 20,
                     'hold_id', left(r.hold_id::text, 24) || lpad(to_hex(n), 12, '0'),
                     'occurred_at', now() - n * interval '20 minutes'))).*
           from llm_requests r, generate_series(1, 4000) n",
    )
    .execute(&pool)
    .await
    .unwrap();
    sqlx::query("analyze llm_requests").execute(&pool).await.unwrap();
    let month = "org = 'acme' and team = 't7' and occurred_at >= now() - interval '1 month'".to_owned();
    let one = format!("org = 'acme' and hold_id = '{call}'");
    for (condition, leading) in
        [(month, ["org", "team", "occurred_at"].as_slice()), (one, ["org", "hold_id"].as_slice())]
    {
        let query = format!("select * from llm_requests where {condition}");
        for (index, columns, searched) in ledger_indexes(&pool, &query).await {
            assert!(
                columns.starts_with(&leading.iter().map(ToString::to_string).collect::<Vec<_>>()),
                "{index}"
            );
            assert!(leading.iter().all(|column| searched.contains(column)), "{index}: {searched}");
        }
    }
}

/// Every index that a plan reads.
fn indexes_of(plan: &Value) -> Vec<String> {
    let mut scans = Vec::new();
    collect_scans(&plan[0]["Plan"], &mut scans);
    scans.into_iter().map(|(index, _)| index).collect()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn operators_questions_are_answered_along_indexes(pool: PgPool) {
    use budget_backend::admin::requests::{Wanted, denied_plan, latest_plan};
    use budget_backend::admin::usage;
    use budget_backend::report::{Filter, Order, Question, Range, columns};
    budget_backend::db::migrate(&pool).await.unwrap();
    // As with `ledger_indexes`: where there is next to nothing, a scan of it all is the quickest.
    let options = pool
        .connect_options()
        .as_ref()
        .clone()
        .options([("enable_seqscan", "off"), ("enable_bitmapscan", "off")]);
    let pool = sqlx::PgPool::connect_with(options).await.unwrap();
    let question = |org: Option<&str>, team: Option<&str>, by: &str| Question {
        filter: Filter { org: org.map(str::to_owned), team: team.map(str::to_owned), ..Filter::default() },
        range: Range::between("2026-11-23", "2026-11-24").unwrap(),
        columns: columns(by).unwrap(),
        order: Order::Name,
        limit: 10,
        after: None,
    };
    for (asked, index) in [
        (question(Some("acme"), None, "team,day"), "cost_daily_summary"),
        (question(None, None, "org"), "cost_daily_summary"),
        (question(Some("acme"), Some("search"), "user"), "cost_daily_summary"),
        (question(Some("acme"), None, "hour"), "usage_hourly"),
        (question(Some("acme"), Some("search"), "tag:project"), "usage_hourly"),
    ] {
        let found = indexes_of(&usage::plan(&pool, &asked).await.unwrap());
        assert!(
            !found.is_empty() && found.iter().all(|name| name.starts_with(index)),
            "{asked:?}: {found:?}"
        );
    }
    let wanted = |team: Option<&str>, user: Option<&str>| Wanted {
        org: "acme".to_owned(),
        team: team.map(str::to_owned),
        user: user.map(str::to_owned),
        before: Some((1_795_478_400_000_000, id(1))),
        limit: 10,
    };
    for (asked, index) in [
        (wanted(None, None), "denials_by_time"),
        (wanted(Some("search"), None), "denials_by_team"),
        (wanted(Some("search"), Some("ann")), "denials_by_payer"),
    ] {
        assert_eq!(indexes_of(&denied_plan(&pool, &asked).await.unwrap()), [index], "{asked:?}");
        let found = indexes_of(&latest_plan(&pool, &asked).await.unwrap());
        assert!(found.iter().any(|name| name.starts_with("llm_requests_")), "{asked:?}: {found:?}");
        assert!(
            asked.user.is_none() || found.iter().any(|name| name.starts_with("usage_hourly_")),
            "{found:?}"
        );
    }
}

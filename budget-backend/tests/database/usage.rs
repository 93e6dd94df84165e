//! The month's report over HTTP, against the detail.

use std::collections::BTreeSet;

use budget_backend::tracker::{HoldKey, Item};
use purser_protocol::format_usd;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{PgPool, Row};

use crate::api::{ADMIN, Service};
use crate::support::*;

async fn ask(service: &Service, question: &str) -> (StatusCode, Value) {
    service.send(Method::GET, &format!("/v1/usage?{question}"), ADMIN, &Value::Null).await
}

fn call(number: u64, team: &str, user: &str, model: &str, cost_nanousd: i64) -> (HoldKey, Item) {
    let (key, item) = settle_for(&payer(team, user), id(number), Some(cost_nanousd));
    let Item::Settle(mut settle) = item else { panic!("not a settlement") };
    settle.subject.model = model.to_owned();
    settle.facts.duration_ms = Some(i64::try_from(number).unwrap() * 10);
    (key, Item::Settle(settle))
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_month_s_report_says_what_the_detail_says(pool: PgPool) {
    budget(&pool, "", "", "month", 1_000_000).await;
    let calls = (1..=40).map(|number| {
        let (team, user) = [("search", "ann"), ("search", "bob"), ("ads", "ann"), ("", "")]
            [usize::try_from(number % 4).unwrap()];
        let model = ["gpt-4o", "gpt-4o-mini"][usize::try_from(number % 2).unwrap()];
        call(number, team, user, model, 1_000 + i64::try_from(number).unwrap())
    });
    record(&pool, calls.collect()).await;
    let service = Service::start(&pool).await;
    let month: String = sqlx::query_scalar(
        "select to_char(min(occurred_at) at time zone 'UTC', 'YYYY-MM') from llm_requests",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    for (by, names) in [
        ("team", &["team"][..]),
        ("user", &["team", "user_name as user"]),
        ("model", &["provider", "model"]),
        ("provider", &["provider"]),
        ("api", &["api"]),
        ("day", &["(occurred_at at time zone 'UTC')::date::text as day"]),
    ] {
        let (status, report) = ask(&service, &format!("org=acme&month={month}&by={by}")).await;
        assert_eq!(status, StatusCode::OK, "{report}");
        let sql = format!(
            "select {}, count(*), sum(cost_nanousd)::bigint, sum(input_tokens)::bigint, sum(output_tokens)::bigint,
                    percentile_disc(0.95) within group (order by duration_ms)
               from llm_requests group by {} order by {}",
            names.join(", "),
            (1..=names.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(", "),
            (1..=names.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(", "),
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&pool).await.unwrap();
        let groups = report["groups"].as_array().unwrap();
        assert_eq!(groups.len(), rows.len(), "{report}");
        for (group, row) in groups.iter().zip(&rows) {
            for (place, name) in names.iter().enumerate() {
                let field = name.rsplit(' ').next().unwrap();
                assert_eq!(group[field], row.get::<String, _>(place), "{by}: {group}");
            }
            let at = names.len();
            assert_eq!(group["requests"], row.get::<i64, _>(at), "{by}: {group}");
            assert_eq!(group["cost_usd"], format_usd(row.get(at + 1)), "{by}: {group}");
            assert_eq!(group["input_tokens"], row.get::<i64, _>(at + 2), "{by}: {group}");
            assert_eq!(group["output_tokens"], row.get::<i64, _>(at + 3), "{by}: {group}");
            // Read from a log scale of two steps to the octave: never below, less than twice above.
            let (read, exact) = (group["p95_latency_ms"].as_i64().unwrap(), row.get::<i64, _>(at + 4));
            assert!(read >= exact && read < exact * 2, "{by}: {read} for {exact}");
        }
        assert_eq!(report["total"]["requests"], 40);
        assert_eq!(report["total"]["cost_usd"], "0.00004082");
    }
    let (_, whole) = ask(&service, &format!("org=acme&month={month}")).await;
    assert_eq!((&whole["total"]["requests"], &whole["groups"]), (&Value::from(40), &Value::Null));
    let (status, empty) = ask(&service, "org=acme&month=1999-01&by=team").await;
    assert_eq!((status, &empty["total"]["p95_latency_ms"]), (StatusCode::OK, &Value::Null));
    assert_eq!(empty["groups"], serde_json::json!([]));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_malformed_question_is_refused_and_says_what_was_expected(pool: PgPool) {
    let service = Service::start(&pool).await;
    for (question, status, said) in [
        ("org=acme&month=2026-13", 422, "month: expected"),
        ("org=acme&month=2026-11&by=colour", 422, "by: expected a list of org, team, user, provider, model"),
        ("org=acme&month=2026-11&by=hour", 422, "at most 168 hours"),
        ("org=acme&from=2020-01-01&to=2026-01-01", 422, "at most 1100 days"),
        ("org=acme&from=2026-11-02&to=2026-11-01", 422, "to: expected a time after from"),
        ("org=acme&limit=10001", 422, "limit: expected 1 to 10000"),
        ("org=acme&cursor=xyz", 422, "cursor: expected the next_cursor"),
        ("org=acme&month=2026-11&colour=red", 400, "colour"),
        ("org=acme&order=size", 400, "size"),
    ] {
        let (answered, problem) = ask(&service, question).await;
        assert_eq!(answered.as_u16(), status, "{question}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{question}: {problem}");
    }
    let stranger = reqwest::get(format!("{}/v1/usage?org=acme&month=2026-11", service.base)).await.unwrap();
    assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_long_report_comes_in_pages_with_the_sum_of_all(pool: PgPool) {
    sqlx::query(
        "insert into cost_daily_summary (org, day, team, user_name, provider, model, api, requests, estimated_requests,
            input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
            reasoning_tokens, cost_nanousd)
         select 'acme', '2026-11-01', 'search', 'user' || n, 'p', 'm', 'a', 1, 0, 1, 0, 0, 0, 1, 0, n
           from generate_series(1, 2500) n",
    )
    .execute(&pool)
    .await
    .unwrap();
    let service = Service::start(&pool).await;
    let (mut users, mut cursor, mut pages) = (BTreeSet::new(), String::new(), 0);
    loop {
        let question = format!("org=acme&month=2026-11&by=user&limit=1000{cursor}");
        let (status, page) = ask(&service, &question).await;
        assert_eq!((status, &page["total"]["requests"]), (StatusCode::OK, &Value::from(2_500)), "{page}");
        pages += 1;
        for group in page["groups"].as_array().unwrap() {
            assert!(users.insert(group["user"].as_str().unwrap().to_owned()), "{group} twice");
        }
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!((pages, users.len()), (3, 2_500));
    let (_, dearest) = ask(&service, "org=acme&month=2026-11&by=user&limit=2&order=cost").await;
    let names: Vec<Value> =
        dearest["groups"].as_array().unwrap().iter().map(|group| group["user"].clone()).collect();
    assert_eq!((json!(names), &dearest["next_cursor"]), (json!(["user2500", "user2499"]), &Value::Null));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn hours_tags_and_filters_are_told_and_every_org_to_whom_may_see_it(pool: PgPool) {
    let tagged = |number: u64, tags: &[(&str, &str)]| {
        let (key, item) = call(number, "search", "ann", "gpt-4o", 7);
        let Item::Settle(mut settle) = item else { panic!("not a settlement") };
        settle.subject.tags =
            tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        (key, Item::Settle(settle))
    };
    let blue = [("project", "blue"), ("say", "\"project\": \"red\"")];
    let items = vec![
        tagged(1, &blue),
        tagged(2, &[("project", "blue")]),
        tagged(3, &[("project", "red")]),
        tagged(4, &[]),
        call(5, "ads", "bob", "gpt-4o-mini", 100),
    ];
    record(&pool, items).await;
    let service = Service::start(&pool).await;
    let (from, to): (String, String) = sqlx::query_as(
        "select to_char(min(day), 'YYYY-MM-DD'), to_char(max(day) + 1, 'YYYY-MM-DD') from cost_daily_summary",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let ask = async |more: &str| {
        let (status, report) = ask(&service, &format!("from={from}&to={to}{more}")).await;
        assert_eq!(status, StatusCode::OK, "{more}: {report}");
        report
    };
    let counts = |report: &Value, name: fn(&Value) -> &Value| {
        let groups = report["groups"].as_array().unwrap();
        groups
            .iter()
            .map(|group| (name(group).clone(), group["requests"].as_i64().unwrap()))
            .collect::<Vec<_>>()
    };
    let by_tag = ask("&org=acme&by=tag:project").await;
    let expected = [("", 2), ("blue", 2), ("red", 1)].map(|(name, calls)| (Value::from(name), calls));
    assert_eq!(counts(&by_tag, |group| &group["tags"]["project"]), expected);
    // A value that looks like another tag is none.
    let red = ask("&org=acme&tag=project%3Dred").await;
    assert_eq!(red["total"]["requests"], 1, "{red}");
    let hours = ask("&org=acme&by=hour,team&team=search").await;
    let sum: i64 = hours["groups"].as_array().unwrap().iter().map(|g| g["requests"].as_i64().unwrap()).sum();
    assert_eq!((sum, &hours["total"]["p95_latency_ms"]), (4, &Value::Null));
    assert!(hours["groups"][0]["hour"].as_str().unwrap().ends_with(":00:00Z"), "{hours}");
    let every = ask("&by=org,model&provider=openai").await;
    assert_eq!(every["org"], Value::Null);
    assert_eq!(counts(&every, |group| &group["model"]), [("gpt-4o".into(), 4), ("gpt-4o-mini".into(), 1)]);
    let days_by_tag = ask("&org=acme&by=day,tag:project").await;
    assert_eq!(days_by_tag["total"]["requests"], 5, "{days_by_tag}");
    // A team's token sees the team.
    let token = crate::requests::token(&service, "acme", Some("search")).await;
    for (more, status) in [("", 200), ("&org=acme", 200), ("&team=ads", 404), ("&org=other", 404)] {
        let path = format!("/v1/usage?from={from}&to={to}&by=team{more}");
        let (answered, seen) = service.send(Method::GET, &path, &token, &Value::Null).await;
        assert_eq!(answered.as_u16(), status, "{more}: {seen}");
        if status == 200 {
            assert_eq!(counts(&seen, |group| &group["team"]), [("search".into(), 4)]);
            assert_eq!(seen["total"]["requests"], 4);
        }
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_report_comes_as_csv_that_no_spreadsheet_runs(pool: PgPool) {
    record(
        &pool,
        vec![call(1, "=HYPERLINK(1)", "ann", "gpt-4o", 1_500_000_000), call(2, "a,b", "ann", "m", 1)],
    )
    .await;
    let service = Service::start(&pool).await;
    let get = |more: &str, accept: &str| {
        let request = service.client.get(format!("{}/v1/usage?org=acme&by=team{more}", service.base));
        request.bearer_auth(ADMIN).header("accept", accept).send()
    };
    for (more, accept) in [("&format=csv", "*/*"), ("", "text/csv, application/json;q=0.5")] {
        let answer = get(more, accept).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/csv; charset=utf-8");
        let text = answer.text().await.unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("team,requests,") && lines[0].ends_with(",cost_usd"), "{text}");
        assert!(lines[1].starts_with("'=HYPERLINK(1),1,") && lines[1].ends_with(",1.50"), "{text}");
        assert!(lines[2].starts_with("\"a,b\",1,") && lines.len() == 3, "{text}");
    }
    let first = get("&format=csv&limit=1", "*/*").await.unwrap();
    let next = first.headers()["x-purser-next-cursor"].to_str().unwrap().to_owned();
    let rest = get(&format!("&format=csv&cursor={next}"), "*/*").await.unwrap().text().await.unwrap();
    assert_eq!(rest.lines().count(), 2, "{rest}");
    let json = get("&format=json", "text/csv").await.unwrap();
    assert_eq!(json.headers()["content-type"], "application/json");
}

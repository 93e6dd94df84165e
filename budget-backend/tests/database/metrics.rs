//! A real scrape of a real process, and what dashboards and alert rules name in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, TOKEN, hold_request, settlement};
use crate::operator::{execute, url};
use crate::support::*;

/// The program itself: what it counts is its own alone.
pub struct Process {
    child: Child,
    pub base: String,
    pub metrics: String,
    client: Client,
}

impl Process {
    pub async fn start(pool: &PgPool, more: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_budget-backend"));
        command.arg("serve").env("DATABASE_URL", url(pool));
        command.env("PURSER_TOKEN", TOKEN).env("PURSER_ADMIN_TOKEN", ADMIN);
        command.env("PURSER_LISTEN_ADDR", "127.0.0.1:0").env("PURSER_METRICS_ADDR", "127.0.0.1:0");
        command.env("PURSER_DB_POOL_MIN", "1").env("PURSER_DB_POOL_MAX", "8").envs(more.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let read = tokio::task::spawn_blocking(move || {
            let mut after =
                |what: &str| lines.next().unwrap().unwrap().strip_prefix(what).map(str::to_owned).unwrap();
            (after("listening on "), after("metrics on "))
        });
        let (base, metrics) = read.await.unwrap();
        Self {
            child,
            base: format!("http://{base}"),
            metrics: format!("http://{metrics}/metrics"),
            client: Client::new(),
        }
    }

    pub async fn send(&self, method: Method, path: &str, token: &str, body: &Value) -> Value {
        let request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(token);
        let request = request.header("content-type", "application/json").body(body.to_string());
        let text = request.send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    async fn scrape(&self) -> Scrape {
        let answer = self.client.get(&self.metrics).send().await.unwrap();
        let format = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(format.starts_with("application/openmetrics-text; version=1.0.0"), "{format}");
        Scrape::read(&answer.text().await.unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[derive(Default)]
struct Scrape {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Strictly: each line is one of the format's, and its family was declared before.
    fn read(text: &str) -> Self {
        let mut scrape = Self::default();
        let body = text.strip_suffix("# EOF\n").expect("the end is marked");
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(scrape.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let family = name.split('{').next().unwrap();
                assert!(scrape.types.keys().any(|known| family.starts_with(known.as_str())), "{line}");
                assert!(scrape.samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line}");
            } else {
                assert!(line.starts_with("# HELP ") || line.starts_with("# UNIT "), "{line}");
            }
        }
        scrape
    }

    fn value(&self, name: &str) -> f64 {
        *self.samples.get(name).unwrap_or_else(|| panic!("{name}: {:#?}", self.samples.keys()))
    }

    /// The samples' names without labels.
    fn names(&self) -> BTreeSet<&str> {
        self.samples.keys().map(|name| name.split('{').next().unwrap()).collect()
    }
}

/// Calls of every kind: held, refused, settled, unknown, corrected.
async fn traffic(process: &Process) {
    let budget = |org: &str, limit: &str| json!({"org": org, "window": "month", "limit_usd": limit});
    process.send(Method::POST, "/v1/budgets", ADMIN, &budget("acme", "10.00")).await;
    process.send(Method::POST, "/v1/budgets", ADMIN, &budget("poor", "0.0001")).await;
    for (number, org) in [(1, "acme"), (2, "acme"), (3, "poor")] {
        let mut request = hold_request(id(number));
        request["payer"]["org"] = json!(org);
        process.send(Method::POST, "/v1/holds", TOKEN, &request).await;
    }
    let mut unknown = settlement(id(9));
    unknown["call"]["model"] = json!("brand-new");
    unknown.as_object_mut().unwrap().remove("answered_model");
    let open = json!("fail_open");
    unknown["admission"] = open;
    let batch = json!({"version": 1, "items": [settlement(id(1)), unknown]});
    let answer = process.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    assert_eq!(answer["results"][1]["outcome"], json!("recorded"), "{answer}");
    // Again: a duplicate, which is counted nowhere.
    process.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_scrape_counts_what_happened_and_nothing_twice(pool: PgPool) {
    let process = Process::start(&pool, &[]).await;
    traffic(&process).await;
    let scrape = process.scrape().await;
    for (name, kind) in [
        ("purser_holds", "counter"),
        ("purser_hold_duration_seconds", "histogram"),
        ("purser_lane_batch_holds", "histogram"),
        ("purser_holds_waiting", "gauge"),
        ("purser_tracker_lag_seconds", "histogram"),
        ("purser_ledger_entries", "counter"),
        ("purser_flagged", "counter"),
        ("purser_budget_remaining_nanousd", "gauge"),
        ("purser_build", "info"),
        ("process_resident_memory_bytes", "gauge"),
    ] {
        assert_eq!(scrape.types.get(name).map(String::as_str), Some(kind), "{name}: {:?}", scrape.types);
    }
    let spent: i64 = sqlx::query_scalar("select sum(cost_nanousd)::bigint from llm_requests")
        .fetch_one(&pool)
        .await
        .unwrap();
    let spent: f64 = spent.to_string().parse().unwrap();
    let gen_ai = |name: &str, more: &str| {
        let of = "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"openai\",gen_ai_request_model=\"gpt-4o-mini\"";
        format!("gen_ai_client_{name}{{{of}{more}}}")
    };
    for (name, value) in [
        ("purser_holds_total{verdict=\"allow\",reason=\"\"}", 2.0),
        ("purser_holds_total{verdict=\"deny\",reason=\"over_budget\"}", 1.0),
        ("purser_holds_total{verdict=\"failed\",reason=\"database\"}", 0.0),
        ("purser_hold_duration_seconds_count", 3.0),
        ("purser_lane_batch_holds_sum", 3.0),
        ("purser_holds_waiting", 0.0),
        ("purser_settlement_batches_waiting", 0.0),
        ("purser_tracker_lag_seconds_count", 2.0),
        ("purser_ledger_entries_total{cause=\"settled\",quality=\"exact\",admission=\"held\"}", 1.0),
        ("purser_ledger_entries_total{cause=\"settled\",quality=\"exact\",admission=\"fail_open\"}", 1.0),
        (
            "purser_flagged_total{provider=\"openai\",model=\"brand-new\",flag=\"ceiling\",cause=\"model\"}",
            1.0,
        ),
        ("purser_charged_nanousd_total{org=\"acme\"}", spent),
        ("purser_credited_nanousd_total{org=\"acme\"}", 0.0),
        ("purser_budgets_readable", 1.0),
        ("purser_budgets_left_out", 0.0),
        ("purser_spool_batches", 0.0),
        ("purser_spool_bytes", 0.0),
        ("purser_spool_drained_settlements_total", 0.0),
        (&gen_ai("token_usage_sum", ",gen_ai_token_type=\"input\""), 1_000.0),
        (&gen_ai("token_usage_sum", ",gen_ai_token_type=\"output\""), 50.0),
        (&gen_ai("token_usage_count", ",gen_ai_token_type=\"output\""), 1.0),
        (&gen_ai("operation_duration_seconds_sum", ""), 0.9),
    ] {
        assert!(scrape.value(name).total_cmp(&value).is_eq(), "{name}: {}", scrape.value(name));
    }
    let left: i64 = sqlx::query_scalar(
        "select limit_nanousd - spent_nanousd - held_nanousd from budgets join budget_counters using (org, budget_id)
          where org = 'acme'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let left: f64 = left.to_string().parse().unwrap();
    let shown = scrape.samples.iter().find(|(name, _)| {
        name.starts_with(
            "purser_budget_remaining_nanousd{org=\"acme\",team=\"\",user=\"\",tier=\"org\",window=\"month\"",
        )
    });
    assert_eq!(shown.map(|(_, value)| *value), Some(left));
    assert!(scrape.value("process_resident_memory_bytes") > 1_000_000.0);
    // Only the listener of its own has it.
    let on_the_port = process.client.get(format!("{}/metrics", process.base)).send().await.unwrap();
    assert_eq!(on_the_port.status().as_u16(), 404);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn budgets_are_listed_up_to_a_number_and_a_scrape_goes_without_them_when_they_can_t_be_read(
    pool: PgPool,
) {
    let process = Process::start(&pool, &[("PURSER_METRICS_BUDGETS", "1")]).await;
    traffic(&process).await;
    let scrape = process.scrape().await;
    let listed = scrape.samples.keys().filter(|name| name.starts_with("purser_budget_remaining_nanousd{"));
    assert_eq!((listed.count(), scrape.value("purser_budgets_left_out")), (1, 1.0));
    execute(&pool, "alter table budgets rename to gone").await;
    let scrape = process.scrape().await;
    assert!(scrape.value("purser_budgets_readable") < 0.5);
    assert!(scrape.value("purser_holds_total{verdict=\"allow\",reason=\"\"}") > 1.5);
}

/// The names of metrics in an expression: words of ours or of the process that aren't labels.
fn named(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| {
        ["purser_", "process_", "gen_ai_client_"].iter().any(|prefix| word.starts_with(prefix))
    });
    ours.map(str::to_owned).collect()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn every_metric_that_rules_and_dashboard_name_is_in_a_scrape(pool: PgPool) {
    let process = Process::start(&pool, &[]).await;
    traffic(&process).await;
    let scrape = process.scrape().await;
    let file =
        |name: &str| std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (rules, dashboard) = (file("alerts.yml"), file("dashboard.json"));
    let expressions: Vec<String> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned).collect();
    assert_eq!(expressions.len(), rules.matches("- alert: ").count());
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let targets =
        dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let shown = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    let names = scrape.names();
    let (mut all, mut used) = (0, BTreeSet::new());
    for expression in expressions.into_iter().chain(shown) {
        let of = named(&expression);
        assert!(!of.is_empty(), "{expression}");
        for name in of {
            assert!(names.contains(name.as_str()), "{name} of {expression}: {names:?}");
            used.insert(name);
            all += 1;
        }
    }
    assert!(all > 25, "{all}");
    // The other way round: whatever is counted is shown somewhere.
    let parts = ["_bucket", "_count", "_sum"];
    let family =
        |name: &str| parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned();
    let used: BTreeSet<String> = used.iter().map(|name| family(name)).collect();
    let unused: Vec<&&str> = names.iter().filter(|name| !used.contains(&family(name))).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

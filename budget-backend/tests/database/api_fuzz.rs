//! The whole API against its own document: requests made from it, right and wrong, get no 5xx and no answer
//! that the document doesn't have.

use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::api::{ADMIN, Service};
use crate::api_policies::{budget, done};

/// Requests made up for each operation, beside those at the bounds of each field. One worker makes them: with
/// two, the library that makes them up stumbles over itself now and then.
const EXAMPLES: &str = "4";

/// The same requests on every run.
const SEED: &str = "20261124";

/// Longest time for all of it, seconds; half a minute is what it takes alone.
const LIMIT_S: &str = "300";

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance";

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn no_request_gets_an_answer_that_the_document_does_not_have(pool: PgPool) {
    let python =
        std::env::var("SDK_PYTHON").expect("SDK_PYTHON names a Python; `scripts/setup.sh --tests` makes it");
    let service = Service::start(&pool).await;
    // What the document's examples name.
    budget(&service, json!({})).await;
    let place = json!({"org": "acme", "minutes": 5, "reason": "x", "by": "x"});
    done(&service, Method::POST, "/v1/overrides", place).await;
    let identity = json!({"kind": "namespace", "value": "chat", "org": "acme"});
    done(&service, Method::POST, "/v1/identities", identity).await;
    let webhook = json!({"org": "acme", "url": "https://example.com/"});
    done(&service, Method::POST, "/v1/webhooks", webhook).await;
    done(&service, Method::POST, "/v1/tokens", json!({"name": "x", "role": "viewer"})).await;

    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("timeout");
    command
        .args([LIMIT_S, &python])
        .current_dir(folder.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "127.0.0.1")
        .env("NO_COLOR", "1")
        .args(["-m", "schemathesis.cli", "run", &format!("{}/v1/openapi.json", service.base)])
        .args(["--header", &format!("Authorization: Bearer {ADMIN}"), "--checks", CHECKS])
        .args(["--phases", "coverage,fuzzing", "--max-examples", EXAMPLES, "--seed", SEED])
        .args(["--continue-on-failure", "--no-shrink", "--warnings", "off", "--workers", "1"])
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    // It did look: no operation was left out.
    let operations = told.lines().find_map(|line| line.trim().strip_prefix("Tested: "));
    let response = service.client.get(format!("{}/v1/openapi.json", service.base)).send().await.unwrap();
    let document: serde_json::Value = response.json().await.unwrap();
    let documented: usize =
        document["paths"].as_object().unwrap().values().map(|item| item.as_object().unwrap().len()).sum();
    assert_eq!(operations.and_then(|count| count.parse().ok()), Some(documented), "{told}");
    service.stop().await;
}

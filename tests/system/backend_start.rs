//! The backend's start, when it can't.

use std::process::Output;

use system_tests::harness::backend::{self, ReservedPort};
use system_tests::harness::database::Database;
use system_tests::harness::within;

async fn run(settings: &[(&str, &str)]) -> Output {
    let mut command = backend::command();
    command.arg("serve").envs(settings.iter().copied()).kill_on_drop(true);
    within("the backend to give up", command.output()).await.unwrap()
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_in_the_environment_is_named_at_once() {
    let missing = run(&[]).await;
    assert_eq!(missing.status.code(), Some(2), "{}", log(&missing));
    for name in ["DATABASE_URL", "PURSER_TOKEN", "PURSER_ADMIN_TOKEN"] {
        assert!(log(&missing).contains(name), "{name} is not in {}", log(&missing));
    }
    let wrong = [
        ("DATABASE_URL", "mysql://u:hush-hush@h/db"),
        ("PURSER_TOKEN", "short-token"),
        ("PURSER_ADMIN_TOKEN", "short-admin"),
        ("PURSER_LISTEN_ADDR", "everywhere"),
        ("PURSER_DB_POOL_MIN", "-1"),
        ("PURSER_DB_POOL_MAX", "many"),
        ("PURSER_DB_CONNECT_TIMEOUT_S", "soon"),
        ("PURSER_HOLD_TTL_S", "1h"),
        ("PURSER_DEFAULT_OUTPUT_TOKENS", "lots"),
    ];
    let output = run(&wrong).await;
    assert_eq!(output.status.code(), Some(2), "{}", log(&output));
    for (name, _) in wrong {
        assert!(log(&output).contains(name), "{name} is not in {}", log(&output));
    }
    for secret in ["hush-hush", "short-token", "short-admin"] {
        assert!(!log(&output).contains(secret), "a secret in {}", log(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_database_is_retried_and_then_given_up() {
    let port = ReservedPort::take();
    let url = format!("postgres://purser:hush-hush@{}/purser", port.addr);
    let output = run(&[
        ("DATABASE_URL", &url),
        ("PURSER_TOKEN", backend::TOKEN),
        ("PURSER_ADMIN_TOKEN", backend::ADMIN_TOKEN),
        ("PURSER_LISTEN_ADDR", "127.0.0.1:0"),
        ("PURSER_DB_CONNECT_TIMEOUT_S", "1"),
    ])
    .await;
    let log = log(&output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert_eq!(output.stdout, b"", "it never was ready");
    assert!(log.contains("database") && log.contains("refused"), "what is wrong: {log}");
    assert!(log.lines().count() >= 2, "it says that it tries again: {log}");
    assert!(!log.contains("hush-hush"), "a secret in {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_migrates_starts_again_and_stops_when_asked() {
    let database = Database::create().await;
    for _ in 0..2 {
        let mut migrate = backend::command();
        migrate
            .arg("migrate")
            .env("DATABASE_URL", &database.url)
            .env("PURSER_TOKEN", backend::TOKEN)
            .env("PURSER_ADMIN_TOKEN", backend::ADMIN_TOKEN)
            .kill_on_drop(true);
        let output = within("migrate", migrate.output()).await.unwrap();
        assert!(output.status.success(), "{}", log(&output));
    }
    let folder = tempfile::tempdir().unwrap();
    let http = system_tests::harness::client::http();
    let mut backend = backend::Backend::new(&database.url, folder.path(), http.clone(), Vec::new());
    for _ in 0..2 {
        backend.start().await;
        for page in ["healthz", "readyz"] {
            let response = http.get(format!("http://{}/{page}", backend.addr())).send().await.unwrap();
            assert!(response.status().is_success(), "{page}");
            assert_eq!(response.headers()["x-purser-backend"], "1", "{page}");
        }
        assert!(backend.stop().await, "a graceful stop ends with 0:\n{}", backend.log());
    }
}

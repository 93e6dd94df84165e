//! What an operator has: the commands, and a sync client.

use std::process::{Command, Output};

use postgres::{Client, NoTls};
use serde_json::Value;
use sqlx::PgPool;

/// The URL of the pool's database.
pub fn url(pool: &PgPool) -> String {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL names the test server");
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{}", pool.connect_options().get_database().unwrap())
}

/// Runs `work` with a sync client, off the async threads.
pub async fn with_client<T: Send + 'static>(
    pool: &PgPool,
    work: impl FnOnce(&mut Client) -> T + Send + 'static,
) -> T {
    let url = url(pool);
    tokio::task::spawn_blocking(move || work(&mut Client::connect(&url, NoTls).unwrap())).await.unwrap()
}

/// Runs `budget-backend` with these arguments on the pool's database.
pub async fn backend(pool: &PgPool, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_budget-backend"));
    command.args(arguments).env("DATABASE_URL", url(pool));
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(output), stderr(output)))
}

pub async fn execute(pool: &PgPool, sql: &str) {
    sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

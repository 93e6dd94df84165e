//! What a restored backup is good for.

use std::path::PathBuf;
use std::process::Command;

use postgres::config::Host;
use purser_protocol::Outcome;
use sqlx::PgPool;

use crate::operator::*;
use crate::support::*;

/// The newest `pg_dump` and `pg_restore` at hand; a dump needs one as new as the server.
fn programs() -> Option<PathBuf> {
    let version = |folder: &PathBuf| -> Option<u32> {
        let output = Command::new(folder.join("pg_dump")).arg("--version").output().ok()?;
        folder.join("pg_restore").exists().then_some(())?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
    };
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&in_path)
        .chain(installed.map(|entry| entry.path().join("bin")))
        .filter_map(|folder| Some((version(&folder)?, folder)))
        .max()
        .map(|(_, folder)| folder)
}

/// Runs one of PostgreSQL's programs on the test server, with the password where no list of processes shows it.
async fn run(program: PathBuf, arguments: Vec<String>) {
    let config: postgres::Config = std::env::var("DATABASE_URL").unwrap().parse().unwrap();
    let host = config.get_hosts().first().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    });
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .env("PGHOST", host.unwrap_or_default())
        .env("PGPORT", config.get_ports().first().copied().unwrap_or(5432).to_string())
        .env("PGUSER", config.get_user().unwrap_or_default())
        .env("PGPASSWORD", String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}: {}", program.display(), stderr(&output));
}

/// Dumps the pool's database and restores it into a new one.
async fn restored_copy(pool: &PgPool, programs: &std::path::Path) -> (PgPool, String) {
    let from = pool.connect_options().get_database().unwrap().to_owned();
    let into = format!("purser_restored_{}", id(u64::from(std::process::id())).simple());
    let folder = std::env::temp_dir().join(format!("{into}.dump"));
    let file = folder.display().to_string();
    run(programs.join("pg_dump"), vec!["--format=custom".into(), format!("--file={file}"), from]).await;
    execute(pool, &format!("create database \"{into}\" template template0")).await;
    run(
        programs.join("pg_restore"),
        vec!["--exit-on-error".into(), format!("--dbname={into}"), file.clone()],
    )
    .await;
    std::fs::remove_file(file).unwrap();
    let options = pool.connect_options().as_ref().clone().database(&into);
    (PgPool::connect_with(options).await.unwrap(), into)
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_restored_database_balances_and_takes_what_is_sent_again(pool: PgPool) {
    let Some(programs) = programs() else {
        println!("skipped: neither PATH nor /usr/lib/postgresql has pg_dump and pg_restore");
        return;
    };
    budget_backend::db::migrate(&pool).await.unwrap();
    let org = budget(&pool, "", "", "month", 1_000_000).await;
    let calls: Vec<uuid::Uuid> = (1..=4).map(id).collect();
    let [before, after, lost, never] = calls[..] else { panic!() };
    let first = ledger(&pool);
    for call in [before, after, never] {
        granted(&first, call, 100).await;
    }
    record(&pool, vec![settle(before, 40)]).await;

    let (restored, name) = restored_copy(&pool, &programs).await;
    // After the backup: one call is settled, one is held and settled.
    granted(&first, lost, 100).await;
    assert_eq!(
        record(&pool, vec![settle(after, 50), settle(lost, 60)]).await,
        [Outcome::Recorded, Outcome::Recorded]
    );

    let output = backend(&restored, &["verify"]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    // It starts as it is: no migration is missing and no partition is made twice.
    budget_backend::db::migrate(&restored).await.unwrap();
    assert_eq!(standing(&restored, org).await, (40, 200));
    // Sent again by filters that had no acknowledgement: charged once, with or without a hold here.
    let again = vec![settle(before, 40), settle(after, 50), settle(lost, 60), settle(after, 50)];
    let outcomes = [Outcome::Duplicate, Outcome::Recorded, Outcome::Recorded, Outcome::Duplicate];
    assert_eq!(record(&restored, again).await, outcomes);
    // What was acknowledged before the crash is not sent again: its hold expires and is charged in full.
    execute(&restored, "update holds set expires_at = now() where state = 'open'").await;
    assert_eq!(steps(&restored).sweep().await, 1);
    assert_eq!(standing(&restored, org).await, (40 + 50 + 60 + 100, 0));
    assert_books_balance(&restored).await;
    let output = backend(&restored, &["verify"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));

    restored.close().await;
    execute(&pool, &format!("drop database \"{name}\" with (force)")).await;
}

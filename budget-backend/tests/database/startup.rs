//! A database that goes away while a backend starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use budget_backend::app::Application;
use budget_backend::config::Config;
use sqlx::PgPool;
use tokio::net::{TcpListener, TcpStream};

use crate::api::{ADMIN, TOKEN};
use crate::operator::url;

/// The first attempt's look is let through, then so many connections are cut as they come.
const CUT: std::ops::RangeInclusive<u32> = 2..=4;

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_database_that_goes_away_during_the_start_is_waited_for(pool: PgPool) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = pool.connect_options();
    let upstream = (server.get_host().to_owned(), server.get_port());
    let came = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&came);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            if CUT.contains(&(count.fetch_add(1, Ordering::Relaxed) + 1)) {
                continue;
            }
            let mut server = TcpStream::connect(upstream.clone()).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let direct = url(&pool);
    let (before, database) = direct.rsplit_once('/').unwrap();
    let (credentials, _) = before.rsplit_once('@').unwrap();
    let through = format!("{credentials}@{addr}/{database}");
    let config = Config::read(&move |name| {
        Some(match name {
            "DATABASE_URL" => through.clone(),
            "PURSER_TOKEN" => TOKEN.to_owned(),
            "PURSER_ADMIN_TOKEN" => ADMIN.to_owned(),
            "PURSER_LISTEN_ADDR" => "127.0.0.1:0".to_owned(),
            "PURSER_DB_POOL_MIN" => "0".to_owned(),
            "PURSER_DB_POOL_MAX" => "8".to_owned(),
            _ => return None,
        })
    })
    .unwrap();
    let application = Application::build(config).await.expect("it starts once the database is back");
    assert!(came.load(Ordering::Relaxed) > *CUT.end());
    application.run(std::future::ready(())).await.unwrap();
}

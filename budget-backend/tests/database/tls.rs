//! Encrypted both ways: filters and operators to the backend, and the backend to PostgreSQL.

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use reqwest::StatusCode;

use sqlx::PgPool;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::api::{ADMIN, TOKEN, hold_request, settlement};
use crate::operator::url;
use crate::spool_support::*;
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// An authority of a test, and a folder with what it issues.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.issuer.pem()).unwrap();
        path
    }

    /// Issues for a host; gives the files of certificate and key.
    fn issue(&self, host: &str, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (chain, private) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}-key.pem")));
        std::fs::write(&chain, certificate.pem()).unwrap();
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&private)
            .unwrap();
        std::io::Write::write_all(&mut file, key.serialize_pem().as_bytes()).unwrap();
        (chain, private)
    }
}

/// A client that trusts an authority, and shows a certificate if it has one.
struct Client(TlsConnector);

impl Client {
    fn new(authority: &Authority, shown: Option<&(PathBuf, PathBuf)>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_file_iter(chain).unwrap().map(Result::unwrap).collect();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
        };
        Self(TlsConnector::from(std::sync::Arc::new(config)))
    }

    /// One request; gives status and text, or why there is no answer.
    async fn ask(&self, process: &Process, request: &str) -> Result<(u16, String), String> {
        let exchange = async {
            let socket = TcpStream::connect(process.addr()).await?;
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = self.0.connect(name, socket).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await.expect("an end");
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or("no status")?, answer))
    }

    async fn hold(&self, process: &Process, token: &str) -> Result<u16, String> {
        let body = hold_request(id(1)).to_string();
        let request = format!(
            "POST /v1/holds HTTP/1.1\r\nhost: b\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Ok(self.ask(process, &request).await?.0)
    }

    async fn page(&self, process: &Process, path: &str) -> Result<u16, String> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n");
        Ok(self.ask(process, &request).await?.0)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_backend_speaks_tls_and_lets_in_who_shows_a_certificate_and_a_token(pool: PgPool) {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new("a mesh"), Authority::new("another mesh"));
    let (certificate, key) = authority.issue("localhost", folder.path(), "backend");
    let filter = authority.issue("filter", folder.path(), "filter");
    let forged = stranger.issue("filter", folder.path(), "forged");
    let clients = authority.write(folder.path(), "clients.pem");
    let mut settings = vec![("PURSER_TLS_CERT", text(&certificate)), ("PURSER_TLS_KEY", text(&key))];

    let process = Process::start(&url(&pool), &settings).await;
    let client = Client::new(&authority, None);
    assert_eq!(client.hold(&process, TOKEN).await, Ok(200));
    assert_eq!(client.hold(&process, ADMIN).await, Ok(401));
    assert!(Client::new(&stranger, None).hold(&process, TOKEN).await.is_err(), "it is whom it says it is");
    let mut plain = TcpStream::connect(process.addr()).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    let read = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut seen)).await;
    assert!(read.is_ok() && !seen.starts_with(b"HTTP"), "plain HTTP is not answered: {seen:?}");
    process.kill();

    settings.push(("PURSER_TLS_CLIENT_CA", text(&clients)));
    settings.push(("PURSER_HEADER_TIMEOUT_MS", "400"));
    let process = Process::start(&url(&pool), &settings).await;
    let known = Client::new(&authority, Some(&filter));
    assert_eq!(known.hold(&process, TOKEN).await, Ok(200));
    assert_eq!(known.hold(&process, "not-a-token-of-it").await, Ok(401), "the token is asked for as well");
    assert_eq!(Client::new(&authority, None).hold(&process, TOKEN).await, Ok(403));
    assert!(Client::new(&authority, Some(&forged)).hold(&process, TOKEN).await.is_err());
    for path in ["/healthz", "/readyz"] {
        let seen = Client::new(&authority, None).page(&process, path).await.unwrap();
        assert!((200..300).contains(&seen), "probes have no certificate: {path} {seen}");
    }
    // A handshake that is never finished is cut.
    let mut silent = TcpStream::connect(process.addr()).await.unwrap();
    silent.write_all(b"\x16\x03\x01").await.unwrap();
    let mut seen = Vec::new();
    let read = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut seen)).await;
    assert!(read.is_ok(), "it is still open");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_certificate_that_can_t_be_used_is_named_at_start(pool: PgPool) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("a mesh");
    let (certificate, key) = authority.issue("localhost", folder.path(), "backend");
    let (_, other_key) = authority.issue("localhost", folder.path(), "other");
    let missing = folder.path().join("nowhere.pem");
    for (certificate, key, named) in [
        (&missing, &key, "PURSER_TLS_CERT"),
        (&certificate, &missing, "PURSER_TLS_KEY"),
        (&key, &key, "PURSER_TLS_CERT"),
        (&certificate, &other_key, "PURSER_TLS_CERT and PURSER_TLS_KEY"),
    ] {
        let settings = [("PURSER_TLS_CERT", text(certificate)), ("PURSER_TLS_KEY", text(key))];
        let (status, log) = fails_to_start(&url(&pool), &settings).await;
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(named), "{named} is not in {log}");
    }
}

/// A PostgreSQL of a test, which takes encrypted connections only.
struct Server {
    child: Child,
    port: u16,
    _folder: TempDir,
}

/// A command as somebody whom the server agrees to run as.
fn as_server_user(program: &Path, folder: &Path) -> Command {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        return Command::new(program);
    }
    let user = nix::unistd::User::from_name("postgres").unwrap();
    let user =
        user.or_else(|| nix::unistd::User::from_name("purser").unwrap()).expect("a user for PostgreSQL");
    for entry in std::iter::once(folder.to_owned())
        .chain(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()))
    {
        std::os::unix::fs::chown(&entry, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args([
        format!("--reuid={}", user.uid),
        format!("--regid={}", user.gid),
        "--init-groups".to_owned(),
        "--".to_owned(),
    ]);
    command.arg(program).current_dir("/");
    command
}

/// The folder of the server's programs.
fn programs() -> PathBuf {
    let config = Command::new("pg_config").arg("--bindir").output();
    let asked = config.ok().map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = asked.into_iter().chain(installed.map(|entry| entry.path().join("bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = folders.chain(std::env::split_paths(&path).collect::<Vec<_>>());
    let mut folders =
        folders.filter(|folder| folder.join("initdb").exists() && folder.join("postgres").exists());
    folders.next().expect("PostgreSQL's own programs; `make setup` installs them")
}

impl Server {
    fn start(certificate: &Path, key: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("purser-tls").tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        for (from, name) in [(certificate, "server.pem"), (key, "server-key.pem")] {
            std::fs::copy(from, folder.path().join(name)).unwrap();
        }
        let data = folder.path().join("data");
        std::fs::write(folder.path().join("password"), "hush-hush").unwrap();
        let made = as_server_user(&programs().join("initdb"), folder.path())
            .args([
                "--username=purser",
                "--auth=scram-sha-256",
                "--no-sync",
                "--no-locale",
                "--encoding=UTF8",
            ])
            .arg(format!("--pwfile={}", folder.path().join("password").display()))
            .arg("-D")
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let child = as_server_user(&programs().join("postgres"), folder.path())
            .arg("-D")
            .arg(&data)
            .args([
                "-c",
                "ssl=on",
                "-c",
                "fsync=off",
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
            ])
            .arg("-c")
            .arg(format!("ssl_cert_file={}", file("server.pem")))
            .arg("-c")
            .arg(format!("ssl_key_file={}", file("server-key.pem")))
            .arg("-c")
            .arg(format!("port={port}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let server = Self { child, port, _folder: folder };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "PostgreSQL does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn url(&self, host: &str, query: &str) -> String {
        format!("postgres://purser:hush-hush@{host}:{}/postgres?{query}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        // Immediately: its data go with the folder.
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT).unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn the_connections_to_postgresql_are_encrypted_and_its_certificate_is_checked_as_the_url_says() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new("a database's"), Authority::new("another's"));
    let (certificate, key) = authority.issue("localhost", folder.path(), "server");
    let (trusted, other) =
        (authority.write(folder.path(), "trusted.pem"), stranger.write(folder.path(), "other.pem"));
    let server = tokio::task::spawn_blocking(move || Server::start(&certificate, &key)).await.unwrap();
    let root = |mode: &str, file: &Path| format!("sslmode={mode}&sslrootcert={}", file.display());
    let patience = [("PURSER_DB_CONNECT_TIMEOUT_S", "1")];

    let full = server.url("localhost", &root("verify-full", &trusted));
    let process = Process::start(&full, &patience).await;
    let (status, answer) = process.post("/v1/holds", &hold_request(id(1))).await;
    assert_eq!(status, StatusCode::OK, "the async side: {answer}");
    // Without a payer's hold a settlement is recorded all the same, by the sync side.
    let (_, answer) = process.settle(vec![settlement(id(2))]).await;
    assert_eq!(outcomes(&answer), ["recorded"]);
    let pool = PgPool::connect(&full).await.unwrap();
    let sessions: Vec<(String, bool)> = sqlx::query_as(
        "select distinct a.application_name, s.ssl from pg_stat_activity a join pg_stat_ssl s using (pid)
          where a.application_name in ('purser-checks', 'purser-tracker') order by 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(sessions, [("purser-checks".to_owned(), true), ("purser-tracker".to_owned(), true)]);
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, 1);
    let (status, _, log) = process.stop().await;
    assert!(status.success(), "{log}");

    let by_address = |mode| server.url("127.0.0.1", &root(mode, &trusted));
    for (database, starts) in [
        (server.url("localhost", "sslmode=require"), true),
        (by_address("verify-ca"), true),
        (by_address("verify-full"), false),
        (server.url("localhost", &root("verify-full", &other)), false),
        (server.url("localhost", &root("verify-ca", &other)), false),
        (server.url("localhost", "sslmode=verify-full"), false),
        (server.url("localhost", "sslmode=disable"), false),
    ] {
        // Both sides of the backend, one after the other.
        let command = |arguments: &'static [&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_budget-backend"));
            command.args(arguments).env("DATABASE_URL", &database).env("PURSER_DB_CONNECT_TIMEOUT_S", "1");
            command
        };
        for arguments in [&["migrate"][..], &["verify", "--json"]] {
            let mut command = command(arguments);
            let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            let log = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), starts, "{arguments:?} with {database}: {log}");
            assert!(!log.contains("hush-hush"), "{log}");
        }
    }
    drop(pool);
}

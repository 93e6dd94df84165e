//! A mesh's certificate authority for one test, and calls over mutual TLS. It uses the `openssl` and `curl`
//! programs, which every machine that builds this has.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::client::CHAT_PATH;
use super::within;

/// An authority with certificates in a folder of its own.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
}

/// A workload's certificate and key.
#[derive(Debug)]
pub struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    trusted: PathBuf,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// When `openssl` fails.
    pub async fn create() -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("cannot make a folder: {error}"));
        let authority = Self { folder };
        openssl(&authority.path("ca.key"), &authority.path("ca.pem"), &["-subj", "/CN=mesh"]).await;
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Issues a certificate with subject alternative names, as `openssl` writes them: `URI:spiffe://…`,
    /// `IP:127.0.0.1`; none when the text is empty.
    ///
    /// # Panics
    /// When `openssl` fails.
    pub async fn issue(&self, name: &str, alternative_names: &str) -> Certificate {
        let (cert, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let (ca, ca_key) = (text(&self.root()), text(&self.path("ca.key")));
        let subject = format!("/CN={name}");
        let names = format!("subjectAltName={alternative_names}");
        let mut more = vec!["-subj", &subject, "-CA", &ca, "-CAkey", &ca_key];
        more.extend(["-addext", "basicConstraints=critical,CA:FALSE"]);
        if !alternative_names.is_empty() {
            more.extend(["-addext", names.as_str()]);
        }
        openssl(&key, &cert, &more).await;
        Certificate { cert, key, trusted: self.root() }
    }

    /// A transport socket for a listener's filter chain: it asks each peer for a certificate of `clients`,
    /// and shows one of its own for 127.0.0.1.
    pub async fn listener_socket(&self, clients: &Self) -> String {
        let own = self.issue("egress", "IP:127.0.0.1").await;
        format!(
            r#"
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificates:
            - certificate_chain: {{filename: "{}"}}
              private_key: {{filename: "{}"}}
            validation_context: {{trusted_ca: {{filename: "{}"}}}}"#,
            text(&own.cert),
            text(&own.key),
            text(&clients.root()),
        )
    }
}

impl Certificate {
    /// Believes a listener of another authority.
    pub fn trust(&mut self, authority: &Authority) {
        self.trusted = authority.root();
    }

    /// Calls the chat API with it, with further headers; the answer's status and body. Nothing when the
    /// handshake fails.
    ///
    /// # Panics
    /// When `curl` can't be started.
    pub async fn chat(&self, addr: SocketAddr, headers: &[&str], body: &Value) -> Option<(u16, String)> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*", "--max-time", "20", "-w", "\n%{http_code}"]);
        command.arg("--cacert").arg(&self.trusted);
        command.arg("--cert").arg(&self.cert).arg("--key").arg(&self.key);
        for header in headers {
            command.args(["-H", header]);
        }
        command.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
        command.arg(format!("https://{addr}{CHAT_PATH}")).kill_on_drop(true);
        let output = within("curl", command.output()).await;
        let output = output.unwrap_or_else(|error| panic!("cannot start curl: {error}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n')?;
        let status = status.parse().ok().filter(|status| *status > 0)?;
        Some((status, body.to_owned()))
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Makes a key and a certificate for a day.
async fn openssl(key: &Path, cert: &Path, more: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args(["-days", "1"]).arg("-keyout").arg(key).arg("-out").arg(cert).args(more).kill_on_drop(true);
    let output = within("openssl", command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("cannot start openssl: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An HMAC-SHA256 of a text, from `openssl`.
///
/// # Panics
/// When it fails.
pub async fn hmac_sha256(key: &str, message: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("cannot make a folder: {error}"));
    let file = folder.path().join("message");
    std::fs::write(&file, message).unwrap_or_else(|error| panic!("{error}"));
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-binary", "-hmac", key]).arg(&file).kill_on_drop(true);
    let output = within("openssl", command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("cannot start openssl: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

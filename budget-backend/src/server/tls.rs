//! TLS on the listener, and certificates of clients. Files are read again when they change, so that
//! renewed certificates need no restart.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::MutualTls;

/// How often it is looked whether files have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// `PURSER_TLS_CERT`, `PURSER_TLS_KEY` and `PURSER_TLS_CLIENT_CA`: PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those that lead to its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority whose clients are let in; without it no certificate is asked for.
    pub client_authority: Option<PathBuf>,
}

/// TLS, ready to accept.
#[derive(Clone)]
pub struct Tls {
    acceptor: watch::Receiver<TlsAcceptor>,
    mutual: bool,
}

impl Tls {
    /// Reads the files, and goes on looking at them while anybody has a copy.
    ///
    /// # Errors
    /// Which file can't be used, and why.
    pub fn start(files: TlsFiles) -> Result<Self, String> {
        let seen = files.changed_at();
        let (sender, acceptor) = watch::channel(files.acceptor()?);
        let mutual = files.client_authority.is_some();
        tokio::spawn(renew(files, seen, sender));
        Ok(Self { acceptor, mutual })
    }

    /// One handshake.
    ///
    /// # Errors
    /// The client's, or the network's.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<(TlsStream<TcpStream>, MutualTls)> {
        let acceptor = self.acceptor.borrow().clone();
        let stream = acceptor.accept(socket).await?;
        let mutual = match (self.mutual, stream.get_ref().1.peer_certificates()) {
            (false, _) => MutualTls::Off,
            // A certificate that was shown and isn't right has failed the handshake.
            (true, Some(_)) => MutualTls::Shown,
            (true, None) => MutualTls::Missing,
        };
        Ok((stream, mutual))
    }
}

async fn renew(files: TlsFiles, mut seen: Vec<Option<SystemTime>>, acceptor: watch::Sender<TlsAcceptor>) {
    let mut tick = tokio::time::interval(LOOK_INTERVAL);
    while !acceptor.is_closed() {
        tick.tick().await;
        let now = files.changed_at();
        if now == seen {
            continue;
        }
        match files.acceptor() {
            Ok(renewed) => {
                tracing::info!("the TLS certificate was read anew");
                seen = now;
                acceptor.send_replace(renewed);
            }
            // Half-written, perhaps: the next look sees the rest.
            Err(error) => {
                tracing::error!(error, "changed TLS files can't be used; the old certificate stays")
            }
        }
    }
}

impl TlsFiles {
    fn changed_at(&self) -> Vec<Option<SystemTime>> {
        let files = [Some(&self.certificate), Some(&self.key), self.client_authority.as_ref()];
        let at = |file: &PathBuf| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
        files.into_iter().flatten().map(at).collect()
    }

    fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS: {error}"))?;
        let builder = match &self.client_authority {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("PURSER_TLS_CLIENT_CA", file)? {
                    let added = roots.add(certificate);
                    added.map_err(|error| format!("PURSER_TLS_CLIENT_CA {}: {error}", file.display()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    // Probes have none; whatever else comes without one is refused as a request.
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| format!("PURSER_TLS_CLIENT_CA {}: {error}", file.display()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates("PURSER_TLS_CERT", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| format!("PURSER_TLS_KEY {}: {error}", self.key.display()))?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| format!("PURSER_TLS_CERT and PURSER_TLS_KEY: {error}"))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(variable: &str, file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{variable} {}: {error}", file.display());
    let read = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
    let read: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
    if read.is_empty() { Err(wrong(&"expected a certificate in PEM")) } else { Ok(read) }
}

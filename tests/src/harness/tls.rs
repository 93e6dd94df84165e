//! Certificates that a test makes, and a client that shows one and checks the other side's.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::client::{Answer, App};
use super::within;

/// A certificate authority of a test.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key());
        Self { issuer: issuer.unwrap_or_else(|error| panic!("no authority {name}: {error}")) }
    }

    /// Issues a certificate for host names and `spiffe://` ids.
    ///
    /// # Panics
    /// When a name can't stand in a certificate.
    #[must_use]
    pub fn issue(&self, names: &[&str]) -> Certificate {
        let bad = |error| -> ! { panic!("no certificate for {names:?}: {error}") };
        let mut params = CertificateParams::default();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        for name in names {
            let text = (*name).try_into().unwrap_or_else(|error| bad(error));
            let uri = name.contains("://");
            params.subject_alt_names.push(if uri { SanType::URI(text) } else { SanType::DnsName(text) });
        }
        let key = key();
        let signed = params.signed_by(&key, &self.issuer).unwrap_or_else(|error| bad(error));
        Certificate { chain_pem: signed.pem(), key_pem: key.serialize_pem() }
    }

    /// Its own certificate, which others trust.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes its certificate to a file.
    ///
    /// # Panics
    /// When the file can't be written.
    #[must_use]
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        write(folder, name, &self.pem())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let added = roots.add(self.issuer.der().clone());
        added.unwrap_or_else(|error| panic!("not an authority: {error}"));
        roots
    }
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    chain_pem: String,
    key_pem: String,
}

impl Certificate {
    /// Writes certificate and key to files of this name, and returns their paths. The key is its
    /// owner's alone.
    ///
    /// # Panics
    /// When they can't be written.
    #[must_use]
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let chain = write(folder, &format!("{name}.pem"), &self.chain_pem);
        let path = folder.join(format!("{name}-key.pem"));
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(self.key_pem.as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (chain, path)
    }

    /// The certificate as it stands on the wire.
    ///
    /// # Panics
    /// Never: it was made here.
    #[must_use]
    pub fn der(&self) -> CertificateDer<'static> {
        let parsed = CertificateDer::from_pem_slice(self.chain_pem.as_bytes());
        parsed.unwrap_or_else(|error| panic!("not a certificate: {error}"))
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        let parsed = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes());
        parsed.unwrap_or_else(|error| panic!("not a key: {error}"))
    }

    /// What a server needs to show it. Clients may speak HTTP/2 or HTTP/1.1.
    ///
    /// # Panics
    /// When certificate and key don't fit.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.unwrap_or_else(|error| panic!("{error}"));
        let config = builder.with_no_client_auth().with_single_cert(vec![self.der()], self.key());
        let mut config = config.unwrap_or_else(|error| panic!("{error}"));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A client that trusts one authority.
#[derive(Clone)]
pub struct TlsClient {
    connector: TlsConnector,
}

impl TlsClient {
    /// One that trusts `authority` and shows `certificate` to whoever asks for one.
    ///
    /// # Panics
    /// When certificate and key don't fit.
    #[must_use]
    pub fn new(authority: &Authority, certificate: Option<&Certificate>) -> Self {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.unwrap_or_else(|error| panic!("{error}"));
        let builder = builder.with_root_certificates(authority.roots());
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(own) => builder
                .with_client_auth_cert(vec![own.der()], own.key())
                .unwrap_or_else(|error| panic!("{error}")),
        };
        Self { connector: TlsConnector::from(Arc::new(config)) }
    }

    /// Connects to `addr` and asks for `name` there.
    ///
    /// # Errors
    /// When there is no connection, or its certificate isn't trusted for the name.
    pub async fn connect(&self, addr: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(addr).await?;
        let name = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
        within("a TLS handshake", self.connector.connect(name, socket)).await
    }

    /// Posts JSON to `https://name/path` at `addr`, as an app.
    ///
    /// # Errors
    /// When there is no whole answer: what went wrong, in words.
    pub async fn post(
        &self,
        addr: SocketAddr,
        name: &str,
        path: &str,
        app: &App,
        body: &Value,
    ) -> Result<Answer, String> {
        let stream = self.connect(addr, name).await.map_err(|error| error.to_string())?;
        let request = app.headers().iter().fold(
            Request::post(path).header("host", name).header("content-type", "application/json"),
            |request, (name, value)| request.header(name, value),
        );
        let body = Full::new(Bytes::from(body.to_string()));
        let request = request.body(body).map_err(|error| error.to_string())?;
        within("an answer over TLS", exchange(stream, request)).await.map_err(|error| error.to_string())
    }
}

async fn exchange(stream: TlsStream<TcpStream>, request: Request<Full<Bytes>>) -> hyper::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    };
    let answer = answer.await;
    driver.abort();
    answer
}

/// The certificate that the other side showed.
#[must_use]
pub fn shown(stream: &TlsStream<TcpStream>) -> Option<CertificateDer<'static>> {
    let chain = stream.get_ref().1.peer_certificates();
    chain.and_then(|chain| chain.first()).map(|first| first.clone().into_owned())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap_or_else(|error| panic!("no key: {error}"))
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

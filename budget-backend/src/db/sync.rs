//! The sync client's way to the database: its options, and TLS as `sslmode` of the URL says. The async
//! pool reads the same parameters by itself.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use postgres::config::SslMode;
use postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::verifier::{self, Check};

/// What the driver can't read of a URL is read here.
const TLS_KEYS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

/// How the sync client connects.
#[derive(Clone)]
pub struct SyncConfig {
    /// Host, user, database, limits.
    pub options: Config,
    tls: Tls,
}

/// The parameters of TLS in a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tls {
    check: Check,
    root_certificate: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// A database URL that can't be used. Says nothing of the URL itself, which holds a password.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// The driver's own.
    #[error(transparent)]
    Driver(#[from] postgres::Error),
    /// An unknown mode.
    #[error("sslmode: expected disable, prefer, require, verify-ca or verify-full")]
    Mode,
    /// Half a pair.
    #[error("sslcert and sslkey: expected both or neither")]
    HalfAPair,
}

/// No connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The database's or the network's.
    #[error(transparent)]
    Database(#[from] postgres::Error),
    /// A certificate or key that can't be used.
    #[error("TLS to the database: {0}")]
    Tls(String),
}

impl From<Config> for SyncConfig {
    fn from(options: Config) -> Self {
        Self { options, tls: Tls::default() }
    }
}

impl FromStr for SyncConfig {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut own, mut rest) = (Vec::new(), Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if TLS_KEYS.contains(&key) {
                own.push((key, percent_decode_str(value).decode_utf8_lossy().into_owned()));
            } else {
                rest.push(pair);
            }
        }
        let plain = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        let mut options: Config = plain.parse()?;
        let mut tls = Tls::default();
        for (key, value) in own {
            match key {
                "sslmode" => {
                    let (mode, check) = mode(&value).ok_or(UrlError::Mode)?;
                    options.ssl_mode(mode);
                    tls.check = check;
                }
                "sslrootcert" => tls.root_certificate = Some(value.into()),
                "sslcert" => tls.certificate = Some(value.into()),
                _ => tls.key = Some(value.into()),
            }
        }
        if tls.certificate.is_some() != tls.key.is_some() {
            return Err(UrlError::HalfAPair);
        }
        Ok(Self { options, tls })
    }
}

fn mode(name: &str) -> Option<(SslMode, Check)> {
    Some(match name {
        "disable" | "allow" => (SslMode::Disable, Check::Nothing),
        "prefer" => (SslMode::Prefer, Check::Nothing),
        "require" => (SslMode::Require, Check::Nothing),
        "verify-ca" => (SslMode::Require, Check::Authority),
        "verify-full" => (SslMode::Require, Check::AuthorityAndName),
        _ => return None,
    })
}

impl SyncConfig {
    /// Connects; blocks.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(&self) -> Result<Client, ConnectError> {
        if self.options.get_ssl_mode() == SslMode::Disable {
            return Ok(self.options.connect(NoTls)?);
        }
        let tls = self.tls.client().map_err(ConnectError::Tls)?;
        Ok(self.options.connect(MakeRustlsConnect::new(tls))?)
    }
}

impl Tls {
    /// Files are read at every connection, so that renewed ones are taken.
    fn client(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(default_provider());
        let verifier = verifier::new(self.check, self.root_certificate.as_deref(), &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
        let chain: Vec<_> = chain.map_err(|error| format!("sslcert {}: {error}", certificate.display()))?;
        let private = PrivateKeyDer::from_pem_file(key);
        let private = private.map_err(|error| format!("sslkey {}: {error}", key.display()))?;
        builder.with_client_auth_cert(chain, private).map_err(|error| format!("sslcert and sslkey: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<SyncConfig, UrlError> {
        format!("postgres://u:hush@h:5433/db{query}").parse()
    }

    #[test]
    fn every_mode_of_the_url_is_understood() {
        for (query, mode, check) in [
            ("", SslMode::Prefer, Check::Nothing),
            ("?sslmode=disable", SslMode::Disable, Check::Nothing),
            ("?sslmode=require&connect_timeout=3", SslMode::Require, Check::Nothing),
            ("?connect_timeout=3&sslmode=verify-ca", SslMode::Require, Check::Authority),
            ("?sslmode=verify-full", SslMode::Require, Check::AuthorityAndName),
        ] {
            let read = read(query).unwrap();
            assert_eq!((read.options.get_ssl_mode(), read.tls.check), (mode, check), "{query}");
            assert_eq!((read.options.get_dbname(), read.options.get_ports()), (Some("db"), &[5433][..]));
        }
    }

    #[test]
    fn paths_are_decoded_and_the_password_is_in_no_message() {
        let read_ca = read("?sslmode=verify-full&sslrootcert=/etc/my%20ca.pem").unwrap();
        assert_eq!(read_ca.tls.root_certificate, Some(PathBuf::from("/etc/my ca.pem")));
        for wrong in ["?sslmode=maybe", "?sslcert=/a.pem", "?sslkey=/a.pem", "?nonsense=1"] {
            let error = read(wrong).err().map(|error| error.to_string()).unwrap();
            assert!(!error.contains("hush"), "{error}");
        }
    }
}

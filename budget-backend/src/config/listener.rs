//! What the listener, its callers and the spool are told.

use std::path::PathBuf;
use std::time::Duration;

use super::{MIN_TOKEN_BYTES, Reader};
use crate::server::ServerLimits;
use crate::server::tls::TlsFiles;
use crate::spool::SpoolSettings;

/// Tokens of one kind that are valid together: one, or two while they are changed.
const MAX_TOKENS: usize = 2;

/// How requests come in.
#[derive(Clone)]
pub struct ListenerConfig {
    /// `PURSER_TLS_CERT`, `PURSER_TLS_KEY`, `PURSER_TLS_CLIENT_CA`; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// `PURSER_MAX_CONNECTIONS` and `PURSER_HEADER_TIMEOUT_MS`.
    pub limits: ServerLimits,
    /// `PURSER_BODY_TIMEOUT_MS`: how long a request's body may take.
    pub body_limit: Duration,
}

impl Reader<'_> {
    pub(super) fn listener(&mut self) -> Option<ListenerConfig> {
        let tls = self.tls();
        let connections = self.number("PURSER_MAX_CONNECTIONS", 4_096, (1, 1_000_000));
        let head_ms = self.number("PURSER_HEADER_TIMEOUT_MS", 10_000, (100, 600_000));
        let body_ms = self.number("PURSER_BODY_TIMEOUT_MS", 10_000, (100, 600_000));
        let limits = ServerLimits::new(connections?, Duration::from_millis(head_ms?));
        Some(ListenerConfig { tls: tls?, limits, body_limit: Duration::from_millis(body_ms?) })
    }

    fn tls(&mut self) -> Option<Option<TlsFiles>> {
        let file = |reader: &Self, name| reader.text(name).map(PathBuf::from);
        let (certificate, key) = (file(self, "PURSER_TLS_CERT"), file(self, "PURSER_TLS_KEY"));
        let client_authority = file(self, "PURSER_TLS_CLIENT_CA");
        match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Some(TlsFiles { certificate, key, client_authority })),
            (None, None) if client_authority.is_none() => Some(None),
            (None, None) => self.mistake("PURSER_TLS_CLIENT_CA", "needs PURSER_TLS_CERT and PURSER_TLS_KEY"),
            (None, Some(_)) => self.mistake("PURSER_TLS_CERT", "is required with PURSER_TLS_KEY"),
            (Some(_), None) => self.mistake("PURSER_TLS_KEY", "is required with PURSER_TLS_CERT"),
        }
    }

    /// `SPOOL_DIR` is taken as well.
    pub(super) fn spool(&mut self) -> Option<Option<SpoolSettings>> {
        let max_bytes = self.number("PURSER_SPOOL_MAX_BYTES", 256 << 20, (1 << 20, 1 << 40));
        let dir = match (self.text("PURSER_SPOOL_DIR"), self.text("SPOOL_DIR")) {
            (Some(own), Some(other)) if own != other => {
                return self.mistake("SPOOL_DIR", "differs from PURSER_SPOOL_DIR; one of them is enough");
            }
            (own, other) => own.or(other),
        };
        let Some(dir) = dir else { return max_bytes.map(|_| None) };
        Some(Some(SpoolSettings { dir: dir.into(), max_bytes: max_bytes? }))
    }

    /// The tokens of a variable, separated by commas.
    pub(super) fn tokens(&mut self, name: &str) -> Option<Vec<String>> {
        let Some(text) = self.text(name) else { return self.mistake(name, "is required") };
        let tokens: Vec<String> = text.split(',').map(|token| token.trim().to_owned()).collect();
        if tokens.len() > MAX_TOKENS {
            return self.mistake(
                name,
                format_args!("expected one token, or two separated by a comma, got {}", tokens.len()),
            );
        }
        for token in &tokens {
            if token.len() < MIN_TOKEN_BYTES {
                let got = token.len();
                return self
                    .mistake(name, format_args!("expected at least {MIN_TOKEN_BYTES} bytes, got {got}"));
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return self.mistake(name, "expected visible ASCII characters only");
            }
        }
        Some(tokens)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::{GOOD, read};

    #[test]
    fn tls_and_the_spool_are_off_until_they_are_named() {
        let plain = read(&GOOD).unwrap();
        assert!(plain.listener.tls.is_none() && plain.spool.is_none());
        assert_eq!((plain.listener.limits.connections, plain.tokens.len()), (4_096, 1));
        let mut pairs = GOOD.to_vec();
        pairs.extend([
            ("SPOOL_DIR", "/var/spool/purser"),
            ("PURSER_SPOOL_MAX_BYTES", "1048576"),
            ("PURSER_TLS_CERT", "/c.pem"),
            ("PURSER_TLS_KEY", "/k.pem"),
        ]);
        let full = read(&pairs).unwrap();
        let (tls, spool) = (full.listener.tls.unwrap(), full.spool.unwrap());
        assert_eq!((spool.dir.as_path(), spool.max_bytes), (Path::new("/var/spool/purser"), 1 << 20));
        assert_eq!((tls.certificate.as_path(), tls.client_authority), (Path::new("/c.pem"), None));
    }

    #[test]
    fn two_tokens_are_valid_together_and_three_are_a_mistake() {
        let with = |tokens| {
            let mut pairs = GOOD;
            pairs[1].1 = tokens;
            read(&pairs)
        };
        let config = with("0123456789abcdef,the-next-token-of-it").unwrap();
        assert_eq!(config.tokens, ["0123456789abcdef", "the-next-token-of-it"]);
        for wrong in [
            "0123456789abcdef,",
            "0123456789abcdef,short",
            "0123456789abcdef,0123456789abcdeg,0123456789abcdeh",
            // One of them is the operators'.
            "0123456789abcdef,fedcba9876543210",
        ] {
            assert_eq!(with(wrong).unwrap_err().0.len(), 1, "{wrong}");
        }
    }

    #[test]
    fn half_of_what_belongs_together_is_a_mistake() {
        for wrong in [
            ("PURSER_TLS_CERT", "/c.pem"),
            ("PURSER_TLS_KEY", "/k.pem"),
            ("PURSER_TLS_CLIENT_CA", "/a.pem"),
            ("PURSER_SPOOL_MAX_BYTES", "1000"),
            ("PURSER_HEADER_TIMEOUT_MS", "10s"),
        ] {
            let mut pairs = GOOD.to_vec();
            pairs.push(wrong);
            assert_eq!(read(&pairs).unwrap_err().0.len(), 1, "{wrong:?}");
        }
    }
}

//! Receivers: what a URL may be, what may be reached, how a delivery is signed, and sending it.
//!
//! A receiver's address is looked up and checked when it is connected to, and that very address is used,
//! so that a name can't lead elsewhere after the check. Redirects are not followed, and of an answer only
//! the status is looked at.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use ring::hmac;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Longest URL, bytes.
pub const MAX_URL_BYTES: usize = 2_048;

/// The header with the time of signing and the signature: `t=UNIX_SECONDS,v1=HEX`.
pub const SIGNATURE_HEADER: &str = "purser-signature";

/// The header with the alert's number, the same whenever it is sent again.
pub const ALERT_HEADER: &str = "purser-alert";

/// Where receivers may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On the public internet only.
    Public,
    /// On this machine and in private networks as well.
    Private,
}

/// Checks a receiver's URL.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str, reach: Reach) -> Result<(), String> {
    let (uri, target) = parse(url)?;
    if let Ok(address) = target.host.parse::<IpAddr>() {
        check_address(address, reach).map_err(|why| format!("url: {address} {why}"))?;
    }
    // An address in digits that the parser of names would read differently.
    if uri.host().is_some_and(|host| host.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("url: expected the name of a host or an address".to_owned());
    }
    Ok(())
}

struct Target {
    host: String,
    port: u16,
    is_tls: bool,
}

fn parse(url: &str) -> Result<(Uri, Target), String> {
    if url.len() > MAX_URL_BYTES {
        return Err(format!("url: expected at most {MAX_URL_BYTES} bytes, got {}", url.len()));
    }
    let expected = "url: expected https://HOST/PATH or http://HOST/PATH";
    if url.contains('#') {
        return Err(format!("{expected}, without a fragment"));
    }
    let uri: Uri = url.parse().map_err(|_| expected.to_owned())?;
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(expected.to_owned()),
    };
    let authority = uri.authority().ok_or(expected)?;
    if authority.as_str().contains('@') {
        return Err(format!("{expected}, without a user or password in it"));
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    // A port that is no port is passed over by the parser.
    let has_port = authority.as_str().len() > authority.host().len();
    if host.is_empty() || port == 0 || (has_port && uri.port_u16().is_none()) {
        return Err(expected.to_owned());
    }
    Ok((uri, Target { host, port, is_tls }))
}

/// Whether a receiver may be at an address. Link-local addresses, where clouds hand out credentials, and
/// others that are nobody's host are refused whatever the reach.
///
/// # Errors
/// Why not.
pub fn check_address(address: IpAddr, reach: Reach) -> Result<(), &'static str> {
    let (never, private) = match address.to_canonical() {
        IpAddr::V4(v4) => {
            let octets = v4.octets();
            let shared = octets[0] == 100 && (64..128).contains(&octets[1]);
            let metadata = octets == [100, 100, 100, 200] || octets == [168, 63, 129, 16];
            let never =
                v4.is_link_local() || v4.is_multicast() || octets[0] == 0 || octets[0] >= 240 || metadata;
            (never, v4.is_private() || v4.is_loopback() || shared)
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            let metadata = v6.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254];
            // What carries an IPv4 address inside is decided by nobody here.
            let translated = first == 0x2002 || v6.segments()[..2] == [0x64, 0xff9b];
            let never = v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || metadata
                || translated;
            (never, v6.is_loopback() || v6.is_unique_local())
        }
    };
    match (never, private, reach) {
        (true, ..) => Err("is an address that no receiver may have"),
        (_, true, Reach::Public) => {
            Err("is in a private network; PURSER_WEBHOOK_PRIVATE=true allows receivers there")
        }
        _ => Ok(()),
    }
}

/// The value of [`SIGNATURE_HEADER`]: HMAC-SHA256 over `UNIX_SECONDS.BODY`.
#[must_use]
pub fn signature(secret: &str, at_unix_s: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{at_unix_s}.{body}").as_bytes());
    format!("t={at_unix_s},v1={}", hex(tag.as_ref()))
}

/// Bytes in hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is sent to whom.
#[derive(Clone)]
pub struct Delivery {
    /// The receiver.
    pub url: String,
    /// What it is signed with.
    pub secret: String,
    /// The alert's number.
    pub alert_id: i64,
    /// The payload, JSON.
    pub body: String,
    /// Now, Unix seconds.
    pub at_unix_s: i64,
}

/// Sends one; accepted is what is answered with a 2xx within the time.
///
/// # Errors
/// Why it was not accepted, in words for operators; nothing that the receiver said.
pub async fn send(delivery: &Delivery, reach: Reach, limit: Duration) -> Result<(), String> {
    let sent = tokio::time::timeout(limit, attempt(delivery, reach)).await;
    sent.unwrap_or_else(|_| Err(format!("no answer within {} ms", limit.as_millis())))
}

async fn attempt(delivery: &Delivery, reach: Reach) -> Result<(), String> {
    let (uri, target) = parse(&delivery.url)?;
    let stream = connect(&target, reach).await?;
    let request = request(delivery, &uri)?;
    let status = if target.is_tls {
        let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
        let tls = TLS.clone()?.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        exchange(tls, request).await?
    } else {
        exchange(stream, request).await?
    };
    if (200..300).contains(&status) { Ok(()) } else { Err(format!("it answered with status {status}")) }
}

async fn connect(target: &Target, reach: Reach) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
    let found: Vec<SocketAddr> = found.map_err(|error| format!("its name: {error}"))?.collect();
    let mut why = "its name has no address".to_owned();
    for address in found {
        if let Err(refused) = check_address(address.ip(), reach) {
            why = format!("{} {refused}", address.ip());
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => why = format!("{address}: {error}"),
        }
    }
    Err(why)
}

fn request(delivery: &Delivery, uri: &Uri) -> Result<Request<Full<Bytes>>, String> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("purser/", env!("CARGO_PKG_VERSION")))
        .header(ALERT_HEADER, delivery.alert_id)
        .header(SIGNATURE_HEADER, signature(&delivery.secret, delivery.at_unix_s, &delivery.body))
        .body(Full::new(Bytes::from(delivery.body.clone())))
        .map_err(|error| error.to_string())
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<u16, String> {
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
    let answer = async move { sender.send_request(request).await.map(|answer| answer.status().as_u16()) };
    // The connection ends with the answer's head: its body is nobody's business here.
    tokio::select! {
        biased;
        status = answer => status.map_err(|error| error.to_string()),
        ended = connection => Err(ended.err().map_or("it hung up".to_owned(), |error| error.to_string())),
    }
}

/// The system's certificate authorities, read once.
static TLS: LazyLock<Result<TlsConnector, String>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("the system has no certificate authorities to check receivers against".to_owned());
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots);
    Ok(TlsConnector::from(Arc::new(config.with_no_client_auth())))
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_of_hosts_that_may_be_reached_are_taken() {
        for url in [
            "https://hooks.example.com/services/T0/B0/x?y=z",
            "http://example.com",
            "https://93.184.216.34:8443/x",
            "https://[2606:2800:220:1::1]/x",
        ] {
            assert_eq!(check_url(url, Reach::Public), Ok(()), "{url}");
        }
        for url in [
            "",
            "example.com/x",
            "ftp://example.com",
            "file:///etc/passwd",
            "https://",
            "https:///x",
            "https://user:secret@example.com/",
            "https://user@example.com/",
            "https://example.com:0/",
            "https://example.com:99999/",
            "https://example.com/#x",
            "https://2130706433/",
            "http://169.254.169.254/latest/meta-data",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://0.0.0.0/",
        ] {
            assert!(check_url(url, Reach::Private).is_err(), "{url}");
        }
        assert!(
            check_url(&format!("https://example.com/{}", "x".repeat(MAX_URL_BYTES)), Reach::Public).is_err()
        );
        for url in [
            "http://127.0.0.1:9/",
            "http://10.0.0.1/",
            "http://[::1]/",
            "http://[fd12::1]/",
            "http://100.64.0.1/",
        ] {
            let said = check_url(url, Reach::Public).unwrap_err();
            assert!(said.contains("PURSER_WEBHOOK_PRIVATE"), "{url}: {said}");
            assert_eq!(check_url(url, Reach::Private), Ok(()), "{url}");
        }
    }

    #[test]
    fn addresses_where_credentials_are_handed_out_are_refused_whatever_is_allowed() {
        for address in [
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(check_address(address.parse().unwrap(), Reach::Private).is_err(), "{address}");
        }
    }

    #[test]
    fn a_signature_is_what_others_compute() {
        // `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef`
        let expected = "t=1700000000,v1=9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23";
        assert_eq!(signature("0123456789abcdef", 1_700_000_000, "{\"a\":1}"), expected);
    }
}

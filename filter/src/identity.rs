//! Who pays: the first answer of each tier's sources, or what the backend can look the payer up by.

mod api_key;
mod spiffe;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use purser_protocol::{Claim, ClaimKind, Lookup, MAX_CLAIM_BYTES, MAX_NAME_BYTES, MAX_TAG_BYTES, Payer};

use crate::config::{Config, LookupBy, Source, Unidentified, is_name, is_payer_name};
use crate::headers::{HeaderEdit, Headers};
use spiffe::SpiffeId;

/// The URIs of the peer's certificate, separated by commas, which no SPIFFE id has: where the listener's
/// configuration puts them, since the proxy by itself shows the first one alone.
const ALL_PEER_URIS: &str = "filter_state\0purser.peer_uris";
const FIRST_PEER_URI: &str = "connection\0uri_san_peer_certificate";

/// What the proxy knows of a stream beside its headers.
pub trait Proxy: fmt::Debug {
    /// The property at a path whose parts are separated by zero bytes; nothing when there is none.
    fn property(&self, path: &str) -> Option<Vec<u8>>;

    /// Milliseconds since the Unix epoch; nothing when the proxy has no clock.
    fn now_unix_ms(&self) -> Option<u64>;
}

/// A proxy that knows nothing.
#[derive(Debug)]
pub struct NoProxy;

impl Proxy for NoProxy {
    fn property(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn now_unix_ms(&self) -> Option<u64> {
        None
    }
}

/// Who pays, as far as the filter knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The payer. Its org is empty when only the lookup can tell.
    pub payer: Payer,
    /// What the backend looks the payer up by; absent when the org is known.
    pub lookup: Option<Lookup>,
}

impl Caller {
    /// A text that no other caller has, for looking one up.
    #[must_use]
    pub fn key(&self) -> String {
        let mut key = String::new();
        payer_key(&self.payer, &mut key);
        if let Some(lookup) = &self.lookup {
            key.push('\x04');
            for claim in &lookup.claims {
                key.push_str(claim.kind.as_str());
                key.push('\0');
                key.push_str(&claim.value);
                key.push('\0');
            }
            if let Some(payer) = &lookup.fallback {
                payer_key(payer, &mut key);
            }
        }
        key
    }
}

/// Names hold no control characters, so that these tell where each begins and whether it is there at all.
#[inline(never)]
fn payer_key(payer: &Payer, key: &mut String) {
    key.push('\x01');
    key.push_str(&payer.org);
    for (mark, name) in [('\x02', &payer.team), ('\x03', &payer.user)] {
        if let Some(name) = name {
            key.push(mark);
            key.push_str(name);
        }
    }
    key.push('\0');
}

/// A request's payer and its cost tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// Who pays.
    pub caller: Caller,
    /// Why no source named the org, when none did.
    pub without_org: Option<WithoutOrg>,
    /// Cost tags by name.
    pub tags: BTreeMap<String, String>,
    /// Tags whose value can't be one; they were left out.
    pub dropped_tags: u64,
}

/// What became of a request of which no source named the org.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutOrg {
    /// It was refused.
    Refused,
    /// The default payer pays.
    DefaultPayer,
    /// The backend is asked who pays.
    LookedUp,
}

/// Why nobody can be charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityError {
    /// None of the org's sources, named here, says anything, and there is no default payer.
    Missing(String),
    /// What is named here stands there more than once, so that it isn't clear who pays.
    Repeated(String),
    /// What is named here holds no usable name.
    NotAName(String),
    /// The peer's certificate has a URI that is no SPIFFE id of a workload, or several URIs.
    NotSpiffe,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(sources) => write!(f, "{sources} is missing"),
            Self::Repeated(what) => write!(f, "{what} is given more than once"),
            Self::NotAName(what) => write!(
                f,
                "{what}: expected 1 to {MAX_NAME_BYTES} bytes of UTF-8 without control characters, other than \"*\""
            ),
            Self::NotSpiffe => f.write_str(
                "URI of the peer's certificate: expected one, spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT",
            ),
        }
    }
}

/// What is known of where a request comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Its headers.
    pub headers: &'a Headers,
    /// What the proxy knows.
    pub proxy: &'a dyn Proxy,
}

/// Resolves the payer. A call without an org is looked up by the backend, or falls to the configured payer
/// as a whole.
///
/// # Errors
/// [`IdentityError`]; what is there but wrong is never taken for missing.
pub fn identify(origin: Origin<'_>, config: &Config) -> Result<Identified, IdentityError> {
    let identity = &config.identity;
    let org = origin.tier(&identity.org)?;
    let team = origin.tier(&identity.team)?;
    let user = origin.tier(&identity.user)?;
    let (caller, without_org) = match (org, &config.unidentified) {
        (Some(org), _) => (Caller { payer: Payer { org, team, user }, lookup: None }, None),
        (None, unidentified) => {
            let claims = origin.claims(&identity.lookup)?;
            let fallback = match unidentified {
                Unidentified::Payer(payer) => Some(payer.clone()),
                Unidentified::Deny => None,
            };
            match (claims.is_empty(), fallback) {
                (false, fallback) => {
                    let payer = Payer { org: String::new(), team, user };
                    let lookup = Some(Lookup { claims, fallback });
                    (Caller { payer, lookup }, Some(WithoutOrg::LookedUp))
                }
                (true, Some(payer)) => (Caller { payer, lookup: None }, Some(WithoutOrg::DefaultPayer)),
                (true, None) => return Err(IdentityError::Missing(named(&identity.org))),
            }
        }
    };
    let (tags, dropped_tags) = origin.tags(&identity.tags);
    Ok(Identified { caller, without_org, tags, dropped_tags })
}

/// Takes the payer's headers out of a request.
#[must_use]
pub fn strip(config: &Config) -> Vec<HeaderEdit> {
    config.identity.stripped.iter().map(|name| HeaderEdit::Remove(name.clone())).collect()
}

/// Sources, for a message.
fn named(sources: &[Source]) -> String {
    let names: Vec<String> = sources.iter().map(shown).collect();
    if names.is_empty() { "what the backend could look it up by".to_owned() } else { names.join(" or ") }
}

fn shown(source: &Source) -> String {
    match source {
        Source::Header(name) => format!("header {name}"),
        Source::Spiffe(_) => "URI of the peer's certificate".to_owned(),
        Source::Property(path) => path.replace('\0', "."),
        Source::Constant(_) => "constant".to_owned(),
    }
}

impl Origin<'_> {
    /// The first answer of a tier's sources, as the name of one.
    fn tier(self, sources: &[Source]) -> Result<Option<String>, IdentityError> {
        match self.first(sources)? {
            Some(name) if !is_payer_name(&name) => Err(IdentityError::NotAName(named(sources))),
            found => Ok(found),
        }
    }

    /// The first answer of some sources.
    #[inline(never)]
    fn first(self, sources: &[Source]) -> Result<Option<String>, IdentityError> {
        for source in sources {
            if let Some(name) = self.name(source)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn name(self, source: &Source) -> Result<Option<String>, IdentityError> {
        match source {
            Source::Constant(name) => Ok(Some(name.clone())),
            Source::Header(header) => {
                let mut values = self.headers.all(header);
                let Some(value) = values.next() else { return Ok(None) };
                if values.next().is_some() {
                    return Err(IdentityError::Repeated(shown(source)));
                }
                usable(value, source).map(Some)
            }
            Source::Property(path) => {
                self.proxy.property(path).map(|value| usable(&value, source)).transpose()
            }
            Source::Spiffe(part) => match self.spiffe()? {
                Some(id) => {
                    let name = id.part(*part).ok_or(IdentityError::NotSpiffe)?;
                    usable(name.as_bytes(), source).map(Some)
                }
                None => Ok(None),
            },
        }
    }

    /// The SPIFFE id of whoever opened the connection; nothing without a certificate that has a URI. Of
    /// several none counts: which of them is meant nobody knows, and SPIFFE has just one.
    fn spiffe(self) -> Result<Option<SpiffeId>, IdentityError> {
        let [all, first] = [ALL_PEER_URIS, FIRST_PEER_URI].map(|path| self.proxy.property(path));
        let uris = all.filter(|uris| !uris.is_empty()).or(first).unwrap_or_default();
        if uris.is_empty() {
            return Ok(None);
        }
        SpiffeId::parse(&uris).map(Some).ok_or(IdentityError::NotSpiffe)
    }

    /// What the backend may look the payer up by. Nothing is claimed that isn't there.
    fn claims(self, lookup: &[LookupBy]) -> Result<Vec<Claim>, IdentityError> {
        let mut claims: Vec<Claim> = Vec::new();
        for by in lookup {
            let (kind, value) = match by {
                LookupBy::ApiKey => (ClaimKind::ApiKeySha256, api_key::fingerprint(self.headers)?),
                LookupBy::SpiffeId => {
                    let id = self.spiffe()?.map(|id| id.whole().to_owned());
                    (ClaimKind::SpiffeId, id)
                }
                LookupBy::Namespace => {
                    let id = self.spiffe()?;
                    let namespace = id.as_ref().and_then(|id| id.part(crate::config::SpiffePart::Namespace));
                    (ClaimKind::Namespace, namespace.map(str::to_owned))
                }
                LookupBy::NodeNamespace => {
                    let source = Source::Property("xds\0node\0metadata\0NAMESPACE".to_owned());
                    (ClaimKind::Namespace, self.name(&source)?)
                }
            };
            let Some(value) = value else { continue };
            if value.len() > MAX_CLAIM_BYTES {
                return Err(IdentityError::NotSpiffe);
            }
            let claim = Claim { kind, value };
            if !claims.contains(&claim) {
                claims.push(claim);
            }
        }
        Ok(claims)
    }

    /// Cost tags. One that can't be read is left out and counted: it decides nothing.
    fn tags(self, sources: &BTreeMap<String, Vec<Source>>) -> (BTreeMap<String, String>, u64) {
        let mut tags = BTreeMap::new();
        let mut dropped = 0_u64;
        for (name, sources) in sources {
            match self.first(sources) {
                Ok(Some(value)) if value.len() <= MAX_TAG_BYTES => {
                    tags.insert(name.clone(), value);
                }
                Ok(None) => {}
                _ => dropped = dropped.saturating_add(1),
            }
        }
        (tags, dropped)
    }
}

/// A value as a name.
fn usable(value: &[u8], source: &Source) -> Result<String, IdentityError> {
    match std::str::from_utf8(value.trim_ascii()) {
        Ok(name) if is_name(name) => Ok(name.to_owned()),
        _ => Err(IdentityError::NotAName(shown(source))),
    }
}

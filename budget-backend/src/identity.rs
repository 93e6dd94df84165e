//! Who pays for a caller that doesn't say so itself: by the fingerprint of its API key, its SPIFFE id or its
//! namespace. Pure; a snapshot of the table `identities`, so that no hold waits for a query.
//!
//! Values are compared as they are. A SPIFFE id stands for itself alone: that its path names a namespace
//! says nothing about the namespaces of another trust domain; where namespaces pay, the filter sends the
//! namespace as a claim of its own.

use std::collections::HashMap;
use std::fmt;

use purser_protocol::{Claim, ClaimKind, Lookup, MAX_CLAIM_BYTES, MAX_CLAIMS, Payer};

/// Hexadecimal digits of a fingerprint.
const FINGERPRINT_DIGITS: usize = 64;

/// Longest name of a namespace: a label of the DNS.
const MAX_NAMESPACE_BYTES: usize = 63;

/// Who is known by what.
#[derive(Clone, Default)]
pub struct Identities(HashMap<ClaimKind, HashMap<String, Payer>>);

// By hand: who is known by what is nobody's business in a log.
impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("known", &self.len()).finish()
    }
}

impl FromIterator<(Claim, Payer)> for Identities {
    fn from_iter<T: IntoIterator<Item = (Claim, Payer)>>(rows: T) -> Self {
        let mut known = Self::default();
        for (claim, payer) in rows {
            known.0.entry(claim.kind).or_default().insert(claim.value, payer);
        }
        known
    }
}

impl Identities {
    /// How many claims name somebody.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(HashMap::len).sum()
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who pays: `payer` if it has an org; else whom the first claim that names somebody names, or the
    /// fallback. A team or user in `payer` wins; a user who was looked up goes with the team that was
    /// looked up and with no other. `None` when nobody is known.
    #[must_use]
    pub fn resolve(&self, payer: &Payer, lookup: Option<&Lookup>) -> Option<Payer> {
        if !payer.org.is_empty() {
            return Some(payer.clone());
        }
        let lookup = lookup?;
        let named = lookup.claims.iter().find_map(|claim| self.0.get(&claim.kind)?.get(&claim.value));
        let found = named.or(lookup.fallback.as_ref())?;
        let team = payer.team.clone().or_else(|| found.team.clone());
        let user = payer.user.clone().or_else(|| found.user.clone().filter(|_| team == found.team));
        Some(Payer { org: found.org.clone(), team, user })
    }
}

/// Checks what may name a payer; whether a claim names somebody is another question.
///
/// # Errors
/// Says what is wrong and what was expected.
pub fn check_lookup(lookup: &Lookup) -> Result<(), String> {
    if lookup.claims.len() > MAX_CLAIMS {
        return Err(format!("lookup.claims: expected at most {MAX_CLAIMS}, got {}", lookup.claims.len()));
    }
    Ok(())
}

/// The claim kind of this name.
#[must_use]
pub fn kind_from_name(name: &str) -> Option<ClaimKind> {
    [ClaimKind::ApiKeySha256, ClaimKind::SpiffeId, ClaimKind::Namespace]
        .into_iter()
        .find(|kind| kind.as_str() == name)
}

/// The claim as it is stored and compared. What was given is never repeated in the message: it may be a
/// key.
///
/// # Errors
/// Says what was expected.
pub fn claim(kind: ClaimKind, value: &str) -> Result<Claim, String> {
    let value = match kind {
        ClaimKind::ApiKeySha256 => fingerprint(value),
        ClaimKind::SpiffeId => spiffe_id(value),
        ClaimKind::Namespace => namespace(value),
        ClaimKind::Other => Err("kind: expected api_key_sha256, spiffe_id or namespace".to_owned()),
    }?;
    Ok(Claim { kind, value })
}

fn fingerprint(value: &str) -> Result<String, String> {
    if value.len() == FINGERPRINT_DIGITS && value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(value.to_ascii_lowercase());
    }
    Err(format!(
        "value: expected the SHA-256 of the key as {FINGERPRINT_DIGITS} hexadecimal digits, never the key itself, got {} bytes",
        value.len()
    ))
}

/// By the SPIFFE standard: a trust domain of lower-case letters, digits, dots, dashes and underscores, and
/// a path of segments of letters, digits, dots, dashes and underscores, none of them empty, `.` or `..`.
fn spiffe_id(value: &str) -> Result<String, String> {
    let in_segment = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let parts = value.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    let sound = value.len() <= MAX_CLAIM_BYTES
        && parts.is_some_and(|(domain, path)| {
            !domain.is_empty()
                && domain.len() <= 255
                && domain.bytes().all(|byte| in_segment(byte) && !byte.is_ascii_uppercase())
                && path
                    .split('/')
                    .all(|segment| !matches!(segment, "" | "." | "..") && segment.bytes().all(in_segment))
        });
    if sound {
        return Ok(value.to_owned());
    }
    Err(format!(
        "value: expected a SPIFFE id such as spiffe://mesh.example/ns/chat/sa/web, of at most {MAX_CLAIM_BYTES} bytes"
    ))
}

fn namespace(value: &str) -> Result<String, String> {
    let sound = (1..=MAX_NAMESPACE_BYTES).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !value.starts_with('-')
        && !value.ends_with('-');
    if sound {
        return Ok(value.to_owned());
    }
    Err(format!(
        "value: expected the name of a namespace, lower-case letters, digits and dashes, of at most {MAX_NAMESPACE_BYTES} bytes"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payer(org: &str, team: Option<&str>, user: Option<&str>) -> Payer {
        Payer { org: org.into(), team: team.map(Into::into), user: user.map(Into::into) }
    }

    fn claim_of(kind: ClaimKind, value: &str) -> Claim {
        Claim { kind, value: value.into() }
    }

    #[test]
    fn claims_are_tried_in_order_and_what_the_filter_knows_wins() {
        let known: Identities = [
            (claim_of(ClaimKind::SpiffeId, "spiffe://a/b"), payer("acme", Some("search"), Some("ann"))),
            (claim_of(ClaimKind::Namespace, "chat"), payer("acme", Some("chat"), None)),
            // The same text of another kind is another claim.
            (claim_of(ClaimKind::ApiKeySha256, "chat"), payer("other", None, None)),
        ]
        .into_iter()
        .collect();
        let lookup = |claims: &[(ClaimKind, &str)], fallback| Lookup {
            claims: claims.iter().map(|(kind, value)| claim_of(*kind, value)).collect(),
            fallback,
        };
        let (key, spiffe, namespace, nobody) = (
            (ClaimKind::ApiKeySha256, "f00d"),
            (ClaimKind::SpiffeId, "spiffe://a/b"),
            (ClaimKind::Namespace, "chat"),
            payer("", None, None),
        );
        let shared = || Some(payer("shared", Some("rest"), None));
        for (given, claims, fallback, expected) in [
            (
                nobody.clone(),
                vec![key, spiffe, namespace],
                shared(),
                Some(payer("acme", Some("search"), Some("ann"))),
            ),
            (nobody.clone(), vec![namespace, spiffe], None, Some(payer("acme", Some("chat"), None))),
            (nobody.clone(), vec![key], shared(), shared()),
            (nobody.clone(), vec![key, (ClaimKind::Other, "chat")], None, None),
            (
                payer("", Some("search"), None),
                vec![spiffe],
                None,
                Some(payer("acme", Some("search"), Some("ann"))),
            ),
            // Ann is a user of search and of no other team.
            (payer("", Some("ads"), None), vec![spiffe], None, Some(payer("acme", Some("ads"), None))),
            (
                payer("", None, Some("bob")),
                vec![namespace],
                None,
                Some(payer("acme", Some("chat"), Some("bob"))),
            ),
            (payer("own", None, None), vec![spiffe], None, Some(payer("own", None, None))),
        ] {
            let lookup = lookup(&claims, fallback);
            assert_eq!(known.resolve(&given, Some(&lookup)), expected, "{given:?} {claims:?}");
        }
        assert_eq!(known.resolve(&nobody, None), None);
    }

    #[test]
    fn values_are_checked_and_never_repeated() {
        let digits = "9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let stored = claim(ClaimKind::ApiKeySha256, digits).unwrap();
        assert_eq!(stored.value, digits.to_ascii_lowercase());
        for good in ["spiffe://mesh.example/ns/chat/sa/web", "spiffe://m/x_Y.z-1"] {
            assert_eq!(claim(ClaimKind::SpiffeId, good).unwrap().value, good);
        }
        assert!(claim(ClaimKind::Namespace, "chat-2").is_ok());
        for (kind, bad) in [
            (ClaimKind::ApiKeySha256, "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"),
            (ClaimKind::ApiKeySha256, ""),
            (ClaimKind::ApiKeySha256, &digits[1..]),
            (ClaimKind::SpiffeId, "spiffe://m.example"),
            (ClaimKind::SpiffeId, "spiffe://m.example/"),
            (ClaimKind::SpiffeId, "spiffe://Mesh/ns"),
            (ClaimKind::SpiffeId, "spiffe://mesh/../x"),
            (ClaimKind::SpiffeId, "spiffe:///ns/x"),
            (ClaimKind::SpiffeId, "https://mesh/ns"),
            (ClaimKind::SpiffeId, "spiffe://mesh/a b"),
            (ClaimKind::Namespace, "sk-ABCdef"),
            (ClaimKind::Namespace, "-x"),
            (ClaimKind::Namespace, &"x".repeat(64)),
            (ClaimKind::Other, "x"),
        ] {
            let problem = claim(kind, bad).unwrap_err();
            assert!(bad.len() < 3 || !problem.contains(bad), "{problem}");
        }
    }
}

//! SPIFFE ids, read strictly: `spiffe://TRUST_DOMAIN/PATH` and nothing beside it.

use crate::config::SpiffePart;

/// Longest id, bytes, as SPIFFE has it.
const MAX_ID_BYTES: usize = 2_048;

/// Longest trust domain, bytes, as SPIFFE has it.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// A SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeId(String);

impl SpiffeId {
    /// Reads an id. There is no port, no user, no query, no escape, no empty or dot segment.
    pub fn parse(uri: &[u8]) -> Option<Self> {
        let id = std::str::from_utf8(uri).ok().filter(|id| id.len() <= MAX_ID_BYTES)?;
        let (domain, path) = parts(id)?;
        let is_domain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(in_path);
        let is_sound = (1..=MAX_TRUST_DOMAIN_BYTES).contains(&domain.len())
            && domain.bytes().all(is_domain)
            && path.is_none_or(|path| path.split('/').all(is_segment));
        is_sound.then(|| Self(id.to_owned()))
    }

    /// The whole id.
    pub fn whole(&self) -> &str {
        &self.0
    }

    /// A part of it. Namespace and service account are there in ids of the form
    /// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT` alone.
    pub fn part(&self, part: SpiffePart) -> Option<&str> {
        let (domain, path) = parts(&self.0)?;
        let mut segments = path.unwrap_or_default().split('/');
        let mut workload = || {
            let found = [segments.next()?, segments.next()?, segments.next()?, segments.next()?];
            match found {
                ["ns", namespace, "sa", account] if segments.next().is_none() => Some((namespace, account)),
                _ => None,
            }
        };
        match part {
            SpiffePart::Id => Some(&self.0),
            SpiffePart::TrustDomain => Some(domain),
            SpiffePart::Namespace => Some(workload()?.0),
            SpiffePart::ServiceAccount => Some(workload()?.1),
        }
    }
}

fn parts(id: &str) -> Option<(&str, Option<&str>)> {
    let rest = id.strip_prefix("spiffe://")?;
    Some(rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path))))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn reads_ids_of_workloads() {
        let id = SpiffeId::parse(b"spiffe://cluster.local/ns/team-a/sa/chat").unwrap();
        assert_eq!(id.part(SpiffePart::TrustDomain), Some("cluster.local"));
        assert_eq!(id.part(SpiffePart::Namespace), Some("team-a"));
        assert_eq!(id.part(SpiffePart::ServiceAccount), Some("chat"));
        assert_eq!(id.part(SpiffePart::Id), Some("spiffe://cluster.local/ns/team-a/sa/chat"));
        for other in ["spiffe://d", "spiffe://d/vm/7", "spiffe://d/ns/a/sa/b/c", "spiffe://d/ns/a/sb/b"] {
            let id = SpiffeId::parse(other.as_bytes()).unwrap();
            assert_eq!(id.part(SpiffePart::TrustDomain), Some("d"), "{other}");
            assert_eq!(id.part(SpiffePart::Namespace), None, "{other}");
            assert_eq!(id.part(SpiffePart::ServiceAccount), None, "{other}");
        }
    }

    #[test]
    fn refuses_what_is_no_id() {
        let long = format!("spiffe://d/{}", "x".repeat(2_048));
        let long_domain = format!("spiffe://{}/ns/a/sa/b", "x".repeat(256));
        for wrong in [
            "",
            "x",
            "https://d/ns/a/sa/b",
            "SPIFFE://d/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://D/ns/a/sa/b",
            "spiffe://d:1/ns/a/sa/b",
            "spiffe://u@d/ns/a/sa/b",
            "spiffe://d/ns/a/sa/b/",
            "spiffe://d//ns/a/sa/b",
            "spiffe://d/",
            "spiffe://d/ns/../sa/b",
            "spiffe://d/ns/./sa/b",
            "spiffe://d/ns/a%2f/sa/b",
            "spiffe://d/ns/a/sa/b?x",
            "spiffe://d/ns/a/sa/b#x",
            "spiffe://d/ns/a b/sa/b",
            "spiffe://d/ns/\u{e4}/sa/b",
            " spiffe://d/ns/a/sa/b",
            long.as_str(),
            long_domain.as_str(),
        ] {
            assert_eq!(SpiffeId::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(SpiffeId::parse(b"spiffe://d/\xff"), None);
    }
}

//! Who pays: where each tier's name comes from, and what the backend may be asked by.

use std::collections::BTreeMap;

use purser_protocol::{MAX_CLAIMS, MAX_TAG_BYTES, MAX_TAGS};
use serde_json::Value;

use super::fields::{Fields, Text, shown};
use super::is_name;
use super::sources::{self, Source};

/// Headers that say who pays unless the configuration says otherwise. They are taken out of every request,
/// trusted or not.
const PAYER_HEADERS: [&str; 3] = ["x-budget-org", "x-budget-team", "x-budget-user"];

/// A key is known to the backend alone, which looks up whole payers.
const ONLY_FOR_ORGS: &str = "expected api_key in identity.org alone";

/// Where it stands who pays, and what the cost is tagged with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Sources of the org.
    pub org: Vec<Source>,
    /// Sources of the team.
    pub team: Vec<Source>,
    /// Sources of the user.
    pub user: Vec<Source>,
    /// What the backend looks the payer up by when no source of the org answers.
    pub lookup: Vec<LookupBy>,
    /// Sources of each cost tag, by its name.
    pub tags: BTreeMap<String, Vec<Source>>,
    /// Headers that are taken out of every request.
    pub stripped: Vec<String>,
}

/// What the backend can look a payer up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupBy {
    /// The SHA-256 of the API key.
    ApiKey,
    /// The SPIFFE id of whoever opened the connection.
    SpiffeId,
    /// The namespace in that id.
    Namespace,
    /// The namespace of the proxy itself, from its node metadata: for sidecars, whose proxy is the caller's.
    NodeNamespace,
}

impl LookupBy {
    const WORDS: [(&str, Self); 4] = [
        ("api_key", Self::ApiKey),
        ("spiffe_id", Self::SpiffeId),
        ("namespace", Self::Namespace),
        ("node_namespace", Self::NodeNamespace),
    ];
}

impl Identity {
    /// Whether there is any way to an org.
    #[must_use]
    pub const fn can_name_anybody(&self) -> bool {
        !self.org.is_empty() || !self.lookup.is_empty()
    }
}

pub fn read(root: &mut Fields<'_>) -> Identity {
    // A configuration that says where some names come from says so of all: a header that nobody names
    // there is believed by nobody.
    let defaults = if root.has("identity") { [""; 3] } else { PAYER_HEADERS };
    let [org_header, team_header, user_header] = defaults;
    let mut fields = root.section("identity", false);
    let org = sources::read(&mut fields, "org", org_header);
    if fields.any("org").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        let path = fields.path_of("org");
        fields.mistake_at(&path, "expected at least one source, got []; leave the field out for none");
    }
    let team = tier(&mut fields, "team", team_header);
    let user = tier(&mut fields, "user", user_header);
    if shares_a_header(&[&org.list, &team, &user]) {
        fields.mistake("expected three different headers");
    }
    fields.finish();
    let lookup = lookup(root, org.ends_with_api_key);
    let tags = tags(root);
    let mut stripped: Vec<String> = Vec::new();
    let named = [&org.list, &team, &user].into_iter().chain(tags.values()).flatten();
    let named = named.filter_map(|source| match source {
        Source::Header(name) => Some(name.as_str()),
        _ => None,
    });
    for name in PAYER_HEADERS.into_iter().chain(named) {
        if !stripped.iter().any(|known| known == name) {
            stripped.push(name.to_owned());
        }
    }
    Identity { org: org.list, team, user, lookup, tags, stripped }
}

fn tier(fields: &mut Fields<'_>, name: &'static str, default: &str) -> Vec<Source> {
    let sources = sources::read(fields, name, default);
    if sources.ends_with_api_key {
        let path = fields.path_of(name);
        fields.mistake_at(&path, ONLY_FOR_ORGS);
    }
    sources.list
}

fn shares_a_header(tiers: &[&Vec<Source>; 3]) -> bool {
    let [org, team, user] = tiers;
    let is_in =
        |source: &Source, others: &[Source]| matches!(source, Source::Header(_)) && others.contains(source);
    org.iter().any(|source| is_in(source, team) || is_in(source, user))
        || team.iter().any(|source| is_in(source, user))
}

fn lookup(root: &mut Fields<'_>, with_api_key: bool) -> Vec<LookupBy> {
    let mut lookup = if with_api_key { vec![LookupBy::ApiKey] } else { Vec::new() };
    let Some(value) = root.any("lookup") else { return lookup };
    let words: Vec<&str> = LookupBy::WORDS.iter().map(|(word, _)| *word).collect();
    let expected = format!("at most {MAX_CLAIMS} of {}, none twice", words.join(", "));
    let items = value.as_array().map(Vec::as_slice);
    for item in items.unwrap_or_default() {
        let by = LookupBy::WORDS.iter().find(|(word, _)| item.as_str() == Some(*word));
        match by {
            Some((_, by)) if !lookup.contains(by) => lookup.push(*by),
            _ => root.mistake_at("lookup", &format!("expected {expected}, got {}", shown(item))),
        }
    }
    if items.is_none() {
        root.mistake_at("lookup", &format!("expected a list of {expected}, got {}", shown(value)));
    }
    lookup
}

fn tags(root: &mut Fields<'_>) -> BTreeMap<String, Vec<Source>> {
    let mut tags = BTreeMap::new();
    let named = sources::named(root, "tags");
    if named.len() > MAX_TAGS {
        root.mistake_at("tags", &format!("expected at most {MAX_TAGS} tags, got {}", named.len()));
    }
    for (name, value) in named {
        let path = format!("tags.{}", name.chars().take(MAX_TAG_BYTES).collect::<String>());
        if name.len() > MAX_TAG_BYTES || !is_name(name) {
            let problem = format!("expected a name of 1 to {MAX_TAG_BYTES} bytes without control characters");
            root.mistake_at(&path, &problem);
        }
        let sources = sources::read_value(root, &path, value, Text::Tag);
        if sources.ends_with_api_key {
            root.mistake_at(&path, ONLY_FOR_ORGS);
        }
        tags.insert(name.clone(), sources.list);
    }
    tags
}

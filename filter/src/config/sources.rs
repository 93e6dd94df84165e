//! Where a name may come from: an ordered list of sources, the first that answers counts.

use serde_json::{Map, Value};

use super::fields::{Fields, Text, shown};

/// Most sources of one name.
const MAX_SOURCES: usize = 8;

/// Most parts of a path into metadata.
const MAX_PATH_PARTS: usize = 8;

/// What of a SPIFFE id names somebody: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpiffePart {
    /// The whole id.
    Id,
    /// The trust domain.
    TrustDomain,
    /// The namespace.
    Namespace,
    /// The service account.
    ServiceAccount,
}

/// One place where a name may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A request header that a trusted hop sets, in lower case.
    Header(String),
    /// The SPIFFE id in the certificate of whoever opened the connection.
    Spiffe(SpiffePart),
    /// A property that the proxy knows by this path, its parts separated by zero bytes: the metadata of
    /// the node or the route, or a claim of a token that the proxy has verified.
    Property(String),
    /// This very name.
    Constant(String),
}

const SPIFFE_PARTS: [(&str, SpiffePart); 4] = [
    ("trust_domain", SpiffePart::TrustDomain),
    ("namespace", SpiffePart::Namespace),
    ("service_account", SpiffePart::ServiceAccount),
    ("id", SpiffePart::Id),
];

const NODE_METADATA: &str = "xds\0node\0metadata";
const ROUTE_METADATA: &str = "xds\0route_metadata\0filter_metadata";
const JWT_METADATA: &str = "metadata\0filter_metadata\0envoy.filters.http.jwt_authn";

/// Where the proxy puts a token's claims unless the configuration says.
const JWT_PAYLOAD: &str = "jwt_payload";

const KINDS: &str =
    "one of header, spiffe, node_metadata, jwt_claim, route_metadata, api_key and constant, alone";

/// The sources of one name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// In the order they are asked.
    pub list: Vec<Source>,
    /// Whether the last one says that the backend is to know it by the API key.
    pub ends_with_api_key: bool,
}

/// Reads the sources in a field: one, or a list of them. Without the field it is `default`'s header, if
/// that names one.
pub fn read(fields: &mut Fields<'_>, name: &'static str, default: &str) -> Sources {
    match fields.any(name) {
        Some(value) => read_value(fields, &fields.path_of(name), value, Text::PayerName),
        None if default.is_empty() => Sources::default(),
        None => Sources { list: vec![Source::Header(default.to_owned())], ends_with_api_key: false },
    }
}

/// Reads the sources in a value that stands at `path`. A constant among them must be a `constant`.
pub fn read_value(fields: &mut Fields<'_>, path: &str, value: &Value, constant: Text) -> Sources {
    let mut sources = Sources::default();
    match value {
        Value::Object(_) => sources.add(fields, path.to_owned(), value, constant, true),
        Value::Array(items) => {
            if items.len() > MAX_SOURCES {
                let problem = format!("expected at most {MAX_SOURCES} sources, got {}", items.len());
                fields.mistake_at(path, &problem);
            }
            for (index, item) in items.iter().enumerate() {
                let is_last = index.saturating_add(1) == items.len();
                sources.add(fields, format!("{path}[{index}]"), item, constant, is_last);
            }
        }
        other => {
            let problem = format!("expected an object or a list of objects, got {}", shown(other));
            fields.mistake_at(path, &problem);
        }
    }
    sources
}

impl Sources {
    fn add(&mut self, fields: &mut Fields<'_>, path: String, value: &Value, constant: Text, is_last: bool) {
        let place = path.clone();
        let mut one = fields.of(path, value);
        let is_object = one.len().is_some();
        if is_object && one.len() != Some(1) {
            one.mistake(&format!("expected {KINDS}"));
        }
        let source = read_one(&mut one, constant, &mut self.ends_with_api_key);
        one.finish();
        let ends = self.ends_with_api_key || matches!(source, Some(Source::Constant(_)));
        if ends && !is_last {
            fields.mistake_at(&place, "expected as the last source: none after it would ever be asked");
        }
        let Some(source) = source else { return };
        if self.list.contains(&source) {
            fields.mistake_at(&place, "expected no source twice");
        }
        self.list.push(source);
    }
}

/// The source in an object of one field.
fn read_one(one: &mut Fields<'_>, constant: Text, api_key: &mut bool) -> Option<Source> {
    let header = one.optional_text("header", Text::Header).map(Source::Header);
    let spiffe =
        one.has("spiffe").then(|| Source::Spiffe(one.choice("spiffe", SpiffePart::Id, &SPIFFE_PARTS)));
    one.any("spiffe");
    let node = path(one, "node_metadata", NODE_METADATA, 1, "");
    let claim = path(one, "jwt_claim", JWT_METADATA, 2, JWT_PAYLOAD);
    let route = path(one, "route_metadata", ROUTE_METADATA, 2, "");
    if one.has("api_key") && !one.flag("api_key", false) {
        one.mistake("expected api_key to be true");
    }
    *api_key |= one.any("api_key").is_some();
    let constant = one.optional_text("constant", constant).map(Source::Constant);
    header.or(spiffe).or(node).or(claim).or(route).or(constant)
}

/// A path into metadata: a list of at least `least` parts. A text stands for a list of itself, after
/// `first` if that is given.
fn path(one: &mut Fields<'_>, name: &'static str, root: &str, least: usize, first: &str) -> Option<Source> {
    let value = one.any(name)?;
    let parts: Option<Vec<&str>> = match value {
        Value::String(text) if first.is_empty() => Some(vec![text.as_str()]),
        Value::String(text) => Some(vec![first, text.as_str()]),
        Value::Array(parts) => parts.iter().map(Value::as_str).collect(),
        _ => None,
    };
    let is_sound = |parts: &Vec<&str>| {
        (least..=MAX_PATH_PARTS).contains(&parts.len()) && parts.iter().all(|part| Text::Name.accepts(part))
    };
    let Some(parts) = parts.filter(is_sound) else {
        let place = one.path_of(name);
        let problem = format!("expected a path of {least} to {MAX_PATH_PARTS} names, got {}", shown(value));
        one.mistake_at(&place, &problem);
        return None;
    };
    Some(Source::Property(format!("{root}\0{}", parts.join("\0"))))
}

/// The fields of an object whose names are not known beforehand, each with its sources.
pub fn named<'v>(fields: &mut Fields<'v>, name: &'static str) -> Vec<(&'v String, &'v Value)> {
    match fields.any(name) {
        None => Vec::new(),
        Some(Value::Object(object)) => Map::iter(object).collect(),
        Some(other) => {
            let place = fields.path_of(name);
            fields.mistake_at(&place, &format!("expected an object, got {}", shown(other)));
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests;

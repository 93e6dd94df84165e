//! Requests of every API: what is read of a body is in it, and a rewrite changes the model, the output
//! cap and the usage switch, as wanted, and no other byte.

use purser_filter::api::Route;
use purser_filter::request::{self, BodyKind, CallRequest, CapPlace};
use purser_filter::rewrite::{BodyRewrite, Feasible, RewriteError, feasible};
use purser_filter::splice::Edit;
use purser_protocol::{Api, MAX_NAME_BYTES, Rewrite};
use serde_json::Value;

use crate::input::Input;
use crate::splice::assert_only;

/// The boundary of the forms in inputs.
pub const BOUNDARY: &str = "b";

/// The names of output caps.
const CAPS: [&str; 11] = [
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "maxOutputTokens",
    "maxTokens",
    "max_gen_len",
    "max_new_tokens",
    "maxTokenCount",
    "num_predict",
    "generationConfig",
    "inferenceConfig",
];

/// The input: API, dialect, flags, the wanted cap, the body.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut route = input.route();
    let flags = input.byte();
    let has = |bit: u8| flags & (1 << bit) != 0;
    route.stream = has(0).then_some(has(1));
    route.model = has(2).then(|| "model-of-path".to_owned());
    let kind = BodyKind { is_signed: has(3), boundary: has(4).then(|| BOUNDARY.to_owned()) };
    let wanted = Rewrite {
        model: has(5).then(|| "cheaper \"one\"\u{e9}\\".to_owned()),
        max_output_tokens: has(6).then(|| u64::from(input.byte()) * 1_000),
    };
    let body = input.rest();
    let Ok(request) = request::read(&route, &kind, body) else { return };
    check_facts(&request, &kind, body);
    check_rewrite(&route, &kind, &request, body, &wanted);
    check_rewrite(&route, &kind, &request, body, &Rewrite::default());
}

fn check_facts(request: &CallRequest, kind: &BodyKind, body: &[u8]) {
    assert_eq!(request.body_bytes, body.len());
    assert!(request.size.text_bytes <= u64::try_from(body.len()).unwrap());
    assert!(request.size.choices >= 1);
    assert!((1..=MAX_NAME_BYTES).contains(&request.model.len()));
    assert_eq!(request.size.unchangeable, kind.is_signed && kind.boundary.is_none());
    if let Some(at) = &request.model_at {
        let named: String = serde_json::from_slice(&body[at.clone()]).expect("a text");
        assert_eq!(named, request.model);
    }
    if kind.is_signed {
        assert_eq!((&request.model_at, &request.usage_switch), (&None, &None));
        assert_eq!(request.cap, CapPlace::Fixed);
    }
}

fn check_rewrite(route: &Route, kind: &BodyKind, request: &CallRequest, body: &[u8], wanted: &Rewrite) {
    let Feasible { rewrite, path, falls_short } = feasible(request, None, wanted);
    assert_eq!(path, None, "a path out of nothing");
    assert_eq!(falls_short, rewrite != *wanted);
    let edits = edits(request, &rewrite);
    let Some(changed) = BodyRewrite::of(request, &rewrite) else {
        return assert!(edits.is_empty(), "edits without a rewrite: {edits:?}");
    };
    let out = changed.apply(body, usize::MAX).expect("what was read can be rewritten");
    assert_eq!(changed.apply(body, out.len() - 1), Err(RewriteError::TooLarge));
    assert_only(body, &edits, &out);
    let again = request::read(route, kind, &out).expect("a rewritten body can be read");
    let caps = match (&request.cap, rewrite.max_output_tokens) {
        (CapPlace::Needless, _) => None,
        // No cap is raised; without one of its own a place gets the new one.
        (CapPlace::At(places), Some(cap)) => {
            places.iter().map(|place| place.tokens.map_or(cap, |own| own.min(cap))).max()
        }
        (_, cap) => cap,
    };
    assert_eq!(again.model, *rewrite.model.as_ref().unwrap_or(&request.model));
    assert_eq!(again.size.max_output_tokens, caps.or(request.size.max_output_tokens));
    let rest = |request: &CallRequest| {
        let size = request.size;
        // A model that searches by itself is context, and another one isn't.
        let context = rewrite.model.is_none() && size.server_context;
        (request.stream, size.choices, size.media_parts, context, request.is_deferred)
    };
    assert_eq!(rest(&again), rest(request));
    assert_eq!(again.usage_switch, None, "usage is on");
    // Deeper than a tree is built, or with numbers that no double holds: the bytes alone tell.
    let tree = |body: &[u8]| serde_json::from_slice::<Value>(body).ok();
    if let (Some(before), Some(after)) = (tree(body), tree(&out)) {
        let wanted = Wanted { rewrite: &rewrite, usage: request.usage_switch.is_some() };
        wanted.compare(&mut Vec::new(), Some(&before), Some(&after));
        if wanted.usage {
            assert_eq!(after["stream_options"]["include_usage"], Value::Bool(true));
        }
    }
}

/// The edits that a rewrite comes to.
fn edits(request: &CallRequest, rewrite: &Rewrite) -> Vec<Edit> {
    let mut edits: Vec<Edit> = request.usage_switch.iter().cloned().collect();
    if let (Some(model), Some(at)) = (&rewrite.model, &request.model_at) {
        edits.push(Edit::replace(at.clone(), Value::from(model.as_str()).to_string()));
    }
    edits.extend(rewrite.max_output_tokens.and_then(|cap| request.cap.edits(cap)).unwrap_or_default());
    edits
}

/// What may differ between the trees of a body and of its rewrite.
struct Wanted<'r> {
    rewrite: &'r Rewrite,
    usage: bool,
}

impl Wanted<'_> {
    /// Fails where the trees differ in what was not asked for.
    fn compare<'v>(&self, path: &mut Vec<&'v str>, before: Option<&'v Value>, after: Option<&'v Value>) {
        if before == after || self.explains(path, after) {
            return;
        }
        let members = |value: Option<&'v Value>| value.and_then(Value::as_object);
        let opened = self.usage && path.as_slice() == ["stream_options"] && before == Some(&Value::Null);
        let (Some(new), true) = (members(after), members(before).is_some() || before.is_none() || opened)
        else {
            panic!("{path:?} changed from {before:?} to {after:?}");
        };
        let old = members(before);
        let is_kept = |key: &String| new.contains_key(key);
        assert!(old.is_none_or(|old| old.keys().all(is_kept)), "{path:?} lost a member");
        for (key, value) in new {
            path.push(key);
            // What was not there before is an object for a cap or the usage switch, or one of these.
            self.compare(path, old.and_then(|old| old.get(key)), Some(value));
            path.pop();
        }
    }

    fn explains(&self, path: &[&str], after: Option<&Value>) -> bool {
        let is = |value: Value| after == Some(&value);
        match path {
            ["model"] => self.rewrite.model.as_deref().is_some_and(|model| is(Value::from(model))),
            ["stream_options", "include_usage"] => self.usage && is(Value::Bool(true)),
            [.., cap] if CAPS.contains(cap) => {
                self.rewrite.max_output_tokens.is_some_and(|cap| is(Value::from(cap)))
            }
            _ => false,
        }
    }
}

/// An input of this check: a body under the options that fit it.
#[must_use]
pub fn seed(api: Api, dialect: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let api = Api::ALL.iter().position(|known| *known == api).expect("one of all");
    let mut seed = vec![u8::try_from(api).expect("few APIs"), dialect, flags];
    if flags & (1 << 6) != 0 {
        seed.push(7);
    }
    seed.extend_from_slice(body);
    seed
}

//! What changes in a request before it goes out.

mod path;

use purser_protocol::{MAX_NAME_BYTES, Rewrite};

use crate::api::Route;
use crate::request::{CallRequest, CapPlace};
use crate::splice::{self, Edit};

/// Edits for the body of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyRewrite {
    edits: Vec<Edit>,
    body_bytes: usize,
}

/// Why a body can't be rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RewriteError {
    /// The body is not the one the edits were made for.
    Changed,
    /// The result would be larger than a body may be.
    TooLarge,
}

/// The path of a request that names its model there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPath {
    /// The path, with its query.
    pub path: String,
    /// What it was read as.
    pub route: Route,
}

/// What of a verdict's rewrite a request can carry out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Feasible {
    /// The part that can.
    pub rewrite: Rewrite,
    /// The path that names the other model, where it stands there.
    pub path: Option<String>,
    /// Some of it can't.
    pub falls_short: bool,
}

/// Parts a rewrite: the request may be signed, its model may stand where it can't be changed, the API may
/// have no cap. `path` is the request's if it names the model and may be changed.
#[must_use]
pub fn feasible(request: &CallRequest, path: Option<&ModelPath>, wanted: &Rewrite) -> Feasible {
    let new_path = wanted
        .model
        .as_deref()
        .and_then(|model| path.and_then(|path| path::with_model(&path.path, &path.route, model)));
    let can_model = request.model_at.is_some() || new_path.is_some();
    let can_cap = request.cap != CapPlace::Fixed;
    Feasible {
        falls_short: (wanted.model.is_some() && !can_model)
            || (wanted.max_output_tokens.is_some() && !can_cap),
        rewrite: Rewrite {
            model: wanted.model.clone().filter(|_| can_model),
            max_output_tokens: wanted.max_output_tokens.filter(|_| can_cap),
        },
        path: new_path,
    }
}

impl BodyRewrite {
    /// What the request needs: usage switched on in its stream, and what the verdict says as far as it
    /// can be done. Nothing when the body can go out as it is.
    #[must_use]
    pub fn of(request: &CallRequest, verdict: &Rewrite) -> Option<Self> {
        let mut edits: Vec<Edit> = request.usage_switch.iter().cloned().collect();
        if let (Some(model), Some(at)) = (&verdict.model, &request.model_at) {
            // A text can't fail to serialize; an empty value would be refused upstream.
            let text = serde_json::to_string(model).unwrap_or_default();
            edits.push(Edit::replace(at.clone(), text));
        }
        if let Some(cap) = verdict.max_output_tokens {
            edits.extend(request.cap.edits(cap).unwrap_or_default());
        }
        (!edits.is_empty()).then_some(Self { edits, body_bytes: request.body_bytes })
    }

    /// The body as it goes out.
    ///
    /// # Errors
    /// [`RewriteError`]; the body must not go out then.
    pub fn apply(&self, body: &[u8], max_bytes: usize) -> Result<Vec<u8>, RewriteError> {
        if body.len() != self.body_bytes {
            return Err(RewriteError::Changed);
        }
        let rewritten = splice::apply(body, &self.edits).map_err(|splice::Unfit| RewriteError::Changed)?;
        if rewritten.len() > max_bytes {
            return Err(RewriteError::TooLarge);
        }
        Ok(rewritten)
    }
}

/// Whether a verdict's rewrite can be carried out at all.
#[must_use]
pub fn is_sound(rewrite: &Rewrite) -> bool {
    rewrite.model.as_ref().is_none_or(|model| (1..=MAX_NAME_BYTES).contains(&model.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Dialect;
    use crate::request::{self, BodyKind};
    use purser_protocol::Api;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn chat(body: &[u8]) -> CallRequest {
        let route = Route::new(Api::OpenaiChat, Dialect::Openai);
        request::read(&route, &BodyKind::default(), body).unwrap()
    }

    fn rewritten(body: &str, verdict: &Rewrite) -> Option<String> {
        let rewrite = BodyRewrite::of(&chat(body.as_bytes()), verdict)?;
        let rewritten = rewrite.apply(body.as_bytes(), 1000).unwrap();
        Some(String::from_utf8(rewritten).unwrap())
    }

    #[test]
    fn changes_model_cap_and_usage_together() {
        let verdict = Rewrite { model: Some("a \"b\"\n".to_owned()), max_output_tokens: Some(42) };
        for (body, expected) in [
            (r#"{"model": "m" , "x":[1]}"#, r#"{"model": "a \"b\"\n","max_completion_tokens":42 , "x":[1]}"#),
            (
                r#"{"max_tokens":900,"model":"m","stream":true}"#,
                r#"{"max_tokens":42,"model":"a \"b\"\n","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"max_tokens":null,"model":"m","max_completion_tokens":7}"#,
                r#"{"max_tokens":42,"model":"a \"b\"\n","max_completion_tokens":7}"#,
            ),
        ] {
            assert_eq!(rewritten(body, &verdict).as_deref(), Some(expected));
        }
        assert_eq!(rewritten(r#"{"model":"m"}"#, &Rewrite::default()), None);
    }

    #[test]
    fn refuses_another_body_and_one_that_grows_too_large() {
        let body = br#"{"model":"m","stream":true}"#;
        let rewrite = BodyRewrite::of(&chat(body), &Rewrite::default()).unwrap();
        let full = rewrite.apply(body, usize::MAX).unwrap().len();
        assert_eq!(rewrite.apply(body, full - 1), Err(RewriteError::TooLarge));
        assert!(rewrite.apply(body, full).is_ok());
        assert_eq!(rewrite.apply(&body[1..], usize::MAX), Err(RewriteError::Changed));
    }

    #[test]
    fn a_signed_request_is_left_alone_and_a_model_in_the_path_changes_there() {
        let wanted = Rewrite { model: Some("cheap".to_owned()), max_output_tokens: Some(7) };
        let body = br#"{"contents":[]}"#;
        let mut route = Route::new(Api::GeminiGenerate, Dialect::Gemini);
        (route.model, route.stream) = (Some("g".to_owned()), Some(false));
        for (kind, can_cap) in
            [(BodyKind::default(), true), (BodyKind { is_signed: true, boundary: None }, false)]
        {
            let request = request::read(&route, &kind, body).unwrap();
            assert_eq!(request.size.unchangeable, !can_cap);
            let at = ModelPath { path: "/v1/models/g:generateContent".to_owned(), route: route.clone() };
            let alone = feasible(&request, None, &wanted);
            assert!(alone.falls_short);
            let rewrite = Rewrite { model: None, max_output_tokens: can_cap.then_some(7) };
            assert_eq!((&alone.rewrite, alone.path), (&rewrite, None));
            let with_path = feasible(&request, Some(&at), &wanted);
            assert_eq!(with_path.falls_short, !can_cap);
            assert_eq!(with_path.rewrite.model.as_deref(), Some("cheap"));
            assert_eq!(with_path.path.as_deref(), Some("/v1/models/cheap:generateContent"));
            let out = BodyRewrite::of(&request, &with_path.rewrite)
                .map(|rewrite| rewrite.apply(body, 100).unwrap());
            let expected = r#"{"generationConfig":{"maxOutputTokens":7},"contents":[]}"#;
            assert_eq!(out, can_cap.then(|| expected.as_bytes().to_vec()));
        }
        let plain = feasible(&chat(br#"{"model":"m"}"#), None, &wanted);
        assert_eq!(plain, Feasible { rewrite: wanted, path: None, falls_short: false });
    }

    #[test]
    fn a_model_name_must_be_sendable() {
        let named = |model: String| Rewrite { model: Some(model), ..Rewrite::default() };
        assert!(is_sound(&Rewrite::default()));
        assert!(is_sound(&named("m".repeat(256))));
        assert!(!is_sound(&named("m".repeat(257))));
        assert!(!is_sound(&named(String::new())));
    }
}

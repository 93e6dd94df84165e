//! What changes in a request before it goes out.

use purser_protocol::{MAX_NAME_BYTES, Rewrite};

use crate::request::ChatRequest;
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

impl BodyRewrite {
    /// What the request needs: usage switched on in its stream, and what the verdict says. Nothing
    /// when the body can go out as it is.
    #[must_use]
    pub fn of(request: &ChatRequest, verdict: Option<&Rewrite>) -> Option<Self> {
        let mut edits: Vec<Edit> = request.usage_switch.iter().cloned().collect();
        if let Some(model) = verdict.and_then(|rewrite| rewrite.model.as_ref()) {
            // A text can't fail to serialize; an empty value would be refused upstream.
            let text = serde_json::to_string(model).unwrap_or_default();
            edits.push(Edit::replace(request.model_at.clone(), text));
        }
        if let Some(cap) = verdict.and_then(|rewrite| rewrite.max_output_tokens) {
            edits.extend(cap_edits(request, cap));
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

/// Every cap the request names gets the new value; without one it gets the current name.
fn cap_edits(request: &ChatRequest, cap: u64) -> Vec<Edit> {
    if request.caps_at.is_empty() {
        let text = format!(r#","max_completion_tokens":{cap}"#);
        return vec![Edit::insert(request.model_at.end, text)];
    }
    request.caps_at.iter().map(|at| Edit::replace(at.clone(), cap.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn rewritten(body: &str, verdict: Option<&Rewrite>) -> Option<String> {
        let request = request::read(body.as_bytes()).unwrap();
        let rewrite = BodyRewrite::of(&request, verdict)?;
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
                r#"{"max_tokens":42,"model":"a \"b\"\n","max_completion_tokens":42}"#,
            ),
        ] {
            assert_eq!(rewritten(body, Some(&verdict)).as_deref(), Some(expected));
        }
        assert_eq!(rewritten(r#"{"model":"m"}"#, None), None);
        assert_eq!(rewritten(r#"{"model":"m"}"#, Some(&Rewrite::default())), None);
    }

    #[test]
    fn refuses_another_body_and_one_that_grows_too_large() {
        let body = br#"{"model":"m","stream":true}"#;
        let request = request::read(body).unwrap();
        let rewrite = BodyRewrite::of(&request, None).unwrap();
        let full = rewrite.apply(body, usize::MAX).unwrap().len();
        assert_eq!(rewrite.apply(body, full - 1), Err(RewriteError::TooLarge));
        assert!(rewrite.apply(body, full).is_ok());
        assert_eq!(rewrite.apply(&body[1..], usize::MAX), Err(RewriteError::Changed));
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

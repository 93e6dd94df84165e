//! The model of a request.

use purser_protocol::{Api, MAX_NAME_BYTES};

use super::{Members, Unreadable};

/// Stands for the model of a request that leaves the choice to its provider. No list has a price for it.
pub const UNSPECIFIED: &str = "unspecified";

/// Checks a name.
///
/// # Errors
/// [`Unreadable::Member`] when there is none, or it is none that a provider could have.
pub fn check(name: Option<String>) -> Result<String, Unreadable> {
    let is_sound = |name: &String| {
        (1..=MAX_NAME_BYTES).contains(&name.len())
            && !name.trim().is_empty()
            && !name.chars().any(char::is_control)
    };
    let expected = "the name of a model, 1 to 256 bytes of text";
    name.filter(is_sound).ok_or(Unreadable::Member { name: "model", expected })
}

/// Whether requests may leave the model out whatever else they say.
pub const fn is_optional(api: Api) -> bool {
    matches!(api, Api::OpenaiImages)
}

/// Whether a request rightly leaves its model out: its provider has one for such, or it is kept there with
/// the prompt that the request names.
pub fn is_left_out(api: Api, members: &Members<'_>) -> bool {
    let is_kept = api == Api::OpenaiResponses && members.value("prompt").is_some();
    (is_optional(api) || is_kept) && members.value("model").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Route;
    use crate::config::Dialect;
    use crate::request::{BodyKind, CallRequest, read};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read_json(api: Api, body: &str) -> Result<CallRequest, Unreadable> {
        read(&Route::new(api, Dialect::Openai), &BodyKind::default(), body.as_bytes())
    }

    #[test]
    fn the_model_may_be_left_out_where_the_provider_has_one() {
        for (api, body) in [
            (Api::OpenaiImages, r#"{"prompt":"x"}"#),
            (Api::OpenaiImages, r#"{"prompt":"x","model":null}"#),
            (Api::OpenaiResponses, r#"{"prompt":{"id":"p"}}"#),
        ] {
            let request = read_json(api, body).unwrap();
            assert_eq!((request.model.as_str(), request.model_at), (UNSPECIFIED, None), "{body}");
        }
        for (api, body) in [
            (Api::OpenaiImages, r#"{"prompt":"x","model":""}"#),
            (Api::OpenaiImages, r#"{"prompt":"x","model":7}"#),
            (Api::OpenaiResponses, r#"{"input":"x"}"#),
            (Api::OpenaiResponses, r#"{"input":"x","prompt":null}"#),
            (Api::OpenaiCompletions, r#"{"prompt":"x"}"#),
            (Api::OpenaiChat, r#"{"messages":[],"prompt":"x"}"#),
            (Api::OpenaiAudio, r#"{"input":"x"}"#),
        ] {
            assert_eq!(read_json(api, body).unwrap_err().member(), Some("model"), "{body}");
        }
        let named = read_json(Api::OpenaiResponses, r#"{"model":"m","prompt":{"id":"p"}}"#).unwrap();
        assert_eq!(named.model, "m");
        // What is kept with the prompt bounds nothing.
        assert!(named.size.server_context);
    }

    #[test]
    fn forms_leave_it_out_as_json_does() {
        let head = "Content-Disposition: form-data; name=";
        let kind = BodyKind { boundary: Some("b".to_owned()), ..BodyKind::default() };
        let asked = |api, field: &str| {
            let form = format!("--b\r\n{head}{field}\r\n--b--\r\n");
            read(&Route::new(api, Dialect::Openai), &kind, form.as_bytes()).map(|request| request.model)
        };
        assert_eq!(asked(Api::OpenaiImages, "prompt\r\n\r\nx").unwrap(), UNSPECIFIED);
        assert_eq!(asked(Api::OpenaiImages, "model\r\n\r\nm").unwrap(), "m");
        assert!(asked(Api::OpenaiImages, "model\r\n\r\n ").is_err());
        assert!(asked(Api::OpenaiAudio, "prompt\r\n\r\nx").is_err());
    }

    #[test]
    fn a_blank_name_is_none() {
        for body in [r#"{"model":"  "}"#, r#"{"model":"\u00a0"}"#, r#"{"model":""}"#] {
            assert_eq!(read_json(Api::OpenaiChat, body).unwrap_err().member(), Some("model"), "{body}");
        }
    }
}

//! Forms: how audio and images are sent. Only the model, the number of answers and the stream flag are
//! read; files count as media.

use purser_protocol::{Api, Size};

use super::{CallRequest, CapPlace, Unreadable, check_model};
use crate::api::Route;

/// Most parts of a form that are looked at.
const MAX_PARTS: usize = 256;

/// Most bytes of a field that decides the cost.
const MAX_FIELD_BYTES: usize = 1_024;

/// The boundary that a form's content type names.
#[must_use]
pub fn boundary(content_type: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content_type).ok()?;
    let (kind, parameters) = text.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let fits = name.trim().eq_ignore_ascii_case("boundary") && (1..=70).contains(&value.len());
        fits.then(|| value.to_owned())
    })
}

#[derive(Default)]
struct Form {
    model: Option<String>,
    stream: bool,
    choices: Option<u32>,
    files: u32,
    file_bytes: usize,
}

/// Reads a form.
pub fn read(route: &Route, boundary: &str, body: &[u8]) -> Result<CallRequest, Unreadable> {
    if !matches!(route.api, Api::OpenaiImages | Api::OpenaiAudio) {
        return Err(Unreadable::Form);
    }
    let form = fields(boundary, body)?;
    let text_bytes = body.len().saturating_sub(form.file_bytes);
    Ok(CallRequest {
        model: check_model(route.model.clone().or(form.model))?,
        stream: form.stream,
        size: Size {
            text_bytes: u64::try_from(text_bytes).unwrap_or(u64::MAX),
            media_parts: form.files,
            choices: form.choices.unwrap_or(1),
            ..Size::default()
        },
        body_bytes: body.len(),
        usage_switch: None,
        model_at: None,
        cap: CapPlace::Fixed,
        is_deferred: false,
        input_characters: None,
        service_tier: None,
    })
}

fn fields(boundary: &str, body: &[u8]) -> Result<Form, Unreadable> {
    let opening = format!("--{boundary}");
    let separator = format!("\r\n--{boundary}");
    let mut form = Form::default();
    let mut rest = body.strip_prefix(opening.as_bytes()).ok_or(Unreadable::Form)?;
    for _ in 0..MAX_PARTS {
        if rest.starts_with(b"--") {
            return Ok(form);
        }
        let part = rest.strip_prefix(b"\r\n").ok_or(Unreadable::Form)?;
        let (part, after) = cut(part, separator.as_bytes()).ok_or(Unreadable::Form)?;
        let (head, value) = cut(part, b"\r\n\r\n").ok_or(Unreadable::Form)?;
        form.take(&String::from_utf8_lossy(head), value)?;
        rest = after;
    }
    Err(Unreadable::Form)
}

impl Form {
    fn take(&mut self, head: &str, value: &[u8]) -> Result<(), Unreadable> {
        if head.contains("filename") {
            self.files = self.files.saturating_add(1);
            self.file_bytes = self.file_bytes.saturating_add(value.len());
            return Ok(());
        }
        let name = head.split(['\r', '\n', ';']).find_map(|piece| piece.trim().strip_prefix("name="));
        let name = name.ok_or(Unreadable::Form)?.trim_matches('"');
        if !matches!(name, "model" | "stream" | "n") {
            return Ok(());
        }
        let text =
            value.get(..value.len().min(MAX_FIELD_BYTES)).and_then(|text| std::str::from_utf8(text).ok());
        let text = text.unwrap_or_default().trim();
        match name {
            "model" if self.model.is_some() => {
                return Err(Unreadable::Member { name: "model", expected: "one model" });
            }
            "model" => self.model = Some(text.to_owned()),
            "n" => {
                let asked = text.parse().ok().filter(|choices| *choices >= 1);
                let expected = "a whole number of choices, 1 or more";
                self.choices = Some(asked.ok_or(Unreadable::Member { name: "n", expected })?);
            }
            _ => self.stream = text.eq_ignore_ascii_case("true"),
        }
        Ok(())
    }
}

/// What stands before the first `mark`, and what after it.
fn cut<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(mark.len().max(1)).position(|window| window == mark)?;
    Some((bytes.get(..at)?, bytes.get(at.checked_add(mark.len())?..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Dialect;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const FORM: &str = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b\r\n\
        Content-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\n0123456789\r\n--b\r\n\
        Content-Disposition: form-data; name=\"n\"\r\n\r\n2\r\n--b--\r\n";

    fn read_form(form: &str) -> Result<CallRequest, Unreadable> {
        read(&Route::new(Api::OpenaiAudio, Dialect::Openai), "b", form.as_bytes())
    }

    #[test]
    fn reads_the_fields_that_decide_the_cost() {
        let request = read_form(FORM).unwrap();
        assert_eq!(
            (request.model.as_str(), request.size.choices, request.size.media_parts),
            ("whisper-1", 2, 1)
        );
        assert_eq!(request.size.text_bytes, FORM.len() as u64 - 10);
        for at in 0..FORM.len() - 4 {
            assert!(read_form(&FORM[..at]).is_err(), "cut at {at}");
        }
        assert!(read_form(&FORM.replace("whisper-1", "")).is_err());
        assert!(read_form(&FORM.replace("\"n\"", "\"model\"")).is_err());
        let chat = Route::new(Api::OpenaiChat, Dialect::Openai);
        assert_eq!(read(&chat, "b", FORM.as_bytes()), Err(Unreadable::Form));
    }

    #[test]
    fn finds_the_boundary() {
        for (content_type, expected) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("Multipart/Form-Data; charset=x; Boundary=\"a b\"", Some("a b")),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("application/json; boundary=abc", None),
        ] {
            assert_eq!(boundary(content_type.as_bytes()).as_deref(), expected, "{content_type}");
        }
    }
}

//! Forms: how audio and images are sent. Only the model, the number of answers and the stream flag are
//! read; files count as media.

use purser_protocol::{Api, Size};

use super::parameters::{Part, Value};
use super::{CallRequest, CapPlace, Thinking, Unreadable, model};
use crate::api::Route;

/// Most parts of a form that are looked at.
const MAX_PARTS: usize = 256;

/// Most bytes of a field that decides the cost.
const MAX_FIELD_BYTES: usize = 1_024;

/// The boundary that a form's content type names.
#[must_use]
pub fn boundary(content_type: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content_type).ok()?;
    let value = Value::parse(text).filter(|value| value.kind.eq_ignore_ascii_case("multipart/form-data"))?;
    let boundary = value.get("boundary").filter(|boundary| (1..=70).contains(&boundary.len()))?;
    Some(boundary.to_owned())
}

#[derive(Default)]
struct Form {
    model: Option<String>,
    stream: Option<bool>,
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
    let model = match route.model.clone().or(form.model) {
        None if model::is_optional(route.api) => model::UNSPECIFIED.to_owned(),
        name => model::check(name)?,
    };
    Ok(CallRequest {
        model,
        stream: form.stream.unwrap_or(false),
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
        thinking: Thinking::Open,
    })
}

fn fields(boundary: &str, body: &[u8]) -> Result<Form, Unreadable> {
    let delimiter = format!("--{boundary}");
    let mut form = Form::default();
    let mut rest = body.strip_prefix(delimiter.as_bytes()).ok_or(Unreadable::Form)?;
    for _ in 0..MAX_PARTS {
        if let Some(behind) = rest.strip_prefix(b"--") {
            // What follows is a part to those who don't take this for the end.
            return if behind.trim_ascii().is_empty() { Ok(form) } else { Err(Unreadable::Form) };
        }
        let part = rest.strip_prefix(b"\r\n").ok_or(Unreadable::Form)?;
        let (part, after) = cut_at_line(part, delimiter.as_bytes()).ok_or(Unreadable::Form)?;
        let (head, value) = cut(part, b"\r\n\r\n").ok_or(Unreadable::Form)?;
        form.take(&String::from_utf8_lossy(head), value)?;
        rest = after;
    }
    Err(Unreadable::Form)
}

impl Form {
    fn take(&mut self, head: &str, value: &[u8]) -> Result<(), Unreadable> {
        let part = Part::parse(head).ok_or(Unreadable::Form)?;
        // Servers may see one of these in `Model`, in ` n` and in `model[]`.
        let plain = part.name.split('[').next().unwrap_or_default().trim();
        let known = ["model", "stream", "n"].into_iter().find(|known| known.eq_ignore_ascii_case(plain));
        let Some(name) = known else {
            if part.is_file {
                self.files = self.files.saturating_add(1);
                self.file_bytes = self.file_bytes.saturating_add(value.len());
            }
            return Ok(());
        };
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= MAX_FIELD_BYTES);
        let (Some(text), false) = (text, part.is_file || part.is_encoded || part.name != name) else {
            return Err(Unreadable::Member { name, expected: "one plain field of this name" });
        };
        let is_again = match name {
            "model" => self.model.replace(text.trim().to_owned()).is_some(),
            "n" => {
                let asked = text.trim().parse().ok().filter(|choices| *choices >= 1);
                let expected = "a whole number of choices, 1 or more";
                self.choices.replace(asked.ok_or(Unreadable::Member { name, expected })?).is_some()
            }
            _ => {
                let flag = match text.trim().to_ascii_lowercase().as_str() {
                    "true" => true,
                    "false" | "" => false,
                    _ => return Err(Unreadable::Member { name, expected: "true or false" }),
                };
                self.stream.replace(flag).is_some()
            }
        };
        if is_again { Err(Unreadable::Member { name, expected: "one field of this name" }) } else { Ok(()) }
    }
}

/// What stands before the first line that begins with `mark`, and what after that mark. Nothing when the
/// line before doesn't end in CRLF: some take a bare CR or LF for the end of one.
fn cut_at_line<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let starts_line = |pair: &[u8]| matches!(pair, [b'\r' | b'\n', tail @ ..] if tail == mark);
    let at = bytes.windows(mark.len().checked_add(1)?).position(starts_line)?;
    let (before, after) = bytes.split_at_checked(at.checked_add(1)?)?;
    Some((before.strip_suffix(b"\r\n")?, after.strip_prefix(mark)?))
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
        for (from, to) in [
            // As .NET and Node's libraries write them.
            ("name=\"model\"", "name=model"),
            ("filename=\"a.mp3\"", "filename=a.mp3; filename*=utf-8''a.mp3"),
            ("content-disposition", "Content-Type: text/plain; charset=utf-8\r\nContent-Disposition"),
            ("a.mp3", "a; name=x.mp3"),
            ("--b--\r\n", "--b--"),
        ] {
            let again = read_form(&FORM.replace(from, to)).unwrap();
            assert_eq!(
                (again.model, again.size.choices, again.size.media_parts),
                ("whisper-1".to_owned(), 2, 1)
            );
        }
        let chat = Route::new(Api::OpenaiChat, Dialect::Openai);
        assert_eq!(read(&chat, "b", FORM.as_bytes()), Err(Unreadable::Form));
    }

    #[test]
    fn no_field_is_smuggled_past() {
        let model = "content-disposition: form-data; name=\"model\"";
        for head in [
            // Where another header names the field, or a file, the disposition still counts.
            format!("X-A: a;name=zzz\r\n{model}"),
            format!("X-A: a;filename=zzz\r\n{model}"),
            format!("{model}; xfilename=1"),
            format!("{model}; x=\"filename=1\""),
        ] {
            assert_eq!(read_form(&FORM.replace(model, &head)).unwrap().model, "whisper-1", "{head}");
        }
        for (from, to) in [
            (model, format!("{model}; name=zzz")),
            (model, format!("{model}; name*=utf-8''zzz")),
            (model, format!("{model}; filename=x")),
            (model, format!("{model}; x=\"a\\\"; filename=\"b\"")),
            (model, format!("{model}; x=a\"b")),
            (model, format!("{model} x")),
            (model, format!("{model}\r\nContent-Disposition: form-data; name=\"zzz\"")),
            (model, format!("{model}\r\n ; name=zzz")),
            (model, format!("X-A: b\n{model}")),
            (model, format!("Content-Disposition : form-data; name=zzz\r\n{model}")),
            (model, format!("{model}\r\nContent-Transfer-Encoding: base64")),
            (model, format!("{model}\r\nContent-Type: text/plain; charset=utf-16")),
            (model, model.replace("form-data", "attachment")),
            (model, "X-A: b".to_owned()),
            ("\"n\"", "\"N\"".to_owned()),
            ("\"n\"", "\" n\"".to_owned()),
            ("\"n\"", "\"n[]\"".to_owned()),
            ("\"n\"", "\"%6e\"".to_owned()),
            ("\"n\"", "\"stream\"".to_owned()),
            ("\r\n2\r\n", format!("\r\n2{}9\r\n", " ".repeat(MAX_FIELD_BYTES))),
            ("--b--", "--b\r\nContent-Disposition: form-data; name=n\r\n\r\n3\r\n--b--".to_owned()),
            ("--b--\r\n", format!("--b--\r\n--b\r\n{model}\r\n\r\nzzz\r\n--b--\r\n")),
            // Those who end lines at a bare LF see another model here.
            ("0123456789", format!("0\n--b\n{model}\n\nzzz")),
            ("0123456789", format!("0\r--b\r{model}\r\rzzz")),
        ] {
            let form = FORM.replace(from, &to);
            assert_ne!(form, FORM);
            assert!(read_form(&form).is_err(), "{to:?}");
        }
    }

    #[test]
    fn finds_the_boundary() {
        for (content_type, expected) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("Multipart/Form-Data; charset=x; Boundary=\"a b\"", Some("a b")),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("application/json; boundary=abc", None),
            ("multipart/form-data; x=\"; boundary=abc\"; boundary=def", Some("def")),
            ("multipart/form-data; boundary=abc; boundary=def", None),
            ("multipart/form-data; boundary=abc\"; x=\"", None),
        ] {
            assert_eq!(boundary(content_type.as_bytes()).as_deref(), expected, "{content_type}");
        }
    }
}

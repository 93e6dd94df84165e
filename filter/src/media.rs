//! Images, audio and files in a request: how many, how many bytes of the body they are, and whether
//! some are only referred to. One walk fits all APIs: it goes down where messages hold their content.

use std::fmt;

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::json_scan::scalars_are_passed_over;

/// The media of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Media {
    /// Parts with an image, audio or a file.
    pub parts: u32,
    /// Bytes of the body that are their inline payload (`data:` URLs, base64) and not text.
    pub payload_bytes: usize,
    /// Some stand elsewhere: a URL, a file's id. Their size is not known.
    pub by_reference: bool,
}

/// Most values looked at. A chat of thousands of messages has fewer; a body made of millions of tiny
/// values would hold up its worker, so what comes after these counts as text.
const MAX_VALUES: u32 = 50_000;

/// Adds the media in the text of a member that holds messages, or in a list of images. Anything of an
/// unexpected type counts as text; the provider judges its shape.
pub fn measure(raw: &str, is_images: bool, media: &mut Media) {
    let mut values_left = MAX_VALUES;
    let mut is_text = false;
    let at = if is_images { Level::Images } else { Level::Node };
    let walk = Walk { media, values_left: &mut values_left, is_text: &mut is_text, at };
    let mut deserializer = serde_json::Deserializer::from_str(raw);
    // The text was scanned before; a value this walk can't read merely ends it, and what follows
    // counts as text.
    let _ = walk.deserialize(&mut deserializer);
}

/// Where in the request the walk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Messages, a message, its content or a part of that.
    Node,
    /// The object (or plain string) that holds a payload, such as `image_url`.
    Holder,
    /// As a holder, but a plain string there names a source and is no medium.
    Source,
    /// A string that is payload when it is a `data:` URL.
    Url,
    /// A string that is payload as it stands.
    Base64,
    /// A list of payloads.
    Images,
    /// What a holder holds: `text` is none.
    Kind,
}

struct Walk<'m> {
    media: &'m mut Media,
    values_left: &'m mut u32,
    /// The holder's kind says that it holds text.
    is_text: &'m mut bool,
    at: Level,
}

impl Walk<'_> {
    fn inner(&mut self, at: Level) -> Walk<'_> {
        Walk { media: self.media, values_left: self.values_left, is_text: self.is_text, at }
    }

    /// Counts a value; an error ends the walk.
    fn look_at_one<E: de::Error>(&mut self) -> Result<(), E> {
        *self.values_left = self.values_left.checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        Ok(())
    }

    fn add_payload(self, text: &str) {
        self.media.payload_bytes = self.media.payload_bytes.saturating_add(text.len());
    }

    fn count_part(&mut self) {
        self.media.parts = self.media.parts.saturating_add(1);
    }

    fn below(&mut self, key: &str) -> Option<Level> {
        match (self.at, key) {
            (Level::Node, "content" | "parts" | "toolResult") => Some(Level::Node),
            (Level::Node, "images") => Some(Level::Images),
            (Level::Node, "source") => Some(Level::Source),
            (
                Level::Node,
                "image_url" | "input_audio" | "file" | "file_data" | "image" | "document" | "video" | "audio"
                | "inlineData" | "inline_data" | "fileData",
            ) => {
                self.count_part();
                Some(Level::Holder)
            }
            (Level::Node, "file_id" | "file_url")
            | (Level::Holder, "file_id" | "fileUri" | "file_uri" | "s3Location") => {
                self.media.by_reference = true;
                None
            }
            (Level::Holder, "source") => Some(Level::Holder),
            (Level::Holder, "url" | "file_data") => Some(Level::Url),
            (Level::Holder, "data" | "bytes") => Some(Level::Base64),
            (Level::Holder, "type") => Some(Level::Kind),
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let element = match self.at {
            Level::Node => Some(Level::Node),
            Level::Images => Some(Level::Base64),
            _ => None,
        };
        match element {
            Some(level) => {
                while seq.next_element_seed(self.inner(level))?.is_some() {
                    self.look_at_one()?;
                    if level == Level::Base64 {
                        self.count_part();
                    }
                }
            }
            None => {
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    self.look_at_one()?;
                }
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        if self.at == Level::Source {
            self.count_part();
            self.at = Level::Holder;
        }
        let payload_before = self.media.payload_bytes;
        *self.is_text = false;
        while let Some(level) = map.next_key_seed(KeyLevel(&mut self))? {
            self.look_at_one()?;
            match level {
                Some(level) => map.next_value_seed(self.inner(level))?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if self.at == Level::Holder && std::mem::take(self.is_text) {
            self.media.payload_bytes = payload_before;
        }
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let is_data = text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
        match self.at {
            Level::Kind => *self.is_text = text == "text",
            Level::Base64 => self.add_payload(text),
            Level::Holder | Level::Url if is_data => self.add_payload(text),
            Level::Holder | Level::Url => self.media.by_reference = true,
            Level::Node | Level::Source | Level::Images => {}
        }
        Ok(())
    }

    scalars_are_passed_over!();
}

/// Reads a key as the level below it.
struct KeyLevel<'w, 'm>(&'w mut Walk<'m>);

impl<'de> DeserializeSeed<'de> for KeyLevel<'_, '_> {
    type Value = Option<Level>;

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyLevel<'_, '_> {
    type Value = Option<Level>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.below(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn measured(raw: &str) -> Media {
        let mut media = Media::default();
        measure(raw, false, &mut media);
        media
    }

    #[test]
    fn measures_inline_media_only() {
        for (content, parts, payload_bytes, by_reference) in [
            (r#""data:plain text of a user""#, 0, 0, false),
            (r#"[{"type":"text","text":"data:x"}]"#, 0, 0, false),
            (r#"[{"type":"image_url","image_url":{"url":"data:,12"}}]"#, 1, 8, false),
            (r#"[{"type":"image_url","image_url":{"url":"DATA:,12"}}]"#, 1, 8, false),
            (r#"[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]"#, 1, 0, true),
            (r#"[{"type":"image_url","image_url":"data:,1"}]"#, 1, 7, false),
            (r#"[{"type":"input_image","image_url":"https://x"}]"#, 1, 0, true),
            (r#"[{"type":"input_image","file_id":"file-1"}]"#, 0, 0, true),
            (r#"[{"type":"input_file","file_data":"data:,1"}]"#, 1, 7, false),
            (r#"[{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}]"#, 1, 4, false),
            (r#"[{"type":"file","file":{"file_data":"data:,1234"}}]"#, 1, 10, false),
            (r#"[{"type":"file","file":{"file_id":"file-1"}}]"#, 1, 0, true),
            (r#"[{"image_url":{"url":"data:,1"}},{"image_url":{"url":"data:,2"}}]"#, 2, 14, false),
            (r#"[{"image_url":{"url":"data:\u002c1"}}]"#, 1, 7, false),
            (r#"[{"image_url":{"url":["data:,1"]}}]"#, 1, 0, false),
            (r#"[{"image_url":{"other":"data:,1"}}]"#, 1, 0, false),
            (
                r#"[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]"#,
                1,
                4,
                false,
            ),
            (r#"[{"type":"image","source":{"type":"url","url":"https://x"}}]"#, 1, 0, true),
            (r#"[{"type":"document","source":{"type":"text","data":"words"}}]"#, 1, 0, false),
            (r#"[{"type":"document","source":{"data":"words","type":"text"}}]"#, 1, 0, false),
            (r#"[{"type":"search_result","source":"https://x","content":[]}]"#, 0, 0, false),
            (r#"[{"type":"tool_result","content":[{"source":{"type":"base64","data":"AA"}}]}]"#, 1, 2, false),
            (r#"[{"type":"tool_use","input":{"source":{"data":"words"}}}]"#, 0, 0, false),
            (r#"[{"image":{"format":"png","source":{"bytes":"AAAA"}}}]"#, 1, 4, false),
            (r#"[{"video":{"source":{"s3Location":{"uri":"s3://x"}}}}]"#, 1, 0, true),
            ("7", 0, 0, false),
            ("1.5", 0, 0, false),
            ("-5", 0, 0, false),
            ("true", 0, 0, false),
            ("null", 0, 0, false),
        ] {
            let messages = format!(r#"[{{"role":"user","content":{content}}}]"#);
            let expected = Media { parts, payload_bytes, by_reference };
            assert_eq!(measured(&messages), expected, "{content}");
        }
        let gemini = r#"[{"parts":[{"text":"x"},{"inlineData":{"mimeType":"image/png","data":"AAAA"}},
            {"file_data":{"file_uri":"gs://x"}}]}]"#;
        assert_eq!(measured(gemini), Media { parts: 2, payload_bytes: 4, by_reference: true });
        let ollama = r#"[{"role":"user","content":"x","images":["AAAA","BB"]}]"#;
        assert_eq!(measured(ollama), Media { parts: 2, payload_bytes: 6, by_reference: false });
        let mut images = Media::default();
        measure(r#"["AAAA"]"#, true, &mut images);
        assert_eq!(images, Media { parts: 1, payload_bytes: 4, by_reference: false });
        for odd in ["null", "{}", "\"\"", "3", "[[]]", "[1,null]", "[", ""] {
            assert_eq!(measured(odd), Media::default(), "{odd}");
        }
    }

    #[test]
    fn a_walk_over_millions_of_values_ends_and_the_rest_counts_as_text() {
        let image = r#"{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}"#;
        let inside = format!("[{image},{}{image}]", "1,".repeat(1_000));
        assert_eq!(measured(&inside).parts, 2);
        let beyond = format!("[{image},{}{image}]", "1,".repeat(60_000));
        assert_eq!(measured(&beyond), Media { parts: 1, payload_bytes: 26, by_reference: false });
    }
}

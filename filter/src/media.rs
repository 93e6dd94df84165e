//! Images, audio and files in a chat request: how many, and how many bytes of the body they are.

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
}

/// Most values looked at. A chat of thousands of messages has fewer; a body made of millions of tiny
/// values would hold up its worker, so what comes after these counts as text.
const MAX_VALUES: u32 = 50_000;

/// Measures the media in the `messages` of a chat request. Anything of an unexpected type counts as
/// text; the provider judges its shape.
#[must_use]
pub fn measure(messages: &str) -> Media {
    let mut media = Media::default();
    let mut values_left = MAX_VALUES;
    let walk = Walk { media: &mut media, values_left: &mut values_left, at: Level::Messages };
    let mut deserializer = serde_json::Deserializer::from_str(messages);
    // The text was scanned before; a value this walk can't read merely ends it, and what follows
    // counts as text.
    let _ = walk.deserialize(&mut deserializer);
    media
}

/// Where in the request the walk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Messages,
    Message,
    Content,
    Part,
    /// The object (or plain string) that holds a payload, such as `image_url`.
    Holder,
    /// A string that is payload when it is a `data:` URL.
    Url,
    /// A string that is payload as it stands.
    Base64,
}

struct Walk<'m> {
    media: &'m mut Media,
    values_left: &'m mut u32,
    at: Level,
}

impl Walk<'_> {
    fn inner(&mut self, at: Level) -> Walk<'_> {
        Walk { media: self.media, values_left: self.values_left, at }
    }

    /// Counts a value; an error ends the walk.
    fn look_at_one<E: de::Error>(&mut self) -> Result<(), E> {
        *self.values_left = self.values_left.checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        Ok(())
    }

    fn below(&mut self, key: &str) -> Option<Level> {
        match (self.at, key) {
            (Level::Message, "content") => Some(Level::Content),
            (Level::Part, "image_url" | "input_audio" | "file") => {
                self.media.parts = self.media.parts.saturating_add(1);
                Some(Level::Holder)
            }
            (Level::Holder, "url" | "file_data") => Some(Level::Url),
            (Level::Holder, "data") => Some(Level::Base64),
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
            Level::Messages => Some(Level::Message),
            Level::Content => Some(Level::Part),
            _ => None,
        };
        match element {
            Some(level) => {
                while seq.next_element_seed(self.inner(level))?.is_some() {
                    self.look_at_one()?;
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
        while let Some(level) = map.next_key_seed(KeyLevel(&mut self))? {
            self.look_at_one()?;
            match level {
                Some(level) => map.next_value_seed(self.inner(level))?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let is_payload = match self.at {
            Level::Base64 => true,
            Level::Holder | Level::Url => {
                text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
            }
            _ => false,
        };
        if is_payload {
            self.media.payload_bytes = self.media.payload_bytes.saturating_add(text.len());
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

    #[test]
    fn measures_inline_media_only() {
        for (content, parts, payload_bytes) in [
            (r#""data:plain text of a user""#, 0, 0),
            (r#"[{"type":"text","text":"data:x"}]"#, 0, 0),
            (r#"[{"type":"image_url","image_url":{"url":"data:,12"}}]"#, 1, 8),
            (r#"[{"type":"image_url","image_url":{"url":"DATA:,12"}}]"#, 1, 8),
            (r#"[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]"#, 1, 0),
            (r#"[{"type":"image_url","image_url":"data:,1"}]"#, 1, 7),
            (r#"[{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}]"#, 1, 4),
            (r#"[{"type":"file","file":{"file_data":"data:,1234"}}]"#, 1, 10),
            (r#"[{"type":"file","file":{"file_id":"file-1"}}]"#, 1, 0),
            (r#"[{"image_url":{"url":"data:,1"}},{"image_url":{"url":"data:,2"}}]"#, 2, 14),
            (r#"[{"image_url":{"url":"data:\u002c1"}}]"#, 1, 7),
            (r#"[{"image_url":{"url":["data:,1"]}}]"#, 1, 0),
            (r#"[{"image_url":{"other":"data:,1"}}]"#, 1, 0),
            (r#"{"image_url":{"url":"data:,1"}}"#, 0, 0),
            ("7", 0, 0),
            ("1.5", 0, 0),
            ("-5", 0, 0),
            ("true", 0, 0),
            ("null", 0, 0),
        ] {
            let messages = format!(r#"[{{"role":"user","content":{content}}}]"#);
            let expected = Media { parts, payload_bytes };
            assert_eq!(measure(&messages), expected, "{content}");
        }
        for odd in ["null", "{}", "\"\"", "3", "[[]]", "[1,null]", "[", ""] {
            assert_eq!(measure(odd), Media::default(), "{odd}");
        }
    }

    #[test]
    fn a_walk_over_millions_of_values_ends_and_the_rest_counts_as_text() {
        let image = r#"{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}"#;
        let inside = format!("[{image},{}{image}]", "1,".repeat(1_000));
        assert_eq!(measure(&inside).parts, 2);
        let beyond = format!("[{image},{}{image}]", "1,".repeat(60_000));
        assert_eq!(measure(&beyond), Media { parts: 1, payload_bytes: 26 });
    }
}

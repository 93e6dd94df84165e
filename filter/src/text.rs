//! Counting the text in a piece of JSON.

use std::fmt;

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::json_scan::scalars_are_passed_over;

/// Members whose strings name things and are no text of the model's. `data` and its like are media,
/// whose words come as a transcript, too.
const LABELS: [&str; 20] = [
    "role",
    "id",
    "type",
    "data",
    "status",
    "call_id",
    "item_id",
    "toolUseId",
    "signature",
    "thoughtSignature",
    "encrypted_content",
    "redactedContent",
    "mimeType",
    "media_type",
    "format",
    "stop_reason",
    "finish_reason",
    "finishReason",
    "b64_json",
    "bytes",
];

/// Bytes of all strings in a value, labels apart. What is nested too deeply to be walked is counted as
/// far as it was.
#[must_use]
pub fn bytes(raw: &str) -> u64 {
    let mut bytes = 0;
    let mut deserializer = serde_json::Deserializer::from_str(raw);
    let _ = TextBytes(&mut bytes).deserialize(&mut deserializer);
    bytes
}

struct TextBytes<'b>(&'b mut u64);

impl<'de> DeserializeSeed<'de> for TextBytes<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextBytes<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        *self.0 = self.0.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(TextBytes(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if LABELS.contains(&key.as_str()) {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(TextBytes(&mut *self.0))?;
            }
        }
        Ok(())
    }

    scalars_are_passed_over!();
}

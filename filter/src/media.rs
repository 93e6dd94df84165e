//! Images, audio and files in a request: how many, how many bytes of the body they are, and whether
//! some are only referred to. One walk fits all APIs: it goes down where messages hold their content.

use std::borrow::Cow;

use crate::json_scan;

/// The media of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Media {
    /// Parts with an image, audio or a file.
    pub parts: u32,
    /// Bytes of the body that are their inline payload (`data:` URLs, base64) and not text.
    pub payload_bytes: usize,
    /// Some stand elsewhere: a URL, a file's id, an item of an earlier answer. Their size is not known.
    pub by_reference: bool,
}

/// Most values looked at. A chat of thousands of messages has fewer; a body made of millions of tiny
/// values would hold up its worker, so what comes after these counts as text, and may refer to anything.
const MAX_VALUES: u32 = 50_000;

/// Adds the media in the text of a member that holds messages, or in a list of images. Anything of an
/// unexpected type counts as text; the provider judges its shape.
pub fn measure(raw: &str, is_images: bool, media: &mut Media) {
    let at = if is_images { Level::Images } else { Level::Node };
    let mut walk = Walk { rest: raw, media, values_left: MAX_VALUES, is_text: false };
    // The text was scanned before and is JSON; where the walk ends early, what follows counts as text.
    let is_whole = walk.value(at, 0).is_some();
    let ran_out = walk.values_left == 0;
    media.by_reference |= ran_out && !is_whole;
}

/// Deepest nesting that is walked.
const MAX_DEPTH: u32 = 128;

/// The nesting within an item of the list that is walked.
const TOP_ITEM: u32 = 2;

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
    /// What a message or item is: it may be one that only names another.
    ItemKind,
}

/// A walk over text that is known to be JSON. Strings that hold no payload are passed over without being
/// decoded, which is most of a chat. A step is nothing when the walk is over.
struct Walk<'a, 'm> {
    rest: &'a str,
    media: &'m mut Media,
    values_left: u32,
    /// The holder's kind says that it holds text.
    is_text: bool,
}

impl<'a> Walk<'a, '_> {
    /// Counts a value; there are only so many.
    fn look_at_one(&mut self) -> Option<()> {
        self.values_left = self.values_left.checked_sub(1)?;
        Some(())
    }

    fn count_part(&mut self) {
        self.media.parts = self.media.parts.saturating_add(1);
    }

    /// The next byte that is no space; it stays.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.as_bytes().first().copied()
    }

    fn advance(&mut self, bytes: usize) -> Option<()> {
        self.rest = self.rest.get(bytes..)?;
        Some(())
    }

    /// Takes a byte if it is the next one.
    fn takes(&mut self, byte: u8) -> Option<bool> {
        let is_there = self.peek()? == byte;
        self.advance(usize::from(is_there))?;
        Some(is_there)
    }

    /// Takes a string and its quotes: what stands between them, and whether that has escapes.
    fn string(&mut self) -> Option<(&'a str, bool)> {
        self.advance(1)?;
        let (bytes, mut at, mut has_escapes) = (self.rest.as_bytes(), 0_usize, false);
        loop {
            at = at.checked_add(plain_bytes(bytes.get(at..)?))?;
            if *bytes.get(at)? == b'"' {
                break;
            }
            has_escapes = true;
            at = at.checked_add(2)?;
        }
        let text = self.rest.get(..at)?;
        self.advance(at.checked_add(1)?)?;
        Some((text, has_escapes))
    }

    fn decoded(&mut self) -> Option<Cow<'a, str>> {
        let (text, has_escapes) = self.string()?;
        if !has_escapes {
            return Some(Cow::Borrowed(text));
        }
        json_scan::string(&format!("\"{text}\"")).map(Cow::Owned)
    }

    /// Passes over a value.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    depth = depth.checked_add(1)?;
                    self.advance(1)?;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.advance(1)?;
                }
                b',' | b':' => self.advance(1)?,
                _ => self.scalar()?,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn scalar(&mut self) -> Option<()> {
        let is_end = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
        let bytes = self.rest.as_bytes();
        self.advance(bytes.iter().position(is_end).unwrap_or(bytes.len()))
    }

    fn value(&mut self, at: Level, depth: u32) -> Option<()> {
        if depth == MAX_DEPTH {
            return None;
        }
        match self.peek()? {
            b'{' => self.object(at, depth.saturating_add(1)),
            b'[' => self.array(at, depth.saturating_add(1)),
            b'"' if matches!(at, Level::Node | Level::Source | Level::Images) => self.string().map(drop),
            b'"' => {
                let text = self.decoded()?;
                self.text(at, &text);
                Some(())
            }
            _ => self.scalar(),
        }
    }

    fn array(&mut self, at: Level, depth: u32) -> Option<()> {
        self.advance(1)?;
        while !self.takes(b']')? {
            match at {
                Level::Node => self.value(Level::Node, depth)?,
                Level::Images => {
                    self.value(Level::Base64, depth)?;
                    self.count_part();
                }
                _ => self.skip()?,
            }
            self.look_at_one()?;
            self.takes(b',')?;
        }
        Some(())
    }

    fn object(&mut self, at: Level, depth: u32) -> Option<()> {
        let at = if at == Level::Source {
            self.count_part();
            Level::Holder
        } else {
            at
        };
        let payload_before = self.media.payload_bytes;
        self.is_text = false;
        let (mut has_id, mut has_more) = (false, false);
        self.advance(1)?;
        while !self.takes(b'}')? {
            let key = self.decoded()?;
            has_id |= key == "id";
            has_more |= !matches!(key.as_ref(), "id" | "type");
            self.takes(b':')?;
            let below = self.below(at, &key);
            self.look_at_one()?;
            match below {
                Some(level) => self.value(level, depth)?,
                None => self.skip()?,
            }
            self.takes(b',')?;
        }
        // An item of a list at the top that is but an id stands for what the server has under it.
        self.media.by_reference |= at == Level::Node && depth == TOP_ITEM && has_id && !has_more;
        if at == Level::Holder && std::mem::take(&mut self.is_text) {
            self.media.payload_bytes = payload_before;
        }
        Some(())
    }

    fn text(&mut self, at: Level, text: &str) {
        let is_data = text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
        match at {
            Level::Kind => self.is_text = text == "text",
            Level::ItemKind => self.media.by_reference |= text == "item_reference",
            Level::Base64 => self.add_payload(text),
            Level::Holder | Level::Url if is_data => self.add_payload(text),
            Level::Holder | Level::Url => self.media.by_reference = true,
            Level::Node | Level::Source | Level::Images => {}
        }
    }

    fn add_payload(&mut self, text: &str) {
        self.media.payload_bytes = self.media.payload_bytes.saturating_add(text.len());
    }

    fn below(&mut self, at: Level, key: &str) -> Option<Level> {
        match (at, key) {
            (Level::Node, "content" | "parts" | "toolResult" | "output") => Some(Level::Node),
            (Level::Node, "type") => Some(Level::ItemKind),
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

/// How many bytes come before the first quote or backslash, looked at eight at a time.
fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, tail) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest bit that is set marks the first byte that is equal.
        let equal = |byte: u8| {
            let differs = word ^ u64::from_ne_bytes([byte; 8]);
            differs.wrapping_sub(ONES) & !differs & HIGH_BITS
        };
        let found = equal(b'"') | equal(b'\\');
        if found != 0 {
            let within = usize::try_from(found.trailing_zeros().div_euclid(8)).unwrap_or(0);
            return number.saturating_mul(8).saturating_add(within);
        }
    }
    let before = tail.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(tail.len());
    words.len().saturating_mul(8).saturating_add(before)
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
        assert_eq!(measured(&beyond), Media { parts: 1, payload_bytes: 26, by_reference: true });
    }

    #[test]
    fn an_item_that_is_but_an_id_is_a_reference() {
        for (input, by_reference) in [
            (r#"[{"type":"item_reference","id":"msg_1"}]"#, true),
            (r#"[{"type":"item\u005freference","id":"msg_1","x":1}]"#, true),
            (r#"[{"role":"user","content":"x"},{"id":"msg_1"}]"#, true),
            (r#"[{"\u0069d":"msg_1","type":null}]"#, true),
            (r#"[{"type":"message","id":"msg_1","content":"x"}]"#, false),
            (r#"[{"type":"message","content":"item_reference"}]"#, false),
            (r#"[{"type":"compaction"}]"#, false),
            (r#"[{"type":"function_call_output","output":{"id":"1"}}]"#, false),
            (r#"[{"type":"function_call_output","output":[{"type":"input_file","file_id":"f"}]}]"#, true),
            (r#"[{"type":"computer_call_output","output":{"image_url":"https://x"}}]"#, true),
        ] {
            assert_eq!(measured(input).by_reference, by_reference, "{input}");
        }
    }
}

//! Cutting a stream of JSON objects, one after the other or in one array, however its bytes arrive.

/// A part of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// A whole object.
    Object(&'a [u8]),
    /// So many bytes that can't be read: no object, or too long a one.
    Unread(usize),
}

/// Cuts a stream into [`Value`]s. Lines, commas and the brackets of one array are what may stand between
/// objects.
#[derive(Debug)]
pub struct Values {
    /// The bytes of the object under way.
    object: Vec<u8>,
    max_object_bytes: usize,
    /// How deep the object under way is nested; 0 between objects.
    depth: u32,
    in_string: bool,
    after_backslash: bool,
    /// The object under way is too long.
    is_opaque: bool,
}

impl Values {
    /// A splitter that reads objects up to a length.
    #[must_use]
    pub const fn new(max_object_bytes: usize) -> Self {
        Self {
            object: Vec::new(),
            max_object_bytes,
            depth: 0,
            in_string: false,
            after_backslash: false,
            is_opaque: false,
        }
    }

    /// Takes the next bytes; hands over every object that they complete.
    pub fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(Value<'_>)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.depth == 0 {
                let quiet = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b'[' | b']');
                let start = rest.iter().position(|byte| *byte == b'{').unwrap_or(rest.len());
                let (between, tail) = rest.split_at_checked(start).unwrap_or((rest, &[]));
                let noise = between.iter().filter(|byte| !quiet(byte)).count();
                if noise > 0 {
                    sink(Value::Unread(noise));
                }
                rest = tail;
                if rest.is_empty() {
                    return;
                }
            }
            let end = self.object_end(rest);
            let (head, tail) = rest.split_at_checked(end.unwrap_or(rest.len())).unwrap_or((rest, &[]));
            self.keep(head, end.is_some(), &mut sink);
            rest = tail;
        }
    }

    /// Ends the stream: what is left of an object can't be read.
    pub fn finish(&mut self, mut sink: impl FnMut(Value<'_>)) {
        if !self.object.is_empty() {
            sink(Value::Unread(self.object.len()));
        }
        *self = Self::new(self.max_object_bytes);
    }

    /// Reads on to the end of the object: the index after it, or nothing when it goes on.
    fn object_end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.after_backslash => self.after_backslash = false,
                    b'\\' => self.after_backslash = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return index.checked_add(1);
                    }
                }
                _ => {}
            }
        }
        None
    }

    fn keep(&mut self, head: &[u8], is_whole: bool, sink: &mut impl FnMut(Value<'_>)) {
        let length = self.object.len().saturating_add(head.len());
        if self.is_opaque {
            sink(Value::Unread(head.len()));
        } else if length > self.max_object_bytes {
            // Also where it came in one piece: what is read must not depend on where the stream was cut.
            sink(Value::Unread(length));
            self.object = Vec::new();
            self.is_opaque = true;
        } else if is_whole && self.object.is_empty() {
            sink(Value::Object(head));
        } else {
            self.object.extend_from_slice(head);
            if is_whole {
                sink(Value::Object(&self.object));
            }
        }
        if is_whole {
            self.object.clear();
            self.is_opaque = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn collect(max: usize, parts: &[&[u8]]) -> (Vec<String>, usize) {
        let (mut values, mut objects, mut unread) = (Values::new(max), Vec::new(), 0);
        let mut take = |value: Value<'_>| match value {
            Value::Object(bytes) => objects.push(String::from_utf8(bytes.to_vec()).unwrap()),
            Value::Unread(bytes) => unread += bytes,
        };
        for part in parts {
            values.push(part, &mut take);
        }
        values.finish(&mut take);
        (objects, unread)
    }

    const LINES: &str = "{\"a\":\"}\\\"{\"}\n{\"b\":[{}]}\r\n\n{}";
    const ARRAY: &str = "[{\r\n  \"a\": \"h\u{e9}]\"\r\n}\r\n,\r\n{\"b\":{\"c\":[1]}}\r\n]\r\n";

    #[test]
    fn cuts_at_every_byte_give_the_same_objects() {
        for (stream, expected) in [
            (LINES, vec!["{\"a\":\"}\\\"{\"}", "{\"b\":[{}]}", "{}"]),
            (ARRAY, vec!["{\r\n  \"a\": \"h\u{e9}]\"\r\n}", "{\"b\":{\"c\":[1]}}"]),
        ] {
            let bytes = stream.as_bytes();
            for cut in 0..=bytes.len() {
                let (objects, unread) = collect(1000, &[&bytes[..cut], &bytes[cut..]]);
                assert_eq!((objects, unread), (expected.iter().map(ToString::to_string).collect(), 0));
            }
            let single = bytes.chunks(1).collect::<Vec<_>>();
            assert_eq!(collect(1000, &single).0, expected);
        }
    }

    #[test]
    fn what_is_no_object_or_too_long_counts_as_unread() {
        assert_eq!(collect(9, &[b"nope \"x\" {\"a\":1} {\"cut\""]), (vec!["{\"a\":1}".to_owned()], 7 + 6));
        let (objects, unread) = collect(9, &[b"{\"long\":", b"\"1234\"}", b"{\"b\":", b"2}"]);
        assert_eq!((objects, unread), (vec!["{\"b\":2}".to_owned()], 15));
        for size in 1..=15 {
            let parts: Vec<&[u8]> = b"{\"b\":2}{\"long\":1}".chunks(size).collect();
            assert_eq!(collect(9, &parts), (vec!["{\"b\":2}".to_owned()], 10), "chunks of {size}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(collect(9, &[b"{\"a\":", deep.as_bytes()]), (Vec::new(), 100_005));
    }
}

//! Header maps in the form the proxy hands them over: one block of bytes. Names and values stay
//! bytes; a value need not be UTF-8.

use std::ops::Range;

/// A header block that can be looked up. Names are lower case, as HTTP/2 and Envoy have them.
#[derive(Debug, Default)]
pub struct Headers {
    raw: Vec<u8>,
    entries: Vec<(Range<usize>, Range<usize>)>,
}

/// The block's lengths don't add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl Headers {
    /// Reads a block: a count, then a pair of lengths per header (all `u32`, little-endian), then
    /// each name and value followed by a zero byte. An empty block is an empty map.
    ///
    /// # Errors
    /// [`Malformed`] when a length points outside the block.
    pub fn parse(raw: Vec<u8>) -> Result<Self, Malformed> {
        if raw.is_empty() {
            return Ok(Self::default());
        }
        let count = length_at(&raw, 0).ok_or(Malformed)?;
        let mut at = count
            .checked_mul(8)
            .and_then(|table| table.checked_add(4))
            .filter(|start| *start <= raw.len())
            .ok_or(Malformed)?;
        let mut entries = Vec::with_capacity(count);
        for row in (4..at).step_by(8) {
            let mut field = |length_offset: usize| {
                let end = at.checked_add(length_at(&raw, length_offset)?)?;
                raw.get(at..end)?;
                let field = at..end;
                at = end.checked_add(1)?;
                Some(field)
            };
            let name = field(row).ok_or(Malformed)?;
            let value = field(row.saturating_add(4)).ok_or(Malformed)?;
            entries.push((name, value));
        }
        Ok(Self { raw, entries })
    }

    /// Every value of a header, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.entries
            .iter()
            .filter(move |(key, _)| self.raw.get(key.clone()) == Some(name.as_bytes()))
            .filter_map(|(_, value)| self.raw.get(value.clone()))
    }

    /// The first value of a header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries
            .iter()
            .find(|(key, _)| self.raw.get(key.clone()) == Some(name.as_bytes()))
            .and_then(|(_, value)| self.raw.get(value.clone()))
    }
}

fn length_at(raw: &[u8], offset: usize) -> Option<usize> {
    let bytes = raw.get(offset..offset.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

/// Writes pairs as a block that [`Headers::parse`] and the proxy read.
#[must_use]
pub fn serialize<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(N, V)]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut raw = u32::try_from(pairs.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    for (name, value) in pairs {
        raw.extend(length(name.as_ref()));
        raw.extend(length(value.as_ref()));
    }
    for (name, value) in pairs {
        raw.extend_from_slice(name.as_ref());
        raw.push(0);
        raw.extend_from_slice(value.as_ref());
        raw.push(0);
    }
    raw
}

/// One change to a header map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderEdit {
    /// Replaces every value of the header by this one.
    Set(String, String),
    /// Takes the header out.
    Remove(String),
}

impl HeaderEdit {
    /// [`HeaderEdit::Set`] from anything textual.
    pub fn set(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Set(name.into(), value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_is_serialized_reads_back() {
        let raw = serialize(&[("a", &b"1"[..]), ("b", b"\xff\xfe"), ("a", b""), ("", b"x")]);
        let headers = Headers::parse(raw).unwrap();
        assert_eq!(headers.get("a"), Some(&b"1"[..]));
        assert_eq!(headers.get("b"), Some(&b"\xff\xfe"[..]));
        assert_eq!(headers.get("c"), None);
        assert_eq!(headers.all("a").collect::<Vec<_>>(), [&b"1"[..], b""]);
        assert_eq!(Headers::parse(Vec::new()).unwrap().get("a"), None);
    }

    #[test]
    fn a_block_cut_anywhere_is_refused_or_read_without_harm() {
        let raw = serialize(&[("name", "value"), ("other", "thing")]);
        for cut in 1..raw.len() - 1 {
            assert_eq!(Headers::parse(raw[..cut].to_vec()).map(|_| ()), Err(Malformed), "cut at {cut}");
        }
        for huge in [vec![255; 4], vec![255; 64], vec![1, 0, 0, 0, 255, 255, 255, 255]] {
            assert!(Headers::parse(huge).is_err());
        }
    }
}

//! AWS's binary event stream (`application/vnd.amazon.eventstream`), as far as it is written here:
//! headers with text values.

use flate2::Crc;

pub const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

/// Type of a header's value: text.
const TEXT: u8 = 7;
/// Total length, length of the headers, checksum of both; the checksum at the end.
const OVERHEAD: usize = 16;

/// A frame: lengths, checksum of these, headers, payload, checksum of everything.
pub fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        head.extend_from_slice(name.as_bytes());
        head.push(TEXT);
        head.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        head.extend_from_slice(value.as_bytes());
    }
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = Vec::new();
    frame.extend_from_slice(&length(OVERHEAD + head.len() + payload.len()));
    frame.extend_from_slice(&length(head.len()));
    frame.extend_from_slice(&checksum(&frame));
    frame.extend_from_slice(&head);
    frame.extend_from_slice(payload);
    let whole = checksum(&frame);
    frame.extend_from_slice(&whole);
    frame
}

/// An event of that type with a JSON payload.
pub fn event(kind: &str, json: &str) -> Vec<u8> {
    let headers = [(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")];
    frame(&headers, json.as_bytes())
}

/// An exception of that type with a JSON payload.
pub fn exception(kind: &str, json: &str) -> Vec<u8> {
    let headers =
        [(":exception-type", kind), (":content-type", "application/json"), (":message-type", "exception")];
    frame(&headers, json.as_bytes())
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_checksums_are_those_of_the_format() {
        // CRC-32 of "123456789" is 0xcbf43926, by definition of the polynomial.
        assert_eq!(checksum(b"123456789"), [0xcb, 0xf4, 0x39, 0x26]);
        let frame = frame(&[("a", "bc")], b"{}");
        assert_eq!(frame.len(), 16 + 7 + 2);
        assert_eq!(frame[..8], [0, 0, 0, 25, 0, 0, 0, 7]);
        assert_eq!(frame[8..12], checksum(&frame[..8]));
        assert_eq!(frame[12..20], *b"\x01a\x07\x00\x02bc{");
        assert_eq!(frame[20], b'}');
        assert_eq!(frame[21..], checksum(&frame[..21]));
    }
}

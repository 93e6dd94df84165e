//! Hold ids.

use uuid::{Builder, Uuid};

/// A UUIDv7 from the time, milliseconds since the Unix epoch, and ten random bytes. It sorts by
/// time, so that the backend can pick a partition from the id alone.
#[must_use]
pub fn hold_id(now_unix_ms: u64, random: &[u8; 10]) -> Uuid {
    Builder::from_unix_timestamp_millis(now_unix_ms, random).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn is_version_7_and_keeps_time_and_randomness() {
        let id = hold_id(0x0192_3456_789a, &[0xff; 10]);
        assert_eq!(id.to_string(), "01923456-789a-7fff-bfff-ffffffffffff");
        assert_eq!(id.get_version_num(), 7);
        assert!(hold_id(1, &[0xff; 10]) < hold_id(2, &[0; 10]));
        assert_ne!(hold_id(1, &[0; 10]), hold_id(1, &[1; 10]));
    }
}

//! Tokens: 256 random bits, told once; what is kept is their SHA-256. A slow hash guards words that people
//! think up; nobody goes through 2^256 numbers.

use std::fmt::Write as _;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

/// What every token begins with, so that it is known for one wherever it leaks to.
const PREFIX: &str = "purser_";

/// Random bytes of a token.
const RANDOM_BYTES: usize = 32;

/// Longest token that is looked at, bytes.
const MAX_BYTES: usize = 512;

/// SHA-256 of a token.
pub type Fingerprint = [u8; 32];

/// A fresh token; `None` when the system gives no random numbers.
#[must_use]
pub fn mint() -> Option<String> {
    let mut bytes = [0_u8; RANDOM_BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    let mut token = PREFIX.to_owned();
    for byte in bytes {
        write!(token, "{byte:02x}").ok()?;
    }
    Some(token)
}

/// What is kept of a token; `None` for what can't be one.
#[must_use]
pub fn fingerprint(token: &[u8]) -> Option<Fingerprint> {
    if token.len() > MAX_BYTES {
        return None;
    }
    digest(&SHA256, token).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike_and_their_hash_is_their_sha_256() {
        let (one, other) = (mint().unwrap(), mint().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), PREFIX.len() + 64);
        // Of FIPS 180-2, appendix B.1.
        let abc = fingerprint(b"abc").unwrap();
        assert_eq!(abc[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(fingerprint(&[b'x'; MAX_BYTES + 1]), None);
    }
}

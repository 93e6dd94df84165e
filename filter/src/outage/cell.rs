//! Bytes that all workers of a proxy process share.

use std::cell::RefCell;
use std::fmt;

/// A value that others may change between a look and a write.
pub trait SharedCell: fmt::Debug {
    /// The bytes, and the number of this version of them; nothing when the proxy doesn't hand them out.
    fn read(&self) -> Option<(Vec<u8>, u32)>;

    /// Writes other bytes, if the version is still that one.
    fn write(&self, bytes: &[u8], version: u32) -> Written;
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The bytes are there.
    Done,
    /// Somebody else was quicker.
    Raced,
    /// The proxy refused.
    Refused,
}

/// How often a write that others forestall is tried. Each time somebody else's went through.
const TRIES: u32 = 64;

/// Changes what a cell holds: `change` turns the bytes into others, or says that they stay, and a result. It
/// may run more than once; the last run counts. `None` when the change could not be made.
pub fn update<T>(cell: &dyn SharedCell, mut change: impl FnMut(&[u8]) -> (Option<Vec<u8>>, T)) -> Option<T> {
    for _ in 0..TRIES {
        let (bytes, version) = cell.read()?;
        let (changed, result) = change(&bytes);
        let Some(changed) = changed else { return Some(result) };
        match cell.write(&changed, version) {
            Written::Done => return Some(result),
            Written::Raced => {}
            Written::Refused => return None,
        }
    }
    None
}

/// A cell of one worker alone.
#[derive(Debug, Default)]
pub struct OwnCell(RefCell<Vec<u8>>);

impl SharedCell for OwnCell {
    fn read(&self) -> Option<(Vec<u8>, u32)> {
        Some((self.0.borrow().clone(), 1))
    }

    fn write(&self, bytes: &[u8], _: u32) -> Written {
        self.0.replace(bytes.to_vec());
        Written::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Somebody else adds one before each of the first writes.
    #[derive(Debug)]
    struct Contended {
        bytes: RefCell<Vec<u8>>,
        version: Cell<u32>,
        others: Cell<u32>,
    }

    impl SharedCell for Contended {
        fn read(&self) -> Option<(Vec<u8>, u32)> {
            Some((self.bytes.borrow().clone(), self.version.get()))
        }

        fn write(&self, bytes: &[u8], version: u32) -> Written {
            if self.others.get() > 0 {
                self.others.set(self.others.get() - 1);
                self.bytes.borrow_mut()[0] += 1;
                self.version.set(self.version.get() + 1);
            }
            if self.version.get() != version {
                return Written::Raced;
            }
            self.bytes.replace(bytes.to_vec());
            Written::Done
        }
    }

    fn add_one(cell: &dyn SharedCell) -> Option<u8> {
        update(cell, |bytes| (Some(vec![bytes[0] + 1]), bytes[0] + 1))
    }

    #[test]
    fn no_change_is_lost_to_another() {
        for (others, expected) in [(0, Some(1)), (3, Some(4)), (63, Some(64)), (64, None)] {
            let cell =
                Contended { bytes: RefCell::new(vec![0]), version: Cell::new(1), others: Cell::new(others) };
            assert_eq!(add_one(&cell), expected, "{others}");
            assert_eq!(cell.bytes.borrow()[0], u8::try_from(others).unwrap() + u8::from(expected.is_some()));
        }
    }

    #[derive(Debug)]
    struct Broken(bool);

    impl SharedCell for Broken {
        fn read(&self) -> Option<(Vec<u8>, u32)> {
            self.0.then(|| (vec![0], 1))
        }

        fn write(&self, _: &[u8], _: u32) -> Written {
            Written::Refused
        }
    }

    #[test]
    fn a_proxy_that_refuses_is_told_of() {
        assert_eq!((add_one(&Broken(true)), add_one(&Broken(false))), (None, None));
        assert_eq!(update(&Broken(true), |_| (None, 7)), Some(7), "nothing was to be written");
    }
}

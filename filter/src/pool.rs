//! Memory for answers that are kept until they are whole.

use std::cell::Cell;
use std::rc::Rc;

/// Memory that all answers of one proxy worker may use together for metering.
#[derive(Debug, Clone)]
pub struct Pool {
    free_bytes: Rc<Cell<usize>>,
}

impl Pool {
    /// A pool of a size.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { free_bytes: Rc::new(Cell::new(bytes)) }
    }

    /// Bytes that are free.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.free_bytes.get()
    }
}

/// Keeps a JSON answer until it is whole, within bounds.
#[derive(Debug)]
pub struct BodyBuffer {
    bytes: Vec<u8>,
    max_bytes: usize,
    pool: Pool,
    overflowed: bool,
}

impl BodyBuffer {
    /// An empty buffer that takes at most `max_bytes`, out of the pool.
    #[must_use]
    pub fn new(max_bytes: usize, pool: Pool) -> Self {
        Self { bytes: Vec::new(), max_bytes, pool, overflowed: false }
    }

    /// Adds bytes. A body that outgrows its bound is forgotten: part of a JSON object tells nothing.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.overflowed {
            return;
        }
        let length = self.bytes.len().saturating_add(bytes.len());
        match self.pool.free_bytes.get().checked_sub(bytes.len()) {
            Some(free) if length <= self.max_bytes => {
                self.pool.free_bytes.set(free);
                self.bytes.extend_from_slice(bytes);
            }
            _ => {
                self.release();
                self.overflowed = true;
            }
        }
    }

    /// The body so far; empty after an overflow.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn release(&mut self) {
        let free = self.pool.free_bytes.get().saturating_add(self.bytes.len());
        self.pool.free_bytes.set(free);
        self.bytes = Vec::new();
    }
}

impl Drop for BodyBuffer {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn buffers_stay_within_their_bound_and_the_pool() {
        let pool = Pool::new(10);
        let mut first = BodyBuffer::new(8, pool.clone());
        first.push(b"12345678");
        assert_eq!(first.bytes(), b"12345678");
        let mut second = BodyBuffer::new(8, pool.clone());
        second.push(b"123");
        assert_eq!(second.bytes(), b"");
        first.push(b"9");
        first.push(b"x");
        assert_eq!(first.bytes(), b"");
        assert_eq!(pool.free_bytes.get(), 10);
        let mut third = BodyBuffer::new(10, pool.clone());
        third.push(b"1234567890");
        drop(third);
        assert_eq!(pool.free_bytes.get(), 10);
    }
}

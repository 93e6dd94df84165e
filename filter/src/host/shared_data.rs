//! What all VMs of a proxy process share under the filter's `vm_id`. It outlives them, traps included.

use crate::hostcalls::{self, Level, NOT_FOUND, RACED};
use crate::journal::Store;
use crate::outage::cell::{SharedCell, Written};

/// Where what goes out without a verdict is counted.
const FAIL_OPEN_KEY: &str = "purser.fail_open";

/// What goes out without a verdict, of all workers.
#[derive(Debug)]
pub struct FailOpenCount(());

impl FailOpenCount {
    /// Sees to it that the value is there. The proxy checks no version of a value that isn't; but its main
    /// thread makes it, before it starts the workers.
    pub fn ready() -> Self {
        if hostcalls::shared_data(FAIL_OPEN_KEY) == Err(NOT_FOUND)
            && let Err(status) = hostcalls::set_shared_data(FAIL_OPEN_KEY, &[], 0)
        {
            let line = format!("the proxy refused shared data, nothing will fail open: {status:?}");
            hostcalls::log(Level::Error, &line);
        }
        Self(())
    }
}

impl SharedCell for FailOpenCount {
    fn read(&self) -> Option<(Vec<u8>, u32)> {
        hostcalls::shared_data(FAIL_OPEN_KEY).ok()
    }

    fn write(&self, bytes: &[u8], version: u32) -> Written {
        SharedValues.set(FAIL_OPEN_KEY, bytes, version)
    }
}

/// All of what is shared, by name.
#[derive(Debug)]
pub struct SharedValues;

impl Store for SharedValues {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        hostcalls::shared_data(key).ok()
    }

    fn set(&self, key: &str, value: &[u8], version: u32) -> Written {
        match hostcalls::set_shared_data(key, value, version) {
            Ok(()) => Written::Done,
            Err(RACED) => Written::Raced,
            Err(_) => Written::Refused,
        }
    }
}

//! Gates: answers that wait until a test lets them go on, so that no test needs a clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::lock;

/// Names kept. Beyond it the gate of a new name is open.
const MAX_GATES: usize = 4096;

#[derive(Debug, Default)]
struct Gate {
    open: watch::Sender<bool>,
    arrived: watch::Sender<u64>,
}

/// Gates by name. A gate is closed until it is opened and stays open then.
#[derive(Debug, Default)]
pub struct Gates(Mutex<BTreeMap<String, Arc<Gate>>>);

impl Gates {
    /// Opens a gate for those who wait and those who come.
    pub fn open(&self, name: &str) {
        if let Some(gate) = self.gate(name) {
            gate.open.send_replace(true);
        }
    }

    /// Waits until `count` answers have come to the gate.
    pub async fn wait_for_arrivals(&self, name: &str, count: u64) {
        if let Some(gate) = self.gate(name) {
            let mut arrived = gate.arrived.subscribe();
            let _reached = arrived.wait_for(|arrived| *arrived >= count).await;
        }
    }

    /// Waits at a gate until it is open.
    pub(super) async fn pass(&self, name: &str) {
        if let Some(gate) = self.gate(name) {
            gate.arrived.send_modify(|arrived| *arrived += 1);
            let mut open = gate.open.subscribe();
            let _opened = open.wait_for(|open| *open).await;
        }
    }

    fn gate(&self, name: &str) -> Option<Arc<Gate>> {
        let mut gates = lock(&self.0);
        if gates.len() >= MAX_GATES && !gates.contains_key(name) {
            return None;
        }
        Some(Arc::clone(gates.entry(name.to_owned()).or_default()))
    }
}

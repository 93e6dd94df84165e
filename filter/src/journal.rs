//! A copy of an outbox in the proxy's own memory, which outlives a trap of the VM.
//!
//! Every worker writes its items to slots of its own, one write each, and says now and then that it lives and
//! which of them are still open. Slots are used again once their items are acknowledged, so that there are as
//! many as items ever waited at once. A journal that stops saying so, with items in it, belonged to a VM that
//! is gone: another one claims it, takes its items over and removes it. What is sent twice then is recorded
//! once, by its id.

mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use crate::outage::cell::{SharedCell, Written, update};
use record::{Entry, FORMAT, Sign};

pub use record::Kept;

/// The list of all journals.
const DIRECTORY: &str = "purser.journals";

/// Most journals at a time; a worker beyond has none.
const MAX_JOURNALS: usize = 512;

/// Most items in a journal; those beyond are in the VM's memory alone.
const MAX_SLOTS: u32 = 65_536;

/// Least time between two looks at other journals, milliseconds.
const LOOK_MS: u64 = 2_000;

/// How often an owner says that it lives, milliseconds, if nothing else has changed.
const BEAT_MS: u64 = 1_000;

/// How often a worker makes sure that its own journal is still listed, milliseconds.
const CHECK_MS: u64 = 60_000;

/// Values by name, shared by all VMs of the proxy process.
pub trait Store: fmt::Debug {
    /// A value and the number of its version; nothing when there is none.
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)>;

    /// Sets a value, if it still has that version; 0 sets it whatever it has.
    fn set(&self, key: &str, value: &[u8], version: u32) -> Written;
}

/// Where an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    number: u64,
    slot: u32,
}

/// What a VM that is gone has left.
#[derive(Debug, PartialEq, Eq)]
pub struct Estate {
    id: u64,
    /// In the order they were queued.
    pub items: Vec<Kept>,
    /// When its owner was last seen, milliseconds since the Unix epoch.
    pub seen_unix_ms: u64,
    /// Whether nobody claimed it before.
    pub is_first_claim: bool,
}

/// One outbox's journal.
#[derive(Debug)]
pub struct Journal {
    store: Rc<dyn Store>,
    id: u64,
    /// Journals of one group go to the same backend.
    group: u64,
    /// Looks after which an owner that shows no sign of life is gone.
    strikes: u32,
    next_number: u64,
    next_slot: u32,
    free: BTreeSet<u32>,
    sign: Sign,
    checked_unix_ms: Option<u64>,
    looked_unix_ms: Option<u64>,
    /// Others with items in them: what they showed, and how often they showed the same.
    others: BTreeMap<u64, (u64, u64, u32)>,
}

impl Journal {
    /// An empty journal. `id` is random and not 0; `settle_timeout_ms` is how long a living owner may say
    /// nothing.
    #[must_use]
    pub fn new(store: Rc<dyn Store>, id: u64, group: u64, settle_timeout_ms: u32) -> Self {
        if store.get(DIRECTORY).is_none() {
            // By the main thread, before there are workers; nobody can be quicker.
            store.set(DIRECTORY, &[FORMAT], 0);
        }
        let silence_ms = settle_timeout_ms.saturating_add(4_000);
        Self {
            store,
            id,
            group,
            strikes: silence_ms.div_ceil(u32::try_from(LOOK_MS).unwrap_or(1)).saturating_add(1),
            next_number: 1,
            next_slot: 0,
            free: BTreeSet::new(),
            sign: Sign::default(),
            checked_unix_ms: None,
            looked_unix_ms: None,
            others: BTreeMap::new(),
        }
    }

    /// Writes an item down; nothing when there is no room for it.
    pub fn write(&mut self, item: &Kept, now_unix_ms: u64) -> Option<Place> {
        if self.checked_unix_ms.is_none_or(|checked| now_unix_ms.abs_diff(checked) >= CHECK_MS) {
            self.register()?;
            self.checked_unix_ms = Some(now_unix_ms);
        }
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None if self.next_slot < MAX_SLOTS => {
                let slot = self.next_slot;
                self.next_slot = slot.saturating_add(1);
                slot
            }
            None => return None,
        };
        let place = Place { number: self.next_number, slot };
        self.next_number = self.next_number.saturating_add(1);
        let written = self.store.set(&slot_key(self.id, slot), &record::of_item(item, place.number), 0);
        if written != Written::Done {
            self.free.insert(slot);
            return None;
        }
        Some(place)
    }

    /// An item is acknowledged; its slot may be used again. All before it must be, too.
    pub fn free(&mut self, place: Place) {
        self.free.insert(place.slot);
    }

    /// An item is acknowledged, and one before it isn't.
    pub fn erase(&mut self, place: Place) {
        self.store.set(&slot_key(self.id, place.slot), &[], 0);
        self.free.insert(place.slot);
    }

    /// Says that the owner lives, which of its items is the first that is still open, if any is, and what the
    /// open ones take.
    pub fn beat(&mut self, first_open: Option<Place>, bytes: usize, now_unix_ms: u64) {
        let sign = Sign {
            beats: self.sign.beats.saturating_add(1),
            seen_unix_ms: now_unix_ms,
            first_open: first_open.map_or(self.next_number, |place| place.number),
            has_items: first_open.is_some(),
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        };
        let says_the_same = (sign.first_open, sign.has_items) == (self.sign.first_open, self.sign.has_items);
        if says_the_same && now_unix_ms.abs_diff(self.sign.seen_unix_ms) < BEAT_MS {
            return;
        }
        self.sign = sign;
        self.store.set(&sign_key(self.id), &sign.to_bytes(), 0);
    }

    /// Looks whether another VM is gone and has left items that take no more than `room_bytes`; those that take
    /// more stay where they are. What is found is claimed: it must be taken over and then buried.
    pub fn look(&mut self, room_bytes: usize, now_unix_ms: u64) -> Option<Estate> {
        if self.looked_unix_ms.is_some_and(|looked| now_unix_ms.abs_diff(looked) < LOOK_MS) {
            return None;
        }
        self.looked_unix_ms = Some(now_unix_ms);
        let entries = record::entries(&self.store.get(DIRECTORY)?.0);
        let mut seen = BTreeMap::new();
        let mut gone = None;
        for entry in entries.iter().filter(|entry| entry.id != self.id && entry.group == self.group) {
            let sign = self.sign_of(entry.id);
            if !sign.has_items {
                continue;
            }
            let before = self.others.get(&entry.id);
            let times = match before {
                Some((beats, claim, times)) if (*beats, *claim) == (sign.beats, entry.claimed_by) => {
                    times.saturating_add(1)
                }
                _ => 1,
            };
            let fits = usize::try_from(sign.bytes).is_ok_and(|bytes| bytes <= room_bytes);
            if times > self.strikes && fits && gone.is_none() {
                gone = Some((*entry, sign));
            }
            seen.insert(entry.id, (sign.beats, entry.claimed_by, times));
        }
        self.others = seen;
        let (entry, sign) = gone?;
        let items = self.items_of(entry.id, sign);
        if items.iter().map(Kept::bytes).fold(0, usize::saturating_add) > room_bytes {
            return None;
        }
        self.claim(entry)?;
        Some(Estate {
            id: entry.id,
            items,
            seen_unix_ms: sign.seen_unix_ms,
            is_first_claim: entry.claimed_by == 0,
        })
    }

    /// How long to wait before the next look, milliseconds; nothing when no other journal has items.
    #[must_use]
    pub fn wait_ms(&self) -> Option<u32> {
        (!self.others.is_empty()).then(|| u32::try_from(LOOK_MS).unwrap_or(u32::MAX))
    }

    /// Removes a journal whose items have been taken over.
    pub fn bury(&mut self, estate: &Estate) {
        self.change_directory(|entries| entries.retain(|entry| entry.id != estate.id));
        self.wipe(estate.id);
        self.others.remove(&estate.id);
    }

    /// Enters the journal into the directory, unless it is there.
    fn register(&self) -> Option<()> {
        let own = Entry { id: self.id, group: self.group, claimed_by: 0 };
        let idle = |entry: &Entry| !self.sign_of(entry.id).has_items;
        let mut idlers = Vec::new();
        let is_listed = self.change_directory(|entries| {
            idlers.clear();
            if entries.iter().any(|entry| entry.id == own.id) {
                return true;
            }
            if entries.len() >= MAX_JOURNALS {
                // Nothing is lost with them, and whoever still lives enters its own again.
                idlers.extend(entries.extract_if(.., |entry| idle(entry)));
            }
            let has_room = entries.len() < MAX_JOURNALS;
            if has_room {
                entries.push(own);
            }
            has_room
        });
        for entry in idlers {
            self.wipe(entry.id);
        }
        is_listed.filter(|is_listed| *is_listed).map(|_| ())
    }

    fn claim(&self, found: Entry) -> Option<()> {
        let own_id = self.id;
        let claimed = self.change_directory(|entries| {
            let entry = entries.iter_mut().find(|entry| **entry == found);
            entry.map(|entry| entry.claimed_by = own_id).is_some()
        });
        claimed.filter(|claimed| *claimed).map(|_| ())
    }

    fn change_directory<T>(&self, mut change: impl FnMut(&mut Vec<Entry>) -> T) -> Option<T> {
        update(&Keyed { store: &*self.store, key: DIRECTORY }, |bytes| {
            let before = record::entries(bytes);
            let mut after = before.clone();
            let result = change(&mut after);
            ((after != before).then(|| record::of_entries(&after)), result)
        })
    }

    fn sign_of(&self, id: u64) -> Sign {
        self.store.get(&sign_key(id)).map_or(Sign::default(), |(bytes, _)| Sign::of(&bytes))
    }

    fn items_of(&self, id: u64, sign: Sign) -> Vec<Kept> {
        let mut items = BTreeMap::new();
        for slot in 0..MAX_SLOTS {
            let Some((bytes, _)) = self.store.get(&slot_key(id, slot)) else { break };
            if let Some((number, item)) = record::item(&bytes)
                && number >= sign.first_open
            {
                items.insert(number, item);
            }
        }
        items.into_values().collect()
    }

    /// The proxy forgets no name, but its value can be made small.
    fn wipe(&self, id: u64) {
        self.store.set(&sign_key(id), &[], 0);
        for slot in 0..MAX_SLOTS {
            let key = slot_key(id, slot);
            if self.store.get(&key).is_none() {
                return;
            }
            self.store.set(&key, &[], 0);
        }
    }
}

fn sign_key(id: u64) -> String {
    format!("purser.journal.{id:016x}")
}

fn slot_key(id: u64, slot: u32) -> String {
    format!("purser.journal.{id:016x}.{slot}")
}

/// One value of a store.
#[derive(Debug)]
struct Keyed<'a> {
    store: &'a dyn Store,
    key: &'a str,
}

impl SharedCell for Keyed<'_> {
    fn read(&self) -> Option<(Vec<u8>, u32)> {
        self.store.get(self.key)
    }

    fn write(&self, bytes: &[u8], version: u32) -> Written {
        self.store.set(self.key, bytes, version)
    }
}

#[cfg(test)]
mod tests;

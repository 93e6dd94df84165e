//! How a journal is written: bytes that another VM, maybe of another build, reads.

use uuid::Uuid;

/// Version of all that is written.
pub const FORMAT: u8 = 1;

/// Memory an item takes beside its text, bytes.
const ITEM_OVERHEAD_BYTES: usize = 64;

/// An item, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its hold.
    pub hold_id: Uuid,
    /// When it was queued, milliseconds since the Unix epoch.
    pub queued_unix_ms: u64,
    /// What the backend is to read.
    pub json: Vec<u8>,
}

impl Kept {
    /// What it takes of an outbox, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.json.len().saturating_add(ITEM_OVERHEAD_BYTES)
    }
}

/// A line of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub id: u64,
    pub group: u64,
    /// Who is taking it over; 0 for nobody.
    pub claimed_by: u64,
}

/// What an owner says of its journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sign {
    pub beats: u64,
    pub seen_unix_ms: u64,
    /// Items from this number on are open.
    pub first_open: u64,
    pub has_items: bool,
    /// What those items take, as far as that was known.
    pub bytes: u64,
}

/// The bytes of an item.
pub fn of_item(item: &Kept, number: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(item.json.len().saturating_add(33));
    bytes.push(FORMAT);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&item.queued_unix_ms.to_le_bytes());
    bytes.extend_from_slice(item.hold_id.as_bytes());
    bytes.extend_from_slice(&item.json);
    bytes
}

/// An item and its number.
pub fn item(bytes: &[u8]) -> Option<(u64, Kept)> {
    let (&FORMAT, rest) = bytes.split_first()? else { return None };
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (queued, rest) = rest.split_first_chunk::<8>()?;
    let (hold_id, json) = rest.split_first_chunk::<16>()?;
    let kept = Kept {
        hold_id: Uuid::from_bytes(*hold_id),
        queued_unix_ms: u64::from_le_bytes(*queued),
        json: json.to_vec(),
    };
    Some((u64::from_le_bytes(*number), kept))
}

impl Sign {
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![FORMAT, u8::from(self.has_items)];
        for number in [self.beats, self.seen_unix_ms, self.first_open, self.bytes] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Anything else says that there is nothing.
    pub fn of(bytes: &[u8]) -> Self {
        let Some(([FORMAT, has_items], numbers)) = bytes.split_first_chunk::<2>() else {
            return Self::default();
        };
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|eight| u64::from_le_bytes(*eight));
        let mut next = || numbers.next().unwrap_or(0);
        Self {
            has_items: *has_items == 1,
            beats: next(),
            seen_unix_ms: next(),
            first_open: next(),
            bytes: next(),
        }
    }
}

pub fn entries(bytes: &[u8]) -> Vec<Entry> {
    let Some((&FORMAT, rest)) = bytes.split_first() else { return Vec::new() };
    let numbers: Vec<u64> = rest.as_chunks::<8>().0.iter().map(|eight| u64::from_le_bytes(*eight)).collect();
    let entry = |three: &[u64; 3]| {
        let [id, group, claimed_by] = *three;
        Entry { id, group, claimed_by }
    };
    numbers.as_chunks::<3>().0.iter().map(entry).collect()
}

pub fn of_entries(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    for number in entries.iter().flat_map(|entry| [entry.id, entry.group, entry.claimed_by]) {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes
}

use super::*;
use std::cell::RefCell;
use uuid::Uuid;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const ROOM: usize = 1 << 20;
const START_MS: u64 = 1_700_000_000_000;

/// Values as the proxy keeps them: by name, versioned, never forgotten.
#[derive(Debug, Default)]
struct Memory(RefCell<BTreeMap<String, (Vec<u8>, u32)>>);

impl Store for Memory {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.0.borrow().get(key).cloned()
    }

    fn set(&self, key: &str, value: &[u8], version: u32) -> Written {
        let mut values = self.0.borrow_mut();
        let found = values.get(key).map(|(_, version)| *version);
        if version != 0 && found.is_some_and(|found| found != version) {
            return Written::Raced;
        }
        values.insert(key.to_owned(), (value.to_vec(), found.unwrap_or(0) + 1));
        Written::Done
    }
}

impl Memory {
    fn slots(&self) -> usize {
        self.0.borrow().keys().filter(|key| key.matches('.').count() == 3).count()
    }

    fn bytes(&self) -> usize {
        self.0.borrow().values().map(|(value, _)| value.len()).sum()
    }
}

fn item(id: u128) -> Kept {
    let queued_unix_ms = START_MS + u64::try_from(id).unwrap();
    Kept { hold_id: Uuid::from_u128(id), queued_unix_ms, json: format!(r#"{{"id":{id}}}"#).into_bytes() }
}

fn journal(store: &Rc<Memory>, id: u64) -> Journal {
    // Five looks: six seconds, and one more.
    Journal::new(Rc::clone(store) as Rc<dyn Store>, id, 1, 2_000)
}

fn write(journal: &mut Journal, ids: std::ops::Range<u128>) -> Vec<Place> {
    let places: Vec<_> = ids.map(|id| journal.write(&item(id), START_MS).unwrap()).collect();
    journal.beat(places.first().copied(), 0, START_MS);
    places
}

/// Looks as often as it takes, while `others` do something in between.
fn find(journal: &mut Journal, from_ms: u64, mut others: impl FnMut(u64)) -> Option<(u64, Estate)> {
    (0..20).find_map(|look| {
        let now = from_ms + look * LOOK_MS;
        others(now);
        journal.look(ROOM, now).map(|estate| (look, estate))
    })
}

fn ids(estate: &Estate) -> Vec<u128> {
    estate.items.iter().map(|item| item.hold_id.as_u128()).collect()
}

#[test]
fn what_a_vm_left_is_found_and_taken_over_once() {
    let store = Rc::new(Memory::default());
    let mut gone = journal(&store, 7);
    write(&mut gone, 0..3);
    drop(gone);
    let (mut heir, mut other) = (journal(&store, 8), journal(&store, 9));
    assert_eq!((heir.look(ROOM, START_MS), heir.wait_ms()), (None, Some(2_000)));
    let (looks, estate) = find(&mut heir, START_MS + LOOK_MS, |now| {
        other.looked_unix_ms = None;
        let _ = (now < START_MS + 4 * LOOK_MS).then(|| other.look(ROOM, now));
    })
    .unwrap();
    assert_eq!((looks, ids(&estate)), (3, vec![0, 1, 2]));
    assert_eq!((estate.seen_unix_ms, estate.is_first_claim), (START_MS, true));
    assert_eq!(estate.items[2], item(2));
    // While it is being taken over nobody else does, and then there is nothing.
    assert_eq!(other.look(ROOM, START_MS + 20 * LOOK_MS), None);
    heir.bury(&estate);
    assert_eq!(find(&mut other, START_MS + 30 * LOOK_MS, |_| ()), None);
    assert_eq!(other.wait_ms(), None);
    assert!(store.bytes() < 100, "{}", store.bytes());
}

#[test]
fn a_claim_whose_owner_is_gone_too_is_claimed_again() {
    let store = Rc::new(Memory::default());
    write(&mut journal(&store, 7), 0..2);
    let mut first = journal(&store, 8);
    let (_, estate) = find(&mut first, START_MS, |_| ()).unwrap();
    assert!(estate.is_first_claim);
    drop(first);
    let (_, estate) = find(&mut journal(&store, 9), START_MS, |_| ()).unwrap();
    assert_eq!((ids(&estate), estate.is_first_claim), (vec![0, 1], false));
}

#[test]
fn who_lives_or_has_nothing_is_left_alone() {
    let store = Rc::new(Memory::default());
    let (mut alive, mut idle) = (journal(&store, 7), journal(&store, 6));
    let places = write(&mut alive, 0..2);
    write(&mut idle, 0..2);
    idle.beat(None, 0, START_MS);
    let mut stranger = Journal::new(Rc::clone(&store) as Rc<dyn Store>, 5, 2, 2_000);
    write(&mut stranger, 0..1);
    let mut looker = journal(&store, 8);
    let found = find(&mut looker, START_MS, |now| alive.beat(places.first().copied(), 0, now));
    assert_eq!(found, None);
    // A process that was frozen finds the others silent for as long as itself: one look says nothing.
    assert_eq!(looker.look(ROOM, START_MS + 3_600_000), None);
    assert_eq!(looker.wait_ms(), Some(2_000));
    alive.beat(None, 0, START_MS);
    assert_eq!((looker.look(ROOM, START_MS + 3_700_000), looker.wait_ms()), (None, None));
}

#[test]
fn what_is_acknowledged_is_not_left() {
    let store = Rc::new(Memory::default());
    let mut gone = journal(&store, 7);
    let places = write(&mut gone, 0..5);
    // The first two are done; of the others, the one in the middle.
    gone.free(places[0]);
    gone.free(places[1]);
    gone.erase(places[3]);
    gone.beat(Some(places[2]), 0, START_MS + 9);
    let again = gone.write(&item(5), START_MS).unwrap();
    assert_eq!(again.slot, places[0].slot);
    let (_, estate) = find(&mut journal(&store, 8), START_MS, |_| ()).unwrap();
    assert_eq!((ids(&estate), estate.seen_unix_ms), (vec![2, 4, 5], START_MS + 9));
}

#[test]
fn slots_are_as_many_as_items_ever_waited_at_once() {
    let store = Rc::new(Memory::default());
    let mut journal = journal(&store, 7);
    for round in 0..100 {
        for place in write(&mut journal, round * 10..round * 10 + 10) {
            journal.free(place);
        }
        journal.beat(None, 0, START_MS);
    }
    assert_eq!(store.slots(), 10);
}

#[test]
fn there_are_only_so_many_journals_and_items() {
    let store = Rc::new(Memory::default());
    for id in 0..512 {
        write(&mut journal(&store, 1_000 + id), 0..1);
    }
    let mut late = journal(&store, 7);
    assert_eq!(late.write(&item(0), START_MS), None, "all of them have items");
    journal(&store, 1_003).beat(None, 0, START_MS);
    assert!(late.write(&item(0), START_MS).is_some());
    assert!(store.get(&slot_key(1_003, 0)).unwrap().0.is_empty());
    let mut full = journal(&store, 1_004);
    for _ in 0..MAX_SLOTS {
        assert!(full.write(&item(0), START_MS).is_some());
    }
    assert_eq!(full.write(&item(0), START_MS), None);
}

#[test]
fn whoever_was_struck_off_enters_itself_again() {
    let store = Rc::new(Memory::default());
    let mut wrongly = journal(&store, 7);
    write(&mut wrongly, 0..1);
    let mut heir = journal(&store, 8);
    let (_, estate) = find(&mut heir, START_MS, |_| ()).unwrap();
    heir.bury(&estate);
    wrongly.write(&item(1), START_MS + CHECK_MS).unwrap();
    wrongly.beat(Some(Place { number: 1, slot: 0 }), 0, START_MS + CHECK_MS);
    let (_, estate) = find(&mut heir, START_MS + CHECK_MS, |_| ()).unwrap();
    assert_eq!(ids(&estate), [1]);
}

#[test]
fn bytes_of_another_version_are_nothing() {
    for bytes in [&b""[..], b"\x02", b"\x01", b"\x01\x01", &[9; 80]] {
        assert_eq!(record::item(bytes), None);
        assert!(!Sign::of(bytes).has_items || bytes == b"\x01\x01");
        assert!(record::entries(bytes).is_empty());
    }
    let sign = Sign { beats: 1, seen_unix_ms: 2, first_open: 3, has_items: true, bytes: 4 };
    assert_eq!(Sign::of(&sign.to_bytes()), sign);
    let list = [Entry { id: 1, group: 2, claimed_by: 3 }, Entry { id: 4, group: 5, claimed_by: 0 }];
    assert_eq!(record::entries(&record::of_entries(&list)), list);
}

#[test]
fn what_finds_no_room_stays_where_it_is() {
    let store = Rc::new(Memory::default());
    let mut gone = journal(&store, 7);
    let places = write(&mut gone, 0..10);
    // It told of less than it had in the end.
    gone.beat(places.first().copied(), 100, START_MS + BEAT_MS);
    let bytes: usize = (0..10).map(|id| item(id).bytes()).sum();
    let mut heir = journal(&store, 8);
    for (look, room) in (0..).zip([1; 20].into_iter().chain([99, 100, bytes - 1])) {
        assert_eq!(heir.look(room, START_MS + look * LOOK_MS), None, "{room}");
    }
    let estate = heir.look(bytes, START_MS + 100 * LOOK_MS).unwrap();
    assert_eq!((estate.items.len(), estate.is_first_claim), (10, true));
}

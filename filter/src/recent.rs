//! A bounded map that knows which of its entries was put in longest ago.

use std::collections::BTreeMap;

/// Entries by key, and by the order in which they were last put in.
#[derive(Debug)]
pub struct Recent<K, V> {
    max_entries: usize,
    entries: BTreeMap<K, (u64, V)>,
    turns: BTreeMap<u64, K>,
    next_turn: u64,
}

impl<K: Clone + Ord, V> Recent<K, V> {
    /// An empty map for at most so many entries.
    #[must_use]
    pub const fn new(max_entries: usize) -> Self {
        Self { max_entries, entries: BTreeMap::new(), turns: BTreeMap::new(), next_turn: 0 }
    }

    /// Puts an entry in, as the youngest; one that is there already is replaced. A map that is full
    /// loses its oldest entry.
    pub fn put(&mut self, key: K, value: V) {
        self.remove(&key);
        while self.entries.len() >= self.max_entries {
            let Some((_, oldest)) = self.turns.pop_first() else {
                return;
            };
            self.entries.remove(&oldest);
        }
        let turn = self.next_turn;
        self.next_turn = turn.wrapping_add(1);
        self.turns.insert(turn, key.clone());
        self.entries.insert(key, (turn, value));
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) {
        if let Some((turn, _)) = self.entries.remove(key) {
            self.turns.remove(&turn);
        }
    }

    /// An entry's value.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// The entry that was put in longest ago.
    #[must_use]
    pub fn oldest(&self) -> Option<(&K, &V)> {
        let (_, key) = self.turns.first_key_value()?;
        Some((key, self.get(key)?))
    }

    /// Whether the next new entry pushes the oldest out.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.max_entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn keys(map: &Recent<char, u32>) -> String {
        assert_eq!(map.entries.len(), map.turns.len());
        map.turns.values().collect()
    }

    #[test]
    fn keeps_the_youngest_in_order() {
        let mut map = Recent::new(3);
        for (value, key) in (0..).zip(['a', 'b', 'c']) {
            assert!(!map.is_full());
            map.put(key, value);
        }
        assert!(map.is_full());
        assert_eq!(map.oldest(), Some((&'a', &0)));
        map.put('a', 7);
        assert_eq!((keys(&map).as_str(), map.get(&'a')), ("bca", Some(&7)));
        map.put('d', 8);
        assert_eq!((keys(&map).as_str(), map.get(&'b')), ("cad", None));
        map.remove(&'a');
        map.remove(&'x');
        assert_eq!(keys(&map), "cd");
        assert!(!map.is_full());
    }

    #[test]
    fn a_map_for_nothing_keeps_nothing() {
        let mut map = Recent::new(0);
        map.put('a', 1);
        assert_eq!((map.oldest(), map.is_full()), (None, true));
    }
}

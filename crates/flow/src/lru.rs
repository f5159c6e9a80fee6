//! A map that forgets what was not used for longest, as the kernel's LRU maps do.

use std::collections::BTreeMap;

/// Ordered, so that no run depends on a random hash.
#[derive(Debug, Clone)]
pub struct Lru<K, V> {
    capacity: usize,
    entries: BTreeMap<K, (u64, V)>,
    /// Last use → key.
    uses: BTreeMap<u64, K>,
    clock: u64,
}

impl<K: Ord + Copy, V> Lru<K, V> {
    /// Of at most this many entries, one at least.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            entries: BTreeMap::new(),
            uses: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Looks without using.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Uses an entry.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        let (used, value) = self.entries.get_mut(key)?;
        self.clock += 1;
        self.uses.remove(used);
        self.uses.insert(self.clock, *key);
        *used = self.clock;
        Some(value)
    }

    /// Writes an entry; the one unused for longest makes room.
    pub fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        if self.entries.len() >= self.capacity
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.clock += 1;
        self.uses.insert(self.clock, key);
        self.entries.insert(key, (self.clock, value));
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (used, value) = self.entries.remove(key)?;
        self.uses.remove(&used);
        Some(value)
    }

    /// Entries held.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// In the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }
}

#[cfg(test)]
mod tests;

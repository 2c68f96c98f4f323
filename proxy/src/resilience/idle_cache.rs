//! A bounded map whose entries go when nobody has used them for a while.
//!
//! Pure: `now` is an argument. An entry that is in use (its `Arc` is held elsewhere) never goes. When the cache is full of
//! such entries, a new value is handed out without being kept.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashTable;

/// Bounds of a cache.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most entries.
    pub most: usize,
    /// How long an unused entry stays.
    pub idle: Duration,
}

/// A value that says itself what it is found by, so that this is kept once.
pub trait Keyed {
    /// What it is found by.
    type Key: Eq + Hash + Clone;

    /// It never changes.
    fn key(&self) -> &Self::Key;
}

/// The cache.
#[derive(Debug)]
pub struct IdleCache<V> {
    settings: Settings,
    entries: HashTable<Entry<V>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    used: Instant,
}

impl<V: Keyed> IdleCache<V> {
    /// An empty cache.
    pub fn new(settings: Settings) -> Self {
        Self { settings, entries: HashTable::new(), hasher: RandomState::new() }
    }

    /// The value of `key`, made by `make` if there is none.
    pub fn get_or_insert(&mut self, key: &V::Key, now: Instant, make: impl FnOnce() -> V) -> Arc<V> {
        let hash = self.hasher.hash_one(key);
        if let Some(entry) = self.entries.find_mut(hash, |entry| entry.value.key() == key) {
            entry.used = now;
            return Arc::clone(&entry.value);
        }
        // First, so that what the old entry holds is free for the new one.
        if self.entries.len() >= self.settings.most {
            self.evict_oldest();
        }
        let value = Arc::new(make());
        if self.entries.len() < self.settings.most {
            let entry = Entry { value: Arc::clone(&value), used: now };
            self.entries.insert_unique(hash, entry, |entry| self.hasher.hash_one(entry.value.key()));
        }
        value
    }

    /// Lets go of what is unused for too long.
    pub fn sweep(&mut self, now: Instant) {
        let idle = self.settings.idle;
        self.entries.retain(|entry| {
            if Arc::strong_count(&entry.value) > 1 {
                entry.used = now;
            }
            now.saturating_duration_since(entry.used) < idle
        });
        if self.entries.is_empty() {
            self.entries = HashTable::new();
        }
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.entries.iter().map(|entry| &entry.value)
    }

    fn evict_oldest(&mut self) {
        let unused = self.entries.iter().filter(|entry| Arc::strong_count(&entry.value) == 1);
        let Some(key) = unused.min_by_key(|entry| entry.used).map(|entry| entry.value.key().clone()) else { return };
        if let Ok(oldest) = self.entries.find_entry(self.hasher.hash_one(&key), |entry| *entry.value.key() == key) {
            oldest.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Number(u8);

    impl Keyed for Number {
        type Key = u8;

        fn key(&self) -> &u8 {
            &self.0
        }
    }

    const SETTINGS: Settings = Settings { most: 2, idle: Duration::from_secs(60) };

    #[test]
    fn unused_entries_go_and_used_ones_stay() {
        let start = Instant::now();
        let mut cache = IdleCache::new(SETTINGS);
        let held = cache.get_or_insert(&1, start, || Number(1));
        cache.get_or_insert(&2, start, || Number(2));
        cache.sweep(start + Duration::from_secs(61));
        assert_eq!(cache.values().collect::<Vec<_>>(), [&held]);
        drop(held);
        cache.sweep(start + Duration::from_secs(122));
        assert_eq!(cache.values().count(), 0);
    }

    #[test]
    fn a_full_cache_lets_the_longest_unused_entry_go_but_none_in_use() {
        let start = Instant::now();
        let mut cache = IdleCache::new(SETTINGS);
        let held = cache.get_or_insert(&1, start, || Number(1));
        cache.get_or_insert(&2, start, || Number(2));
        let three = cache.get_or_insert(&3, start, || Number(3));
        let not_kept = cache.get_or_insert(&4, start, || Number(4));
        assert_eq!((held.0, three.0, not_kept.0), (1, 3, 4));
        let mut left: Vec<_> = cache.values().map(|value| value.0).collect();
        left.sort_unstable();
        assert_eq!(left, [1, 3]);
    }
}

//! A bounded map whose entries go when nobody has used them for a while.
//!
//! Pure: `now` is an argument. An entry that is in use (its `Arc` is held elsewhere) never goes. When the cache is full of
//! such entries, a new value is handed out without being kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bounds of a cache.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most entries.
    pub most: usize,
    /// How long an unused entry stays.
    pub idle: Duration,
}

/// The cache.
#[derive(Debug)]
pub struct IdleCache<K, V> {
    settings: Settings,
    entries: HashMap<K, Entry<V>>,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    used: Instant,
}

impl<K: Eq + Hash + Clone, V> IdleCache<K, V> {
    /// An empty cache.
    pub fn new(settings: Settings) -> Self {
        Self { settings, entries: HashMap::new() }
    }

    /// The value of `key`, made by `make` if there is none.
    pub fn get_or_insert(&mut self, key: &K, now: Instant, make: impl FnOnce() -> V) -> Arc<V> {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.used = now;
            return Arc::clone(&entry.value);
        }
        // First, so that what the old entry holds is free for the new one.
        if self.entries.len() >= self.settings.most {
            self.evict_oldest();
        }
        let value = Arc::new(make());
        if self.entries.len() < self.settings.most {
            self.entries.insert(key.clone(), Entry { value: Arc::clone(&value), used: now });
        }
        value
    }

    /// Lets go of what is unused for too long.
    pub fn sweep(&mut self, now: Instant) {
        let idle = self.settings.idle;
        self.entries.retain(|_, entry| {
            if Arc::strong_count(&entry.value) > 1 {
                entry.used = now;
            }
            now.saturating_duration_since(entry.used) < idle
        });
        if self.entries.is_empty() {
            self.entries = HashMap::new();
        }
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.entries.values().map(|entry| &entry.value)
    }

    fn evict_oldest(&mut self) {
        let unused = self.entries.iter().filter(|(_, entry)| Arc::strong_count(&entry.value) == 1);
        let oldest = unused.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { most: 2, idle: Duration::from_secs(60) };

    #[test]
    fn unused_entries_go_and_used_ones_stay() {
        let start = Instant::now();
        let mut cache = IdleCache::new(SETTINGS);
        let held = cache.get_or_insert(&1, start, || "held");
        cache.get_or_insert(&2, start, || "unused");
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
        let held = cache.get_or_insert(&1, start, || 1);
        cache.get_or_insert(&2, start, || 2);
        let three = cache.get_or_insert(&3, start, || 3);
        let not_kept = cache.get_or_insert(&4, start, || 4);
        assert_eq!((*held, *three, *not_kept), (1, 3, 4));
        let mut left: Vec<_> = cache.values().map(|value| **value).collect();
        left.sort_unstable();
        assert_eq!(left, [1, 3]);
    }
}

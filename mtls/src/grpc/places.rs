//! Which handshakes are under way, and which of them gives up its place when all are taken. Pure: time is an argument.
//!
//! Invariant: a source that holds no more than [`SHARE`] places loses none to one that holds more, so a flood from one
//! address costs that address. Non-goal: ending handshakes; the caller does.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Handshakes at the same time; further connections wait in the kernel's queue.
pub(super) const MAX_HANDSHAKES: usize = 256;
/// Places that are a source's own. It may hold more while nobody else wants them, for behind one address there may be
/// a whole cluster that starts at once; those are the first to be given up.
pub(super) const SHARE: usize = 32;
/// When all places are taken, a handshake older than this gives up its place. A good one takes milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// The same for a handshake of a source that holds more than its share: time for one round trip on most networks.
const PATIENCE_BEYOND_SHARE: Duration = Duration::from_millis(50);

/// Where connections come from: an IPv4 address, or the first half of an IPv6 address, which is what a host has to
/// itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & !u128::from(u64::MAX);
                Self(Ipv6Addr::from_bits(network).into())
            }
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
}

/// Handshakes in the order of their start, each known by a `K`.
#[derive(Debug)]
pub(super) struct Places<K> {
    held: Vec<Held<K>>,
    by_source: HashMap<Source, usize>,
}

#[derive(Debug)]
struct Held<K> {
    at: Instant,
    source: Source,
    key: K,
}

/// What to do for one more handshake when all places are taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room<K> {
    /// End this one, which has no place any more.
    Evict(K),
    /// None has had its time; ask again then.
    At(Instant),
    /// Nobody holds a place.
    Nobody,
}

impl<K> Places<K> {
    pub(super) fn new() -> Self {
        Self { held: Vec::new(), by_source: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn enter(&mut self, source: Source, key: K, now: Instant) {
        *self.by_source.entry(source).or_default() += 1;
        self.held.push(Held { at: now, source, key });
    }

    /// A handshake has ended. One that has been evicted before is not known any more.
    pub(super) fn leave(&mut self, is_it: impl Fn(&K) -> bool) {
        if let Some(index) = self.held.iter().position(|held| is_it(&held.key)) {
            self.take(index);
        }
    }

    /// The oldest handshake of the source that holds most makes room, once it has had its time.
    pub(super) fn make_room(&mut self, now: Instant) -> Room<K> {
        let Some(most) = self.by_source.values().copied().max() else { return Room::Nobody };
        let Some(index) = self.held.iter().position(|held| self.by_source.get(&held.source) == Some(&most)) else {
            return Room::Nobody;
        };
        let patience = if most > SHARE { PATIENCE_BEYOND_SHARE } else { PATIENCE };
        let until = self.held[index].at + patience;
        if now < until {
            return Room::At(until);
        }
        Room::Evict(self.take(index).key)
    }

    fn take(&mut self, index: usize) -> Held<K> {
        let held = self.held.remove(index);
        if let Some(count) = self.by_source.get_mut(&held.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&held.source);
            }
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        IpAddr::from([10, 0, 0, last]).into()
    }

    #[test]
    fn a_flood_from_one_source_gives_way_before_others_lose_a_place() {
        let (mut places, start) = (Places::new(), Instant::now());
        for key in 0..SHARE {
            places.enter(source(1), key, start);
        }
        for key in SHARE..MAX_HANDSHAKES {
            places.enter(source(2), key, start);
        }
        assert_eq!(places.make_room(start), Room::At(start + PATIENCE_BEYOND_SHARE));
        let later = start + PATIENCE_BEYOND_SHARE;
        for key in SHARE..MAX_HANDSHAKES - SHARE {
            assert_eq!(places.make_room(later), Room::Evict(key), "the flood's oldest");
        }
        assert_eq!(places.make_room(later), Room::At(start + PATIENCE), "both hold their share");
        assert_eq!(places.make_room(start + PATIENCE), Room::Evict(0), "the oldest of all");
    }

    #[test]
    fn who_has_left_is_not_evicted_and_leaves_nothing_behind() {
        let (mut places, now) = (Places::new(), Instant::now());
        places.enter(source(1), 1, now);
        places.enter(source(2), 2, now);
        places.leave(|key| *key == 1);
        places.leave(|key| *key == 1);
        assert_eq!(places.make_room(now + PATIENCE), Room::Evict(2));
        assert_eq!(places.make_room(now + PATIENCE), Room::Nobody);
        assert_eq!((places.len(), places.by_source.len()), (0, 0));
    }

    #[test]
    fn a_host_is_one_source_in_each_of_its_addresses() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("10.0.0.1"), source("::ffff:10.0.0.1"));
        assert_eq!(source("fd00::1"), source("fd00::2"));
        assert_ne!(source("fd00::1"), source("fd00:0:0:1::1"));
    }
}

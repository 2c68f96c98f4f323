//! Consistent hashing by rendezvous (highest random weight): each place has a score for a key, and the highest wins.
//!
//! Invariant: what a key prefers depends on the key and the places alone, so all proxies agree without a word, and when a
//! place goes only its own keys move, each to the next in its order. Shares follow weights exactly (weighted rendezvous,
//! Schindelhauer and Schomaker 2005). A ring or a Maglev table would answer in less time than the pass over all places that
//! this takes, but would cost kilobytes for each target, tens of thousands of which may be known, move keys that need not
//! move, and know weights only roughly.
//! Load is bounded as in Mirrokni, Thorup and Zadimoghaddam (2016): who is full is passed by, in the key's own order.

use std::net::{IpAddr, SocketAddr};

/// The hash of bytes, the same in every process.
pub fn hash(bytes: &[u8]) -> u64 {
    // FNV-1a, then mixed: its low bits alone are poor.
    let folded = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(folded)
}

/// The hash of a place.
pub fn place(addr: &SocketAddr) -> u64 {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let [high, low] = [(ip >> 64) as u64, ip as u64];
    mix(mix(high ^ u64::from(addr.port())) ^ low)
}

/// How much `key` wants the place with the hash `place`: the higher the better.
pub fn score(key: u64, place: u64, weight: u16) -> f64 {
    // Evenly in (0, 1): 53 bits, and never 0 or 1.
    let drawn = ((mix(key ^ place) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(weight) / drawn.ln()
}

/// The place out of `0..n` that `key` wants most of those that are `eligible` and have room; when all are full, of those
/// that are eligible.
pub fn choose(
    key: u64,
    n: usize,
    eligible: impl Fn(usize) -> bool,
    has_room: impl Fn(usize) -> bool,
    place: impl Fn(usize) -> (u64, u16),
) -> Option<usize> {
    let mut best: Option<(usize, bool, f64)> = None;
    for i in (0..n).filter(|i| eligible(*i)) {
        let (hash, weight) = place(i);
        let (room, score) = (has_room(i), score(key, hash, weight));
        if best.is_none_or(|(_, most_room, most)| (room, score) > (most_room, most)) {
            best = Some((i, room, score));
        }
    }
    best.map(|(i, ..)| i)
}

/// The most that a place of `weight` may have in flight when one more comes to `in_flight`, and all weights are `weights`.
pub fn room(in_flight: usize, weight: u16, weights: u64, percent: u32) -> usize {
    let share = (in_flight as f64 + 1.0) * f64::from(weight) / weights.max(1) as f64;
    (share * f64::from(percent) / 100.0).ceil() as usize
}

/// The finalizer of SplitMix64.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 20_000;

    fn addr(i: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (i / 256) as u8, (i % 256) as u8], 8080))
    }

    fn of(key: u64, places: &[(usize, u16)]) -> usize {
        let place = |i: usize| (place(&addr(places[i].0)), places[i].1);
        places[choose(hash(&key.to_le_bytes()), places.len(), |_| true, |_| true, place).unwrap()].0
    }

    #[test]
    fn only_the_keys_of_a_place_that_goes_move_and_only_to_a_new_one_when_it_comes() {
        for n in [2, 3, 10, 50] {
            let all: Vec<_> = (0..n).map(|i| (i, 1)).collect();
            let without: Vec<_> = all.iter().copied().filter(|(i, _)| *i != n / 2).collect();
            for key in 0..2_000 {
                let (before, after) = (of(key, &all), of(key, &without));
                assert!(before == after || before == n / 2, "key {key} moved from {before} to {after}");
            }
        }
    }

    #[test]
    fn shares_follow_weights() {
        let places = [(1, 1), (2, 2), (3, 5)];
        let mut shares = [0_u64; 4];
        (0..KEYS).for_each(|key| shares[of(key, &places)] += 1);
        for (i, weight) in places {
            let expected = KEYS * u64::from(weight) / 8;
            assert!(shares[i].abs_diff(expected) < KEYS / 50, "{shares:?}");
        }
    }

    #[test]
    fn no_place_gets_more_than_its_bound_though_all_want_the_same() {
        let mut in_flight = [0_usize; 10];
        for sum in 0..1_000 {
            let has_room = |i: usize| in_flight[i] < room(sum, 1, 10, 125);
            let chosen = choose(7, 10, |_| true, has_room, |i| (place(&addr(i)), 1)).unwrap();
            in_flight[chosen] += 1;
            let bound = ((sum + 1) as f64 / 10.0 * 1.25).ceil() as usize;
            assert!(in_flight[chosen] <= bound, "{in_flight:?}");
        }
    }

    #[test]
    fn the_order_of_places_does_not_matter() {
        let (one, other) = ([(1, 3), (2, 1), (3, 2)], [(3, 2), (1, 3), (2, 1)]);
        (0..1_000).for_each(|key| assert_eq!(of(key, &one), of(key, &other)));
    }

    #[test]
    fn hashes_are_those_of_every_process() {
        // Sidecars of two releases must agree: a change here moves everybody's keys.
        assert_eq!(hash(b"alice"), 0xc5d1_556d_6677_4a5c);
        assert_eq!(place(&addr(1)), 0x4f92_1d9a_6afd_8728);
    }
}

//! How fast requests may come: the generic cell rate algorithm (ITU-T I.371), one number for each bucket.
//!
//! Invariant: a bucket admits at most `rate * t + burst` requests in any time `t`. State is bounded, and a bucket is let go only
//! when it is full again: nobody gets a fresh one by making others be forgotten. What finds no room shares one bucket. A
//! request that one limit refuses takes nothing from the others.
//! Not here: whose requests they are, and what a refused one is told.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use http::HeaderMap;
use mesh_mtls::spiffe;

use crate::model::policy::{HeaderRates, Rate, RateLimits};

/// Most buckets of a kind; each takes 16 bytes and some of the map's.
const MOST: usize = 16_384;
/// Full buckets are looked for so often at most, when there is no room.
const LOOK_FOR_ROOM: u64 = 1_000_000_000;
const MINUTE: u64 = 60_000_000_000;

/// Which limit refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// That of all requests.
    Total,
    /// That of its client.
    Client,
    /// That of its value of the field.
    Header,
}

impl Limit {
    /// The word for answers and logs.
    pub fn word(self) -> &'static str {
        match self {
            Limit::Total => "total",
            Limit::Client => "client",
            Limit::Header => "header",
        }
    }
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// By which limit; the one that takes longest.
    pub limit: Limit,
    /// What that limit is.
    pub rate: Rate,
    /// From then on a request would be admitted.
    pub wait: Duration,
}

/// The buckets of one port.
#[derive(Debug)]
pub struct Limiter {
    origin: Instant,
    total: u64,
    /// Of clients without an identity.
    nameless: u64,
    clients: Buckets,
    values: Buckets,
    refused: u64,
}

/// Buckets by key. A bucket is the time, in nanoseconds since the limiter's begin, at which it will be full again.
#[derive(Debug, Default)]
struct Buckets {
    /// Keyed at random, so that nobody can aim at another's bucket; and so that long keys take no room.
    keys: RandomState,
    full_at: HashMap<u64, u64>,
    /// Of all that find no room.
    others: u64,
    looked: u64,
}

/// Where a bucket is.
#[derive(Clone, Copy)]
enum Place {
    Total,
    Nameless,
    Client(Option<u64>),
    Value(Option<u64>),
}

impl Limiter {
    /// All buckets are full.
    pub fn new(now: Instant) -> Self {
        let (clients, values) = Default::default();
        Self { origin: now, total: 0, nameless: 0, clients, values, refused: 0 }
    }

    /// Whether a request may pass; if so it is counted. Rates may differ from those of the call before.
    pub fn admit(
        &mut self,
        rates: &RateLimits,
        client: Option<&spiffe::Id>,
        headers: &HeaderMap,
        now: Instant,
    ) -> Result<(), Refusal> {
        let now = self.nanos(now);
        let places = [
            rates.total.map(|rate| (Limit::Total, Place::Total, rate)),
            self.client(rates, client, now).map(|(place, rate)| (Limit::Client, place, rate)),
            rates.header.as_ref().and_then(|header| self.value(header, headers, now)),
        ];
        let mut refused: Option<Refusal> = None;
        let mut taken = [None; 3];
        for (slot, (limit, place, rate)) in taken.iter_mut().zip(places.into_iter().flatten()) {
            // It may have been emptied at another rate: it is never emptier than empty.
            let full_at = self.full_at(place).min(now.saturating_add(depth(rate)));
            self.set_back(place, full_at);
            match take(full_at, now, rate) {
                Ok(full_at) => *slot = Some((place, full_at)),
                Err(wait) if refused.is_none_or(|before| before.wait < wait) => {
                    refused = Some(Refusal { limit, rate, wait });
                }
                Err(_) => {}
            }
        }
        if let Some(refusal) = refused {
            self.refused += 1;
            return Err(refusal);
        }
        taken.into_iter().flatten().for_each(|(place, full_at)| self.set(place, full_at));
        Ok(())
    }

    /// Lets go of buckets that are full.
    pub fn sweep(&mut self, now: Instant) {
        let now = self.nanos(now);
        self.clients.sweep(now);
        self.values.sweep(now);
    }

    /// How many requests were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// How many buckets of clients and of values are not full.
    pub fn buckets(&self) -> (usize, usize) {
        (self.clients.full_at.len(), self.values.full_at.len())
    }

    /// How many requests the bucket of all would admit now.
    pub fn left(&self, rate: Rate, now: Instant) -> u64 {
        let (now, interval, full) = (self.nanos(now), interval(rate), depth(rate));
        full.saturating_sub(self.total.saturating_sub(now)) / interval
    }

    fn client(&mut self, rates: &RateLimits, client: Option<&spiffe::Id>, now: u64) -> Option<(Place, Rate)> {
        let Some(id) = client else { return rates.per_client.map(|rate| (Place::Nameless, rate)) };
        let own = rates.clients.iter().find(|(known, _)| known == id).map(|(_, rate)| *rate);
        let rate = own.or(rates.per_client)?;
        Some((Place::Client(self.clients.place(id.as_str().as_bytes(), now)), rate))
    }

    /// Requests without the field have an empty value, so that leaving it away is no way around.
    fn value(&mut self, header: &HeaderRates, headers: &HeaderMap, now: u64) -> Option<(Limit, Place, Rate)> {
        let value = joined(headers, header);
        let own = header.values.iter().find(|(known, _)| known.as_bytes() == &*value).map(|(_, rate)| *rate);
        let rate = own.or(header.per_value)?;
        Some((Limit::Header, Place::Value(self.values.place(&value, now)), rate))
    }

    fn full_at(&self, place: Place) -> u64 {
        match place {
            Place::Total => self.total,
            Place::Nameless => self.nameless,
            Place::Client(key) => self.clients.get(key),
            Place::Value(key) => self.values.get(key),
        }
    }

    fn set_back(&mut self, place: Place, full_at: u64) {
        if full_at < self.full_at(place) {
            self.set(place, full_at);
        }
    }

    fn set(&mut self, place: Place, full_at: u64) {
        match place {
            Place::Total => self.total = full_at,
            Place::Nameless => self.nameless = full_at,
            Place::Client(key) => self.clients.set(key, full_at),
            Place::Value(key) => self.values.set(key, full_at),
        }
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The values of a field as one (RFC 9110 5.2).
fn joined<'h>(headers: &'h HeaderMap, header: &HeaderRates) -> Cow<'h, [u8]> {
    let mut values = headers.get_all(&header.name).iter().map(http::HeaderValue::as_bytes);
    let first = values.next().unwrap_or_default();
    values.fold(Cow::Borrowed(first), |all, value| Cow::Owned([&all, b",".as_slice(), value].concat()))
}

/// One request out of a bucket: when it will be full again, or how long to wait.
fn take(full_at: u64, now: u64, rate: Rate) -> Result<u64, Duration> {
    let latest = now.saturating_add(depth(rate));
    let next = full_at.max(now).saturating_add(interval(rate));
    if next <= latest { Ok(next) } else { Err(Duration::from_nanos(next - latest)) }
}

/// Nanoseconds in which a bucket gets one more. Rounded up, so that no rate is exceeded.
fn interval(rate: Rate) -> u64 {
    MINUTE.div_ceil(rate.per_minute.max(1))
}

/// Nanoseconds in which an empty bucket fills.
fn depth(rate: Rate) -> u64 {
    interval(rate).saturating_mul(rate.burst.max(1).into())
}

impl Buckets {
    /// The key of a bucket; `None` is that of all that find no room.
    fn place(&mut self, key: &[u8], now: u64) -> Option<u64> {
        let key = self.keys.hash_one(key);
        if self.full_at.len() >= MOST && !self.full_at.contains_key(&key) {
            if now < self.looked.saturating_add(LOOK_FOR_ROOM) {
                return None;
            }
            self.sweep(now);
        }
        (self.full_at.len() < MOST || self.full_at.contains_key(&key)).then_some(key)
    }

    fn get(&self, key: Option<u64>) -> u64 {
        key.map_or(self.others, |key| self.full_at.get(&key).copied().unwrap_or_default())
    }

    fn set(&mut self, key: Option<u64>, full_at: u64) {
        match key {
            Some(key) => drop(self.full_at.insert(key, full_at)),
            None => self.others = full_at,
        }
    }

    fn sweep(&mut self, now: u64) {
        self.looked = now;
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.is_empty() {
            self.full_at = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const NO_FIELDS: fn() -> HeaderMap = HeaderMap::new;

    fn rate(per_minute: u64, burst: u32) -> Rate {
        Rate { per_minute, burst }
    }

    fn total(rate: Rate) -> RateLimits {
        RateLimits { total: Some(rate), ..RateLimits::default() }
    }

    fn by_tenant(rate: Rate) -> RateLimits {
        let header =
            HeaderRates { name: HeaderName::from_static("x-tenant"), per_value: Some(rate), values: Box::default() };
        RateLimits { header: Some(header), ..RateLimits::default() }
    }

    fn tenant(name: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", HeaderValue::from_str(name).unwrap());
        headers
    }

    fn id(name: &str) -> spiffe::Id {
        spiffe::Id::new("cluster.local", "shop", name).unwrap()
    }

    /// In each stretch of time, whatever comes when: the bound that the algorithm is known by.
    #[test]
    fn no_stretch_of_time_has_more_than_the_rate_and_the_burst() {
        for seed in 0..40 {
            let mut random = fastrand::Rng::with_seed(seed);
            let rate = rate(random.u64(1..=6_000_000), random.u32(1..=200));
            let rates = total(rate);
            let start = Instant::now();
            let (mut limiter, mut now, mut admitted) = (Limiter::new(start), start, Vec::new());
            let mean = interval(rate);
            for _ in 0..2_000 {
                // Now in bursts, now slower than the rate.
                let pause = if random.u8(..) < 200 { random.u64(0..=mean / 4) } else { random.u64(0..=40 * mean) };
                now += Duration::from_nanos(pause);
                if limiter.admit(&rates, None, &NO_FIELDS(), now).is_ok() {
                    admitted.push(now);
                }
            }
            for from in 0..admitted.len() {
                for to in (from..admitted.len()).step_by(7) {
                    let nanos = (admitted[to] - admitted[from]).as_nanos();
                    let most = nanos * u128::from(rate.per_minute) / u128::from(MINUTE) + u128::from(rate.burst);
                    assert!(
                        (to - from + 1) as u128 <= most,
                        "seed {seed}: {} in {nanos} ns of {rate:?}",
                        to - from + 1
                    );
                }
            }
        }
    }

    #[test]
    fn who_asks_all_the_time_gets_what_the_rate_says() {
        for per_second in [1, 7, 100, 1_000, 30_000, 1_000_000] {
            let rates = total(rate(60 * per_second, 2));
            let start = Instant::now();
            let (mut limiter, mut admitted) = (Limiter::new(start), 0u64);
            let millis = if per_second > 10_000 { 100 } else { 10_000 };
            let steps = 3 * per_second * millis / 1000;
            for step in 0..steps {
                let now = start + Duration::from_nanos(step * millis * 1_000_000 / steps);
                admitted += u64::from(limiter.admit(&rates, None, &NO_FIELDS(), now).is_ok());
            }
            let expected = per_second * millis / 1000;
            assert!(admitted.abs_diff(expected) * 1000 <= expected.max(2000), "{admitted} of {expected}");
        }
    }

    #[test]
    fn after_the_wait_that_it_was_told_a_request_is_admitted_and_not_before() {
        let rates = total(rate(90, 3));
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        for _ in 0..3 {
            limiter.admit(&rates, None, &NO_FIELDS(), start).unwrap();
        }
        let refusal = limiter.admit(&rates, None, &NO_FIELDS(), start).unwrap_err();
        assert_eq!((refusal.limit, refusal.wait.as_millis()), (Limit::Total, 666));
        let early = start + refusal.wait - Duration::from_nanos(1);
        limiter.admit(&rates, None, &NO_FIELDS(), early).unwrap_err();
        limiter.admit(&rates, None, &NO_FIELDS(), start + refusal.wait).unwrap();
        assert_eq!((limiter.refused(), limiter.left(rate(90, 3), start + refusal.wait)), (2, 0));
    }

    #[test]
    fn clients_have_a_bucket_each_those_without_an_identity_one_together_and_some_their_own_rate() {
        let rates = RateLimits {
            per_client: Some(rate(60, 2)),
            clients: [(id("batch"), rate(60, 5))].into(),
            ..RateLimits::default()
        };
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        let mut admitted = |client: Option<&spiffe::Id>| {
            (0..10).filter(|_| limiter.admit(&rates, client, &NO_FIELDS(), now).is_ok()).count()
        };
        assert_eq!(admitted(Some(&id("web"))), 2);
        assert_eq!(admitted(Some(&id("web"))), 0);
        assert_eq!(admitted(Some(&id("cart"))), 2);
        assert_eq!(admitted(Some(&id("batch"))), 5);
        assert_eq!(admitted(None), 2);
        assert_eq!(admitted(None), 0);
    }

    #[test]
    fn a_field_that_is_not_there_has_a_bucket_too_and_lines_of_it_are_one_value() {
        let rates = by_tenant(rate(60, 1));
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        let mut twice = tenant("a");
        twice.append("x-tenant", HeaderValue::from_static("b"));
        for headers in [NO_FIELDS(), tenant("a"), tenant("b"), twice.clone()] {
            limiter.admit(&rates, None, &headers, now).unwrap();
        }
        for headers in [NO_FIELDS(), tenant("a"), tenant("b"), twice, tenant("a,b")] {
            limiter.admit(&rates, None, &headers, now).unwrap_err();
        }
    }

    #[test]
    fn a_refused_request_takes_nothing_from_the_limits_that_would_have_let_it_pass() {
        let rates = RateLimits { total: Some(rate(60, 5)), per_client: Some(rate(60, 1)), ..RateLimits::default() };
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        let (greedy, modest) = (id("greedy"), id("modest"));
        for _ in 0..100 {
            let _ = limiter.admit(&rates, Some(&greedy), &NO_FIELDS(), now);
        }
        limiter.admit(&rates, Some(&modest), &NO_FIELDS(), now).unwrap();
        assert_eq!(limiter.left(rate(60, 5), now), 3);
    }

    #[test]
    fn nobody_gets_a_fresh_bucket_by_filling_the_table() {
        let rates = by_tenant(rate(1, 1));
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        limiter.admit(&rates, None, &tenant("mine"), start).unwrap();
        let mut admitted = 0;
        for other in 0..2 * MOST {
            let now = start + Duration::from_micros(other as u64);
            admitted += usize::from(limiter.admit(&rates, None, &tenant(&format!("other-{other}")), now).is_ok());
        }
        // Each that found room, and one for all that did not.
        assert_eq!((admitted, limiter.buckets().1), (MOST, MOST));
        let later = start + Duration::from_secs(50);
        limiter.admit(&rates, None, &tenant("mine"), later).unwrap_err();
        let full_again = start + Duration::from_secs(61);
        limiter.admit(&rates, None, &tenant("new"), full_again).unwrap();
        assert_eq!(limiter.buckets(), (0, 1));
    }

    #[test]
    fn a_new_rate_holds_at_once_for_a_bucket_that_the_old_one_emptied() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        while limiter.admit(&total(rate(1, 100)), None, &NO_FIELDS(), start).is_ok() {}
        let faster = total(rate(6_000, 1));
        limiter.admit(&faster, None, &NO_FIELDS(), start + Duration::from_millis(9)).unwrap_err();
        limiter.admit(&faster, None, &NO_FIELDS(), start + Duration::from_millis(20)).unwrap();
    }
}

//! Handles by labels that come from outside: target names and server names of foreign TLS.
//!
//! Invariant: what is asked for beyond the bound shares one entry named [`OVERFLOW`] and is not remembered, so neither
//! series nor memory grow with what others invent; and a target that nobody has used for a while is forgotten.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::registry::{Counter, Label, Registry, label};
use super::{Direction, family};

/// The value of a label for all that came after the bound was reached.
pub(super) const OVERFLOW: &str = "overflow";

/// Longest label value; as long as a DNS name can be.
const LENGTH: usize = 253;

/// Server names of foreign TLS that are told apart.
const SERVER_NAMES: usize = 100;

/// One handle per target.
pub(super) struct Targets<T> {
    known: Mutex<HashMap<Arc<str>, Known<T>>>,
    overflow: OnceLock<Arc<T>>,
}

struct Known<T> {
    handle: Arc<T>,
    /// Since when a sweep has found that nobody else holds it, without a break.
    unused_since: Option<Instant>,
}

impl<T> Targets<T> {
    pub(super) fn new() -> Self {
        Self { known: Mutex::default(), overflow: OnceLock::new() }
    }

    /// The handle of `target`, made by `make` when it is new; `series` is what `make` will charge.
    pub(super) fn find(&self, registry: &Registry, target: &str, series: usize, make: impl Fn(Label) -> T) -> Arc<T> {
        let target = clean(target, |byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
        let mut known = lock(&self.known);
        if let Some(known) = known.get_mut(&*target) {
            known.unused_since = None;
            return Arc::clone(&known.handle);
        }
        if !registry.has_room(series) {
            return Arc::clone(self.overflow.get_or_init(|| Arc::new(make(label("target", OVERFLOW)))));
        }
        let target: Arc<str> = target.into();
        let handle = Arc::new(make(label("target", Arc::clone(&target))));
        known.insert(target, Known { handle: Arc::clone(&handle), unused_since: None });
        handle
    }

    /// Lets go of the handles that nobody has held for `idle`; whether there were any. A request in flight and a connection
    /// that is open hold theirs.
    pub(super) fn sweep(&self, now: Instant, idle: Duration) -> bool {
        let mut known = lock(&self.known);
        let before = known.len();
        known.retain(|_, known| {
            if Arc::strong_count(&known.handle) > 1 {
                known.unused_since = None;
                return true;
            }
            now.saturating_duration_since(*known.unused_since.get_or_insert(now)) < idle
        });
        if known.capacity() > 64 && known.len() < known.capacity() / 4 {
            known.shrink_to_fit();
        }
        known.len() < before
    }
}

/// Counters of foreign TLS by the name that the client asked for.
pub(super) struct ServerNames(Mutex<HashMap<Box<str>, [OnceLock<Counter>; 2]>>);

impl ServerNames {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Counts a connection. Names are compared in lower case; a byte that no DNS name has is shown as `_`.
    pub(super) fn count(&self, registry: &Registry, direction: Direction, name: &str) {
        let mut name = clean(name, |byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        });
        let mut known = lock(&self.0);
        if !known.contains_key(&*name) {
            if known.len() >= SERVER_NAMES || !registry.has_room(1) {
                name = OVERFLOW.into();
            }
            known.entry(name.as_ref().into()).or_default();
        }
        // The line above has put it there.
        let Some(counters) = known.get(&*name) else {
            return;
        };
        let make = || {
            let labels = [label("direction", direction.as_str()), label("sni", name.as_ref().to_owned())];
            registry.counter(&family::PASSTHROUGH, &labels)
        };
        counters[direction as usize].get_or_init(make).increment(1);
    }
}

/// A label value of at most [`LENGTH`] bytes: each byte that is not `good` becomes `_`, or its lower case where that is
/// good. Allocates only when something has to change.
fn clean(value: &str, good: impl Fn(u8) -> bool) -> Cow<'_, str> {
    if value.len() <= LENGTH && value.bytes().all(&good) {
        return Cow::Borrowed(value);
    }
    let clean = value.bytes().take(LENGTH).map(|byte| match byte {
        byte if good(byte) => byte.into(),
        byte if good(byte.to_ascii_lowercase()) => byte.to_ascii_lowercase().into(),
        _ => '_',
    });
    Cow::Owned(clean.collect())
}

/// What these maps hold stays whole when a holder of the lock panics: entries are put in finished.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

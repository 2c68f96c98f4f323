//! How many lines each place in the code may write.
//!
//! Invariant: the table has at most one entry per callsite, so its bound is the program's size; entries end with their
//! second. Non-goal: fairness among the causes of one callsite.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::Metadata;
use tracing::callsite::Identifier;

/// Lines per second and callsite.
pub(super) const PER_SECOND: u32 = 10;

const WINDOW: Duration = Duration::from_secs(1);

/// Counts lines by callsite in windows of a second, each from its first line on.
#[derive(Debug, Default)]
pub(super) struct Limit {
    windows: HashMap<Identifier, Window>,
    next_sweep: Option<Instant>,
}

#[derive(Debug)]
struct Window {
    metadata: &'static Metadata<'static>,
    since: Instant,
    lines: u32,
    dropped: u64,
}

impl Limit {
    /// Whether an event may be written now. Call [`Self::due`] before, which ends windows.
    pub(super) fn admit(&mut self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let fresh = Window { metadata, since: now, lines: 0, dropped: 0 };
        let window = self.windows.entry(metadata.callsite()).or_insert(fresh);
        self.next_sweep.get_or_insert(now + WINDOW);
        if window.lines < PER_SECOND {
            window.lines += 1;
            return true;
        }
        window.dropped += 1;
        false
    }

    /// Ends the windows that are over, and returns what was dropped in them.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(&'static Metadata<'static>, u64)> {
        if self.next_sweep.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let mut due = Vec::new();
        self.windows.retain(|_, window| {
            let over = now.saturating_duration_since(window.since) >= WINDOW;
            if over && window.dropped > 0 {
                due.push((window.metadata, window.dropped));
            }
            !over
        });
        self.next_sweep = self.windows.values().map(|window| window.since + WINDOW).min();
        due
    }
}

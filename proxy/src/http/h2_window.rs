//! How much a stream of a tunnel may have on its way to us: much while streams are few, less once they are many.
//!
//! Why: a large window spares bulk data its waits for credit, and that is what few streams carry. Many streams together
//! are never short of data, and what lies in their windows is memory while their readers are slower than the far sidecar.
//! Invariant: a change is a SETTINGS frame for all streams, so the way back to the large window is taken only after a
//! while with few streams.

use std::time::{Duration, Instant};

use super::Settings;

/// More streams than this are many.
const MANY: usize = 16;
/// So many are few again,
const FEW: usize = 8;
/// once there were no more for so long.
const CALM: Duration = Duration::from_secs(1);

/// The window that streams of one tunnel have.
#[derive(Debug)]
pub(super) struct Window {
    large: u32,
    small: u32,
    is_small: bool,
    few_since: Option<Instant>,
}

impl Window {
    /// A tunnel begins with the large one.
    pub(super) fn new(settings: &Settings) -> Self {
        let (large, small) = (settings.tunnel_stream_window, settings.crowded_stream_window);
        Self { large, small, is_small: false, few_since: None }
    }

    /// With so many streams open: the window to change to, if `now` is the time for that.
    pub(super) fn wanted(&mut self, streams: usize, now: Instant) -> Option<u32> {
        if !self.is_small {
            return (streams > MANY).then_some(self.small);
        }
        if streams > FEW {
            self.few_since = None;
            return None;
        }
        let since = *self.few_since.get_or_insert(now);
        (now.saturating_duration_since(since) >= CALM).then_some(self.large)
    }

    /// The connection has taken the change; it does not while an earlier one is on its way.
    pub(super) fn changed(&mut self) {
        self.is_small = !self.is_small;
        self.few_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window { large: 256, small: 64, is_small: false, few_since: None }
    }

    #[test]
    fn many_streams_get_small_windows_at_once() {
        let (mut window, now) = (window(), Instant::now());
        assert_eq!(window.wanted(MANY, now), None);
        assert_eq!(window.wanted(MANY + 1, now), Some(64));
        assert_eq!(window.wanted(MANY + 1, now), Some(64), "until it is taken");
        window.changed();
        assert_eq!(window.wanted(MANY + 1, now), None);
    }

    #[test]
    fn few_streams_get_large_windows_after_a_while_without_a_crowd() {
        let (mut window, now) = (window(), Instant::now());
        window.changed();
        assert_eq!(window.wanted(FEW, now), None);
        assert_eq!(window.wanted(FEW + 1, now + CALM / 2), None);
        assert_eq!(window.wanted(FEW, now + CALM), None, "there were more meanwhile");
        assert_eq!(window.wanted(0, now + 2 * CALM), Some(256));
        window.changed();
        assert_eq!(window.wanted(MANY, now + 2 * CALM), None);
    }
}

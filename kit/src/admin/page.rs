//! A page that costs something to make.
//!
//! Invariant: one is made at a time; what [`Age::Recent`] asks for is made at most once in [`RECENT`], however many
//! ask. Non-goal: making it ahead of time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::Render;

/// A text younger than this is given out again. A scraper asks every few seconds.
const RECENT: Duration = Duration::from_millis(250);

/// How old a text may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// Made for this request.
    New,
    /// Made a moment ago, at most.
    Recent,
}

pub(super) struct Page {
    render: Render,
    /// Held while the next one is made.
    latest: Mutex<Option<Made>>,
    made: Notify,
}

struct Made {
    at: Instant,
    text: Bytes,
}

impl Page {
    pub(super) fn new(render: Render) -> Self {
        Self { render, latest: Mutex::new(None), made: Notify::new() }
    }

    pub(super) fn text(&self, age: Age, now: Instant) -> Bytes {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // `now` is older than `at` for who has waited for another one's text.
        let recent = latest.as_ref().filter(|made| now.saturating_duration_since(made.at) < RECENT);
        if let (Age::Recent, Some(made)) = (age, recent) {
            return made.text.clone();
        }
        let text = Bytes::from((self.render)());
        *latest = Some(Made { at: now, text: text.clone() });
        self.made.notify_one();
        text
    }

    /// Until a text is made. One that was made since the last time counts as well.
    pub(super) async fn made(&self) {
        self.made.notified().await;
    }

    /// Frees the memory of a text that nobody will get any more.
    pub(super) fn forget(&self, now: Instant) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.take_if(|made| now.saturating_duration_since(made.at) >= RECENT);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn many_who_ask_at_a_time_get_one_text_and_later_ones_a_new_one() {
        let renders = AtomicU32::new(0);
        let page = Page::new(Box::new(move || (renders.fetch_add(1, Ordering::Relaxed) + 1).to_string()));
        let now = Instant::now();
        for ms in 0..250 {
            assert_eq!(page.text(Age::Recent, now + Duration::from_millis(ms)), "1");
        }
        assert_eq!(page.text(Age::Recent, now + RECENT), "2");
        assert_eq!(page.text(Age::New, now + RECENT), "3");
        assert_eq!(page.text(Age::Recent, now + RECENT), "3");
        page.forget(now + RECENT);
        assert!(page.latest.lock().unwrap().is_some());
        page.forget(now + 2 * RECENT);
        assert!(page.latest.lock().unwrap().is_none());
    }
}

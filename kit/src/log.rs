//! Logs on stderr: one event, one line.
//!
//! Invariant: a line has no control character from anybody's data, is at most [`LINE_LIMIT`] bytes, and each place in
//! the code writes at most 10 lines a second; what was dropped is counted and told.
//! Non-goal: spans. Events carry all their fields themselves, so nothing is kept between them.

mod level;
mod limit;
mod line;

use std::io::{self, Write as _};
use std::panic;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::Notify;
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::subscriber::{Interest, SetGlobalDefaultError, Subscriber};
use tracing::{Event, Metadata};

pub use level::{BadLevel, Level};
pub use line::LINE_LIMIT;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `time level target: message key=value ...`
    Plain,
    /// One JSON object.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level does not parse.
    #[error(transparent)]
    Level(#[from] BadLevel),
    /// Something else in this process has taken the logs.
    #[error("logging is set up already")]
    Taken(#[from] SetGlobalDefaultError),
}

/// Reads and changes the level of a running daemon. Clones share it.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    format: Format,
    level: RwLock<Level>,
    limit: Mutex<limit::Limit>,
    /// A line was dropped, of which nothing was told yet.
    dropped: Notify,
    sink: fn(&str),
}

/// Sends this process's events to stderr from now on, panics included.
///
/// # Errors
/// When `level` does not parse, or when logging was set up before.
pub fn init(format: Format, level: &str) -> Result<Handle, Error> {
    let handle = Handle::new(format, level.parse()?, stderr);
    tracing::subscriber::set_global_default(handle.clone())?;
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, reason = panic.payload_as_str().unwrap_or("unknown"), "panic");
    }));
    Ok(handle)
}

impl Handle {
    fn new(format: Format, level: Level, sink: fn(&str)) -> Self {
        let limit = Mutex::new(limit::Limit::default());
        Self { shared: Arc::new(Shared { format, level: RwLock::new(level), limit, dropped: Notify::new(), sink }) }
    }

    /// The level in force, as it was written.
    #[must_use]
    pub fn level(&self) -> String {
        self.shared.level.read().unwrap_or_else(PoisonError::into_inner).to_string()
    }

    /// Changes the level for all that follows.
    ///
    /// # Errors
    /// When `level` does not parse; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), BadLevel> {
        let level: Level = level.parse()?;
        *self.shared.level.write().unwrap_or_else(PoisonError::into_inner) = level;
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }

    /// Until a line is dropped. What was dropped since the last time counts as well.
    pub async fn dropped(&self) {
        self.shared.dropped.notified().await;
    }

    /// Tells of dropped lines whose second has passed. Events do so by the way; a daemon that falls silent needs a
    /// nudge, which the admin server gives.
    pub fn sweep(&self, now: Instant) {
        let due = self.shared.limit.lock().unwrap_or_else(PoisonError::into_inner).due(now);
        for (metadata, dropped) in due {
            (self.shared.sink)(&line::dropped(self.shared.format, metadata, dropped));
        }
    }

    fn reads<T>(&self, question: impl FnOnce(&Level) -> T) -> T {
        question(&self.shared.level.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Subscriber for Handle {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.reads(|level| level.admits(metadata))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.reads(Level::most_verbose))
    }

    fn event(&self, event: &Event<'_>) {
        let now = Instant::now();
        self.sweep(now);
        let admitted = self.shared.limit.lock().unwrap_or_else(PoisonError::into_inner).admit(event.metadata(), now);
        if admitted {
            (self.shared.sink)(&line::format(self.shared.format, event));
        } else {
            self.shared.dropped.notify_one();
        }
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        // Spans are never enabled, so this is only called by code that ignores `enabled`; any non-zero id will do.
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn stderr(line: &str) {
    // One write per line keeps lines whole among threads. There is nowhere to report a failure.
    let _ = io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests;

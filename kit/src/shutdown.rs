//! The wish to end: from a signal, from the admin port, or from the daemon itself.
//!
//! Invariant: it can be asked for many times and is granted once; a second signal ends the process at once.
//! Non-goal: draining, which each daemon does in its own way after [`Shutdown::requested`].

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Tells everybody who holds a clone that the daemon shall end.
#[derive(Clone, Debug)]
pub struct Shutdown {
    asked: Arc<Asked>,
}

/// Small to wait for: each connection of a control plane does.
#[derive(Debug, Default)]
struct Asked {
    is_requested: AtomicBool,
    waiting: Notify,
}

impl Shutdown {
    /// One that SIGTERM and SIGINT trigger; the second signal ends the process with status 128 + signal.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::manual();
        tokio::spawn(watch_signals(terminate, interrupt, shutdown.clone()));
        Ok(shutdown)
    }

    /// One that only [`Self::trigger`] triggers.
    #[must_use]
    pub fn manual() -> Self {
        Self { asked: Arc::default() }
    }

    /// Asks for the end.
    pub fn trigger(&self) {
        self.asked.is_requested.store(true, Ordering::Release);
        self.asked.waiting.notify_waiters();
    }

    /// Waits until the end is asked for; returns at once when it was before.
    pub async fn requested(&self) {
        // First, so that none is missed that comes after the look.
        let waiting = self.asked.waiting.notified();
        if !self.is_requested() {
            waiting.await;
        }
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.asked.is_requested.load(Ordering::Acquire)
    }
}

/// Lives as long as the process, as the handlers do.
async fn watch_signals(mut terminate: Signal, mut interrupt: Signal, shutdown: Shutdown) {
    let first = next(&mut terminate, &mut interrupt).await;
    tracing::info!(signal = first.as_raw_value(), "shutdown requested; a second signal ends at once");
    shutdown.trigger();
    let second = next(&mut terminate, &mut interrupt).await;
    process::exit(128 + second.as_raw_value());
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_hears_of_it_even_those_who_ask_later() {
        let shutdown = Shutdown::manual();
        assert!(!shutdown.is_requested());
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        shutdown.trigger();
        shutdown.trigger();
        waiting.await.unwrap();
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}

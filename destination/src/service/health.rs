//! Reports of health on their way into the index, and out of it again.
//!
//! Invariant: however many reports come, one publication waits at a time, and one task looks for those whose stream has
//! ended; it ends when there are none. Non-goal: what a report means (`index::health`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::Shared;

/// Reports that come within this time are published together.
const GATHER: Duration = Duration::from_millis(20);
/// Between looks for reports that are to be forgotten.
const LOOK: Duration = Duration::from_secs(1);

/// Tells subscribers of what was reported, in a moment.
pub(super) fn publish_soon(shared: &Arc<Shared>) {
    if shared.publishing.swap(true, Ordering::AcqRel) {
        return;
    }
    // Without a runtime the daemon is at its end.
    let Ok(runtime) = Handle::try_current() else { return };
    let shared = Arc::clone(shared);
    runtime.spawn(async move {
        tokio::time::sleep(GATHER).await;
        // First, so that what is reported from now on is published by the next.
        shared.publishing.store(false, Ordering::Release);
        shared.index().publish(Instant::now());
    });
}

/// Forgets, some time later, what streams that have ended reported.
pub(super) fn forget_later(shared: &Arc<Shared>) {
    if shared.forgetting.swap(true, Ordering::AcqRel) {
        return;
    }
    let Ok(runtime) = Handle::try_current() else { return };
    let shared = Arc::clone(shared);
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(LOOK.min(shared.settings.health_kept)).await;
            let mut index = shared.index();
            let is_more = index.forget_reports(shared.settings.health_kept, Instant::now());
            index.publish(Instant::now());
            if !is_more {
                // While the index is locked, so that nobody departs in between.
                shared.forgetting.store(false, Ordering::Release);
                return;
            }
        }
    });
}

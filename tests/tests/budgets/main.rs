//! Budgets that do not depend on the machine's speed: sizes of futures, allocations, and memory.
//!
//! Invariant: each budget is a constant at the top of its file: what was measured, and a third more, or less where it is
//! always the same. A figure that falls is followed by its budget.
//! Non-goal: time; the bench has it.

mod allocations;
mod futures;
mod known;
mod memory;

use std::sync::Arc;

use mesh_tests::netns::Net;
use mesh_tests::pair::Pair;
use tokio::runtime::{Builder, Runtime};

/// A pair in a namespace of its own, in the runtime of this thread.
fn with_pair(test: impl FnOnce(&Runtime, Arc<Pair>) + Send) {
    let net = Net::new();
    let host = net.host("pair");
    host.enter(|| {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let pair = Pair::start(&runtime, host.v4.into()).expect("a pair of sidecars");
        test(&runtime, Arc::new(pair));
    });
}

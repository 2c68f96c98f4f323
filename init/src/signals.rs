//! Requests to end that come at a bad moment.
//!
//! Invariant: between [`hold`] and [`honour`] SIGTERM and SIGINT wait, for us and for the programs that we start, which
//! inherit the mask: a terminal sends its signals to them as well. Non-goal: SIGKILL, after which a second run makes
//! good what the first has left.

use nix::sys::signal::{SigSet, Signal};

/// From now on signals wait.
pub(crate) fn hold() -> nix::Result<()> {
    requests().thread_block()
}

/// Signals have their effect again; those that wait have it now.
pub(crate) fn honour() {
    // It fails only for a mask that makes no sense. We end right after anyway.
    let _ = requests().thread_unblock();
}

fn requests() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT])
}

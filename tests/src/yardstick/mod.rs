//! What every row of the reliability yardstick needs: how often, a polite client beside it, the process under attack, a record.
//!
//! A row is a function of a [`Front`], so the same attack runs against the mesh and against other proxies.
//! Invariant: `make test` runs each row at the smaller count, `make torture` (`TORTURE=1`) at the full one.
//! Non-goal: judging speed; that is the bench's.

mod beside;
mod bystander;
mod front;
mod group;
mod peer;
mod process;
mod record;
mod source;
mod vitals;
mod waits;

pub use beside::{Beside, Harm, beside};
pub use bystander::{Bystander, Polite};
pub use front::{Front, Mesh};
pub use group::Group;
pub use peer::{Peer, Setup, Speaks, version};
pub use process::Process;
pub use record::{Who, is_recording, record};
pub use source::{Counts, Source};
pub use vitals::{Vitals, log_is_safe};
pub use waits::Stopwatch;

/// Whether rows run at their full counts: the variable `TORTURE` is set and not empty.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a switch of the test's own")]
pub fn torture() -> bool {
    std::env::var_os("TORTURE").is_some_and(|value| !value.is_empty())
}

/// How often a row is provoked: `quick` by `make test`, `full` by `make torture`.
#[must_use]
pub fn count<T>(quick: T, full: T) -> T {
    if torture() { full } else { quick }
}

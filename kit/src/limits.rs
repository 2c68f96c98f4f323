//! What the system lets this process have.
//!
//! Invariant: nothing is raised beyond what the administrator allows. Non-goal: limits of memory and CPU.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files, often 1024 for the sake of programs that use select(2), to the hard one, and
/// returns it. For the beginning of `main`.
///
/// # Errors
/// When the system refuses; the limit is as before then.
pub fn raise_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

//! What the system lets this process have.
//!
//! Invariant: nothing is raised beyond what the administrator allows. Non-goal: limits of memory and CPU.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
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

/// Descriptors that a daemon keeps for itself: the admin port and its connections to the control plane.
const OWN: u64 = 16;

/// Whether `file` sits among the last descriptors that this process may have, `share` times as many as it keeps for itself.
/// The kernel gives out the lowest free number, so all below it are taken.
pub fn is_among_last(file: &impl AsRawFd, share: u64) -> bool {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    u64::try_from(file.as_raw_fd()).is_ok_and(|number| number >= limit.saturating_sub(share * OWN))
}

/// Whether `error` says that this process, or the system, may have no more descriptors.
pub fn are_files_used_up(error: &io::Error) -> bool {
    [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

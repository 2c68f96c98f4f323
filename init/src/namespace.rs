//! The network namespace that this process acts in.
//!
//! Invariant: the process has one thread of its own, so entering a namespace holds for everything that follows,
//! programs that it runs included.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::plan::Support;

const CURRENT: &str = "/proc/thread-self/ns/net";
const POLL: Duration = Duration::from_millis(10);

/// Keeps other runs of mesh-init out of this namespace, wherever their files live.
pub(crate) type Lock = Flock<File>;

/// Moves this process into `namespace`.
pub(crate) fn enter(namespace: &File) -> io::Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// The namespace that we are in.
pub(crate) fn current() -> io::Result<File> {
    File::open(CURRENT)
}

/// Locks the namespace itself: between containers that share it, it may be the only file they have in common.
pub(crate) fn lock(seconds: u32) -> io::Result<Lock> {
    let deadline = Instant::now() + Duration::from_secs(seconds.into());
    let mut file = current()?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = back,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(io::Error::other("another mesh-init is at work here; raise --wait, or try again"));
            }
            Err((_, errno)) => return Err(errno.into()),
        }
        std::thread::sleep(POLL);
    }
}

/// Whether the kernel speaks IPv6 at all. A sysctl that turns addresses off can be turned back on later, so rules
/// are worth having then.
pub(crate) fn ipv6() -> Support {
    match socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None) {
        Err(Errno::EAFNOSUPPORT) => Support::Absent,
        _ => Support::Present,
    }
}

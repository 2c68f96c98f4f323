//! When the kernel lets this process run.
//!
//! Invariant: nothing here needs a privilege. Non-goal: processors, priorities and real time.

use std::io;

use nix::errno::Errno;
use nix::libc::{SCHED_BATCH, sched_param, sched_setscheduler};

/// Has the kernel let whoever wakes this thread run on until it waits itself, where both are on one processor (`SCHED_BATCH`).
/// A proxy is woken by a peer that is about to wait: to stop it some microseconds before costs two switches more. Threads that
/// this one starts are scheduled alike, so this is for the beginning of `main`.
///
/// # Errors
/// When the system refuses, as a seccomp filter may; the thread is scheduled as before then.
pub fn let_wakers_finish() -> io::Result<()> {
    let priority = sched_param { sched_priority: 0 };
    #[expect(unsafe_code, reason = "the kernel only reads the parameter, which lives until the call returns")]
    // SAFETY: 0 is the calling thread, and `priority` outlives the call.
    let done = unsafe { sched_setscheduler(0, SCHED_BATCH, &raw const priority) };
    Errno::result(done)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    /// The 41st field, counted behind the name, which may hold spaces.
    fn policy() -> i32 {
        let stat = fs::read_to_string("/proc/thread-self/stat").expect("proc");
        let (_, rest) = stat.rsplit_once(") ").expect("a name");
        rest.split(' ').nth(38).expect("41 fields").parse().expect("a number")
    }

    #[test]
    fn a_thread_and_those_that_it_starts_are_scheduled_so() {
        let policies = thread::spawn(|| {
            let before = policy();
            let_wakers_finish().expect("no privilege is needed");
            [before, policy(), thread::spawn(policy).join().expect("a policy")]
        });
        assert_eq!(policies.join().expect("three policies"), [0, SCHED_BATCH, SCHED_BATCH]);
    }
}

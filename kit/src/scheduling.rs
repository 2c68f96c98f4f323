//! When the kernel lets this process run.
//!
//! Invariant: nothing here needs a privilege. Non-goal: processors, priorities and real time.

use std::{io, mem};

use nix::errno::Errno;
use nix::libc::{SCHED_BATCH, SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, c_long, sched_attr, syscall};

/// Nanoseconds of a thread's turn where others wait, the fewest that Linux grants. Who asks for shorter turns has them sooner.
const TURN: u64 = 100_000;

/// Has the kernel let whoever wakes this thread run on until it waits itself, where both are on one processor (`SCHED_BATCH`).
/// A proxy is woken by a peer that is about to wait: to stop it some microseconds before costs two switches more. Among threads
/// that do not wait it gets short turns early, which Linux knows from 6.12 on. Its niceness stays, and so does a policy that
/// someone has chosen for it. Threads that this one starts are scheduled alike, so this is for the beginning of `main`.
///
/// # Errors
/// When the system refuses, as a seccomp filter may; the thread is scheduled as before then.
pub fn let_wakers_finish() -> io::Result<()> {
    let mut attributes = attributes()?;
    if attributes.sched_policy != SCHED_OTHER.cast_unsigned() {
        return Ok(());
    }
    attributes.sched_policy = SCHED_BATCH.cast_unsigned();
    attributes.sched_runtime = TURN;
    #[expect(unsafe_code, reason = "the kernel only reads the attributes, which live until the call returns")]
    // SAFETY: 0 is the calling thread, `size` says how much is there to read, and `attributes` outlives the call.
    let done = unsafe { syscall(SYS_sched_setattr, 0, &raw const attributes, 0) };
    Errno::result(done)?;
    Ok(())
}

/// How the calling thread is scheduled.
fn attributes() -> io::Result<sched_attr> {
    #[rustfmt::skip]
    let mut attributes = sched_attr {
        size: 0, sched_policy: 0, sched_flags: 0, sched_nice: 0, sched_priority: 0, sched_runtime: 0, sched_deadline: 0, sched_period: 0,
    };
    #[expect(unsafe_code, reason = "the kernel writes no more than it is told")]
    // SAFETY: 0 is the calling thread, and as many bytes as `attributes` has are there to write; any bits are integers.
    let done = unsafe { syscall(SYS_sched_getattr, 0, &raw mut attributes, mem::size_of::<sched_attr>() as c_long, 0) };
    Errno::result(done)?;
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_and_those_that_it_starts_are_scheduled_so() {
        let policies = thread::spawn(|| {
            let before = attributes().expect("attributes");
            let_wakers_finish().expect("no privilege is needed");
            let child = thread::spawn(|| attributes().expect("attributes")).join().expect("attributes");
            [before, attributes().expect("attributes"), child]
        });
        let [before, after, child] = policies.join().expect("three threads' attributes");
        assert_eq!(before.sched_policy, SCHED_OTHER.cast_unsigned());
        for now in [&after, &child] {
            assert_eq!(now.sched_policy, SCHED_BATCH.cast_unsigned());
            assert_eq!(now.sched_nice, before.sched_nice);
            // Older kernels have no such turns, and say 0.
            assert!(before.sched_runtime == 0 || now.sched_runtime == TURN, "{}", now.sched_runtime);
        }
    }
}

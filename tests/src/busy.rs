//! Neighbours that want all that their processors can do.
//!
//! Invariant: they end with their [`Busy`].

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Threads that never wait.
pub struct Busy {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    /// Starts so many, on `place` if there is one.
    ///
    /// # Panics
    /// A thread does where `place` has no processor of this machine.
    #[must_use]
    pub fn start(count: u16, place: Option<CpuSet>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = |_| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                if let Some(place) = place {
                    sched_setaffinity(Pid::from_raw(0), &place).expect("a processor");
                }
                let mut rounds = 0_u64;
                while !is_over.load(Ordering::Relaxed) {
                    rounds = black_box(rounds.wrapping_add(1));
                }
            })
        };
        let threads = (0..count).map(thread).collect();
        Self { is_over, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

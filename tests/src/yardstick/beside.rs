//! An attack with a polite client beside it, and what the attacked process was like meanwhile.
//!
//! Invariant: nothing is judged here, so it serves for any proxy; the process may also have died of it.
//! Non-goal: logs; [`super::Vitals`] has those.

use std::fmt;
use std::time::{Duration, Instant};

use super::{Bystander, Front, Polite};

/// For files to be closed.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Files more than before that may stay open: warm connections.
const FILES: usize = 5;

/// What an attack came to, besides its own result.
#[derive(Debug)]
pub struct Beside<T> {
    /// The attack's own result.
    pub result: T,
    /// KiB by which the process has grown at most.
    pub grown: u64,
    /// CPU time that it used.
    pub cpu: Duration,
    /// The client beside it.
    pub polite: Polite,
    /// What is wrong with the process afterwards.
    pub harm: Option<Harm>,
}

/// What an attack left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The process is gone.
    Died,
    /// It has so many files open, and had so many.
    Files(usize, usize),
    /// It has so many threads, and had so many.
    Threads(u64, u64),
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died => write!(f, "it died"),
            Self::Files(now, before) => write!(f, "{now} files open, {before} before"),
            Self::Threads(now, before) => write!(f, "{now} threads, {before} before"),
        }
    }
}

impl<T> Beside<T> {
    /// What an attack may do at no row: disturb the client beside it, or leave something.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.harm.map(|harm| harm.to_string()).or_else(|| self.polite.fault())
    }
}

/// Runs `attack` on `front` beside a polite client.
///
/// # Panics
/// When the client gets no answers even before the attack.
pub fn beside<T>(front: &Front, attack: impl FnOnce() -> T) -> Beside<T> {
    let process = front.proxy;
    let bystander = Bystander::start(&front.client, front.addr);
    let (files, threads, idle, cpu) = (process.files(), process.threads(), process.resident(), process.cpu());
    process.forget_peak();
    let result = attack();
    let died = !process.lives();
    let (peak, spent) = if died { (idle, cpu) } else { (process.peak(), process.cpu()) };
    let polite = bystander.end();
    let harm = if process.lives() { left(front, files, threads) } else { Some(Harm::Died) };
    Beside { result, grown: peak.saturating_sub(idle), cpu: spent.saturating_sub(cpu), polite, harm }
}

fn left(front: &Front, files: usize, threads: u64) -> Option<Harm> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    while front.proxy.files() > files + FILES {
        if Instant::now() > deadline {
            return Some(Harm::Files(front.proxy.files(), files));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let now = front.proxy.threads();
    (now > threads).then_some(Harm::Threads(now, threads))
}

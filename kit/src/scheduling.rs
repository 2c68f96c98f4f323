//! When the kernel lets the threads of this process run.
//!
//! Invariant: nothing here needs a privilege; what may make a thread wait longer than most programs is tried for short, and rarely.
//! Non-goal: processors, priorities and real time.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::{SCHED_BATCH, SCHED_OTHER, sched_param, sched_setscheduler};

/// How often a thread comes to rest between two looks at what it waited.
const RESTS: u32 = 64;
/// What a turn may wait on average. Turns of a sidecar that works with others, who wait themselves, begin 10 to 140 us after it
/// was woken.
const USUAL: Duration = Duration::from_micros(200);
/// So much beyond that, and somebody here does not wait.
const TOO_MUCH: Duration = Duration::from_millis(10);
/// How long it then runs as most programs, before it tries again; twice as long each time that this was too early.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(64);
/// Turns without too long waits that make a try a success.
const SUCCESS: u64 = 1000;

/// How the kernel schedules a thread that others do not set above or below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Who wakes the thread runs on until it waits itself, where both are on one processor. A proxy is woken by a peer that is
    /// about to wait: to stop it some microseconds before costs two switches more.
    Batch,
    /// Most programs': the thread may stop who runs. Where somebody never waits, that saves it the time to the kernel's next tick.
    Other,
}

impl Policy {
    /// Has the calling thread, and those that it starts from now on, scheduled so.
    ///
    /// # Errors
    /// When the system refuses, as a seccomp filter may; the thread is scheduled as before then.
    pub fn take(self) -> io::Result<()> {
        let policy = match self {
            Self::Batch => SCHED_BATCH,
            Self::Other => SCHED_OTHER,
        };
        let priority = sched_param { sched_priority: 0 };
        #[expect(unsafe_code, reason = "the kernel only reads the parameter, which lives until the call returns")]
        // SAFETY: 0 is the calling thread, and `priority` outlives the call.
        let done = unsafe { sched_setscheduler(0, policy, &raw const priority) };
        Errno::result(done)?;
        Ok(())
    }
}

/// Whether threads choose by themselves.
static IS_FREE: AtomicBool = AtomicBool::new(false);

thread_local! {
    static WATCH: RefCell<Watch> = RefCell::new(Watch::start());
}

/// Has each thread that calls [`at_rest`] choose its policy by what it waits; it begins with [`Policy::Batch`].
pub fn choose_freely() {
    IS_FREE.store(true, Ordering::Relaxed);
}

/// For each time that a thread is about to wait.
pub fn at_rest() {
    if IS_FREE.load(Ordering::Relaxed) {
        // A thread that ends has no watch any more.
        let _ = WATCH.try_with(|watch| watch.borrow_mut().at_rest());
    }
}

/// A thread's look at itself.
struct Watch {
    rests: u32,
    /// None if the kernel does not tell, or has refused what was chosen.
    schedstat: Option<File>,
    seen: Waits,
    choice: Choice,
}

/// What a thread has waited while it was ready to run, since it was started, and in how many turns it has run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Waits {
    nanos: u64,
    turns: u64,
}

/// A thread's choice, by what it waits.
struct Choice {
    policy: Policy,
    since: Instant,
    /// Turns since then.
    turns: u64,
    /// Nanoseconds waited beyond what is usual.
    debt: u64,
    /// How long [`Policy::Other`] is kept.
    hold: Duration,
}

impl Watch {
    /// A thread has its parent's policy, whatever that has become. Where the kernel does not tell what is waited, nobody would see
    /// that it is too much.
    fn start() -> Self {
        let schedstat = File::open("/proc/thread-self/schedstat").ok();
        let seen = schedstat.as_ref().and_then(Waits::read).unwrap_or_default();
        let mut watch = Self { rests: 0, schedstat, seen, choice: Choice::new(Instant::now()) };
        if seen.turns > 0 {
            watch.take(Policy::Batch);
        } else {
            watch.take(Policy::Other);
            watch.schedstat = None;
        }
        watch
    }

    fn take(&mut self, policy: Policy) {
        if let Err(error) = policy.take() {
            tracing::warn!(%error, "a thread is scheduled as it was");
            self.schedstat = None;
        }
    }

    fn at_rest(&mut self) {
        self.rests += 1;
        if self.rests >= RESTS {
            self.rests = 0;
            self.look();
        }
    }

    fn look(&mut self) {
        let Some(now) = self.schedstat.as_ref().and_then(Waits::read) else { return };
        let Waits { nanos, turns } = self.seen;
        let more = Waits { nanos: now.nanos.saturating_sub(nanos), turns: now.turns.saturating_sub(turns) };
        self.seen = now;
        if let Some(policy) = self.choice.next(more, Instant::now()) {
            tracing::debug!(?policy, hold = ?self.choice.hold, "scheduled by what was waited");
            self.take(policy);
        }
    }
}

impl Waits {
    /// `CPU-NANOS WAITED-NANOS TURNS`
    fn read(schedstat: &File) -> Option<Self> {
        let mut text = [0; 64];
        let length = schedstat.read_at(&mut text, 0).ok()?;
        let mut numbers = std::str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace().skip(1);
        let mut next = || numbers.next()?.parse().ok();
        Some(Self { nanos: next()?, turns: next()? })
    }
}

impl Choice {
    fn new(now: Instant) -> Self {
        Self { policy: Policy::Batch, since: now, turns: 0, debt: 0, hold: SHORTEST / 2 }
    }

    /// The policy to take from `now` on, if it is another one, by what was waited since the last call.
    fn next(&mut self, waits: Waits, now: Instant) -> Option<Policy> {
        let lasted = now.saturating_duration_since(self.since);
        self.turns = self.turns.saturating_add(waits.turns);
        self.policy = match self.policy {
            Policy::Batch => {
                let usual = nanos(USUAL).saturating_mul(waits.turns);
                self.debt = self.debt.saturating_add(waits.nanos).saturating_sub(usual);
                if self.debt < nanos(TOO_MUCH) {
                    return None;
                }
                let is_success = lasted > self.hold && self.turns > SUCCESS;
                self.hold = if is_success { SHORTEST } else { LONGEST.min(2 * self.hold) };
                Policy::Other
            }
            Policy::Other if lasted < self.hold => return None,
            Policy::Other => Policy::Batch,
        };
        (self.since, self.turns, self.debt) = (now, 0, 0);
        Some(self.policy)
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    const TURNS: u64 = 100;

    /// The 41st field, counted behind the name, which may hold spaces.
    fn policy() -> i32 {
        let stat = fs::read_to_string("/proc/thread-self/stat").expect("proc");
        let (_, rest) = stat.rsplit_once(") ").expect("a name");
        rest.split(' ').nth(38).expect("41 fields").parse().expect("a number")
    }

    /// Waits of `micros` in each of [`TURNS`].
    fn waits(micros: u64) -> Waits {
        Waits { nanos: TURNS * micros * 1000, turns: TURNS }
    }

    #[test]
    fn a_thread_and_those_that_it_starts_are_scheduled_so() {
        let policies = thread::spawn(|| {
            let before = policy();
            Policy::Batch.take().expect("no privilege is needed");
            let both = [policy(), thread::spawn(policy).join().expect("a policy")];
            Policy::Other.take().expect("no privilege is needed");
            (before, both, policy())
        });
        assert_eq!(policies.join().expect("policies"), (SCHED_OTHER, [SCHED_BATCH; 2], SCHED_OTHER));
    }

    #[test]
    fn a_thread_sees_its_turns() {
        let before = Watch::start();
        thread::sleep(Duration::from_millis(1));
        let after = Watch::start();
        assert!(after.seen.turns > before.seen.turns, "{:?} {:?}", before.seen, after.seen);
    }

    #[test]
    fn usual_waits_change_nothing_long_ones_do_and_tries_become_rare_until_one_succeeds() {
        let mut now = Instant::now();
        let mut choice = Choice::new(now);
        for _ in 0..1000 {
            assert_eq!(choice.next(waits(140), now), None);
        }
        let mut holds = Vec::new();
        for _ in 0..8 {
            assert_eq!(choice.next(waits(250), now), None);
            assert_eq!(choice.next(waits(250), now), Some(Policy::Other));
            let begin = now;
            while choice.next(waits(1000), now).is_none() {
                now += Duration::from_millis(500);
            }
            holds.push((now - begin).as_secs());
        }
        assert_eq!(holds, [1, 2, 4, 8, 16, 32, 64, 64]);
        now += Duration::from_secs(65);
        for _ in 0..10 {
            assert_eq!(choice.next(waits(100), now), None);
        }
        assert_eq!(choice.next(waits(1000), now), Some(Policy::Other));
        assert_eq!(choice.next(waits(0), now + SHORTEST), Some(Policy::Batch));
    }

    #[test]
    fn tries_become_rare_where_a_thread_has_few_turns_too() {
        let mut now = Instant::now();
        let mut choice = Choice::new(now);
        let mut changes = Vec::new();
        let begin = now;
        while changes.len() < 8 {
            now += Duration::from_secs(3);
            if choice.next(waits(1000), now).is_some() {
                changes.push((now - begin).as_secs());
            }
        }
        assert_eq!(changes, [3, 6, 9, 12, 15, 21, 24, 33]);
    }

    #[test]
    fn one_long_wait_is_enough() {
        let now = Instant::now();
        let mut choice = Choice::new(now);
        assert_eq!(choice.next(Waits { nanos: 15_000_000, turns: 16 }, now), Some(Policy::Other));
    }
}

//! The polite client beside every attack: 200 requests a second, evenly spaced, none of which may fail.
//!
//! Invariant: latency counts from when a request was due, so a stall is not hidden by waiting for it. What the machine added to an
//! answer, because programs on its way could have run and others had the processor, is known (`waits`), and not the proxy's fault.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::StatusCode;
use nix::unistd::gettid;

use super::torture;
use super::waits::Waits;
use crate::client::http::{Connection, Version, get};
use crate::netns::{Host, until};

/// Between two requests.
const PACE: Duration = Duration::from_millis(5);
/// Clients that share the pace, so that one slow answer delays few others.
const CLIENTS: u32 = 16;
/// How much slower than its baseline p99 may be in a run at full counts.
const SLACK: Duration = Duration::from_millis(50);
/// The same in `make test`: a debug build that shares two processors with the attacker and with other tests.
const SLACK_BUSY: Duration = Duration::from_millis(1000);
/// How often somebody has to be woken for one request, on its way through two sidecars and back, and now and then for more.
const HOPS: u32 = 10;
/// Failures that are described.
const DESCRIBED: usize = 5;
/// An answer that takes longer is a failure.
const LATE: Duration = Duration::from_secs(20);
/// For all that is asked after an attack.
const END: Duration = Duration::from_secs(90);

/// A running client, with its baseline taken.
pub struct Bystander {
    shared: Arc<Shared>,
    thread: JoinHandle<Seen>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Set when the baseline is over; what is answered later counts for the verdict.
    attack: AtomicBool,
    answered: AtomicU64,
}

/// How a client has fared.
#[derive(Debug)]
pub struct Polite {
    /// Requests since the baseline, failed ones too.
    pub asked: usize,
    /// Of those, how many were not answered with 200.
    pub failed: usize,
    /// Why, of the first ones.
    pub failures: Vec<String>,
    /// 99 of 100 answers came within this time.
    pub p99: Duration,
    /// The same before the attack.
    pub before: Duration,
    /// Both without the time in which programs waited for a processor: during the attack, and before it.
    pub apart: (Duration, Duration),
    /// How late the client itself was woken during the attack, in 99 of 100 cases: what the machine adds at each hop.
    pub late: Duration,
}

#[derive(Default)]
struct Seen {
    before: Vec<Took>,
    during: Vec<Took>,
    /// How late the client itself was woken meanwhile: what others on the machine cost each that waits for a processor.
    late: Vec<Duration>,
    failures: Vec<String>,
    failed: usize,
}

/// How long one answer took, and how much of that its programs have waited for a processor.
#[derive(Clone, Copy)]
struct Took {
    all: Duration,
    waited: Duration,
}

impl Took {
    fn all(&self) -> Duration {
        self.all
    }

    fn apart(&self) -> Duration {
        self.all.saturating_sub(self.waited)
    }
}

impl Bystander {
    /// Starts it on `host` and takes its baseline. The back end answers GET `/` with 200 whatever else it does.
    ///
    /// # Panics
    /// When nothing is answered in time.
    #[must_use]
    pub fn start(host: &Host, addr: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        // Who starts it attacks next.
        let attacker = gettid();
        let thread = host.run_in_thread({
            let shared = Arc::clone(&shared);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let waits = Arc::new(Waits::of_all(Some(attacker)));
                runtime.expect("a runtime in a test").block_on(run(&shared, addr, &waits))
            }
        });
        let wanted = if torture() { 1000 } else { 200 };
        until(Duration::from_secs(60), || shared.answered.load(Ordering::Relaxed) >= wanted);
        shared.attack.store(true, Ordering::Relaxed);
        Self { shared, thread }
    }

    /// Ends it, some requests after the attack is over, and says how it fared.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn end(self) -> Polite {
        let goal = self.shared.answered.load(Ordering::Relaxed) + if torture() { 6000 } else { 100 };
        let deadline = Instant::now() + END;
        while self.shared.answered.load(Ordering::Relaxed) < goal && Instant::now() < deadline {
            std::thread::sleep(PACE);
        }
        self.shared.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().expect("a client that ends");
        Polite {
            asked: seen.during.len() + seen.failed,
            failed: seen.failed,
            failures: seen.failures,
            p99: p99(seen.during.iter().map(Took::all)),
            before: p99(seen.before.iter().map(Took::all)),
            apart: (p99(seen.during.iter().map(Took::apart)), p99(seen.before.iter().map(Took::apart))),
            late: p99(seen.late.into_iter()),
        }
    }

    /// Ends it as [`Bystander::end`] does, and judges. Its figure in words.
    ///
    /// # Panics
    /// When it was disturbed.
    #[must_use]
    pub fn finish(self) -> String {
        let polite = self.end();
        assert!(polite.is_whole(), "the bystander: {polite} {:#?}", polite.failures);
        polite.to_string()
    }
}

impl Polite {
    /// Why it was disturbed, if it was.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match (self.failures.first(), self.is_whole()) {
            (Some(first), _) => Some(format!("the bystander was told: {first}")),
            (None, false) => Some("the bystander waited".to_owned()),
            (None, true) => None,
        }
    }

    /// Whether it noticed nothing: no request failed, and p99 is at most the larger of three times the baseline's and the
    /// baseline's and the slack; with what the machine has added, or without it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let (apart, before) = self.apart;
        self.failed == 0 && (self.is_whole_as_seen() || is_at_most(apart, before, Duration::ZERO))
    }

    fn is_whole_as_seen(&self) -> bool {
        is_at_most(self.p99, self.before, HOPS * self.late)
    }
}

fn is_at_most(p99: Duration, before: Duration, added: Duration) -> bool {
    let slack = if torture() { SLACK } else { SLACK_BUSY };
    p99 <= (3 * before).max(before + slack + added)
}

impl fmt::Display for Polite {
    /// With the times that were judged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, failed, p99, before, apart, .. } = self;
        let ((p99, before), note) =
            if self.is_whole_as_seen() { ((*p99, *before), "") } else { (*apart, "waits for a processor apart, ") };
        write!(f, "bystander {} of {asked}, p99 {p99:.0?} ({note}{before:.0?} before)", asked - failed)
    }
}

fn p99(all: impl Iterator<Item = Duration>) -> Duration {
    let mut all: Vec<_> = all.collect();
    all.sort_unstable();
    all.get(all.len() * 99 / 100).copied().unwrap_or_default()
}

async fn run(shared: &Arc<Shared>, addr: SocketAddr, waits: &Arc<Waits>) -> Seen {
    let start = Instant::now();
    let clients =
        (0..CLIENTS).map(|nth| tokio::spawn(client(Arc::clone(shared), addr, start + PACE * nth, Arc::clone(waits))));
    let mut all = Seen::default();
    for seen in futures_util::future::join_all(clients).await {
        let seen = seen.expect("a client that ends");
        all.before.extend(seen.before);
        all.during.extend(seen.during);
        all.late.extend(seen.late);
        all.failures.extend(seen.failures);
        all.failed += seen.failed;
    }
    all
}

async fn client(shared: Arc<Shared>, addr: SocketAddr, first: Instant, waits: Arc<Waits>) -> Seen {
    let (mut seen, mut connection, mut due) = (Seen::default(), None, first);
    while !shared.stop.load(Ordering::Relaxed) {
        let is_early = Instant::now() < due;
        tokio::time::sleep_until(due.into()).await;
        let during = shared.attack.load(Ordering::Relaxed);
        // A request that is late because the one before it was is the proxy's affair.
        let late = if is_early { due.elapsed() } else { Duration::ZERO };
        seen.late.extend((is_early && during).then_some(late));
        let waited = waits.total();
        let answered = one(&mut connection, addr).await;
        let took = Took { all: due.elapsed(), waited: late + waits.total().saturating_sub(waited) };
        match answered {
            Ok(()) if during => seen.during.push(took),
            Ok(()) => seen.before.push(took),
            Err(what) => {
                connection = None;
                seen.failed += 1;
                seen.failures.extend((seen.failures.len() < DESCRIBED).then_some(what));
            }
        }
        shared.answered.fetch_add(1, Ordering::Relaxed);
        due += PACE * CLIENTS;
    }
    seen
}

async fn one(connection: &mut Option<Connection>, addr: SocketAddr) -> Result<(), String> {
    let answered = tokio::time::timeout(LATE, ask(connection, addr)).await;
    answered.unwrap_or_else(|_| Err(format!("no answer within {LATE:?}")))
}

async fn ask(connection: &mut Option<Connection>, addr: SocketAddr) -> Result<(), String> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(addr, Version::H1).await.map_err(|error| format!("connect: {error}"))?,
    };
    let answer = open.fetch(get(addr, Version::H1, "/")).await.map_err(|error| format!("{error}: {error:?}"))?;
    if answer.status != StatusCode::OK {
        return Err(format!("{} {:?}", answer.status, answer.headers.get("mesh-error")));
    }
    let close = answer.headers.get(http::header::CONNECTION).is_some_and(|value| value == "close");
    *connection = (!close).then_some(open);
    Ok(())
}

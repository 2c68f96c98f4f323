//! The polite client beside every attack: 200 requests a second, evenly spaced, none of which may fail.
//!
//! Invariant: latency counts from when a request was due, so a stall is not hidden by waiting for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::torture;
use crate::client::http::{Connection, Version, get};
use crate::netns::{Host, until};

/// Between two requests.
const PACE: Duration = Duration::from_millis(5);
/// Clients that share the pace, so that one slow answer delays few others.
const CLIENTS: u32 = 4;
/// How much slower than its baseline p99 may be in a run at full counts.
const SLACK: Duration = Duration::from_millis(50);
/// The same in `make test`: a debug build that shares two processors with the attacker and with other tests.
const SLACK_BUSY: Duration = Duration::from_millis(1000);
/// How often an exchange waits for a processor on its way through two sidecars and back: in `make test`, what this machine makes
/// a timer wait is allowed so many times more.
const WAKES: u32 = 10;
/// Failures that are described.
const DESCRIBED: usize = 5;

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

#[derive(Default)]
struct Seen {
    before: Vec<Duration>,
    during: Vec<Duration>,
    /// How late timers were that wait for nobody, during the attack.
    late: Vec<Duration>,
    failures: Vec<String>,
    failed: u64,
}

impl Bystander {
    /// Starts it on `host` and takes its baseline. The back end answers GET `/` with 200 whatever else it does.
    ///
    /// # Panics
    /// When nothing is answered in time.
    #[must_use]
    pub fn start(host: &Host, addr: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = host.run_in_thread({
            let shared = Arc::clone(&shared);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime in a test").block_on(run(&shared, addr))
            }
        });
        let wanted = if torture() { 1000 } else { 200 };
        until(Duration::from_secs(60), || shared.answered.load(Ordering::Relaxed) >= wanted);
        shared.attack.store(true, Ordering::Relaxed);
        Self { shared, thread }
    }

    /// Ends it, `after` more requests after the attack is over: all must have been answered with 200, and p99 is bounded. Its
    /// figure in words.
    ///
    /// # Panics
    /// When a request failed, or p99 is above the larger of three times the baseline's and the baseline's and the slack.
    #[must_use]
    pub fn finish(self) -> String {
        let goal = self.shared.answered.load(Ordering::Relaxed) + if torture() { 6000 } else { 100 };
        until(Duration::from_secs(90), || self.shared.answered.load(Ordering::Relaxed) >= goal);
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut seen = self.thread.join().expect("a client that ends");
        let (baseline, during, all) = (p99(&mut seen.before), p99(&mut seen.during), seen.during.len());
        assert!(seen.failed == 0, "the bystander: {} of {all} failed: {:#?}", seen.failed, seen.failures);
        let late = p99(&mut seen.late);
        let slack = if torture() { SLACK } else { SLACK_BUSY + WAKES * late };
        let most = (3 * baseline).max(baseline + slack);
        assert!(
            during <= most,
            "the bystander's p99 of {all} is {during:?}, {baseline:?} before; timers: {late:?} late"
        );
        format!("bystander {all} of {all}, p99 {during:.0?} ({:.0?} before)", baseline)
    }
}

fn p99(all: &mut [Duration]) -> Duration {
    all.sort_unstable();
    all.get(all.len() * 99 / 100).copied().unwrap_or_default()
}

async fn run(shared: &Arc<Shared>, addr: SocketAddr) -> Seen {
    let start = Instant::now();
    let clients = (0..CLIENTS).map(|nth| tokio::spawn(client(Arc::clone(shared), addr, start + PACE * nth)));
    let ticking = tokio::spawn(tick(Arc::clone(shared)));
    let mut all = Seen::default();
    for seen in futures_util::future::join_all(clients).await {
        let seen = seen.expect("a client that ends");
        all.before.extend(seen.before);
        all.during.extend(seen.during);
        all.failures.extend(seen.failures);
        all.failed += seen.failed;
    }
    all.late = ticking.await.expect("a ticker that ends");
    all
}

/// How late a timer is that waits for nobody but this machine.
async fn tick(shared: Arc<Shared>) -> Vec<Duration> {
    let mut late = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let due = Instant::now() + PACE * CLIENTS;
        tokio::time::sleep_until(due.into()).await;
        late.extend(shared.attack.load(Ordering::Relaxed).then(|| due.elapsed()));
    }
    late
}

async fn client(shared: Arc<Shared>, addr: SocketAddr, first: Instant) -> Seen {
    let (mut seen, mut connection, mut due) = (Seen::default(), None, first);
    while !shared.stop.load(Ordering::Relaxed) {
        tokio::time::sleep_until(due.into()).await;
        let during = shared.attack.load(Ordering::Relaxed);
        match one(&mut connection, addr).await {
            Ok(()) if during => seen.during.push(due.elapsed()),
            Ok(()) => seen.before.push(due.elapsed()),
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

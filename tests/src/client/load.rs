//! A load of keep-alive HTTP/1.1 requests that counts what fails, and who answered.
//!
//! Invariant: each request is sent once; nothing is retried, so a failure that a client would see is counted.
//! Non-goal: highest rates; wrk and h2load are for that.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::task::JoinSet;

use super::PATIENCE;
use super::http::{Connection, Version, get};
use crate::netns::Host;

/// Failures that are described; the rest is only counted.
const DESCRIBED: usize = 20;

/// A running load.
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Report>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests answered with 200 and a whole body.
    pub answered: u64,
    /// Requests that were not.
    pub failed: u64,
    /// What happened to the first of those.
    pub failures: Vec<String>,
    /// Duration of each answered request in microseconds, by who answered.
    pub micros: BTreeMap<String, Vec<u32>>,
    /// How long the load ran.
    pub elapsed: Duration,
}

impl Load {
    /// Starts `connections` clients on `host`, each with one request at a time, `pause` after each answer.
    #[must_use]
    pub fn start(host: &Host, addr: SocketAddr, connections: usize, pause: Duration) -> Self {
        Self::patient(host, addr, connections, pause, PATIENCE)
    }

    /// The same, with clients that wait for `patience` before a request counts as failed.
    #[must_use]
    pub fn patient(host: &Host, addr: SocketAddr, connections: usize, pause: Duration, patience: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = host.run_in_thread({
            let shared = Arc::clone(&shared);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("a runtime in a test");
                runtime.block_on(run(shared, addr, connections, (pause, patience)))
            }
        });
        Self { shared, thread }
    }

    /// How many requests have been answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Lets each client finish its request, and reports.
    ///
    /// # Panics
    /// When the load did.
    #[must_use]
    pub fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a load that ends")
    }
}

impl Report {
    /// The share of answers that came from `name`, in percent.
    #[must_use]
    pub fn share(&self, name: &str) -> f64 {
        let count = self.micros.get(name).map_or(0, Vec::len);
        // Counts of a test are far below what a float holds exactly.
        #[allow(clippy::cast_precision_loss)]
        let share = 100.0 * count as f64 / self.answered.max(1) as f64;
        share
    }

    /// The duration that `percent` of the answers took at most, over all who answered.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut all: Vec<u32> = self.micros.values().flatten().copied().collect();
        all.sort_unstable();
        let at = (all.len() * percent / 100).min(all.len().saturating_sub(1));
        Duration::from_micros(all.get(at).copied().unwrap_or_default().into())
    }

    fn merge(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(DESCRIBED);
        for (name, micros) in other.micros {
            self.micros.entry(name).or_default().extend(micros);
        }
    }

    fn failed(&mut self, what: String) {
        self.failed += 1;
        if self.failures.len() < DESCRIBED {
            self.failures.push(what);
        }
    }
}

async fn run(shared: Arc<Shared>, addr: SocketAddr, connections: usize, times: (Duration, Duration)) -> Report {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn(client(Arc::clone(&shared), addr, times));
    }
    let mut report = Report::default();
    while let Some(one) = clients.join_next().await {
        report.merge(one.expect("a client that ends"));
    }
    report.elapsed = start.elapsed();
    report
}

/// One connection, opened again when it breaks or the server asks for it.
async fn client(shared: Arc<Shared>, addr: SocketAddr, (pause, patience): (Duration, Duration)) -> Report {
    let mut report = Report::default();
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        match one(&mut connection, addr, patience).await {
            Ok(name) => {
                report.answered += 1;
                let micros = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
                report.micros.entry(name).or_default().push(micros);
                shared.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(what) => {
                report.failed(what);
                connection = None;
            }
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    report
}

/// One request; the name of who answered.
async fn one(connection: &mut Option<Connection>, addr: SocketAddr, patience: Duration) -> Result<String, String> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(addr, Version::H1).await.map_err(|error| format!("connect: {error}"))?,
    };
    let answer = open.fetch_within(get(addr, Version::H1, "/bytes?n=100"), patience).await;
    let answer = answer.map_err(|error| format!("{error}: {error:?}"))?;
    if answer.status != StatusCode::OK {
        let reason = answer.headers.get("mesh-error").map(|value| String::from_utf8_lossy(value.as_bytes()));
        return Err(format!("{} {}", answer.status, reason.unwrap_or_default()));
    }
    if answer.body.len() != 100 {
        return Err(format!("{} bytes in place of 100", answer.body.len()));
    }
    let close = answer.headers.get(http::header::CONNECTION).is_some_and(|value| value == "close");
    if !close {
        *connection = Some(open);
    }
    let name = answer.headers.get("x-served-by").and_then(|value| value.to_str().ok());
    Ok(name.unwrap_or_default().to_owned())
}

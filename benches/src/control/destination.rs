//! What destination costs: at the start, per connected proxy, per change; and how fast changes travel.
//!
//! Invariant: proxies stay connected from step to step, each with targets of its own, so that all services are followed;
//! changes are written at an even pace whatever destination does. Non-goal: proxies that come and go.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use mesh_mtls::messages;
use mesh_mtls::tls::Connector;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::Scale;
use super::board::{Board, Tally};
use super::manifests::{ENDPOINTS, Manifests};
use super::plane::Plane;
use super::report::{Bar, Report, percentile};
use super::subscriber::{self, Proxy, Way};
use super::usage::Usage;

/// Services that a proxy's application talks to; as many targets, and as many sets of endpoints.
const TARGETS: usize = 3;
/// Changes per second.
const RATE: u32 = 100;
/// Proxies that connect at the same time.
const AT_ONCE: usize = 32;
/// For a proxy to connect and be answered in full.
const PATIENCE: Duration = Duration::from_secs(30);
/// To rest, and to look at rest.
const SETTLE: Duration = Duration::from_secs(3);
/// What work leaves behind goes back to the system within this time (`mesh_kit::memory`), and is no proxy's.
const GIVEN_BACK: Duration = Duration::from_secs(10);

/// Measures all of it.
///
/// # Errors
/// When something does not work at all.
pub fn measure(scale: &Scale, report: &mut Report) -> anyhow::Result<()> {
    let mut plane = Plane::start()?;
    let folder = plane.dir().join("manifests");
    let manifests = Arc::new(Mutex::new(Manifests::write(&folder, scale.services)?));
    let started = plane.serve(&folder)?;
    let scenario = format!("destination, {} services x {ENDPOINTS} endpoints", scale.services);
    report.add(&scenario, "exec to ready", millis(started), "ms", Bar::None);
    thread::sleep(GIVEN_BACK);
    let alone = usage(&plane)?;
    report.add(&scenario, "RSS", mib(alone.rss), "MiB", Bar::AtMost(64.0));
    report.add(&scenario, "RssAnon", mib(alone.anonymous), "MiB", Bar::None);
    let (host, plane) = (plane.host().clone(), &mut plane);
    host.enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(with_proxies(scale, plane, &manifests, report))
    })
}

async fn with_proxies(
    scale: &Scale,
    plane: &Plane,
    manifests: &Arc<Mutex<Manifests>>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (credentials, renewal) = plane.certify("service-00000")?;
    tokio::spawn(renewal);
    timeout(PATIENCE, credentials.certified()).await.context("no certificate for the proxies")?;
    let connector = Connector::new(credentials, messages::ALPN);
    let mut crowd = Crowd { connector, board: Arc::new(Board::new(scale.services)), proxies: JoinSet::new() };
    // Snapshots are made once for all: what they take is no proxy's, and told apart.
    crowd.follow_all(scale.services, plane, manifests).await?;
    crowd.rest(GIVEN_BACK).await?;
    let followed = usage(plane)?;
    let scenario = format!("destination, {} services followed", scale.services);
    report.add(&scenario, "RssAnon", mib(followed.anonymous), "MiB", Bar::None);
    for &count in &scale.proxies {
        let scenario = format!("destination, {count} proxies");
        let begun = Instant::now();
        crowd.grow(count, plane, manifests).await?;
        report.add(&scenario, "all connected and served in", begun.elapsed().as_secs_f64(), "s", Bar::None);
        crowd.rest(GIVEN_BACK).await?;
        report_memory(&scenario, "memory per proxy", followed, usage(plane)?, count, report);
        let before = usage(plane)?;
        crowd.rest(SETTLE).await?;
        let idle = usage(plane)?.cpu.saturating_sub(before.cpu).as_secs_f64() / SETTLE.as_secs_f64();
        report.add(&scenario, "CPU while nothing changes", 1000.0 * idle, "ms/s", Bar::None);
        crowd.changes(&scenario, scale.load, idle, plane, manifests, report).await?;
        crowd.rest(GIVEN_BACK).await?;
        report_memory(&scenario, "memory per proxy after changes", followed, usage(plane)?, count, report);
    }
    Ok(())
}

/// All proxies that are connected.
struct Crowd {
    connector: Connector,
    board: Arc<Board>,
    proxies: JoinSet<anyhow::Result<Infallible>>,
}

impl Crowd {
    async fn grow(&mut self, count: usize, plane: &Plane, manifests: &Mutex<Manifests>) -> anyhow::Result<()> {
        while self.proxies.len() < count {
            let mut served = Vec::new();
            for _ in 0..AT_ONCE.min(count - self.proxies.len()) {
                let proxy = nth(self.proxies.len(), &lock(manifests));
                served.push(self.connect(plane, proxy)?);
            }
            for served in served {
                self.is_served(served).await?;
            }
        }
        Ok(())
    }

    /// One proxy that follows all services.
    async fn follow_all(&mut self, services: usize, plane: &Plane, manifests: &Mutex<Manifests>) -> anyhow::Result<()> {
        let address = lock(manifests).workload(0);
        let served = self.connect(plane, Proxy { address, services: (0..services).collect() })?;
        self.is_served(served).await
    }

    async fn is_served(&mut self, served: oneshot::Receiver<()>) -> anyhow::Result<()> {
        if !matches!(timeout(PATIENCE, served).await, Ok(Ok(()))) {
            self.check()?;
            bail!("a proxy is not served within {PATIENCE:?}");
        }
        Ok(())
    }

    fn connect(&mut self, plane: &Plane, proxy: Proxy) -> anyhow::Result<oneshot::Receiver<()>> {
        let (addr, id) = (plane.destination_addr().to_string(), plane.destination_id()?);
        let way = Way { addr, id, connector: self.connector.clone() };
        let (told, served) = oneshot::channel();
        self.proxies.spawn(subscriber::follow(way, proxy, Arc::clone(&self.board), told));
        Ok(served)
    }

    /// Proxies never end by themselves.
    fn check(&mut self) -> anyhow::Result<()> {
        match self.proxies.try_join_next() {
            None => Ok(()),
            Some(ended) => match ended.context("a proxy's task")? {
                Err(error) => Err(error.context("a proxy")),
            },
        }
    }

    async fn rest(&mut self, time: Duration) -> anyhow::Result<()> {
        sleep(time).await;
        self.check()
    }

    async fn changes(
        &mut self,
        scenario: &str,
        load: Duration,
        idle: f64,
        plane: &Plane,
        manifests: &Arc<Mutex<Manifests>>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        self.board.take();
        let (before, begun) = (usage(plane)?, Instant::now());
        let (manifests, board) = (Arc::clone(manifests), Arc::clone(&self.board));
        let written = spawn_blocking(move || write_changes(&mut lock(&manifests), &board, load));
        let changes = written.await.context("the writer of changes")??;
        let waited = Instant::now();
        while self.board.unheard() > 0 && waited.elapsed() < SETTLE {
            sleep(Duration::from_millis(10)).await;
        }
        let cpu = usage(plane)?.cpu.saturating_sub(before.cpu).as_secs_f64();
        let of_changes = (cpu - idle * begun.elapsed().as_secs_f64()).max(0.0);
        self.check()?;
        report_changes(scenario, self.board.take(), changes, of_changes, report);
        Ok(())
    }
}

/// A proxy with targets of its own.
fn nth(number: usize, manifests: &Manifests) -> Proxy {
    let services = (0..TARGETS).map(|n| (number + n * manifests.len() / TARGETS) % manifests.len()).collect();
    Proxy { address: manifests.workload(number), services }
}

/// At an even pace; returns how many.
fn write_changes(manifests: &mut Manifests, board: &Board, load: Duration) -> anyhow::Result<usize> {
    let (begun, mut written) = (Instant::now(), 0);
    for n in 0..u32::try_from(load.as_secs())? * RATE {
        let due = begun + Duration::from_secs(1) / RATE * n;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let change = manifests.change(usize::try_from(n)?);
        board.changing(change, Instant::now());
        manifests.replace(change.service).context("write a manifest")?;
        written += 1;
    }
    Ok(written)
}

fn report_memory(scenario: &str, name: &'static str, before: Usage, now: Usage, count: usize, report: &mut Report) {
    // One of them was there before.
    let each = ratio(now.anonymous.saturating_sub(before.anonymous), count - 1);
    report.add(scenario, name, each, "KiB", Bar::AtMost(8.0));
}

fn report_changes(scenario: &str, tally: Tally, changes: usize, cpu: f64, report: &mut Report) {
    let mut delays = tally.delays;
    delays.sort_unstable();
    let delay = |share| percentile(&delays, share).map_or(f64::INFINITY, millis);
    let updates = tally.updates.max(1);
    #[allow(clippy::cast_precision_loss, reason = "counts of a bench")]
    let (per_change, per_update) = (1e6 * cpu / changes.max(1) as f64, 1e6 * cpu / updates as f64);
    report.add(scenario, "changes unheard of", ratio(tally.unheard as u64, 1), "", Bar::AtMost(0.0));
    report.add(scenario, "propagation p50, 100 changes/s", delay(0.5), "ms", Bar::None);
    report.add(scenario, "propagation p99, 100 changes/s", delay(0.99), "ms", Bar::AtMost(50.0));
    report.add(scenario, "propagation, the longest", delay(1.0), "ms", Bar::None);
    report.add(scenario, "updates", ratio(updates, 1), "", Bar::None);
    report.add(scenario, "CPU per change", per_change, "us", Bar::None);
    report.add(scenario, "CPU per update", per_update, "us", Bar::None);
}

fn lock(manifests: &Mutex<Manifests>) -> MutexGuard<'_, Manifests> {
    manifests.lock().unwrap_or_else(PoisonError::into_inner)
}

fn usage(plane: &Plane) -> anyhow::Result<Usage> {
    let pid = plane.destination()?.pid().context("destination has ended")?;
    Ok(Usage::of(pid)?)
}

fn millis(time: Duration) -> f64 {
    1000.0 * time.as_secs_f64()
}

fn mib(kib: u64) -> f64 {
    ratio(kib, 1024)
}

#[allow(clippy::cast_precision_loss, reason = "figures of a bench")]
fn ratio(of: u64, by: usize) -> f64 {
    of as f64 / by as f64
}

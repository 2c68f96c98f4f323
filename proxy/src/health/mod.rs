//! The proxy asks its own application whether it is well, as the workload's manifest says, and tells destination.
//!
//! Invariant: what is told is the verdict of all checks together, once there is a first result of each, and then each change;
//! checks that are gone have no say. Where a workload has no checks, one task sleeps.
//! Non-goal: what others do about it; that is destination's.

mod probe;
mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::verdict::Verdict;
use crate::control::{Discovery, Subscription};
use crate::metrics::Metrics;
use crate::model::policy::HealthCheck;
use crate::model::{Health, InboundPolicy};
use crate::net::local::LocalAddresses;

/// The newest checks.
#[derive(Default)]
struct Wanted {
    checks: Mutex<Box<[HealthCheck]>>,
    changed: Notify,
}

/// What is known of a generation of checks.
struct Board {
    checks: Box<[HealthCheck]>,
    verdicts: Mutex<Vec<Verdict>>,
    discovery: Discovery,
    metrics: Metrics,
}

/// Follows `policy`, and runs its checks for as long as the proxy lives.
pub async fn run(
    policy: Subscription<InboundPolicy>,
    local: Arc<LocalAddresses>,
    discovery: Discovery,
    metrics: Metrics,
) {
    let wanted = Arc::new(Wanted::default());
    policy.follow(&wanted, |wanted: &Wanted, policy: &InboundPolicy| {
        let mut checks = wanted.checks();
        if *checks != policy.checks {
            checks.clone_from(&policy.checks);
            wanted.changed.notify_one();
        }
    });
    loop {
        let checks = wanted.checks().clone();
        let mut running = JoinSet::new();
        if checks.is_empty() {
            // Without checks nobody is unwell.
            discovery.report_if_unwell(Health { is_healthy: true, detail: String::new() });
        } else {
            let verdicts = Mutex::new(vec![Verdict::default(); checks.len()]);
            let (discovery, metrics) = (discovery.clone(), metrics.clone());
            let board = Arc::new(Board { checks, verdicts, discovery, metrics });
            for place in 0..board.checks.len() {
                running.spawn(Arc::clone(&board).ask(place, Arc::clone(&local)));
            }
        }
        wanted.changed.notified().await;
    }
}

impl Wanted {
    fn checks(&self) -> MutexGuard<'_, Box<[HealthCheck]>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// One check, again and again.
    async fn ask(self: Arc<Self>, place: usize, local: Arc<LocalAddresses>) {
        let check = &self.checks[place];
        let mut turns = interval(check.interval);
        // One that takes longer than the interval is followed by a pause all the same.
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let began = Instant::now();
            let addrs: Vec<_> = own(&local).into_iter().map(|ip| SocketAddr::new(ip, check.port)).collect();
            let result = tokio::time::timeout(check.timeout, probe::ask(&check.probe, &addrs)).await;
            let result = result.unwrap_or_else(|_| Err(format!("no answer within {:?}", began.elapsed())));
            self.metrics.health_check(if result.is_ok() { "ok" } else { "failed" });
            self.judge(place, result);
        }
    }

    fn judge(&self, place: usize, result: Result<(), String>) {
        let check = &self.checks[place];
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let why = result.err().map(|why| format!("{}: {why}", probe::name(check)));
        if !verdicts[place].on(why, check.healthy_after, check.unhealthy_after) {
            return;
        }
        if let Some((is_healthy, detail)) = verdict::of_all(&verdicts) {
            // Under the lock, so that of two changes the later one is told last.
            self.discovery.report(Health { is_healthy, detail: detail.clone() });
            self.metrics.healthy(is_healthy);
            if is_healthy {
                tracing::info!("the application is well");
            } else {
                tracing::warn!(%detail, "the application is not well");
            }
        }
    }
}

/// IPv4 first: applications that listen for one version only mostly listen for that.
fn own(local: &LocalAddresses) -> Vec<IpAddr> {
    let mut all = local.all();
    all.sort_by_key(IpAddr::is_ipv6);
    all
}

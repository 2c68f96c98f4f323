//! A run: rounds of scenarios of contestants, in turn.
//!
//! Invariant: contestants take turns within a round, so that what disturbs the machine for a while disturbs them alike;
//! after a signal nothing new is begun and everything is torn down.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context as _;
use mesh_tests::busy::Busy;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::signal::unix::{SignalKind, signal};

use crate::cell::Cell;
use crate::peers::Peer;
use crate::report::{Header, Run};
use crate::rig::Rig;
use crate::scenario::Scenario;
use crate::tasks::Stage;

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Scenarios.
    pub scenarios: Vec<Scenario>,
    /// Contestants.
    pub peers: Vec<Peer>,
    /// How often.
    pub rounds: u32,
    /// Seconds of each load.
    pub seconds: u64,
    /// Threads that never wait, beside all of it.
    pub busy: u16,
}

impl Plan {
    /// Runs it; each cell is told as it comes.
    ///
    /// # Errors
    /// When a contestant or the place for it is missing.
    pub fn run(&self, mut tell: impl FnMut(&Cell)) -> anyhow::Result<Run> {
        for peer in &self.peers {
            peer.program()?;
        }
        let ended = on_signal()?;
        let header = Header::of(&self.peers)?;
        let rig = Rig::new()?;
        let _busy = Busy::start(self.busy, None);
        let mut cells = Vec::new();
        for round in 1..=self.rounds {
            for scenario in &self.scenarios {
                for peer in &self.peers {
                    if ended.load(Ordering::Relaxed) {
                        return Ok(Run { header, cells });
                    }
                    let stage = Stage { rig: &rig, peer: *peer, scenario, seconds: self.seconds };
                    if let Some(cell) = stage.run(round) {
                        tell(&cell);
                        cells.push(cell);
                    }
                }
            }
        }
        Ok(Run { header, cells })
    }
}

/// Becomes true at the first SIGINT or SIGTERM.
fn on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("a runtime for signals")?;
    thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
                return;
            };
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
            seen.store(true, Ordering::Relaxed);
        });
    });
    Ok(ended)
}

impl Header {
    fn of(peers: &[Peer]) -> anyhow::Result<Self> {
        let words: Vec<_> = std::env::args().skip(1).collect();
        let today = OffsetDateTime::now_utc().format(format_description!("[year]-[month]-[day]"))?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let others = peers.iter().filter(|peer| !matches!(peer, Peer::Direct | Peer::Relay));
        Ok(Self {
            date: today,
            command: format!("bench {}", words.join(" ")).trim().to_owned(),
            kernel: kernel.trim().to_owned(),
            processor: processor(&cpuinfo).unwrap_or("an unknown processor").to_owned(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            versions: others.map(|peer| (peer.name().to_owned(), peer.version())).collect(),
        })
    }
}

fn processor(cpuinfo: &str) -> Option<&str> {
    let (_, name) = cpuinfo.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(name.trim())
}

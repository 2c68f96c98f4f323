//! What is done in a cell, from fresh sidecars to their end.
//!
//! Invariant: whatever a task starts ends with it; what goes wrong is a problem of the cell, and the next cell is run.

mod held;
mod idle;
mod load;
mod targets;

use std::thread;
use std::time::Duration;

use crate::cell::Cell;
use crate::peers::{Flavour, Pair, Peer, Side};
use crate::rig::{self, Rig};
use crate::scenario::{Scenario, Task};
use crate::usage::Spent;

/// For a sidecar to come to rest after its start or after a load.
const REST: Duration = Duration::from_secs(1);
/// After a spike, for memory to come down.
const AFTERMATH: Duration = Duration::from_secs(10);

/// A place with everything that a task needs to know.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    /// Where.
    pub rig: &'a Rig,
    /// Who.
    pub peer: Peer,
    /// What.
    pub scenario: &'a Scenario,
    /// For how long.
    pub seconds: u64,
}

impl Stage<'_> {
    /// Runs a cell; `None` where the scenario says nothing of the contestant.
    #[must_use]
    pub fn run(&self, round: u32) -> Option<Cell> {
        let (is_load, flavour) = (matches!(self.scenario.task, Task::Load(_)), self.scenario.work.flavour);
        match self.peer {
            Peer::Direct if !is_load => return None,
            // Where the kernel decides.
            Peer::Relay | Peer::MeshOther if !self.scenario.name.ends_with("-rate") => return None,
            // The same as HAProxy otherwise.
            Peer::HaproxyH2 if !is_load || flavour != Flavour::Http1 => return None,
            _ => {}
        }
        let mut cell = Cell::new(self.scenario, self.peer, round);
        if let Err(error) = self.fill(&mut cell) {
            cell.problems.push(format!("{error:#}"));
        }
        Some(cell)
    }

    fn fill(&self, cell: &mut Cell) -> anyhow::Result<()> {
        self.rig.redirect(self.peer)?;
        let _server = match self.scenario.work.port {
            rig::BULK => Some(self.rig.start_bulk_server()?),
            _ => None,
        };
        match &self.scenario.task {
            Task::Load(generator) if self.peer == Peer::Direct => load::direct(self, generator, cell),
            Task::Load(generator) => load::run(self, generator, &self.pair()?, cell),
            Task::Spike(generator) => load::spike(self, generator, &self.pair()?, cell),
            Task::Idle => idle::run(self, cell),
            Task::Held { protocol, count } => held::run(self, protocol, *count, &self.pair()?, cell),
            Task::Targets => targets::run(self, cell),
        }
    }

    /// Fresh sidecars at rest.
    fn pair(&self) -> anyhow::Result<Pair> {
        let pair = Pair::start(self.peer, self.rig, self.scenario.work)?;
        thread::sleep(REST);
        Ok(pair)
    }

    fn client(&self) -> &mesh_tests::netns::Host {
        self.rig.host(Side::Client)
    }

    fn target(&self) -> std::net::SocketAddr {
        self.rig.target(self.peer, self.scenario.work.port)
    }
}

/// What was spent between two readings.
fn difference(now: [Spent; 2], before: [Spent; 2]) -> [Spent; 2] {
    let minus = |index: usize| Spent {
        cpu: now[index].cpu.saturating_sub(before[index].cpu),
        wakes: now[index].wakes.saturating_sub(before[index].wakes),
    };
    [minus(0), minus(1)]
}

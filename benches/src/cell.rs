//! A cell: one contestant, one scenario, one round, with sidecars of its own.
//!
//! Invariant: figures are taken between two readings of the same processes; what makes them invalid is told beside
//! them: an error, a sidecar that was passed by, plaintext on the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::generator::{Generator, Outcome, float};
use crate::peers::{Counters, Flavour, Pair, Peer, Side};
use crate::rig::Rig;
use crate::scenario::{Scenario, Task};
use crate::usage::{Memory, Spent, Watch};
use crate::wire::{Look, Sight};

const WARM_UP: u64 = 1;
/// For a sidecar to come to rest.
const REST: Duration = Duration::from_millis(300);
/// wrk and h2load count what came within their time, sidecars what was begun: a few may be under way at either end.
const COUNTED: f64 = 0.98;

/// What came of a cell.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Cell {
    /// The scenario's name.
    pub scenario: String,
    /// The contestant's.
    pub peer: String,
    /// Counted from 1.
    pub round: u32,
    /// Why its figures do not count; empty when they do.
    pub problems: Vec<String>,
    /// Name -> value.
    pub figures: BTreeMap<String, f64>,
}

/// How a cell is run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of its load.
    pub seconds: u64,
    /// Counted from 1.
    pub round: u32,
}

impl Cell {
    /// Runs it. What goes wrong is one of its problems.
    #[must_use]
    pub fn run(rig: &Rig, peer: Peer, scenario: &Scenario, plan: Plan) -> Self {
        let mut cell = Self {
            scenario: scenario.name.to_owned(),
            peer: peer.name().to_owned(),
            round: plan.round,
            problems: Vec::new(),
            figures: BTreeMap::new(),
        };
        if let Err(error) = cell.fill(rig, peer, scenario, plan) {
            cell.problems.push(format!("{error:#}"));
        }
        cell
    }

    fn fill(&mut self, rig: &Rig, peer: Peer, scenario: &Scenario, plan: Plan) -> anyhow::Result<()> {
        rig.redirect(peer)?;
        let pair = match peer {
            Peer::Direct => None,
            _ => Some(Pair::start(peer, rig, scenario.work)?),
        };
        match (&scenario.task, pair) {
            (Task::Load(generator), None) => self.direct(rig, scenario, generator, plan),
            (Task::Load(generator), Some(pair)) => self.load(rig, scenario, generator, &pair, plan),
        }
    }

    fn direct(&mut self, rig: &Rig, scenario: &Scenario, generator: &Generator, plan: Plan) -> anyhow::Result<()> {
        let target = rig.target(Peer::Direct, scenario.work.port);
        let outcome = generator.run(rig.host(Side::Client), target, plan.seconds, rig.folder())?;
        self.outcome(&outcome);
        Ok(())
    }

    fn load(&mut self, rig: &Rig, scenario: &Scenario, generator: &Generator, pair: &Pair, plan: Plan) -> anyhow::Result<()> {
        let (client, target) = (rig.host(Side::Client), rig.target(Peer::Mesh, scenario.work.port));
        std::thread::sleep(REST);
        self.memory("idle", pair.memory()?);
        let look = Look::start(client, rig.ends())?;
        let warmed = generator.run(client, target, WARM_UP, rig.folder());
        self.sight(&look.stop());
        warmed?;
        let (counted, spent) = (pair.counters()?, pair.spent()?);
        let watch = Watch::start(pair.pids().to_vec());
        let outcome = generator.run(client, target, plan.seconds, rig.folder());
        let spent = difference(pair.spent()?, spent);
        let most = watch.stop();
        let outcome = outcome?;
        self.outcome(&outcome);
        self.cpu(spent, &outcome);
        self.counted(pair.counters()?, counted, scenario, &outcome);
        if let [client, server] = most[..] {
            self.memory("peak", [client, server]);
        }
        self.memory("after", pair.memory()?);
        Ok(())
    }

    fn set(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    fn outcome(&mut self, outcome: &Outcome) {
        self.set("done", outcome.done);
        self.set("per_second", outcome.per_second);
        if outcome.errors > 0 {
            self.problems.push(format!("{} errors", outcome.errors));
        }
        if let Some(latency) = outcome.latency {
            for (name, value) in ["p50_us", "p90_us", "p99_us", "p999_us"].into_iter().zip(latency) {
                self.set(name, value);
            }
        }
    }

    fn cpu(&mut self, spent: [Spent; 2], outcome: &Outcome) {
        for (side, spent) in [Side::Client, Side::Server].into_iter().zip(spent) {
            self.set(&format!("{}_cpu_us", side.name()), micros(spent.cpu) / outcome.done);
        }
        self.set("cpu_us", spent.iter().map(|spent| micros(spent.cpu)).sum::<f64>() / outcome.done);
    }

    fn counted(&mut self, now: [Counters; 2], before: [Counters; 2], scenario: &Scenario, outcome: &Outcome) {
        for (side, (now, before)) in [Side::Client, Side::Server].into_iter().zip(now.into_iter().zip(before)) {
            let (seen, expected) = match scenario.work.flavour {
                Flavour::Tcp => (now.connections - before.connections, 1.0),
                Flavour::Http1 | Flavour::Http2 => (now.requests - before.requests, outcome.done * COUNTED),
            };
            if seen < expected {
                self.problems.push(format!("passed by: the {}'s sidecar counted {seen} of {expected}", side.name()));
            }
        }
    }

    fn sight(&mut self, sight: &Sight) {
        if sight.other > 0 || sight.words > 0 {
            self.problems.push(format!("plaintext on the wire: {sight:?}"));
        }
        if sight.tls == 0 {
            self.problems.push("no TLS on the wire".to_owned());
        }
    }

    fn memory(&mut self, when: &str, both: [Memory; 2]) {
        for (side, memory) in [Side::Client, Side::Server].into_iter().zip(both) {
            let figures = [("rss", memory.rss), ("anon", memory.anon), ("high", memory.high), ("pss", memory.pss)];
            for (name, value) in figures.into_iter().filter(|(_, value)| *value > 0) {
                self.set(&format!("{}_{name}_{when}_kib", side.name()), float(value));
            }
        }
        self.set(&format!("anon_{when}_kib"), float(both.iter().map(|memory| memory.anon).max().unwrap_or_default()));
    }
}

fn difference(now: [Spent; 2], before: [Spent; 2]) -> [Spent; 2] {
    let minus = |index: usize| Spent {
        cpu: now[index].cpu.saturating_sub(before[index].cpu),
        wakes: now[index].wakes.saturating_sub(before[index].wakes),
    };
    [minus(0), minus(1)]
}

fn micros(nanos: u64) -> f64 {
    float(nanos) / 1e3
}

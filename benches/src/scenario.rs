//! The scenarios: what is done, and what one unit of it is.
//!
//! Invariant: names are those of the table and of `--only`; each is the same work for every contestant.

use crate::generator::Generator;
use crate::peers::{Flavour, Work};
use crate::rig;

/// A scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What CPU is counted by.
    pub unit: &'static str,
    /// What sidecars are set up for.
    pub work: Work,
    /// What is done.
    pub task: Task,
    /// Whether `--quick` has it.
    pub is_quick: bool,
}

/// What is done in a scenario.
#[derive(Clone, Debug)]
pub enum Task {
    /// Load for a time.
    Load(Generator),
}

fn load(name: &'static str, unit: &'static str, flavour: Flavour, port: u16, generator: Generator) -> Scenario {
    Scenario { name, unit, work: Work { flavour, port, workers: 1 }, task: Task::Load(generator), is_quick: false }
}

fn path(bytes: u32) -> String {
    format!("/bytes?n={bytes}")
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    use Flavour::{Http1, Http2, Tcp};
    let quick = |scenario: Scenario| Scenario { is_quick: true, ..scenario };
    vec![
        quick(load("h1-small", "request", Http1, rig::HTTP, Generator::Wrk(path(100)))),
        load("h1-10k", "request", Http1, rig::HTTP, Generator::Wrk(path(10_000))),
        quick(load("h1-1m", "request", Http1, rig::HTTP, Generator::Wrk(path(1 << 20)))),
        quick(load("h2-small", "request", Http2, rig::HTTP, Generator::H2load(path(100)))),
        quick(load("tcp-bulk-1", "MiB", Tcp, rig::BULK, Generator::Iperf(1))),
        load("tcp-bulk-8", "MiB", Tcp, rig::BULK, Generator::Iperf(8)),
    ]
}

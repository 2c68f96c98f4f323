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
    /// Load for a time, and what memory is left of it 10 s later.
    Spike(Generator),
    /// One request, then nothing.
    Idle,
    /// Connections that are open and do nothing.
    Held {
        /// As `bench-load hold --proto` knows it.
        protocol: &'static str,
        /// How many.
        count: u32,
    },
    /// Many services known, some in use.
    Targets,
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    use Flavour::{Http1, Http2, Tcp};
    let wrk = |bytes: u32| Generator::Wrk(path(bytes));
    vec![
        quick(with(Http1, rig::HTTP, "idle", "second", Task::Idle)),
        quick(load(Http1, rig::HTTP, "h1-small", wrk(100))),
        load(Http1, rig::HTTP, "h1-10k", wrk(10_000)),
        quick(load(Http1, rig::HTTP, "h1-1m", wrk(1 << 20))),
        load(Http1, rig::HTTP, "h1-post", Generator::WrkPost(64 << 10)),
        quick(load(Http2, rig::HTTP, "h2-small", Generator::H2load { streams: 32, path: path(100) })),
        load(Http2, rig::GRPC, "grpc-unary", own("grpc --mode unary")),
        with(Http2, rig::GRPC, "grpc-stream", "message", Task::Load(own("grpc --mode stream"))),
        quick(load(Http1, rig::HTTP, "h1-rate", own("rate --proto h1 --rate 1000"))),
        load(Http2, rig::HTTP, "h2-rate", own("rate --proto h2 --rate 1000 --connections 4")),
        quick(load(Tcp, rig::ECHO, "tcp-rate", own("rate --proto tcp --rate 1000"))),
        quick(with(Tcp, rig::BULK, "tcp-bulk-1", "MiB", Task::Load(Generator::Iperf(1)))),
        with(Tcp, rig::BULK, "tcp-bulk-8", "MiB", Task::Load(Generator::Iperf(8))),
        quick(with(Http1, rig::HTTP, "conn-churn", "connection", Task::Load(own("churn --proto http --at-once 16")))),
        quick(with(Tcp, rig::ECHO, "tcp-churn", "connection", Task::Load(own("churn --proto tcp --at-once 16")))),
        quick(held(Tcp, rig::ECHO, "held-tcp-1000", "tcp", 1000)),
        held(Tcp, rig::ECHO, "held-tcp-9000", "tcp", 9000),
        quick(held(Http1, rig::HTTP, "held-http-1000", "http", 1000)),
        held(Http1, rig::HTTP, "held-http-9000", "http", 9000),
        with(
            Http2,
            rig::HTTP,
            "spike-1m",
            "request",
            Task::Spike(Generator::H2load { streams: 8, path: path(1 << 20) }),
        ),
        with(Http1, rig::HTTP, "many-targets", "request", Task::Targets),
        two(load(Http1, rig::HTTP, "workers-2", wrk(100))),
    ]
}

/// Looks them up by name.
///
/// # Errors
/// When a name is not known: the error lists those that are.
pub fn named(names: &[String]) -> anyhow::Result<Vec<Scenario>> {
    let all = all();
    let find = |name: &String| {
        let found = all.iter().find(|scenario| scenario.name == name).cloned();
        found.ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|scenario| scenario.name).collect();
            anyhow::anyhow!("no scenario is called {name}; there are {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

fn with(flavour: Flavour, port: u16, name: &'static str, unit: &'static str, task: Task) -> Scenario {
    Scenario { name, unit, work: Work { flavour, port, workers: 1, targets: 0 }, task, is_quick: false }
}

fn load(flavour: Flavour, port: u16, name: &'static str, generator: Generator) -> Scenario {
    with(flavour, port, name, "request", Task::Load(generator))
}

fn held(flavour: Flavour, port: u16, name: &'static str, protocol: &'static str, count: u32) -> Scenario {
    with(flavour, port, name, "connection", Task::Held { protocol, count })
}

fn quick(scenario: Scenario) -> Scenario {
    Scenario { is_quick: true, ..scenario }
}

fn two(scenario: Scenario) -> Scenario {
    Scenario { work: Work { workers: 2, ..scenario.work }, ..scenario }
}

fn own(words: &str) -> Generator {
    Generator::Own(words.split(' ').map(str::to_owned).collect())
}

fn path(bytes: u32) -> String {
    format!("/b/{bytes}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let mut names: Vec<_> = all().iter().map(|scenario| scenario.name.to_owned()).collect();
        assert_eq!(named(&names).unwrap().len(), names.len());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
        let error = named(&["h3-small".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("h3-small") && error.contains("h2-small"), "{error}");
    }
}

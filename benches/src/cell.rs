//! A cell: one contestant, one scenario, one round; its figures, and why they might not count.
//!
//! Invariant: a figure is taken between two readings of the same processes; a cell with a problem is never in a median.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::generator::{Outcome, float};
use crate::peers::{Counters, Flavour, Peer, Side};
use crate::scenario::Scenario;
use crate::usage::{Memory, Spent};
use crate::wire::Sight;

/// wrk and h2load count what was answered within their time, sidecars what was begun: a few are under way at either end.
const COUNTED: f64 = 0.98;

/// What came of a cell.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
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

impl Cell {
    /// A cell without figures.
    #[must_use]
    pub fn new(scenario: &Scenario, peer: Peer, round: u32) -> Self {
        Self { scenario: scenario.name.to_owned(), peer: peer.name().to_owned(), round, ..Self::default() }
    }

    /// A figure.
    pub fn set(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    /// What the generator says.
    pub fn outcome(&mut self, outcome: &Outcome) {
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

    /// CPU by unit of work. A sidecar that has worked has used some.
    pub fn cpu(&mut self, spent: [Spent; 2], done: f64) {
        for (side, spent) in Side::BOTH.into_iter().zip(spent) {
            self.set(&format!("{}_cpu_us", side.name()), micros(spent.cpu) / done);
            if spent.cpu == 0 {
                self.problems.push(format!("passed by: the {}'s sidecar used no CPU", side.name()));
            }
        }
        self.set("cpu_us", spent.iter().map(|spent| micros(spent.cpu)).sum::<f64>() / done);
    }

    /// Whether both sidecars have counted what was done.
    pub fn counted(&mut self, now: [Counters; 2], before: [Counters; 2], scenario: &Scenario, done: f64) {
        for (side, (now, before)) in Side::BOTH.into_iter().zip(now.into_iter().zip(before)) {
            let (seen, expected) = match (scenario.work.flavour, scenario.unit) {
                (Flavour::Tcp, "connection") => (now.connections - before.connections, done * COUNTED),
                // How many it takes to do it is the generator's choice.
                (Flavour::Tcp, _) => (now.connections - before.connections, 1.0),
                // Messages of a stream are of one request.
                (_, "message") => (now.requests - before.requests, 1.0),
                (Flavour::Http1 | Flavour::Http2, _) => (now.requests - before.requests, done * COUNTED),
            };
            if seen < expected {
                self.problems.push(format!("passed by: the {}'s sidecar counted {seen} of {expected}", side.name()));
            }
        }
    }

    /// What was seen on the wire.
    pub fn sight(&mut self, sight: &Sight) {
        if sight.other > 0 || sight.words > 0 {
            self.problems.push(format!("plaintext on the wire: {sight:?}"));
        }
        if sight.tls == 0 {
            self.problems.push("no TLS on the wire".to_owned());
        }
        if sight.suites > 0 {
            self.problems.push("another cipher suite than TLS_AES_128_GCM_SHA256".to_owned());
        }
    }

    /// Memory at a moment: of each side, and the larger of both.
    pub fn memory(&mut self, when: &str, both: [Memory; 2]) {
        let [client, server] = both;
        let kinds = [
            ("rss", [client.rss, server.rss]),
            ("anon", [client.anon, server.anon]),
            ("high", [client.high, server.high]),
            ("pss", [client.pss, server.pss]),
        ];
        for (kind, values) in kinds {
            // Pss is not counted under load.
            if values == [0, 0] {
                continue;
            }
            for (side, value) in Side::BOTH.into_iter().zip(values) {
                self.set(&format!("{}_{kind}_{when}_kib", side.name()), float(value));
            }
            self.set(&format!("{kind}_{when}_kib"), float(values[0].max(values[1])));
        }
    }
}

/// Nanoseconds as microseconds.
#[must_use]
pub fn micros(nanos: u64) -> f64 {
    float(nanos) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    fn counters(requests: f64, connections: f64) -> Counters {
        Counters { requests, connections }
    }

    fn counted(name: &str, client: Counters, server: Counters) -> Vec<String> {
        let scenario = scenario::named(&[name.to_owned()]).unwrap().remove(0);
        let mut cell = Cell::new(&scenario, Peer::Mesh, 1);
        cell.counted([client, server], [counters(10.0, 10.0); 2], &scenario, 100.0);
        cell.problems
    }

    #[test]
    fn a_sidecar_that_was_passed_by_is_a_problem() {
        assert_eq!(counted("h1-small", counters(110.0, 11.0), counters(110.0, 11.0)), Vec::<String>::new());
        let problems = counted("h1-small", counters(110.0, 11.0), counters(10.0, 11.0));
        assert_eq!(problems, ["passed by: the server's sidecar counted 0 of 98"]);
        assert_eq!(counted("tcp-churn", counters(0.0, 50.0), counters(0.0, 110.0)).len(), 1);
        assert_eq!(counted("tcp-bulk-1", counters(0.0, 11.0), counters(0.0, 10.0)).len(), 1);
    }

    #[test]
    fn plaintext_and_silence_on_the_wire_are_problems() {
        for (sight, problems) in [
            (Sight { tls: 2, ..Sight::default() }, 0),
            (Sight { tls: 2, words: 1, ..Sight::default() }, 1),
            (Sight { tls: 2, other: 1, ..Sight::default() }, 1),
            (Sight { tls: 2, suites: 1, ..Sight::default() }, 1),
            (Sight::default(), 1),
        ] {
            let mut cell = Cell::default();
            cell.sight(&sight);
            assert_eq!(cell.problems.len(), problems, "{sight:?}");
        }
    }

    #[test]
    fn cpu_is_of_both_and_by_unit() {
        let mut cell = Cell::default();
        cell.cpu([Spent { cpu: 3_000_000, wakes: 0 }, Spent { cpu: 1_000_000, wakes: 0 }], 100.0);
        assert_eq!((cell.figures["cpu_us"], cell.figures["client_cpu_us"]), (40.0, 30.0));
        assert!(cell.problems.is_empty());
        cell.cpu([Spent::default(); 2], 100.0);
        assert_eq!(cell.problems.len(), 2);
    }
}

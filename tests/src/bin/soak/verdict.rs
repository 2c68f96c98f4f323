//! What came of a run.
//!
//! Invariant: each finding is a line of its own; without findings the run holds.

use std::fmt;
use std::time::Duration;

use mesh_tests::mesh::Mesh;
use mesh_tests::yardstick::{Who, record};

use crate::fault::{Fault, Happened};
use crate::gauge::Gauges;
use crate::talk::{Failure, KEPT, Said};

/// Findings that are shown.
const SHOWN: usize = 20;

/// The figures, and what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    figures: Vec<String>,
    findings: Vec<String>,
}

/// Judges a run that is over.
pub(crate) fn judge(mesh: &Mesh, gauges: &Gauges, said: &Said, faults: &[Happened]) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.of_conversations(said, faults);
    for figures in gauges.figures() {
        verdict.figures.push(figures.to_string());
        verdict.findings.extend(figures.findings());
    }
    verdict.findings.extend(gauges.replaced(mesh).map(|name| format!("{name}: its sidecar is another process now")));
    for program in mesh.programs() {
        let log = program.log();
        // As `mesh_kit::log` says it, and as Rust does in programs without logs.
        let panicked = log.lines().find(|line| line.contains(" panic ") || line.contains("panicked at"));
        verdict.findings.extend(panicked.map(|line| format!("{}: {line}", program.name())));
    }
    verdict
}

impl Verdict {
    fn of_conversations(&mut self, said: &Said, faults: &[Happened]) {
        let excused = |failure: &&Failure| faults.iter().any(|fault| fault.excuses(failure));
        let (excused, unexcused): (Vec<_>, Vec<_>) = said.failures.iter().partition(excused);
        let before =
            |failure: &Failure| faults.iter().filter_map(|fault| fault.before(failure)).min_by_key(|(since, _)| *since);
        let told = |failure: &&Failure| {
            let after = before(failure).map(|(since, fault)| format!(", {since:.1?} after {fault:?} began"));
            format!("{:?}: {}{}", failure.kind, failure.what, after.unwrap_or_default())
        };
        self.findings.extend(unexcused.iter().map(told));
        if said.conversations == 0 {
            self.findings.push("nothing was said".to_owned());
        }
        if said.failures.len() >= KEPT {
            self.findings.push(format!("more than {KEPT} conversations broke: the rest is not judged"));
        }
        self.figures.push(format!(
            "{} messages in {} conversations; {} broken by a fault, {} without one",
            said.messages,
            said.conversations,
            excused.len(),
            unexcused.len()
        ));
        let of = |fault: &Fault| faults.iter().filter(|happened| happened.fault == *fault).count();
        let counts: Vec<String> = Fault::ALL.iter().map(|fault| format!("{fault:?} {}", of(fault))).collect();
        self.figures.push(format!("{} faults: {}", faults.len(), counts.join(", ")));
    }

    /// The run in one line, for the table of reliability.
    pub(crate) fn record(&self, how_long: Duration) {
        let hours = how_long.as_secs_f64() / 3600.0;
        record(66, "soak", Who::Mesh, self.holds(), &format!("{hours:.2} h: {}", self.figures.join("; ")));
    }

    pub(crate) fn holds(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.figures.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.findings.iter().take(SHOWN).try_for_each(|line| writeln!(f, "FOUND {line}"))?;
        match self.findings.len() {
            0 => write!(f, "HOLDS"),
            n => write!(f, "FAILS: {n} findings"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::talk::Kind;

    fn said(failures: &[(Kind, &str)]) -> Said {
        let failure =
            |(kind, what): &(Kind, &str)| Failure { kind: *kind, at: Instant::now(), what: (*what).to_owned() };
        Said { messages: 100, conversations: 4, failures: failures.iter().map(failure).collect() }
    }

    fn judged(said: &Said, faults: &[Happened]) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.of_conversations(said, faults);
        verdict
    }

    #[test]
    fn a_conversation_that_breaks_without_a_fault_fails_the_run() {
        let calm = judged(&said(&[]), &[]);
        assert!(calm.holds() && calm.to_string().ends_with("HOLDS"), "{calm}");
        let broken = judged(&said(&[(Kind::Tcp, "connection reset")]), &[]);
        assert!(!broken.holds() && broken.to_string().contains("FOUND Tcp: connection reset"), "{broken}");
        let silent = judged(&Said { conversations: 0, ..said(&[]) }, &[]);
        assert!(!silent.holds(), "{silent}");
    }

    #[test]
    fn a_fault_excuses_streams_that_it_ends_and_no_request() {
        let killed = [Happened::now(Fault::ReplicaKilled)];
        assert!(judged(&said(&[(Kind::Grpc, "reset"), (Kind::Http1, "error reading a body")]), &killed).holds());
        assert!(!judged(&said(&[(Kind::Http1, "503")]), &killed).holds(), "a request is sent elsewhere");
        let died = said(&[(Kind::Http2, "502 upstream_reset; application: connection lost")]);
        assert!(judged(&died, &[Happened::now(Fault::AppKilled)]).holds(), "the application may have done it");
        assert!(!judged(&died, &killed).holds(), "a lost tunnel is another's");
        let drained = [Happened::now(Fault::SidecarDrained)];
        assert!(!judged(&said(&[(Kind::Grpc, "reset")]), &drained).holds(), "a drain breaks nothing");
    }
}

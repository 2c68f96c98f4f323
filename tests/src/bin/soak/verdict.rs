//! What came of a run.
//!
//! Invariant: each finding is a line of its own; without findings the run holds.

use std::fmt;

use mesh_tests::mesh::Mesh;

use crate::fault::{Fault, Happened};
use crate::gauge::Gauges;
use crate::talk::Said;

/// Findings that are shown.
const SHOWN: usize = 20;

/// The figures, and what is wrong.
pub(crate) struct Verdict {
    figures: Vec<String>,
    findings: Vec<String>,
}

/// Judges a run that is over.
pub(crate) fn judge(mesh: &Mesh, gauges: &Gauges, said: &Said, faults: &[Happened]) -> Verdict {
    let mut figures: Vec<String> = gauges.figures().map(|figures| figures.to_string()).collect();
    let mut findings: Vec<String> = gauges.figures().flat_map(|figures| figures.findings()).collect();
    findings.extend(gauges.replaced(mesh).map(|name| format!("{name}: its sidecar is another process now")));
    for program in mesh.programs() {
        let log = program.log();
        let panicked = log.lines().find(|line| line.contains("panicked at"));
        findings.extend(panicked.map(|line| format!("{}: {line}", program.name())));
    }
    let excused = |failure: &&crate::talk::Failure| faults.iter().any(|fault| fault.excuses(failure));
    let (excused, unexcused): (Vec<_>, Vec<_>) = said.failures.iter().partition(excused);
    findings.extend(unexcused.iter().map(|failure| format!("{:?}: {}", failure.kind, failure.what)));
    if said.conversations == 0 {
        findings.push("nothing was said".to_owned());
    }
    let of = |fault: &Fault| faults.iter().filter(|happened| happened.fault == *fault).count();
    let counts: Vec<String> = Fault::ALL.iter().map(|fault| format!("{fault:?} {}", of(fault))).collect();
    figures.push(format!("{} faults: {}", faults.len(), counts.join(", ")));
    figures.push(format!(
        "{} messages in {} conversations; {} broken by a fault, {} without one",
        said.messages,
        said.conversations,
        excused.len(),
        unexcused.len()
    ));
    Verdict { figures, findings }
}

impl Verdict {
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

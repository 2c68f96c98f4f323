//! HTTP/1 on the wire under attack: what has two readings is refused, and nobody gets what is another's.
//!
//! Invariant: the back end records every byte, so a refusal is proved there and not by an answer alone.
//! Non-goal: HTTP/2, authorities (`guards` has them).

mod answered;
mod chunks;
mod compliance;
mod downgrade;
mod early;
mod identity;
mod oversize;
mod smuggling;
mod watch;

use mesh_tests::attacks::http1::{Case, Outcome, Recorder, attempt};
use mesh_tests::mesh::Mesh as Whole;
use mesh_tests::yardstick::{Front, Mesh};

/// Where the back end listens with HTTP/1 declared: nothing is left to detection.
const DECLARED: u16 = 8001;

/// A running mesh, and its fronts: by both ways, to a port that is not declared and to one that is HTTP.
struct Wire {
    mesh: Mesh,
    fronts: Vec<Front>,
}

impl Wire {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// `prepare` may add to the mesh before it starts.
    fn start_with(prepare: impl FnOnce(&mut Whole)) -> Self {
        let mut declared = None;
        let mesh = Mesh::start(|mesh: &mut Whole| {
            prepare(mesh);
            declared = Some(mesh.service("declared", 80, DECLARED).over("web").protocol("http").add());
        });
        let service = declared.expect("prepared").v4;
        let [inbound, both] = mesh.fronts.clone();
        let fronts = [
            inbound.clone(),
            both.clone(),
            Front { addr: (inbound.addr.ip(), DECLARED).into(), port: DECLARED, ..inbound },
            Front { addr: service, port: DECLARED, ..both },
        ];
        Self { mesh, fronts: fronts.into() }
    }

    /// Those whose port is declared.
    fn declared(&self) -> impl Iterator<Item = &Front> {
        self.fronts.iter().filter(|front| front.port == DECLARED)
    }

    /// How often the sidecar that the front's client meets has refused a request.
    fn refusals(&self, front: &Front) -> f64 {
        self.mesh.metric(front, "mesh_errors_total", &[("reason", "bad_request")])
    }

    /// Tries all cases. `Outcome::Wrong` also says of a refusal that it was not counted once.
    fn try_all(&self, front: &Front, recorder: &Recorder, cases: &[Case]) -> Vec<Outcome> {
        let one = |case: &Case| {
            let before = self.refusals(front);
            let outcome = attempt(front, recorder, case).outcome(case);
            let counted = self.refusals(front) - before;
            match outcome {
                Outcome::Refused(_) if counted != 1.0 => Outcome::Wrong(format!("refused, counted {counted} times")),
                other => other,
            }
        };
        cases.iter().map(one).collect()
    }
}

/// What went wrong, with its case.
fn findings(front: &Front, cases: &[Case], outcomes: &[Outcome]) -> Vec<String> {
    let named = |(case, outcome): (&Case, &Outcome)| match outcome {
        Outcome::Wrong(why) => Some(format!("{}, port {}, {}: {why}", front.way, front.addr.port(), case.name)),
        _ => None,
    };
    cases.iter().zip(outcomes).filter_map(named).collect()
}

/// How many were refused.
fn refused(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Refused(_))).count()
}

/// All findings at once.
fn verdict(tried: usize, findings: &[String]) {
    assert!(findings.is_empty(), "{} of {tried} failed:\n{}", findings.len(), findings.join("\n"));
}

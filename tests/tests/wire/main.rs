//! HTTP/1 on the wire under attack: what has two readings is refused, and nobody gets what is another's.
//!
//! Invariant: the back end records every byte, so a refusal is proved there and not by an answer alone.
//! Non-goal: HTTP/2, authorities (`guards` has them).

mod smuggling;

use mesh_tests::mesh::Mesh as Whole;
use mesh_tests::yardstick::{Front, Mesh};

/// Where the back end listens with HTTP/1 declared: nothing is left to detection.
const DECLARED: u16 = 8001;

/// A running mesh, and its fronts: by both ways, to a port that is declared as HTTP and to one that is not.
fn mesh() -> (Mesh, Vec<Front>) {
    let mut declared = None;
    let mesh = Mesh::start(|mesh: &mut Whole| {
        declared = Some(mesh.service("declared", 80, DECLARED).over("web").protocol("http").add());
    });
    let service = declared.expect("prepared").v4;
    let [inbound, both] = mesh.fronts.clone();
    let inbound = Front { addr: (inbound.addr.ip(), DECLARED).into(), port: DECLARED, ..inbound };
    let both = Front { addr: service, port: DECLARED, ..both };
    let fronts = mesh.fronts.iter().cloned().chain([inbound, both]).collect();
    (mesh, fronts)
}

/// All findings at once.
fn verdict(tried: usize, findings: &[String]) {
    assert!(findings.is_empty(), "{} of {tried} failed:\n{}", findings.len(), findings.join("\n"));
}

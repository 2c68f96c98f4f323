//! R10: requests with two readings.

use mesh_tests::attacks::http1::{Outcome, Recorder, attempt, smuggling};
use mesh_tests::yardstick::{Who, record};

use super::{mesh, verdict};

#[test]
fn r10_a_request_with_two_readings_is_refused_or_has_one() {
    let (mesh, fronts) = mesh();
    let cases = smuggling::cases();
    let mut findings = Vec::new();
    let (undeclared, declared) =
        (Recorder::start(&fronts[0].back, fronts[0].port), Recorder::start(&fronts[2].back, fronts[2].port));
    for front in &fronts {
        let recorder = if front.port == fronts[0].port { &undeclared } else { &declared };
        let mut refused = 0.0;
        let count = || mesh.metric(front, "mesh_errors_total", &[("reason", "bad_request")]);
        for case in &cases {
            let before = count();
            let seen = attempt(front, recorder, case);
            let way = format!("{}:{}, {:?}", front.way, front.addr.port(), case.name);
            match seen.outcome(&case.right) {
                Outcome::Wrong(why) => findings.push(format!("{way}: {why}")),
                Outcome::Served => {}
                Outcome::Refused(_) => {
                    refused += 1.0;
                    if count() - before != 1.0 {
                        findings.push(format!("{way}: counted {} times", count() - before));
                    }
                }
            }
        }
        let figure = format!("{} cases: {refused} refused and closed, the others served with one reading", cases.len());
        record(10, front.way, Who::Mesh, findings.is_empty(), &figure);
    }
    verdict(cases.len() * fronts.len(), &findings);
}

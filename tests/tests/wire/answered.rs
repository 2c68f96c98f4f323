//! R17: back ends that answer before a body is over.

use mesh_tests::attacks::http1::answered::{careless, contaminate, decline};
use mesh_tests::yardstick::{Who, count, record};

use super::watch::Watch;
use super::{Wire, verdict};

#[test]
fn r17_an_answer_before_the_end_of_a_body_contaminates_nobody() {
    let wire = Wire::start();
    let _server = careless(&wire.fronts[0].back, wire.fronts[0].port);
    let rounds = count(200, 1000);
    let mut all = Vec::new();
    for front in &wire.fronts[..2] {
        let watch = Watch::begin(&wire, front);
        let contaminated = contaminate(front, rounds).expect("a proxy");
        let declined: Vec<_> = (0..5).map(|_| decline(front).expect("a proxy")).collect();
        let (lasting, watched) = (declined.iter().filter(|(_, end)| end.is_none()).count(), watch.finish());
        let figure = format!(
            "{} of {} answers were another's after {rounds} early ones; bodies declined: {lasting} of 5 went on; {watched}",
            contaminated.len(),
            2 * rounds
        );
        println!("{}: {figure} {declined:?}", front.way);
        record(17, front.way, Who::Mesh, contaminated.is_empty() && lasting == 0, &figure);
        all.extend(contaminated.into_iter().take(5));
        let wrong = declined.iter().filter(|seen| !matches!(seen, (Some(413), Some(_))));
        all.extend(wrong.map(|seen| format!("{}: a declined body: {seen:?}", front.way)));
    }
    verdict(2 * rounds, &all);
}

//! R18: heads and trailers that are larger than anybody needs.

use mesh_tests::attacks::http1::oversize::{self, Weight};
use mesh_tests::attacks::http1::{Recorder, attempt};
use mesh_tests::yardstick::{Who, record};

use super::watch::Watch;
use super::{Wire, findings, verdict};

#[test]
fn r18_a_head_that_is_too_large_is_refused_and_costs_no_more_than_twice_its_limit() {
    let wire = Wire::start();
    let recorder = Recorder::start(&wire.fronts[0].back, wire.fronts[0].port);
    let (large, oversize) = (oversize::large(), oversize::oversize());
    let mut all = Vec::new();
    for front in &wire.fronts[..2] {
        let watch = Watch::begin(&wire, front);
        all.extend(findings(front, &large, &wire.try_all(front, &recorder, &large)));
        for case in &oversize {
            let seen = attempt(front, &recorder, case);
            if !oversize::is_refused(&seen, case) {
                all.push(format!("{}, {}: {seen:?}", front.way, case.name));
            }
        }
        let watched = watch.finish();
        let weight = Weight::of(front);
        if weight.each > Weight::MOST {
            all.push(format!("{}: {weight}", front.way));
        }
        let figure = format!("{} sizes refused; {weight}; {watched}", oversize.len());
        println!("{}: {figure}", front.way);
        record(18, front.way, Who::Mesh, all.is_empty(), &figure);
    }
    verdict(2 * (large.len() + oversize.len()), &all);
}

//! R16: bytes behind an upgrade or CONNECT that nobody has agreed to.

use mesh_tests::attacks::http1::early::{CASES, Switch, attempt};
use mesh_tests::yardstick::{Who, record};

use super::watch::Watch;
use super::{Wire, verdict};

#[test]
fn r16_bytes_before_the_upgrade_is_agreed_to_go_nowhere() {
    let wire = Wire::start();
    let declared: Vec<_> = wire.declared().collect();
    let switch = Switch::start(&declared[0].back, declared[0].port);
    let mut all = Vec::new();
    for front in &declared {
        let watch = Watch::begin(&wire, front);
        let before = all.len();
        for case in &CASES {
            let seen = attempt(front, &switch, case);
            // Whoever declines cannot know whether they are a request.
            let served = seen.served && !case.is_plain();
            if !seen.is_clean(case) || served || seen.passed() != case.agreed {
                all.push(format!("{}, {}: {seen:?}", front.way, case.name));
            }
        }
        let (wrong, watched) = (all.len() - before, watch.finish());
        let figure =
            format!("{} cases, {wrong} with early bytes onward or a pooled connection; {watched}", CASES.len());
        println!("{}: {figure}", front.way);
        record(16, front.way, Who::Mesh, all.len() == before, &figure);
    }
    verdict(declared.len() * CASES.len(), &all);
}

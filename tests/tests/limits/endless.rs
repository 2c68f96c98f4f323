//! R19: bodies without end, and a far end that takes next to nothing.

use mesh_tests::attacks::endless::{GROWTH, down, up};
use mesh_tests::yardstick::{Bystander, Mesh, Process, Source, record};

use crate::APP;

#[test]
fn r19_endless_bodies_are_held_back_at_their_source() {
    let mesh = Mesh::start(|_| {});
    let app = Source::start(&mesh.mesh.get("web").host, APP);
    for front in &mesh.fronts {
        let sidecars =
            ["client", "web"].map(|name| mesh.mesh.get(name).proxy().and_then(|proxy| proxy.pid()).map(Process));
        let sidecars = sidecars.map(|process| process.expect("a sidecar"));
        let bystander = Bystander::start(&front.client, front.addr);
        for way in ["down", "up"] {
            let idle = sidecars.map(|process| {
                process.forget_peak();
                process.resident()
            });
            let rested = if way == "down" { down(front, &app) } else { up(front) };
            let grown = [0, 1].map(|n| sidecars[n].peak().saturating_sub(idle[n])).into_iter().max().unwrap_or(0);
            let case = format!("{way}, {}", front.way);
            let rested = rested.expect("a proxy").unwrap_or_else(|| panic!("{case}: nobody held the source back"));
            let figure = format!("held back after {} KiB; grew by {grown} KiB", rested >> 10);
            println!("r19 {case}: {figure}");
            assert!(grown <= GROWTH, "{case}: a sidecar grew by {grown} KiB");
            record(19, &case, front.who, true, &figure);
        }
        println!("{}: {}", front.way, bystander.finish());
    }
}

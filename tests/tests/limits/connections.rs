//! R21: more connections than there may be.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_tests::attacks::connections::{AT_ONCE, EACH, cap, come, flood};
use mesh_tests::client;
use mesh_tests::mesh::{ADMIN_PORT, INBOUND_PORT};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Bystander, Front, Mesh, record};

use crate::{LATE, alone, demo, recovery, refused, soon};

fn mesh() -> Mesh {
    let cap = cap().to_string();
    Mesh::start_with(
        |name, spec| {
            let spec = spec.env("MESH_MAX_CONNECTIONS", &cap);
            // A silent client has a connection to the app, which has time to accept them all.
            let spec = spec.env("MESH_INBOUND_CONNECT_TIMEOUT", "10s").env("MESH_OUTBOUND_CONNECT_TIMEOUT", "10s");
            if name == "web" { spec.app(demo()) } else { spec }
        },
        |_| {},
    )
}

/// What comes beyond the cap is refused, one by one; what was there before goes on.
fn flooded(mesh: &Mesh, front: &Front, case: &str, addr: SocketAddr, each: Duration) {
    let process = front.proxy;
    let (files, threads, before) = (process.files(), process.threads(), refused(mesh, front, "too_many_connections"));
    let bystander = Bystander::start(&front.client, front.addr);
    process.forget_peak();
    let idle = process.resident();
    let (mut held, lost) = come(front, addr, each);
    let counted = || refused(mesh, front, "too_many_connections") - before;
    let begin = Instant::now();
    // A reset that comes before the handshake is over for the client is one that it could not connect.
    let as_counted = |refused: usize| (refused..=refused + lost).contains(&(counted() as usize));
    while held.look() + lost <= flood() - cap() || !as_counted(held.refused) {
        let (open, refused, counted) = (held.open.len(), held.refused, counted());
        assert!(
            begin.elapsed() < LATE,
            "{case}: {open} open, {refused} ended, {counted} counted as refused, {lost} lost"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let (refusals, open) = (held.refused, held.open.len());
    assert!(open < cap(), "{case}: {open} connections beside the bystander's, {} may be", cap());
    let proxied = &mesh.mesh.get(if front.way == "inbound" { "web" } else { "client" }).host;
    let admin = SocketAddr::new(proxied.v4.into(), ADMIN_PORT);
    let alive = mesh.mesh.get("outsider").host.enter(|| client::request("GET", admin, "/ready"));
    assert_eq!(alive.ok().map(|(code, _)| code), Some(200), "{case}: the admin port");
    assert!(mesh.metric(front, "mesh_discovery_connected", &[]) > 0.0, "{case}: discovery is gone");
    let grown = process.peak().saturating_sub(idle);
    drop(held);
    let took = recovery(&front.client, front.addr);
    assert!(took < soon(), "{case}: {took:?} to recover");
    let polite = bystander.finish();
    until(Duration::from_secs(60), || process.files() <= files + 5);
    assert!(process.threads() <= threads, "{case}: more threads");
    let all = flood();
    let figure = format!("{open} held, {refusals} of {all} refused, {grown} KiB, back after {took:.0?}; {polite}");
    record(21, case, front.who, true, &figure);
    println!("{case}: {figure}");
}

#[test]
fn r21_connections_beyond_the_cap_are_refused_and_counted() {
    let _alone = alone();
    let mesh = mesh();
    let [inbound, outbound] = &mesh.fronts;
    flooded(&mesh, inbound, "inbound", inbound.addr, EACH);
    flooded(&mesh, inbound, "tunnel port", (inbound.back.v4, INBOUND_PORT).into(), AT_ONCE);
    flooded(&mesh, outbound, "outbound", outbound.addr, EACH);
}

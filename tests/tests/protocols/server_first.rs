//! Clients that have nothing to say and end their side at once, as `nc HOST PORT </dev/null` does.
//!
//! Invariant: each pair has a port of its own, of which no sidecar knows anything yet.
//! Non-goal: how fast; the conversation matrix measures that.

use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use mesh_tests::client::PATIENCE;
use mesh_tests::mesh::{App, Mesh};
use mesh_tests::netns::Host;

fn listen_only(host: &Host, addr: SocketAddr) -> io::Result<String> {
    let mut stream = host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE))?;
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn a_greeting_arrives_at_a_client_that_ends_its_side_at_once() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("outsider").plain().add();
    let greeters = |spec: mesh_tests::mesh::Spec<'_>| {
        (7000..7004).fold(spec, |spec, port| spec.app(App::demo("demo-greet", port, &["--name=app"]))).add()
    };
    greeters(mesh.workload("web").of("web"));
    greeters(mesh.workload("legacy").of("legacy").plain());
    let web = mesh.service("web", 7000, 7000).add();
    let legacy = mesh.service("legacy", 7000, 7000).add();
    mesh.start();
    let (web_at, legacy_at) = (|port| mesh.get("web").at(port), |port| mesh.get("legacy").at(port));
    let cases = [
        ("client", "two sidecars", web.v4),
        ("client", "two sidecars, again", web.v4),
        ("client", "two sidecars, IPv6", web_at(7001)[1]),
        ("outsider", "plain to meshed", web_at(7002)[0]),
        ("outsider", "plain to meshed, IPv6", web_at(7003)[1]),
        ("client", "meshed to plain", legacy.v4),
        ("client", "meshed to plain, IPv6", legacy_at(7001)[1]),
    ];
    let mut failures = Vec::new();
    for (client, pair, addr) in cases {
        let said = listen_only(&mesh.get(client).host, addr);
        if !matches!(&said, Ok(said) if said == "220 app ready\r\n") {
            failures.push(format!("{pair}, {addr}: {said:?}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

//! What a connection keeps in its sidecar's table of targets.
//!
//! Non-goal: when unused ones go; that is tested where the table is.

use std::io::Write as _;
use std::net::TcpStream;

use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::within;
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::until;

use super::cells::Conversation::{ClientFirst, Http1};

#[test]
fn a_byte_stream_keeps_its_target_known() {
    let mut mesh = Mesh::new();
    // Room for one: what is not in use goes at once when another is dialed.
    mesh.workload("client").service_account("client").env("MESH_MAX_TARGETS", "1").add();
    super::apps().fold(mesh.workload("meshed").of("meshed"), |spec, app| spec.app(app)).add();
    let [bytes, other] = [("bytes", ClientFirst.port()), ("other", Http1.port())]
        .map(|(name, port)| mesh.service(name, port, port).over("meshed").add().v4);
    mesh.start();
    let client = mesh.get("client");
    let target = format!("default/bytes:{}", ClientFirst.port());
    let mut stream = client.host.enter(|| TcpStream::connect(bytes)).expect("a connection");
    stream.write_all(b"first").expect("written");
    until(SOON, || client.metric("mesh_tcp_connections_open", &[]) > 0.5);
    // There is no room for it: how it is answered does not matter here.
    let _ = within(&client.host, fetch(other, Version::H1, "/bytes?n=1"));
    let state = client.state().to_string();
    assert!(state.contains(&target), "{target} is not in {state}");
}

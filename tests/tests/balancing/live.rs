//! Endpoints that are added and removed while one connection of the client goes on.
//!
//! Invariant: what the client's sidecar knows decides from the next request on, and no request fails.
//! Non-goal: how soon a change is known; the control plane's tests measure that.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::until;

use super::{Addrs, Shares, calls, echo, mesh, replica, requests, share};

/// Waits until the client's sidecar knows exactly these, at this port.
fn until_known(mesh: &Mesh, port: u16, names: &[&str], not: &[&str]) {
    let at = |name: &str| mesh.get(name).at(port)[0].to_string();
    until(SOON, || {
        let state = mesh.get("client").state().to_string();
        let knows = |name: &&str| state.contains(&format!("\"{}\"", at(name)));
        names.iter().all(knows) && !not.iter().any(knows)
    });
}

/// Has some requests answered until each of these has answered some, and nobody else any: who is new or was slow once may have
/// none at first.
fn until_answered(mesh: &Mesh, ask: &mut impl FnMut(&Mesh) -> Shares, names: &[&str]) {
    let mut seen = BTreeSet::new();
    until(SOON, || {
        let shares = ask(mesh);
        println!("{shares:?}");
        assert!(shares.keys().all(|name| names.contains(&name.as_str())), "{shares:?} of {names:?}");
        seen.extend(shares.into_keys());
        seen.len() == names.len()
    });
}

/// The endpoints come and go; `ask` says who answers some requests of one and the same connection.
fn follow(mesh: &mut Mesh, port: u16, mut ask: impl FnMut(&Mesh) -> Shares) {
    until_answered(mesh, &mut ask, &["web-1", "web-2"]);
    replica(mesh, "web-3", "0ms");
    until_known(mesh, port, &["web-1", "web-2", "web-3"], &[]);
    until_answered(mesh, &mut ask, &["web-1", "web-2", "web-3"]);
    mesh.withdraw("web-1");
    until_known(mesh, port, &["web-2", "web-3"], &["web-1"]);
    until_answered(mesh, &mut ask, &["web-2", "web-3"]);
    mesh.withdraw("web-2");
    until_known(mesh, port, &["web-3"], &["web-1", "web-2"]);
    until_answered(mesh, &mut ask, &["web-3"]);
    mesh.publish("web-1");
    until_known(mesh, port, &["web-1", "web-3"], &["web-2"]);
    until_answered(mesh, &mut ask, &["web-1", "web-3"]);
}

/// A runtime that lives as long as the connection, on threads in the client's namespace.
fn runtime(mesh: &Mesh) -> tokio::runtime::Runtime {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    mesh.get("client").host.enter(runtime).expect("a runtime in a test")
}

/// Opens a connection from the client's namespace.
fn opened<T: Send>(mesh: &Mesh, runtime: &tokio::runtime::Runtime, connect: impl Future<Output = T> + Send) -> T {
    mesh.get("client").host.enter(|| runtime.block_on(connect))
}

fn started() -> (Mesh, Addrs) {
    let (mut mesh, addrs) = mesh(&[("web-1", "0ms"), ("web-2", "0ms")]);
    mesh.start();
    (mesh, addrs)
}

#[test]
fn one_grpc_connection_follows_endpoints_that_come_and_go() {
    let (mut mesh, Addrs { grpc, .. }) = started();
    let runtime = runtime(&mesh);
    let client = opened(&mesh, &runtime, echo(grpc));
    follow(&mut mesh, super::GRPC, |_| runtime.block_on(calls(&client, 10)));
}

#[test]
fn one_http2_connection_follows_endpoints_that_come_and_go() {
    let (mut mesh, Addrs { http, .. }) = started();
    let runtime = runtime(&mesh);
    let client = opened(&mesh, &runtime, share(http));
    follow(&mut mesh, super::HTTP, |_| runtime.block_on(requests(&client, 10)));
}

#[test]
fn new_connections_of_bytes_follow_endpoints_that_come_and_go() {
    async fn greetings(addr: SocketAddr) -> Shares {
        let mut names = Vec::new();
        let mut open = Vec::new();
        for _ in 0..12 {
            let (name, stream) = super::shares::greeted(addr).await;
            names.push(name);
            open.push(stream);
        }
        super::count(names)
    }
    let (mut mesh, Addrs { tcp, .. }) = started();
    follow(&mut mesh, super::TCP, |mesh| mesh_tests::client::within(&mesh.get("client").host, greetings(tcp)));
}

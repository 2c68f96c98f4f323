//! Shares of endpoints that stay: even among equals, small for one that is slow.
//!
//! Invariant: bounds are wide enough for two cores under load, and far from what an unbalanced client would see.
//! Non-goal: the algorithm's exact figures; its unit tests have them.

use std::iter::repeat_with;
use std::time::Duration;

use mesh_tests::client::load::Load;
use mesh_tests::client::tcp;
use mesh_tests::mesh::SOON;
use mesh_tests::netns::until;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::{Shares, TOGETHER, calls, count, echo, mesh, requests, share, within};

const REPLICAS: [(&str, &str); 3] = [("web-1", "0ms"), ("web-2", "0ms"), ("web-3", "0ms")];

/// Whether each has at least half of its even share.
fn is_even(shares: &Shares, all: usize) -> bool {
    println!("{shares:?}");
    assert_eq!(shares.values().sum::<usize>(), all);
    REPLICAS.iter().all(|(name, _)| shares.get(*name).copied().unwrap_or_default() * REPLICAS.len() * 2 >= all)
}

/// Asks until shares are even: whose first answer was slow on a busy machine is asked less for a while. The shares of a client that
/// does not balance stay as they are.
fn until_even(all: usize, ask: impl FnMut() -> Shares) {
    const TRIES: usize = 20;
    assert!(repeat_with(ask).take(TRIES).any(|shares| is_even(&shares, all)), "uneven shares, {TRIES} times");
}

#[test]
fn calls_of_one_grpc_connection_are_spread() {
    let (mut mesh, addrs) = mesh(&REPLICAS);
    mesh.start();
    let host = &mesh.get("client").host;
    until_even(40 * TOGETHER, || within(host, async { calls(&echo(addrs.grpc).await, 40).await }));
}

#[test]
fn requests_of_one_http2_connection_are_spread() {
    let (mut mesh, addrs) = mesh(&REPLICAS);
    mesh.start();
    let host = &mesh.get("client").host;
    until_even(40 * TOGETHER, || within(host, async { requests(&share(addrs.http).await, 40).await }));
}

/// A connection of bytes, greeted.
pub(crate) async fn greeted(addr: std::net::SocketAddr) -> (String, BufReader<TcpStream>) {
    let mut stream = BufReader::new(tcp::connect(addr).await.expect("a connection"));
    let mut line = String::new();
    stream.read_line(&mut line).await.expect("a greeting");
    let name = line.split(' ').nth(1).unwrap_or_default().to_owned();
    (name, stream)
}

/// Connections that last are load, whatever goes over them.
#[test]
fn connections_of_bytes_are_spread_and_each_stays_where_it_is() {
    const CONNECTIONS: usize = 60;
    let (mut mesh, addrs) = mesh(&REPLICAS);
    mesh.start();
    let shares = within(&mesh.get("client").host, async {
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            open.push(greeted(addrs.tcp).await);
        }
        for (_, stream) in &mut open {
            stream.write_all(b"the same conversation\r\n").await.expect("a live connection");
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("an echo");
            assert_eq!(line, "the same conversation\r\n");
        }
        count(open.iter().map(|(name, _)| name.clone()))
    });
    assert!(is_even(&shares, CONNECTIONS), "{shares:?}");
    // What the sidecars counted is what the client saw: no connection was moved, none was opened twice.
    for (name, _) in REPLICAS {
        let opened = mesh.get(name).metric("mesh_tcp_connections_opened_total", &[("direction", "inbound")]);
        let seen = u32::try_from(shares[name]).expect("a small number");
        assert_eq!(opened.to_bits(), f64::from(seen).to_bits(), "{name}: {opened} opened, {seen} seen");
    }
}

#[test]
fn a_slow_replica_gets_a_small_share() {
    let (mut mesh, addrs) = mesh(&[("web-1", "2ms"), ("web-2", "2ms"), ("web-3", "500ms")]);
    mesh.start();
    let load = Load::start(&mesh.get("client").host, addrs.http, 8, Duration::ZERO);
    until(6 * SOON, || load.answered() >= 2000);
    let report = load.stop();
    let share = |name: &str| report.share(name);
    println!("{} answered: {:.1} {:.1} {:.1} %", report.answered, share("web-1"), share("web-2"), share("web-3"));
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
    // Even shares would be 33 %. It is asked now and then, or else nobody would learn that it has become fast.
    assert!(share("web-3") < 10.0 && share("web-3") > 0.0, "{:.1} %", share("web-3"));
    assert!(share("web-1") > 10.0 && share("web-2") > 10.0, "{:.1} and {:.1} %", share("web-1"), share("web-2"));
}

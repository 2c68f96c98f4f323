//! All endpoints of a service are dead, and one comes back.
//!
//! Invariant: errors come at once and say why; the first request after the return is answered.
//! Non-goal: one of several that dies; `lifecycle` has that.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use mesh_tests::client::http::{Connection, Version, get};
use mesh_tests::client::within;
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::{Filter, until};
use mesh_tests::yardstick::{Stopwatch, Who, count, record};

use super::{HTTP, SOON, endpoint};

/// To the first error.
const ERROR: Duration = Duration::from_secs(3);
/// From the return to the first success: 1 s and the longest pause (MESH_RECONNECT_MAX).
const BACK: Duration = Duration::from_secs(1 + 3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// The whole host, all at once.
    Host,
    /// The app behind its sidecar.
    App,
    /// The network: no packet gets there.
    Network,
}

/// Status, reason word, and how long it took on a machine of its own.
fn ask(mesh: &Mesh, addr: SocketAddr) -> (u16, String, Duration) {
    let watch = Stopwatch::start();
    let answer = within(&mesh.get("client").host, async {
        let mut connection = Connection::open(addr, Version::H1).await?;
        connection.fetch_within(get(addr, Version::H1, "/bytes?n=100"), SOON).await
    });
    let answer = answer.unwrap_or_else(|error| panic!("to {addr}: {error}"));
    let said = answer.headers.get("mesh-error").map(|said| String::from_utf8_lossy(said.as_bytes()).into_owned());
    let word = said.unwrap_or_default().split(';').next().unwrap_or_default().to_owned();
    (answer.status.as_u16(), word, watch.apart())
}

/// A client that speaks only when the sidecar has gone ahead, as for a server that speaks first, is told in HTTP as well.
fn late(mesh: &Mesh, addr: SocketAddr) {
    let host = &mesh.get("client").host;
    let mut stream = host.enter(|| TcpStream::connect_timeout(&addr, SOON)).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    std::thread::sleep(Duration::from_millis(200)); // ten times MESH_DETECT_SILENCE
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").expect("a live connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{error} after {answer:?}"));
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("connect_failed"), "{answer}");
}

/// Starts what has died; the network heals when the holes are dropped.
fn revives(mesh: &mut Mesh, name: &str, death: Death) {
    if death == Death::Host && mesh.get(name).proxy().is_some() {
        mesh.get_mut(name).proxy_mut().restart();
        mesh.get(name).until_proxy_ready();
    }
    if death != Death::Network {
        mesh.get_mut(name).app_mut(0).restart();
        mesh.get_mut(name).app_mut(0).wait_for_line("listening", SOON);
    }
}

fn dies_and_returns(mesh: &mut Mesh, addr: SocketAddr, names: [&str; 3], death: Death) {
    let is_meshed = mesh.get(names[0]).proxy().is_some();
    until(SOON, || ask(mesh, addr).0 == 200);
    let client = mesh.get("client").host.clone();
    let mut holes = Vec::new();
    for name in names.into_iter().rev() {
        match death {
            Death::Host => mesh.get_mut(name).kill(),
            Death::App => mesh.get_mut(name).app_mut(0).kill(),
            Death::Network => holes.push(Filter::deaf(&mesh.get(name).host, &client)),
        }
    }
    let errors = |mesh: &Mesh| mesh.get("client").metric("mesh_errors_total", &[("reason", "connect_failed")]);
    // Who meets a connection that breaks just now is told that; one that dies by silence takes its time: see `blackhole`.
    until(if death == Death::Network { 2 * SOON } else { ERROR }, || ask(mesh, addr).0 == 503);
    let before = errors(mesh);
    let asked: Vec<_> = (0..count(5, 50)).map(|_| ask(mesh, addr)).collect();
    for (status, word, took) in &asked {
        assert_eq!((*status, word.as_str()), (503, "connect_failed"), "{names:?} {death:?}");
        assert!(*took <= ERROR, "{names:?} {death:?}: an error after {took:?}");
    }
    assert_eq!(errors(mesh) - before, asked.len() as f64, "one for each");
    if death == Death::Network {
        late(mesh, addr);
    }
    revives(mesh, names[0], death);
    // The one that was cut off last hears again.
    holes.truncate(1);
    let watch = Stopwatch::start();
    until(SOON, || ask(mesh, addr).0 == 200);
    let back = watch.apart();
    println!("{names:?} {death:?}: errors within {:?}, back after {back:?}", asked.iter().map(|asked| asked.2).max());
    assert!(back <= BACK, "{names:?} {death:?}: back after {back:?}");
    let slowest = asked.iter().map(|asked| asked.2).max().unwrap_or_default();
    let figure = format!("errors within {slowest:.1?}, back after {back:.1?}");
    record(
        56,
        &format!("{death:?}, {}", if is_meshed { "both sidecars" } else { "plain endpoints" }),
        Who::Mesh,
        true,
        &figure,
    );
}

fn all_dead(meshed: bool) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    let names = ["web-1", "web-2", "web-3"];
    for name in names {
        endpoint(&mut mesh, name, "web", meshed);
    }
    let addr = mesh.service("web", 80, HTTP).add().v4;
    mesh.start();
    for death in [Death::App, Death::Host, Death::Network] {
        dies_and_returns(&mut mesh, addr, names, death);
        names[1..].iter().for_each(|name| revives(&mut mesh, name, death));
    }
}

/// With sidecars and without at once, for most of it is waiting.
#[test]
fn r56_f9_all_endpoints_die_and_one_returns() {
    std::thread::scope(|scope| {
        scope.spawn(|| all_dead(true));
        scope.spawn(|| all_dead(false));
    });
}

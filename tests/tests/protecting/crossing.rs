//! What stays in the proxy's own zone and what leaves it, as the client's sidecar counts it.
//!
//! Invariant: each request, and each byte of a body or a byte stream, is counted once, for the zone of the endpoint that had
//! it; where zones are unknown there is no such series.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use mesh_tests::client::PATIENCE;
use mesh_tests::mesh::{Metrics, SOON};
use mesh_tests::netns::until;
use mesh_tests::raw::{self, Server};

use crate::{World, tally};

/// Where bodies are taken, and bytes are sent back.
const BODIES: u16 = 8001;
const BYTES: u16 = 8002;
const REQUEST: usize = 300;
const RESPONSE: usize = 1000;

/// Requests, bytes sent and bytes received, of one service and zone.
type Counts = [f64; 3];

#[test]
fn requests_and_bytes_are_counted_by_zone_where_zones_are_known() {
    let (mut world, [far]) = World::start(2, ["far"]);
    let servers = ["web-1", "web-2"].map(|name| {
        let host = &world.mesh.get(name).host;
        (Server::start(host, BODIES, bodies), Server::start(host, BYTES, echo))
    });
    let bodies = world.mesh.service("bodies", 80, BODIES).over("web").add().v4;
    let bytes = world.mesh.service("bytes", 80, BYTES).over("web").protocol("mesh.internal/opaque").add().v4;
    for name in ["web", "bodies", "bytes"] {
        world.policy(name, "  balancing: {policy: RoundRobin, ignoreZones: true}\n");
    }
    world.tally(world.web.v4, 10);
    assert!(world.zones().values("mesh_zone_requests_total", "zone").is_empty(), "nobody has said where anybody is");
    for (workload, zone) in [("client", "a"), ("web-1", "a"), ("web-2", "b")] {
        let manifest = world.mesh.get(workload).manifest.replace("spec:\n", &format!("spec:\n  zone: {zone}\n"));
        world.mesh.manifests.write(&format!("workload-{workload}"), &manifest);
    }
    for to in [world.web.v4, bodies, bytes, far.v4] {
        until(SOON, || {
            drop(raw::send(
                &world.mesh.get("client").host,
                to,
                b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n",
            ));
            let all = world.state(to)["endpoints"].as_array().cloned().unwrap_or_default();
            // A policy that ignores zones leaves `near` out.
            all.len() == 2 && all.iter().all(|it| it["zone"] != "") && world.state(to)["balancing"].is_string()
        });
    }
    until(SOON, || world.state(bytes)["balancing"] == "RoundRobin" && world.state(bodies)["balancing"] == "RoundRobin");
    let client = world.mesh.get("client").host.clone();
    // By turns, so each zone has its half; an answer's body is its server's name.
    world.expect("web", [10.0, 0.0, 50.0], || drop(tally(&client, world.web.v4, 20)));
    let post = format!("POST / HTTP/1.1\r\nhost: b\r\nconnection: close\r\ncontent-length: {REQUEST}\r\n\r\n");
    let post = [post.into_bytes(), vec![b'x'; REQUEST]].concat();
    let posts = || {
        (0..4).for_each(|_| assert_eq!(raw::status(&raw::send(&client, bodies, &post).expect("an answer")), Some(200)))
    };
    world.expect("bodies", [2.0, 2.0 * REQUEST as f64, 2.0 * RESPONSE as f64], posts);
    world.expect("bytes", [0.0, 14.0, 14.0], || (0..4).for_each(|_| world.talk(bytes)));
    // Where zones count, what leaves is the smaller part, however slow a busy machine makes the own zone look.
    let both = || ["local", "other"].map(|zone| world.crossing("far", zone)[0]);
    let before = both();
    world.tally(far.v4, 40);
    let [local, other] = std::array::from_fn(|i| both()[i] - before[i]);
    assert!(local + other == 40.0 && local > other, "{local} stayed, {other} left");
    // The proxy no longer knows where it is.
    world.mesh.publish("client");
    until(SOON, || {
        let before = world.crossing("web", "other")[0] + world.crossing("web", "local")[0];
        world.tally(world.web.v4, 4);
        world.crossing("web", "other")[0] + world.crossing("web", "local")[0] == before
    });
    drop(servers);
}

/// Answers requests with bodies.
fn bodies(mut conversation: raw::Conversation) -> std::io::Result<()> {
    loop {
        let head = conversation.head()?;
        if head.starts_with("POST ") {
            conversation.take(REQUEST)?;
        }
        conversation.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {RESPONSE}\r\n\r\n").as_bytes())?;
        conversation.say(&[b'y'; RESPONSE])?;
    }
}

fn echo(mut conversation: raw::Conversation) -> std::io::Result<()> {
    loop {
        let bytes = conversation.read()?;
        if bytes.is_empty() {
            return Ok(());
        }
        conversation.say(&bytes)?;
    }
}

impl World {
    fn zones(&self) -> Metrics {
        self.mesh.get("client").metrics()
    }

    fn crossing(&self, service: &str, zone: &str) -> Counts {
        let (target, page) = (format!("default/{service}:80"), self.zones());
        ["mesh_zone_requests_total", "mesh_zone_sent_bytes_total", "mesh_zone_received_bytes_total"]
            .map(|name| page.sum(name, &[("target", &target), ("zone", zone)]))
    }

    /// What `action` adds for each of both zones.
    fn expect(&self, service: &str, added: Counts, action: impl FnOnce()) {
        let both = || ["local", "other"].map(|zone| self.crossing(service, zone));
        let before = both();
        action();
        let more =
            || std::array::from_fn::<_, 2, _>(|z| std::array::from_fn::<_, 3, _>(|i| both()[z][i] - before[z][i]));
        until(SOON, || more() == [added; 2] || more()[0][0] > added[0]);
        assert_eq!(more(), [added; 2], "{service}: requests, sent and received; local, then other");
    }

    /// Seven bytes there and back.
    fn talk(&self, to: std::net::SocketAddr) {
        self.mesh.get("client").host.enter(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            stream.write_all(b"7 bytes").expect("a connection that takes bytes");
            stream.read_exact(&mut [0; 7]).expect("an echo");
            stream.shutdown(Shutdown::Write).expect("a socket");
            assert_eq!(stream.read(&mut [0; 7]).expect("an end"), 0);
        });
    }
}

//! The steps in which nothing breaks.
//!
//! Invariant: each figure is measured here and now.
//! Non-goal: precision; wrk and h2load measure better.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use mesh_tests::client::http::{Connection, Version, get};
use mesh_tests::client::load::Load;
use mesh_tests::client::{self, rpc, tcp};
use mesh_tests::echo::EchoRequest;
use mesh_tests::echo::echo_client::EchoClient;
use mesh_tests::mesh::INBOUND_PORT;
use mesh_tests::netns::Host;
use tonic::transport::Channel;

use crate::scene::{Held, Scene, wait};
use crate::wire::Capture;

/// In the path of requests; nobody but the two apps may see it.
const MARKER: &str = "for-your-eyes-only";
const REQUESTS: u32 = 300;
/// Callers at a time on one connection, and calls of each.
const CALLERS: usize = 8;
const CALLS: usize = 50;

pub(crate) fn encrypted(scene: &mut Scene) -> Held {
    let host = scene.mesh.get("client").host.clone();
    let before = counted(scene);
    let tunnel = Capture::start(&host, scene.mesh.folder(), INBOUND_PORT);
    fetch_marked(&host, scene.web.v4)?;
    let sight = tunnel.look(MARKER.as_bytes());
    // Counters move when a response has ended, an instant after the client has it.
    let wanted = (before.0 + f64::from(REQUESTS), before.1 + f64::from(REQUESTS));
    wait(Duration::from_secs(3), "both sides have counted all requests", || counted(scene) == wanted)?;
    let shakes = scene.mesh.get("client").metric("mesh_tls_handshakes_total", &[]);
    println!("   {REQUESTS} requests: the client's sidecar sent {REQUESTS}, the servers' received {REQUESTS};");
    println!("   TLS handshakes at the client's sidecar: {shakes:.0}");
    println!(
        "   on the wire to port {INBOUND_PORT}: {} bytes in {} streams, {} begin with TLS; {} handshake records, {} of data;\n   \
         the words {MARKER:?} in plain sight: {} times",
        sight.bytes, sight.streams, sight.tls, sight.handshakes, sight.application, sight.markers,
    );
    if sight.streams == 0 || sight.tls != sight.streams || sight.markers != 0 {
        return Err(format!("not all TLS: {sight:?}"));
    }
    let plain = Capture::start(&host, scene.mesh.folder(), 8080);
    fetch_marked(&host, scene.legacy.v4)?;
    let sight = plain.look(MARKER.as_bytes());
    println!("   for comparison, to the server that is not meshed: {} times", sight.markers);
    if sight.markers == 0 || sight.tls != 0 {
        return Err(format!("the unmeshed server was not spoken to plainly: {sight:?}"));
    }
    Ok(())
}

/// Requests that the client's sidecar has sent to the web service's replicas, and that theirs have received.
fn counted(scene: &Scene) -> (f64, f64) {
    let responses = |name: &str, direction| {
        let labels = [("direction", direction)];
        scene.mesh.get(name).metric("mesh_http_responses_total", &labels)
    };
    let received = ["web-1", "web-2", "web-3"].iter().map(|name| responses(name, "inbound")).sum();
    (responses("client", "outbound"), received)
}

fn fetch_marked(host: &Host, addr: SocketAddr) -> Held {
    client::within(host, async {
        let mut connection = Connection::open(addr, Version::H1).await?;
        for _ in 0..REQUESTS {
            let answer = connection.fetch(get(addr, Version::H1, &format!("/headers?{MARKER}"))).await?;
            if answer.status != 200 || !answer.text().contains(MARKER) {
                return Err(std::io::Error::other(format!("{answer:?}")));
            }
        }
        Ok(())
    })
    .map_err(|error| format!("a request to {addr}: {error}"))
}

pub(crate) fn balanced(scene: &mut Scene) -> Held {
    let load = Load::start(&scene.mesh.get("client").host, scene.web.v4, 8, Duration::ZERO);
    std::thread::sleep(Duration::from_secs(3));
    let report = load.stop();
    let share = |name| report.share(name);
    let median = |name: &str| {
        let mut micros = report.micros.get(name).cloned().unwrap_or_default();
        micros.sort_unstable();
        f64::from(micros.get(micros.len() / 2).copied().unwrap_or_default()) / 1000.0
    };
    for name in ["web-1", "web-2", "web-3"] {
        println!("   {name}: {:5.1} % of the requests, half of them within {:.2} ms", share(name), median(name));
    }
    println!(
        "   {} requests in {:.1} s from 8 clients, {} failed; 99 of 100 within {:.2} ms",
        report.answered,
        report.elapsed.as_secs_f64(),
        report.failed,
        report.percentile(99).as_secs_f64() * 1000.0,
    );
    if report.failed > 0 {
        return Err(format!("{:?}", report.failures));
    }
    // Even shares would be 33 %.
    if share("web-3") > 12.0 || share("web-1") < 30.0 || share("web-2") < 30.0 {
        return Err("shares are not as they should be".to_owned());
    }
    Ok(())
}

pub(crate) fn grpc(scene: &mut Scene) -> Held {
    let addr = scene.rpc.v4;
    let names = client::within(&scene.mesh.get("client").host, async {
        let echo = rpc::connect(addr).await.map_err(|error| format!("{error:?}"))?;
        let callers = futures_util::future::join_all((0..CALLERS).map(|_| calls(echo.clone()))).await;
        callers.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    let names: Vec<_> = names.into_iter().flatten().collect();
    let count = |name: &str| names.iter().filter(|served| *served == name).count();
    let (first, second) = (count("rpc-1"), count("rpc-2"));
    let all = names.len();
    println!("   {all} calls on one connection, {CALLERS} at a time: {first} to rpc-1, {second} to rpc-2, 0 failed");
    if first.min(second) < all / 5 {
        return Err("one of them got next to nothing".to_owned());
    }
    Ok(())
}

/// Calls one after another; who answered each.
async fn calls(mut echo: EchoClient<Channel>) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for number in 0..CALLS {
        let payload = Bytes::from(vec![7; 100]);
        let request = EchoRequest { message: number.to_string(), payload, ..EchoRequest::default() };
        let reply = echo.unary(request).await.map_err(|status| format!("call {number}: {status}"))?;
        names.push(reply.into_inner().server);
    }
    Ok(names)
}

pub(crate) fn greeting(scene: &mut Scene) -> Held {
    let greet = |host: &Host, addr| {
        let greeted = client::within(host, tcp::greeting(addr));
        greeted.map_err(|error| format!("no greeting from {addr}: {error}"))
    };
    let legacy = scene.mesh.get("legacy").at(2525)[0];
    let (_, without) = greet(&scene.onlooker, legacy)?;
    let client = scene.mesh.get("client").host.clone();
    let (line, first) = greet(&client, scene.greet.v4)?;
    let (_, second) = greet(&client, scene.greet.v4)?;
    let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
    println!("   {line:?} after {:.1} ms, then {:.1} ms;", millis(first), millis(second));
    println!("   {:.1} ms without a mesh; nobody said that port 2525 is not HTTP", millis(without));
    if !line.starts_with("220 greet") || first.saturating_sub(without) > Duration::from_millis(100) {
        return Err("too slow".to_owned());
    }
    Ok(())
}

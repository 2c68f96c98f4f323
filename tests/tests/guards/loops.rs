//! Connections that would come back to the proxy that they leave: refused once, never forwarded.
//!
//! Invariant: each attempt raises the counter by one; more would be a connection that went round.
//! Non-goal: loops that services of the application make.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_tests::client::within;
use mesh_tests::mesh::{INBOUND_PORT, Mesh};
use mesh_tests::raw;
use mesh_tests::yardstick::{Who, record};

use super::peer::Liar;
use super::{APP, mesh, run};

const OUTBOUND_PORT: u16 = 4140;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
const NOT_HTTP: &[u8] = b"\x00\x01\x02\x03 not a word of HTTP\r\n";
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

fn loops(mesh: &Mesh, workload: &str, direction: &str) -> f64 {
    mesh.get(workload).metric("mesh_errors_total", &[("direction", direction), ("reason", "loop")])
}

fn onward(mesh: &Mesh, workload: &str) -> f64 {
    let metrics = mesh.get(workload).metrics();
    metrics.sum("mesh_tcp_connections_opened_total", &[]) + metrics.sum("mesh_http_requests_total", &[])
}

/// Dials `addr` from `from`: HTTP is told why, other bytes are reset; `workload` counts each once and forwards none.
fn refused(mesh: &Mesh, from: &str, addr: SocketAddr, (workload, direction): (&str, &str)) {
    for (bytes, speaks_http) in [(REQUEST, true), (NOT_HTTP, false), (H2_PREFACE, false)] {
        let before = (loops(mesh, workload, direction), onward(mesh, workload));
        let answer = raw::send(&mesh.get(from).host, addr, bytes);
        let what = format!("{from} to {addr}, {:?}", String::from_utf8_lossy(&bytes[..4]));
        if speaks_http {
            let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
            let text = String::from_utf8_lossy(&answer);
            assert_eq!(raw::status(&answer), Some(508), "{what}: {text}");
            assert!(text.to_lowercase().contains("\r\nmesh-error: loop"), "{what}: {text}");
        } else {
            assert!(
                answer.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock),
                "{what}: {answer:?}"
            );
        }
        let after = (loops(mesh, workload, direction), onward(mesh, workload));
        assert_eq!(after, (before.0 + 1.0, before.1), "{what}: loops and onward connections");
    }
}

#[test]
fn r24_the_outbound_port_dialed_directly_is_refused_once() {
    let mut mesh = mesh();
    mesh.start();
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        refused(&mesh, "client", (ip, OUTBOUND_PORT).into(), ("client", "outbound"));
    }
    record(24, "dialed directly, both families", Who::Mesh, true, "2 of 2 refused once, 0 onward");
}

#[test]
fn r24_a_redirect_of_the_outbound_port_to_itself_is_refused_once() {
    let mut mesh = mesh();
    mesh.start();
    let client = mesh.get("client").host.clone();
    for (tool, ip) in [("iptables", IpAddr::from(client.v4)), ("ip6tables", client.v6.into())] {
        for port in [OUTBOUND_PORT, INBOUND_PORT, 4191] {
            let matched = format!("-p tcp -d {ip} --dport {port}");
            run(&client, &format!("{tool} -t nat -I OUTPUT 1 {matched} -j REDIRECT --to-ports {OUTBOUND_PORT}"));
            refused(&mesh, "client", (ip, port).into(), ("client", "outbound"));
        }
    }
    record(24, "redirected to itself", Who::Mesh, true, "6 of 6 refused once, 0 onward");
}

#[test]
fn r25_an_inbound_connection_for_the_proxys_own_port_is_refused_once() {
    let mut mesh = mesh();
    let app = raw::Server::ok(&mesh.get("web").host, APP);
    mesh.start();
    // The rules redirect a dial of the outbound port from outside: its original destination is the proxy's own.
    for addr in mesh.get("web").at(OUTBOUND_PORT) {
        refused(&mesh, "outsider", addr, ("web", "inbound"));
    }
    // The tunnel port takes sidecars only: no answer in plaintext.
    for addr in mesh.get("web").at(INBOUND_PORT) {
        for bytes in [REQUEST, NOT_HTTP, H2_PREFACE] {
            let answer = raw::send(&mesh.get("outsider").host, addr, bytes);
            assert!(
                answer.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock),
                "{addr}: {answer:?}"
            );
        }
    }
    assert_eq!(app.accepted(), 0);
    record(25, "inbound, the proxy's own port", Who::Mesh, true, "each refused once, 0 onward");
}

#[test]
fn r25_a_tunnel_for_the_proxys_own_port_is_refused_once() {
    let mut mesh = mesh();
    let app = raw::Server::ok(&mesh.get("web").host, APP);
    mesh.start();
    let liar = Liar::new(&mesh);
    let web: SocketAddr = (mesh.get("web").host.v4, INBOUND_PORT).into();
    let answers = within(&mesh.get("outsider").host, async {
        let tunnel = liar.tunnel(web, "web").await.expect("a tunnel");
        let mut answers = Vec::new();
        for port in [OUTBOUND_PORT, INBOUND_PORT, 4191] {
            let destination = format!("{}:{port}", web.ip());
            for answer in [tunnel.request(Some(&destination)).await, tunnel.connect(&destination).await] {
                let answer = answer.unwrap_or_else(|error| panic!("{destination}: {error:#}"));
                answers.push((destination.clone(), answer.status, answer.reason));
            }
        }
        answers
    });
    for (destination, status, reason) in &answers {
        assert_eq!((*status, reason.as_deref()), (508, Some("loop")), "{destination}");
    }
    assert_eq!(loops(&mesh, "web", "inbound").to_bits(), 6f64.to_bits());
    assert_eq!(app.accepted(), 0);
    record(25, "through a tunnel", Who::Mesh, true, "508 and counted once each, 0 onward");
}

/// A chain: the client's own sidecar tunnels to a port of the far sidecar, as the application dialed it.
#[test]
fn r25_a_chain_of_two_proxies_ends_at_the_second() {
    let mut mesh = mesh();
    let app = raw::Server::ok(&mesh.get("web").host, APP);
    mesh.start();
    for port in [OUTBOUND_PORT, INBOUND_PORT] {
        for addr in mesh.get("web").at(port) {
            let answer = raw::send(&mesh.get("client").host, addr, REQUEST);
            let status = answer.as_ref().ok().and_then(|answer| raw::status(answer));
            let text = answer.as_ref().map(|answer| String::from_utf8_lossy(answer));
            // 508 by the far sidecar, or a way there that does not come about.
            assert!(matches!(status, Some(502 | 503 | 508)), "{addr}: {text:?}");
        }
    }
    assert_eq!(app.accepted(), 0);
    record(25, "a chain of two sidecars", Who::Mesh, true, "4 of 4 answered with an error, 0 at the application");
}

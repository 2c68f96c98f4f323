//! Admin ports of running programs: what they show to whom, and whether Prometheus likes it.
//!
//! Invariant: a request from outside comes from another host, over both families.
//! Non-goal: each series; those are tested where they are counted.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::{request, within};
use mesh_tests::mesh::{ADMIN_PORT, App, Mesh, Metrics, SOON};
use mesh_tests::netns::Host;
use mesh_tests::yardstick::{Who, record};
use mesh_tests::{promtool, raw};

const APP: u16 = 8000;

/// A client and a server that have talked to each other, and a host outside of the mesh.
fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("outsider").plain().add();
    mesh.workload("web").of("web").port(APP, "http").app(App::demo("demo-http", APP, &[])).add();
    let service = mesh.service("web", 80, APP).protocol("http").add().v4;
    mesh.start();
    let answer = within(&mesh.get("client").host, fetch(service, Version::H1, "/bytes?n=100"));
    assert_eq!(answer.expect("an answer").status, 200);
    mesh
}

/// Status of a request with a body.
fn put(host: &Host, addr: SocketAddr, path: &str, body: &str) -> Option<u16> {
    let length = body.len();
    let head = format!("PUT {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    raw::status(&raw::send(host, addr, (head + body).as_bytes()).expect("an answer"))
}

#[test]
fn prometheus_likes_the_pages_of_destination_and_proxy() {
    let mesh = mesh();
    let destination = mesh.control().destination_metrics();
    let proxy = mesh.get("client").admin("GET", "/metrics").expect("a page").1;
    for (name, page, family) in
        [("destination", &destination, "mesh_destination_streams"), ("proxy", &proxy, "mesh_http_requests_total")]
    {
        assert_eq!(promtool::findings(page), "", "{name}:\n{page}");
        assert!(Metrics::parse(page).sum(family, &[]) > 0.5, "{name} has no {family}:\n{page}");
    }
}

#[test]
fn r35_from_another_host_the_proxy_shows_health_and_metrics_and_takes_no_orders() {
    let mut mesh = mesh();
    let outsider = mesh.get("outsider").host.clone();
    let ask = |method, addr, path| outsider.enter(|| request(method, addr, path)).expect("an answer").0;
    for addr in mesh.get("web").at(ADMIN_PORT) {
        for path in ["/live", "/ready", "/metrics"] {
            assert_eq!(ask("GET", addr, path), 200, "{addr}{path}");
        }
        let others = [("GET", "/state"), ("GET", "/log-level"), ("POST", "/shutdown"), ("GET", "/"), ("GET", "/debug")];
        for (method, path) in others {
            assert_eq!(ask(method, addr, path), 404, "{method} {addr}{path}");
        }
        assert_eq!(put(&outsider, addr, "/log-level", "debug"), Some(404), "{addr}");
    }
    let web = mesh.get_mut("web");
    assert!(web.proxy_mut().is_running());
    assert_eq!(web.admin("GET", "/log-level").expect("an answer"), (200, "info\n".to_owned()));
    record(35, "from another host", Who::Mesh, true, "live, ready and metrics, all else 404, both families");
}

#[test]
fn r35_from_loopback_the_proxy_shows_its_state_and_takes_orders() {
    let mut mesh = mesh();
    let web = mesh.get_mut("web");
    let loopbacks: [SocketAddr; 2] =
        [(Ipv4Addr::LOCALHOST, ADMIN_PORT).into(), (Ipv6Addr::LOCALHOST, ADMIN_PORT).into()];
    for (addr, level) in loopbacks.into_iter().zip(["debug", "warn"]) {
        let ask = |method, path| web.host.enter(|| request(method, addr, path)).expect("an answer");
        let (code, state) = ask("GET", "/state");
        let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
        let identity = &state["certificate"]["identity"];
        assert_eq!((code, identity.as_str()), (200, Some("spiffe://cluster.local/ns/default/sa/web")), "{state}");
        assert_eq!(put(&web.host, addr, "/log-level", "nonsense=["), Some(400));
        assert_eq!(put(&web.host, addr, "/log-level", level), Some(200));
        assert_eq!(ask("GET", "/log-level"), (200, format!("{level}\n")));
        assert_eq!(ask("GET", "/shutdown").0, 405);
    }
    assert!(web.proxy_mut().is_running());
    assert_eq!(web.admin("POST", "/shutdown").expect("an answer").0, 200);
    let status = web.proxy_mut().wait(SOON);
    assert!(status.success(), "{status}");
    record(35, "from loopback", Who::Mesh, true, "state, log level and shutdown");
}

//! Declared protocols are taken at their word: nothing is detected, on either side.
//!
//! Invariant: the app's servers record every byte and connection, so that what is called opaque is seen to be untouched.
//! Non-goal: what each `appProtocol` means; `mesh-destination` has the table.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use mesh_tests::client::PATIENCE;
use mesh_tests::mesh::{Mesh, Metrics, SOON};
use mesh_tests::netns::until;
use mesh_tests::raw;

const OPAQUE: u16 = 8001;
const HTTP: u16 = 8002;
/// MySQL's: the server speaks first there, so it is opaque unless declared.
const MYSQL: u16 = 3306;
const UNDECLARED: u16 = 8003;

/// Spelled as no HTTP library would: whoever parses it and writes it again is found out.
const ODD_REQUEST: &[u8] = b"GET /  HTTP/1.1\r\nhOsT:   web\r\nX-oDd:\tyes\r\n\r\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
/// Many times what detection waits for a silent client.
const SILENCE: Duration = Duration::from_millis(300);

/// What the sidecars on the way have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    http: f64,
    tcp: f64,
    detections: f64,
}

impl Counts {
    fn of(metrics: &Metrics, direction: &str) -> Self {
        let labels = [("direction", direction)];
        let sum = |name| metrics.sum(name, &labels);
        Self {
            http: sum("mesh_http_requests_total"),
            tcp: sum("mesh_tcp_connections_opened_total"),
            detections: sum("mesh_detections_total"),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            http: self.http - before.http,
            tcp: self.tcp - before.tcp,
            detections: self.detections - before.detections,
        }
    }
}

const AS_TCP: Counts = Counts { http: 0.0, tcp: 1.0, detections: 0.0 };
const AS_HTTP: Counts = Counts { http: 1.0, tcp: 0.0, detections: 0.0 };

/// Of the client's sidecar and of the server's, in this order.
fn counts(mesh: &Mesh) -> [Counts; 2] {
    [("client", "outbound"), ("web", "inbound")]
        .map(|(name, direction)| Counts::of(&mesh.get(name).metrics(), direction))
}

/// A mesh with a service over each port, and the ways to each: from the client by service and by address, and from
/// outside. The server's own declarations are what an inbound sidecar goes by.
fn mesh(silence: &str) -> (Mesh, impl Fn(&Mesh, u16) -> [(&'static str, SocketAddr); 3]) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").env("MESH_DETECT_SILENCE", silence).add();
    mesh.workload("outsider").plain().add();
    let web = mesh.workload("web").of("web").port(OPAQUE, "mesh.internal/opaque");
    web.port(HTTP, "http").env("MESH_DETECT_SILENCE", silence).add();
    let mut service = |name: &str, port: u16, protocol: Option<&str>| {
        let spec = mesh.service(name, port, port).over("web");
        let spec = if let Some(protocol) = protocol { spec.protocol(protocol) } else { spec };
        (port, spec.add().v4)
    };
    let services = [
        service("opaque", OPAQUE, Some("mesh.internal/opaque")),
        service("http", HTTP, Some("http")),
        service("mysql", MYSQL, None),
        service("undeclared", UNDECLARED, None),
    ];
    let ways = move |mesh: &Mesh, port: u16| {
        let service = services.iter().find(|(number, _)| *number == port).expect("a port of this test").1;
        let [direct, _] = mesh.get("web").at(port);
        [("client", service), ("client", direct), ("outsider", direct)]
    };
    (mesh, ways)
}

/// The server's sidecar is ready before it knows the declarations: those may come late, as policies may.
fn start(mesh: &mut Mesh) {
    mesh.start();
    until(SOON, || mesh.get("web").state().to_string().contains(&HTTP.to_string()));
}

/// What has been counted when nothing is on its way any more: requests are counted before their answers arrive.
fn counted(mesh: &Mesh, client: &str, before: [Counts; 2]) -> Vec<Counts> {
    let [outbound, inbound] = counts(mesh);
    let [outbound, inbound] = [outbound.since(before[0]), inbound.since(before[1])];
    if client == "client" { vec![outbound, inbound] } else { vec![inbound] }
}

#[test]
fn an_opaque_port_carries_bytes_though_they_are_http() {
    let (mut mesh, ways) = mesh("20ms");
    let servers = [OPAQUE, MYSQL].map(|port| (port, raw::Server::ok(&mesh.get("web").host, port)));
    start(&mut mesh);
    for (port, server) in &servers {
        for (number, (client, addr)) in ways(&mesh, *port).into_iter().enumerate() {
            let before = counts(&mesh);
            let answer = raw::send(&mesh.get(client).host, addr, ODD_REQUEST).expect("an answer");
            assert_eq!(raw::status(&answer), Some(200), "{client} to {addr}");
            assert_eq!(server.received().get(number).map(Vec::as_slice), Some(ODD_REQUEST), "{client} to {addr}");
            for counted in counted(&mesh, client, before) {
                assert_eq!(counted, AS_TCP, "{client} to {addr}");
            }
        }
    }
}

#[test]
fn a_silent_client_of_an_http_port_is_waited_for() {
    let (mut mesh, ways) = mesh("20ms");
    let server = raw::Server::ok(&mesh.get("web").host, HTTP);
    start(&mut mesh);
    for (number, (client, addr)) in ways(&mesh, HTTP).into_iter().enumerate() {
        let before = counts(&mesh);
        let mut stream =
            mesh.get(client).host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        std::thread::sleep(SILENCE);
        // Nobody dials an app on the chance that it speaks first.
        assert_eq!(server.accepted(), number, "{client} to {addr}");
        stream.write_all(REQUEST).expect("a live connection");
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200", "{client} to {addr}");
        assert_eq!(server.accepted(), number + 1, "{client} to {addr}");
        for counted in counted(&mesh, client, before) {
            assert_eq!(counted, AS_HTTP, "{client} to {addr}");
        }
    }
}

/// The control of the experiment: the same bytes on a port of which nothing is known.
#[test]
fn an_undeclared_port_is_detected() {
    let (mut mesh, ways) = mesh("2s");
    let _server = raw::Server::ok(&mesh.get("web").host, UNDECLARED);
    start(&mut mesh);
    for (client, addr) in ways(&mesh, UNDECLARED) {
        let before = counts(&mesh);
        let answer = raw::send(&mesh.get(client).host, addr, REQUEST).expect("an answer");
        assert_eq!(raw::status(&answer), Some(200), "{client} to {addr}");
        let counted = counted(&mesh, client, before);
        let detected = Counts { detections: 1.0, ..AS_HTTP };
        // Between sidecars the first one's verdict holds.
        let expected = if client == "client" { vec![detected, AS_HTTP] } else { vec![detected] };
        assert_eq!(counted, expected, "{client} to {addr}");
    }
}

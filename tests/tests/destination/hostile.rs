//! A sidecar whose control plane says what cannot be.
//!
//! Invariant: nothing of a reply is taken over when anything in it is wrong; what was known goes on serving.

use std::net::{IpAddr, SocketAddr};

use mesh_proto::discovery as wire;
use mesh_tests::mesh::{App, Mesh, SOON};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Bystander, Process, Vitals, Who, record};
use wire::outbound_target::Kind;
use wire::watch_response::Snapshot;

use crate::HTTP;
use crate::liar::{About, Liar, Sane, address};

const PORT: u16 = 9086;
/// Most growth of the sidecar, in KiB: a message may have 4 MiB, and is parsed as a whole.
const GROWTH: u64 = 24 * 1024;

type Case = (&'static str, About, Option<Snapshot>);

fn endpoint() -> wire::Endpoint {
    let address = Some(address([10, 77, 9, 9], 8000));
    wire::Endpoint { address, name: "default/evil".to_owned(), weight: 1, ..wire::Endpoint::default() }
}

fn endpoints(endpoints: Vec<wire::Endpoint>) -> Option<Snapshot> {
    Some(Snapshot::Endpoints(wire::Endpoints { endpoints, policy: None }))
}

/// One endpoint that is wrong beside one that is not.
fn one(what: &'static str, change: impl FnOnce(&mut wire::Endpoint)) -> Case {
    let mut wrong = wire::Endpoint { address: Some(address([10, 77, 9, 10], 8000)), ..endpoint() };
    change(&mut wrong);
    (what, About::Endpoints, endpoints(vec![endpoint(), wrong]))
}

fn at(what: &'static str, ip: &str) -> Case {
    let ip: IpAddr = ip.parse().expect("an address");
    one(what, |endpoint| endpoint.address = Some(address(ip, 8000)))
}

fn bad_endpoints() -> Vec<Case> {
    let octets = |length: usize| Some(wire::SocketAddress { ip: vec![10; length].into(), port: 80 });
    let port = |port| Some(address([10, 77, 9, 10], port));
    let many =
        |n: u32| wire::Endpoint { address: Some(address((0x0b00_0000 + n).to_be_bytes(), 80)), ..Default::default() };
    vec![
        at("unspecified", "0.0.0.0"),
        at("unspecified, IPv6", "::"),
        at("loopback", "127.0.0.1"),
        at("another loopback", "127.77.0.1"),
        at("loopback, IPv6", "::1"),
        at("loopback in IPv6 clothes", "::ffff:127.0.0.1"),
        at("multicast", "224.0.0.1"),
        at("multicast, IPv6", "ff02::1"),
        at("broadcast", "255.255.255.255"),
        one("no address", |endpoint| endpoint.address = None),
        one("an address of no bytes", |endpoint| endpoint.address = octets(0)),
        one("an address of 5 bytes", |endpoint| endpoint.address = octets(5)),
        one("an address of 1,000 bytes", |endpoint| endpoint.address = octets(1000)),
        one("port 0", |endpoint| endpoint.address = port(0)),
        one("port 65,536", |endpoint| endpoint.address = port(65_536)),
        one("the largest port", |endpoint| endpoint.address = port(u32::MAX)),
        one("weight above all", |endpoint| endpoint.weight = 10_001),
        one("the largest weight", |endpoint| endpoint.weight = u32::MAX),
        one("a name with an escape", |endpoint| endpoint.name = "default/\u{1b}[2J".to_owned()),
        one("a name of 1 MiB", |endpoint| endpoint.name = format!("default/{}", "a".repeat(1 << 20))),
        one("a zone with a newline", |endpoint| endpoint.zone = "a\nb".to_owned()),
        one("an identity that is none", |endpoint| endpoint.identity = "https://web".to_owned()),
        one("an identity with a wildcard", |endpoint| {
            endpoint.identity = "spiffe://cluster.local/ns/default/sa/*".to_owned();
            endpoint.tunnel_port = 4143;
        }),
        one("a tunnel without a port", |endpoint| endpoint.identity = "spiffe://cluster.local/ns/a/sa/b".to_owned()),
        ("twice the same", About::Endpoints, endpoints(vec![endpoint(), endpoint()])),
        ("100,000 endpoints", About::Endpoints, endpoints((0..100_000).map(many).collect())),
        ("nothing", About::Endpoints, None),
        (
            "a policy in the place of endpoints",
            About::Endpoints,
            Some(Snapshot::Inbound(wire::InboundPolicy::default())),
        ),
    ]
}

fn bad_targets() -> Vec<Case> {
    let target = |kind| Some(Snapshot::Outbound(wire::OutboundTarget { kind }));
    let to = |namespace: &str, port| {
        let (namespace, service) = (namespace.to_owned(), "web".to_owned());
        Some(wire::BackendRef { namespace, service, port })
    };
    let service = |backend, protocol| {
        target(Some(Kind::Service(wire::Service { backend, protocol, routes: None, policy: None })))
    };
    let policy = |ports: &[(u32, i32)]| {
        let ports =
            ports.iter().map(|(port, protocol)| wire::InboundPort { port: *port, protocol: *protocol, rates: None });
        Some(Snapshot::Inbound(wire::InboundPolicy { ports: ports.collect(), ..Default::default() }))
    };
    vec![
        ("a target of no kind", About::Outbound, target(None)),
        ("a service without a backend", About::Outbound, service(None, 0)),
        ("an unknown protocol", About::Outbound, service(to("default", 80), 99)),
        ("a negative protocol", About::Outbound, service(to("default", 80), -1)),
        ("a namespace of two lines", About::Outbound, service(to("a\r\nb", 80), 0)),
        ("a backend's port 0", About::Outbound, service(to("default", 0), 0)),
        ("a workload on loopback", About::Outbound, {
            let endpoint = Some(wire::Endpoint { address: Some(address([127, 0, 0, 1], 4191)), ..endpoint() });
            target(Some(Kind::Workload(wire::Workload { endpoint, protocol: 0 })))
        }),
        ("a policy for port 0", About::Inbound, policy(&[(0, 1)])),
        ("a policy that says it twice", About::Inbound, policy(&[(80, 1), (80, 2)])),
        ("a policy of an unknown protocol", About::Inbound, policy(&[(80, 77)])),
    ]
}

/// A client whose control plane is the liar, before a web that follows the real one.
fn stage() -> (Mesh, SocketAddr, Liar) {
    let mut mesh = Mesh::new();
    let liar: SocketAddr = (mesh.control().host().v4, PORT).into();
    let client = mesh.workload("client").service_account("client").env("MESH_DESTINATION_ADDR", &liar.to_string());
    client.env("MESH_DESTINATION_ID", "spiffe://cluster.local/ns/default/sa/liar").add();
    mesh.workload("web").of("web").app(App::demo("demo-http", HTTP, &[])).add();
    let service = mesh.service("web", 80, HTTP).add().v4;
    mesh.start();
    let host = mesh.control().host().clone();
    let identity = "spiffe://cluster.local/ns/default/sa/web".to_owned();
    let sane = Sane {
        endpoint: wire::Endpoint {
            address: Some(address(mesh.get("web").host.v4, u32::from(HTTP))),
            identity,
            tunnel_port: 4143,
            ..endpoint()
        },
    };
    let started = Liar::start(&host, liar, mesh.control().credentials(&host, "liar"), sane);
    until(SOON, || mesh.get("client").metric("mesh_discovery_connected", &[]) > 0.0);
    (mesh, service, started)
}

#[test]
fn r51_a_hostile_control_plane_is_refused_reply_by_reply_and_the_last_good_state_serves() {
    let (mesh, service, liar) = stage();
    let client = mesh.get("client");
    let bystander = Bystander::start(&client.host, service);
    let proxy = client.proxy().expect("a sidecar");
    let (process, vitals) = (Process(proxy.pid().expect("a sidecar that runs")), Vitals::of(proxy));
    let idle = process.anonymous();
    let rejected = || client.metric("mesh_discovery_rejections_total", &[]);
    let cases = [bad_endpoints(), bad_targets()].concat();
    assert!(cases.len() >= 30);
    for (nth, (what, about, snapshot)) in cases.iter().enumerate() {
        liar.say(*about, snapshot.clone());
        assert!(!liar.refusal().is_empty(), "{what}");
        assert_eq!(rejected(), f64::from(u32::try_from(nth + 1).expect("a few")), "{what}");
    }
    // More than a message may have ends the stream; the next one begins where the last good one was.
    let updates = || client.metric("mesh_discovery_updates_total", &[("kind", "endpoints")]);
    let before = updates();
    liar.say(About::Endpoints, one("a name of 5 MiB", |endpoint| endpoint.name = "a".repeat(5 << 20)).2);
    until(SOON, || updates() > before);
    assert_eq!(rejected(), f64::from(u32::try_from(cases.len() + 1).expect("a few")), "a message that cannot be read");
    assert_eq!(client.metric("mesh_discovery_connected", &[]), 1.0);
    let beside = bystander.finish();
    vitals.finish(proxy, &[]);
    let grown = process.anonymous().saturating_sub(idle);
    assert!(grown <= GROWTH, "{grown} KiB");
    let figure =
        format!("{} replies refused and counted, last good state served, {grown} KiB more, {beside}", cases.len() + 1);
    record(51, "hostile control plane", Who::Mesh, true, &figure);
}

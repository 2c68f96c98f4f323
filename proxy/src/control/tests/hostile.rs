//! What a broken or hostile destination may say, case by case: refused as a whole, with the reason, and nothing is lost.

use super::super::parse::{MAX_ENDPOINTS, Malformed, Snapshot as Parsed};
use super::*;
use wire::outbound_target::Kind;

type Case = (Malformed, Option<Snapshot>);

fn outbound(kind: Option<Kind>) -> Option<Snapshot> {
    Some(Snapshot::Outbound(wire::OutboundTarget { kind }))
}

fn to_service(change: impl FnOnce(&mut wire::Service, &mut wire::BackendRef)) -> Option<Snapshot> {
    let (mut service, mut backend) = (wire::Service::default(), wire_backend());
    change(&mut service, &mut backend);
    outbound(Some(Kind::Service(wire::Service { backend: Some(backend), ..service })))
}

fn one(change: impl FnOnce(&mut wire::Endpoint)) -> Option<Snapshot> {
    let mut endpoint = wire_endpoint(1);
    change(&mut endpoint);
    Some(Snapshot::Endpoints(wire::Endpoints { endpoints: vec![wire_endpoint(2), endpoint], policy: None }))
}

fn at(ip: &[u8], port: u32) -> Option<Snapshot> {
    one(|endpoint| endpoint.address = Some(wire::SocketAddress { ip: ip.to_vec().into(), port }))
}

fn at_ip(ip: &str) -> (Malformed, Option<Snapshot>) {
    let ip: std::net::IpAddr = ip.parse().expect("an address");
    let octets = match ip {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    (Malformed::EndpointAddress(ip.to_canonical()), at(&octets, 80))
}

fn bad_targets() -> Vec<Case> {
    let workload = |endpoint, protocol| outbound(Some(Kind::Workload(wire::Workload { endpoint, protocol })));
    vec![
        (Malformed::Missing("snapshot"), None),
        (Malformed::OtherKind, Some(endpoints(&[1]))),
        (Malformed::Missing("kind of target"), outbound(None)),
        (Malformed::Missing("backend"), outbound(Some(Kind::Service(wire::Service::default())))),
        (Malformed::Name("namespace"), to_service(|_, backend| backend.namespace.clear())),
        (Malformed::Name("namespace"), to_service(|_, backend| backend.namespace = "a\u{1b}[2J".to_owned())),
        (Malformed::Name("namespace"), to_service(|_, backend| backend.namespace = "n".repeat(64))),
        (Malformed::Name("service"), to_service(|_, backend| backend.service.clear())),
        (Malformed::Name("service"), to_service(|_, backend| backend.service = "a/b".to_owned())),
        (Malformed::Name("service"), to_service(|_, backend| backend.service = "s".repeat(254))),
        (Malformed::Port(0), to_service(|_, backend| backend.port = 0)),
        (Malformed::Port(65_536), to_service(|_, backend| backend.port = 65_536)),
        (Malformed::Protocol(99), to_service(|service, _| service.protocol = 99)),
        (Malformed::Protocol(-1), to_service(|service, _| service.protocol = -1)),
        (Malformed::Missing("endpoint"), workload(None, 0)),
        (Malformed::Protocol(5), workload(Some(wire_endpoint(1)), 5)),
        (Malformed::Missing("address"), workload(Some(wire::Endpoint::default()), 0)),
    ]
}

fn bad_endpoints() -> Vec<Case> {
    let addr = endpoint(1).addr;
    let many =
        |count| Some(Snapshot::Endpoints(wire::Endpoints { endpoints: vec![wire_endpoint(1); count], policy: None }));
    let mapped = [&[0; 10][..], &[255, 255, 10, 1, 0, 2]].concat();
    let mut cases = vec![
        (Malformed::Missing("address"), one(|endpoint| endpoint.address = None)),
        (Malformed::IpLength(0), at(&[], 80)),
        (Malformed::IpLength(5), at(&[10, 0, 0, 1, 2], 80)),
        (Malformed::IpLength(17), at(&[1; 17], 80)),
        (Malformed::Port(0), at(&[10, 0, 0, 1], 0)),
        (Malformed::Port(u32::MAX), at(&[10, 0, 0, 1], u32::MAX)),
        (Malformed::Identity(addr), one(|endpoint| endpoint.identity = "https://web".to_owned())),
        (Malformed::Identity(addr), one(|endpoint| endpoint.identity.push('*'))),
        (Malformed::Port(0), one(|endpoint| endpoint.tunnel_port = 0)),
        (Malformed::Port(70_000), one(|endpoint| endpoint.tunnel_port = 70_000)),
        (Malformed::Weight(10_001), one(|endpoint| endpoint.weight = 10_001)),
        (Malformed::Weight(u32::MAX), one(|endpoint| endpoint.weight = u32::MAX)),
        (Malformed::Name("name"), one(|endpoint| endpoint.name = "shop/web\n".to_owned())),
        (Malformed::Name("name"), one(|endpoint| endpoint.name = "web".to_owned())),
        (Malformed::Name("name"), one(|endpoint| endpoint.name = format!("shop/{}", "w".repeat(254)))),
        (Malformed::Name("zone"), one(|endpoint| endpoint.zone = "a\u{7}".to_owned())),
        (Malformed::TooManyEndpoints(MAX_ENDPOINTS + 1), many(MAX_ENDPOINTS + 1)),
        (Malformed::DuplicateEndpoint(addr), many(2)),
        (Malformed::DuplicateEndpoint(endpoint(2).addr), at(&mapped, 8080)),
        (Malformed::OtherKind, Some(service(wire::Protocol::Detect))),
    ];
    let nowhere = ["0.0.0.0", "::", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "224.0.0.1", "ff02::1"];
    cases.extend(nowhere.map(at_ip));
    cases.push(at_ip("255.255.255.255"));
    cases
}

fn bad_policies() -> Vec<Case> {
    vec![
        (Malformed::Missing("snapshot"), None),
        (Malformed::OtherKind, Some(endpoints(&[]))),
        (Malformed::Port(0), Some(policy(&[(0, 0)]))),
        (Malformed::Port(65_536), Some(policy(&[(80, 1), (65_536, 0)]))),
        (Malformed::DuplicatePort(80), Some(policy(&[(80, 1), (80, 1)]))),
        (Malformed::Protocol(77), Some(policy(&[(80, 77)]))),
    ]
}

#[test]
fn malformed_snapshots_are_named_by_what_is_wrong_with_them() {
    for (malformed, snapshot) in [bad_targets(), bad_endpoints(), bad_policies()].concat() {
        if malformed != Malformed::OtherKind {
            assert_eq!(Parsed::try_from(snapshot.clone()), Err(malformed), "{snapshot:?}");
        }
    }
}

#[test]
fn good_snapshots_at_the_edges_are_taken() {
    let at_the_edges = one(|endpoint| {
        *endpoint = wire::Endpoint {
            address: Some(wire::SocketAddress { ip: vec![0xfd; 16].into(), port: 65_535 }),
            // Without an identity, it means nothing.
            tunnel_port: 70_000,
            weight: 10_000,
            ..wire::Endpoint::default()
        }
    });
    let Ok(Parsed::Endpoints(set)) = Parsed::try_from(at_the_edges) else { panic!("refused") };
    let plain = set.list.iter().find(|endpoint| !endpoint.traits.is_meshed()).expect("one without a sidecar");
    assert_eq!((plain.addr.port(), &*plain.name), (65_535, ""));
    assert_eq!((plain.traits.weight, &*plain.traits.zone), (10_000, ""));

    let numbered = (0..10_000_u32).map(|n| wire::Endpoint {
        address: Some(wire::SocketAddress { ip: (0x0a00_0001 + n).to_be_bytes().to_vec().into(), port: 80 }),
        ..wire_endpoint(1)
    });
    let most = Snapshot::Endpoints(wire::Endpoints { endpoints: numbered.collect(), policy: None });
    assert!(matches!(Parsed::try_from(Some(most)), Ok(Parsed::Endpoints(set)) if set.list.len() == MAX_ENDPOINTS));
    assert!(matches!(Parsed::try_from(Some(endpoints(&[]))), Ok(Parsed::Endpoints(set)) if set.list.is_empty()));

    let unknown = outbound(Some(Kind::Unknown(wire::Unknown {})));
    assert_eq!(Parsed::try_from(unknown), Ok(Parsed::Outbound(Target::Unknown)));
    let workload = wire::Workload { endpoint: Some(wire_endpoint(4)), protocol: 4 };
    let expected = Target::Workload { endpoint: endpoint(4), protocol: Protocol::Opaque };
    assert_eq!(Parsed::try_from(outbound(Some(Kind::Workload(workload)))), Ok(Parsed::Outbound(expected)));
    assert_eq!(Parsed::try_from(Some(policy(&[]))), Ok(Parsed::Inbound(InboundPolicy::default())));
}

#[tokio::test(start_paused = true)]
async fn r51_every_malformed_reply_is_refused_with_a_reason_and_the_last_good_value_stays() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let (web, set, own) =
        (client.discovery.outbound(addr(1)), client.discovery.endpoints(&backend()), client.discovery.inbound());
    let mut session = destination.session().await;
    let good = [service(wire::Protocol::Grpc), endpoints(&[1, 2]), policy(&[(80, 1)])];
    let mut ids = Vec::new();
    for snapshot in good {
        let (id, _) = session.subscribed().await;
        ids.push((id, snapshot));
    }
    for (id, snapshot) in &ids {
        session.send(*id, 1, snapshot.clone()).await;
        assert_eq!(session.ack().await, (*id, 1, String::new()));
    }
    let before = (web.current(), set.current(), own.current());

    let mut refused = 0;
    for ((id, _), cases) in ids.iter().zip([bad_targets(), bad_endpoints(), bad_policies()]) {
        for (malformed, snapshot) in cases {
            session.send(*id, 2 + refused, snapshot).await;
            assert_eq!(session.ack().await, (*id, 2 + refused, malformed.to_string()));
            refused += 1;
        }
    }
    for id in [0, 4, u64::MAX] {
        session.send(id, 1, service(wire::Protocol::Http1)).await;
        refused += 1;
    }
    session.is_silent().await;
    assert!(refused >= 30);
    assert_eq!(client.discovery.status().rejected, refused);
    let counted = format!("mesh_discovery_rejections_total {refused}");
    assert!(client.metrics.render().lines().any(|line| line == counted), "no {counted}");
    assert_eq!((web.current(), set.current(), own.current()), before);

    let (id, _) = &ids[1];
    session.send(*id, 1_000, endpoints(&[7])).await;
    assert_eq!(session.ack().await, (*id, 1_000, String::new()), "the stream is as good as before");
    assert_eq!(set.current().as_deref(), Some(&endpoint_set(&[7])));
}

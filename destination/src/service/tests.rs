//! The stream over in-memory pipes: snapshots, changes, slow and hostile readers.

mod health;
mod slow;

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Instant;

use mesh_mtls::messages::{LARGEST, Link, PING};
use mesh_mtls::spiffe;
use mesh_proto::discovery as wire;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;
use wire::watch_request::Kind;
use wire::watch_response::Snapshot;

use super::*;
use crate::{manifest, metrics};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server whose connections are pipes, and its index.
struct Mesh {
    index: Arc<Mutex<Index>>,
    admission: Admission,
    discovery: Discovery,
    shutdown: Shutdown,
}

impl Mesh {
    fn start(settings: Settings) -> Self {
        let mesh = Self::load(settings);
        mesh.index.lock().unwrap().complete();
        mesh
    }

    /// One whose index is not complete.
    fn load(settings: Settings) -> Self {
        metrics::install();
        let index = Arc::new(Mutex::new(Index::new("cluster.local")));
        let shutdown = Shutdown::manual();
        let discovery = Discovery::new(settings, Arc::clone(&index), Metrics::default(), shutdown.clone());
        let admission = Admission::new(settings, Metrics::default());
        Self { index, admission, discovery, shutdown }
    }

    fn apply(&self, manifests: &str) {
        let manifest = manifest::parse(manifests);
        assert!(!manifest.is_broken(), "{:?}", manifest.findings);
        let mut index = self.index.lock().unwrap();
        manifest.objects.into_iter().for_each(|declared| index.apply(declared.object));
        index.publish(Instant::now());
    }

    fn place(&self) -> Option<Place> {
        self.admission.admit([10, 1, 0, 1].into())
    }

    /// A connection that the server lets in.
    fn connection(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let id = spiffe::Id::new("cluster.local", "shop", "web").unwrap();
        let client = Client { id, addr: SocketAddr::from(([10, 1, 0, 1], 40_000)) };
        tokio::spawn(self.discovery.clone().serve(far, client, self.place().unwrap()));
        near
    }

    fn stream(&self) -> Subscriber {
        Subscriber(Link::new(self.connection(), LARGEST))
    }

    async fn greeted(&self) -> Subscriber {
        let mut stream = self.stream();
        stream.hello().await;
        stream
    }
}

/// A proxy's end.
struct Subscriber(Link<DuplexStream>);

impl Subscriber {
    async fn send(&mut self, kind: Kind) {
        self.0.send(&wire::WatchRequest { kind: Some(kind) });
        // The server may have enough already.
        let _ = poll_fn(|cx| self.0.poll_flush(cx)).await;
    }

    async fn hello(&mut self) {
        let addresses = vec![vec![10, 1, 0, 1].into()];
        self.send(Kind::Hello(wire::Hello { addresses, ..wire::Hello::default() })).await;
    }

    async fn subscribe(&mut self, id: u64, resource: wire::resource::Kind) {
        let resource = Some(wire::Resource { kind: Some(resource) });
        self.send(Kind::Subscribe(wire::Subscribe { id, resource })).await;
    }

    async fn ack(&mut self, id: u64, version: u64, error: &str) {
        self.send(Kind::Ack(wire::Ack { id, version, error: error.to_owned() })).await;
    }

    async fn next(&mut self) -> wire::WatchResponse {
        loop {
            let message = timeout(PATIENCE, self.0.next()).await.expect("an update in time");
            let message = message.unwrap().expect("an update");
            if !message.is_empty() {
                return wire::WatchResponse::decode(message).unwrap();
            }
        }
    }

    /// Reads to the end: what it was told of it, if anything.
    async fn end(mut self) -> Option<String> {
        let mut told = None;
        while let Ok(Some(message)) = timeout(PATIENCE, self.0.next()).await.expect("an end in time") {
            if let Some(Snapshot::End(end)) = wire::WatchResponse::decode(message).unwrap().snapshot {
                told = Some(end.reason);
            }
        }
        told
    }
}

fn web(port: u32) -> wire::resource::Kind {
    let (namespace, service) = ("shop".to_owned(), "web".to_owned());
    wire::resource::Kind::Endpoints(wire::BackendRef { namespace, service, port })
}

fn outbound(ip: &[u8], port: u32) -> wire::resource::Kind {
    wire::resource::Kind::Outbound(wire::SocketAddress { ip: ip.to_vec().into(), port })
}

fn addresses(update: &wire::WatchResponse) -> Vec<String> {
    let Some(Snapshot::Endpoints(endpoints)) = &update.snapshot else { panic!("{update:?}") };
    let ips = endpoints.endpoints.iter().map(|endpoint| endpoint.address.as_ref().unwrap().ip.to_vec());
    ips.map(|ip| std::net::Ipv4Addr::from(<[u8; 4]>::try_from(ip).unwrap()).to_string()).collect()
}

const WEB: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {
  clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, appProtocol: grpc}]}}
";

fn workload(name: &str, address: &str) -> String {
    format!(
        "---\n{{apiVersion: mesh.internal/v1alpha1, kind: Workload,
         metadata: {{name: {name}, namespace: shop, labels: {{app: web}}}},
         spec: {{addresses: [{address}], serviceAccount: web, zone: a}}}}\n"
    )
}

/// So many workloads; `address` is the first one's.
fn many(count: u32, address: &str) -> String {
    let rest = (1..count).map(|n| workload(&format!("w{n}"), &std::net::Ipv4Addr::from(0x0a02_0000 + n).to_string()));
    rest.chain([workload("w0", address)]).collect()
}

/// A counter's value so far, over all tests of this process.
fn counted(line: &str) -> u64 {
    let text = metrics::install().render();
    let value = text.lines().find_map(|l| l.strip_prefix(line)).map(|value| value.trim().parse().unwrap());
    value.unwrap_or_default()
}

async fn until_counted(line: &str, more_than: u64) {
    let reached = async {
        while counted(line) <= more_than {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(PATIENCE, reached).await.is_ok(), "{line} is still {}", counted(line));
}

#[tokio::test]
async fn a_snapshot_comes_at_once_and_another_with_each_change() {
    let mesh = Mesh::start(Settings::default());
    mesh.apply(&format!("{WEB}{}", workload("a", "10.1.0.1")));
    let mut stream = mesh.greeted().await;
    stream.subscribe(7, web(80)).await;
    let first = stream.next().await;
    assert_eq!((first.id, addresses(&first)), (7, vec!["10.1.0.1".to_owned()]));
    let Some(Snapshot::Endpoints(endpoints)) = &first.snapshot else { panic!() };
    let endpoint = &endpoints.endpoints[0];
    assert_eq!(endpoint.identity, "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!((endpoint.name.as_str(), endpoint.zone.as_str()), ("shop/a", "a"));
    assert_eq!((endpoint.tunnel_port, endpoint.weight), (4143, 1));
    mesh.apply(&workload("b", "10.1.0.2"));
    let second = stream.next().await;
    assert!(second.version > first.version);
    assert_eq!(addresses(&second), ["10.1.0.1", "10.1.0.2"]);
}

#[tokio::test]
async fn outbound_and_inbound_are_told_on_the_same_stream() {
    let mesh = Mesh::start(Settings::default());
    mesh.apply(&format!("{WEB}{}", workload("a", "10.1.0.1")));
    let mut stream = mesh.greeted().await;
    stream.subscribe(1, outbound(&[10, 96, 0, 1], 80)).await;
    stream.subscribe(2, outbound(&[9, 9, 9, 9], 80)).await;
    stream.subscribe(3, wire::resource::Kind::Inbound(wire::Inbound {})).await;
    let mut updates = vec![stream.next().await, stream.next().await, stream.next().await];
    updates.sort_by_key(|update| update.id);
    let Some(Snapshot::Outbound(target)) = &updates[0].snapshot else { panic!("{updates:?}") };
    let Some(wire::outbound_target::Kind::Service(service)) = &target.kind else { panic!("{target:?}") };
    assert_eq!((service.backend.as_ref().unwrap().port, service.protocol()), (80, wire::Protocol::Grpc));
    let unknown = wire::OutboundTarget { kind: Some(wire::outbound_target::Kind::Unknown(wire::Unknown {})) };
    assert_eq!(updates[1].snapshot, Some(Snapshot::Outbound(unknown)));
    // The peer's identity and the address of its Hello are the workload's: it gets that one's ports.
    let Some(Snapshot::Inbound(policy)) = &updates[2].snapshot else { panic!("{updates:?}") };
    let grpc = wire::InboundPort { port: 80, protocol: wire::Protocol::Grpc.into(), rates: None };
    assert!(policy.ports.contains(&grpc) && policy.ports.len() == 9, "{policy:?}");
}

#[tokio::test]
async fn a_storm_is_coalesced_and_its_last_state_arrives() {
    let interval = Duration::from_millis(50);
    let mesh = Mesh::start(Settings { interval, ..Settings::default() });
    mesh.apply(WEB);
    let mut stream = mesh.greeted().await;
    stream.subscribe(1, web(80)).await;
    stream.next().await;
    let (begun, coalesced) = (Instant::now(), counted("mesh_destination_updates_coalesced_total"));
    for n in 0..200_u8 {
        mesh.apply(&workload("a", &format!("10.1.0.{}", n + 1)));
        tokio::time::sleep(Duration::from_millis(1)).await; // the storm's pace
    }
    let mut updates = 1;
    while addresses(&stream.next().await) != ["10.1.0.200"] {
        updates += 1;
    }
    let most = begun.elapsed().div_duration_f64(interval) + 2.0;
    assert!(f64::from(updates) <= most, "{updates} updates in {:?}", begun.elapsed());
    until_counted("mesh_destination_updates_coalesced_total", coalesced + 100).await;
}

#[tokio::test]
async fn r49_a_storm_over_a_thousand_endpoints_ends_in_the_truth() {
    let interval = Duration::from_millis(100);
    let mesh = Mesh::start(Settings { interval, ..Settings::default() });
    mesh.apply(&format!("{WEB}{}", many(1000, "10.1.0.1")));
    let mut stream = mesh.greeted().await;
    stream.subscribe(1, web(80)).await;
    let begun = Instant::now();
    let reader = tokio::spawn(async move {
        let mut updates = 0;
        loop {
            let update = stream.next().await;
            updates += 1;
            if addresses(&update).iter().all(|address| address.starts_with("10.9.")) {
                return (updates, addresses(&update));
            }
        }
    });
    for round in 0..10_u32 {
        for batch in 0..50 {
            let ids = batch * 20..(batch + 1) * 20;
            let address = |n| std::net::Ipv4Addr::from(0x0a00_0000 + (round << 16) + n).to_string();
            mesh.apply(&ids.map(|n| workload(&format!("w{n}"), &address(n))).collect::<String>());
            tokio::task::yield_now().await;
        }
    }
    let (updates, last) = reader.await.unwrap();
    let most = begun.elapsed().div_duration_f64(interval) + 2.0;
    assert!(f64::from(updates) <= most, "{updates} updates in {:?}", begun.elapsed());
    let truth: BTreeSet<_> = (0..1000).map(|n| std::net::Ipv4Addr::from(0x0a09_0000 + n).to_string()).collect();
    assert_eq!(BTreeSet::from_iter(last), truth);
}

#[tokio::test]
async fn an_equal_snapshot_is_not_sent_again() {
    // No update is due before the subscription has ended.
    let mesh = Mesh::start(Settings { interval: PATIENCE, ..Settings::default() });
    mesh.apply(&format!("{WEB}{}", workload("a", "10.1.0.1")));
    let mut stream = mesh.greeted().await;
    stream.subscribe(1, web(80)).await;
    stream.next().await;
    mesh.apply(&format!("{WEB}{}", workload("a", "10.1.0.1")));
    mesh.apply(&workload("b", "10.1.0.2").replace("app: web", "app: other"));
    stream.send(Kind::Unsubscribe(wire::Unsubscribe { id: 1 })).await;
    mesh.apply(&workload("c", "10.1.0.3"));
    stream.subscribe(2, web(80)).await;
    assert_eq!(stream.next().await.id, 2);
}

#[tokio::test]
async fn r48_a_deaf_reader_is_disconnected_and_delays_nobody() {
    let _alone = slow::ALONE.lock().await;
    let stall = Duration::from_millis(500);
    let interval = Duration::from_millis(5);
    let mesh = Mesh::start(Settings { stall, interval, ..Settings::default() });
    mesh.apply(&format!("{WEB}{}", many(1000, "10.1.0.1")));
    let mut stream = mesh.greeted().await;
    stream.subscribe(1, web(80)).await;
    stream.next().await;
    let stalled = "mesh_destination_streams_ended_total{reason=\"stalled\"}";
    let before = counted(stalled);
    let mut deaf = mesh.greeted().await;
    deaf.subscribe(1, web(80)).await;
    let mut n = 1_u32;
    while counted(stalled) == before {
        n += 1;
        let address = std::net::Ipv4Addr::from(0x0a01_0000 + n).to_string();
        let begun = Instant::now();
        mesh.apply(&workload("w0", &address));
        while !addresses(&stream.next().await).contains(&address) {}
        assert!(begun.elapsed() < Duration::from_secs(10), "update {n} took {:?}", begun.elapsed());
    }
    // Its connection is gone, and nothing waits for it any more.
    assert_eq!(deaf.end().await, None);
}

#[tokio::test]
async fn acknowledgements_are_counted_and_measured() {
    let mesh = Mesh::start(Settings::default());
    mesh.apply(WEB);
    let mut stream = mesh.greeted().await;
    stream.subscribe(1, web(80)).await;
    let first = stream.next().await;
    let (refused, delays) = (
        "mesh_destination_acknowledgements_total{result=\"refused\"}",
        "mesh_destination_propagation_delay_seconds_count",
    );
    let before = (counted(refused), counted(delays));
    stream.ack(1, first.version, "too many cooks").await;
    until_counted(refused, before.0).await;
    mesh.apply(&workload("a", "10.1.0.1"));
    let second = stream.next().await;
    stream.ack(1, second.version, "").await;
    until_counted(delays, before.1).await;
    stream.ack(99, 7, "").await; // of a subscription that is gone: no harm
    mesh.apply(&workload("b", "10.1.0.2"));
    assert_eq!(addresses(&stream.next().await).len(), 2);
}

#[tokio::test]
async fn hostile_requests_end_the_stream_with_a_reason() {
    let limits = Settings { subscriptions: 3, ..Settings::default() };
    let hello = |addresses: Vec<Vec<u8>>| {
        let addresses = addresses.into_iter().map(Into::into).collect();
        Kind::Hello(wire::Hello { addresses, ..wire::Hello::default() })
    };
    let subscribe =
        |id, kind| Kind::Subscribe(wire::Subscribe { id, resource: Some(wire::Resource { kind: Some(kind) }) });
    let greeting = || hello(vec![vec![10, 1, 0, 1]]);
    let cases = [
        ("hello_missing", vec![subscribe(1, web(80))]),
        ("hello_twice", vec![greeting(), greeting()]),
        ("bad_address", vec![hello(vec![vec![1, 2, 3]])]),
        ("bad_address", vec![greeting(), subscribe(1, outbound(&[0; 5], 80))]),
        ("bad_port", vec![greeting(), subscribe(1, outbound(&[10, 0, 0, 1], 0))]),
        ("bad_port", vec![greeting(), subscribe(1, web(65_536))]),
        ("too_many_addresses", vec![hello(vec![vec![10, 1, 0, 1]; 65])]),
        ("duplicate_subscription", vec![greeting(), subscribe(1, web(80)), subscribe(1, web(81))]),
        (
            "too_many_subscriptions",
            std::iter::once(greeting()).chain((1..=4).map(|id| subscribe(id, web(80)))).collect(),
        ),
        ("empty_request", vec![greeting(), Kind::Subscribe(wire::Subscribe { id: 1, resource: None })]),
        ("malformed", vec![Kind::Hello(wire::Hello { workload: "x".repeat(20_000), ..wire::Hello::default() })]),
    ];
    let mesh = Mesh::start(limits);
    for (reason, requests) in cases {
        let ended = format!("mesh_destination_streams_ended_total{{reason=\"{reason}\"}}");
        let before = counted(&ended);
        let mut stream = mesh.stream();
        for request in requests {
            stream.send(request).await;
        }
        assert!(stream.end().await.is_some_and(|told| !told.is_empty()), "{reason}");
        until_counted(&ended, before).await;
    }
}

#[tokio::test]
async fn what_is_no_message_ends_the_stream_with_a_reason() {
    let mesh = Mesh::start(Settings::default());
    for (bytes, told) in [
        (&[0, 0, 0x40, 1, 0][..], Some("a message of more than 16384 bytes")),
        (&[0xff; 4], Some("a message of more than 16384 bytes")),
        (&[0, 0, 0, 2, 0xff, 0xff], Some("failed to decode Protobuf message: invalid varint")),
        // HTTP/2, as all services had it once.
        (b"PRI * HTTP/2.0\r\n\r\n", Some("a message of more than 16384 bytes")),
        // It ends within a message.
        (&[0, 0, 0, 9, 1], Some("the last message ends before its end")),
        (b"", None),
    ] {
        let mut client = mesh.connection();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let said = Subscriber(Link::new(client, LARGEST)).end().await;
        assert_eq!(said.as_deref(), told, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_ended() {
    let mesh = Mesh::start(Settings { hello_within: Duration::from_millis(50), ..Settings::default() });
    assert_eq!(mesh.stream().end().await.as_deref(), Some("no Hello in time"));
}

#[tokio::test]
async fn a_second_answer_to_a_ping_ends_the_stream() {
    let mesh = Mesh::start(Settings::default());
    let mut client = mesh.connection();
    assert_eq!(client.read_u32().await.unwrap(), 0, "a ping");
    client.write_all(&PING.repeat(2)).await.unwrap();
    let said = Subscriber(Link::new(client, LARGEST)).end().await;
    assert_eq!(said.as_deref(), Some("an answer to no ping"));
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_cut_and_one_that_does_is_not() {
    let every = Duration::from_millis(50);
    let mesh = Mesh::start(Settings { ping_interval: every, ping_timeout: every, ..Settings::default() });
    mesh.apply(WEB);
    let mute_ended = "mesh_destination_streams_ended_total{reason=\"mute\"}";
    let before = counted(mute_ended);
    let mut stream = mesh.greeted().await;
    // Reading answers pings.
    let stream = tokio::spawn(async move {
        let update = stream.next().await;
        (stream, update)
    });
    let mut mute = mesh.connection();
    let begun = Instant::now();
    let mut said = Vec::new();
    let closed = timeout(Settings::default().hello_within / 2, mute.read_to_end(&mut said)).await;
    assert!(closed.is_ok() && begun.elapsed() > every, "{:?}", begun.elapsed());
    assert_eq!(said, PING, "one, at once");
    until_counted(mute_ended, before).await;
    assert!(!stream.is_finished());
    mesh.shutdown.trigger();
    let (_, update) = stream.await.unwrap();
    assert!(matches!(update.snapshot, Some(Snapshot::End(_))), "{update:?}");
}

#[tokio::test]
async fn a_connection_takes_little() {
    let mesh = Mesh::start(Settings::default());
    let id = spiffe::Id::new("cluster.local", "shop", "web").unwrap();
    let client = Client { id, addr: SocketAddr::from(([10, 1, 0, 1], 40_000)) };
    let connection = mesh.discovery.clone().serve(tokio::io::duplex(1).1, client, mesh.place().unwrap());
    let task = size_of_val(&connection);
    println!("{task} bytes for a connection");
    assert!(task <= 1_024, "{task} bytes for a connection");
}

#[tokio::test]
async fn connections_are_bounded_and_give_their_place_back() {
    let mesh = Mesh::start(Settings { connections_per_address: 2, ..Settings::default() });
    let (first, second) = (mesh.place(), mesh.place());
    assert!(first.is_some() && second.is_some() && mesh.place().is_none());
    drop(first);
    assert!(mesh.place().is_some());
}

#[tokio::test]
async fn nobody_is_told_anything_before_the_index_is_complete() {
    let mesh = Mesh::load(Settings { hello_within: Duration::from_secs(2), ..Settings::default() });
    mesh.apply(WEB);
    assert_eq!(mesh.greeted().await.end().await.as_deref(), Some(NOT_LOADED));
    // Who waits is served as soon as there is something to say.
    let mut stream = mesh.greeted().await;
    stream.subscribe(1, web(80)).await;
    mesh.index.lock().unwrap().complete();
    assert!(addresses(&stream.next().await).is_empty());
}

/// So many workloads in manifests that are short enough.
fn crowd(count: u32, name: &str, zone: &str) -> Vec<String> {
    let workloads = (0..count).map(|n| {
        let address = std::net::Ipv4Addr::from(0x0a03_0000 + n);
        format!(
            "---\n{{apiVersion: mesh.internal/v1alpha1, kind: Workload,
             metadata: {{name: {name}{n}, namespace: shop, labels: {{app: web}}}},
             spec: {{addresses: [{address}], serviceAccount: web, zone: {zone}}}}}\n"
        )
    });
    workloads.collect::<Vec<_>>().chunks(1000).map(<[String]>::concat).collect()
}

#[tokio::test]
async fn a_backend_with_more_endpoints_than_a_proxy_takes_is_cut_and_the_stream_goes_on() {
    let truncated = "mesh_destination_snapshots_truncated_total";
    let long = vec!["a".repeat(60); 4].join(".");
    let mut parts = vec![];
    for (count, name, zone) in [(10_050, "w".to_owned(), "z".to_owned()), (9_000, format!("{long}.w"), long)] {
        let mesh = Mesh::start(Settings::default());
        mesh.apply(WEB);
        crowd(count, &name, &zone).iter().for_each(|part| mesh.apply(part));
        let mut stream = mesh.greeted().await;
        let before = counted(truncated);
        stream.subscribe(1, web(80)).await;
        let update = stream.next().await;
        let kept = addresses(&update);
        let first =
            (0..u32::try_from(kept.len()).unwrap()).map(|n| std::net::Ipv4Addr::from(0x0a03_0000 + n).to_string());
        assert_eq!(kept, first.collect::<Vec<_>>(), "the first by address stay");
        assert!(counted(truncated) > before);
        parts.push((kept.len(), update.encoded_len()));
        stream.subscribe(2, outbound(&[10, 96, 0, 1], 80)).await;
        assert_eq!(stream.next().await.id, 2);
    }
    let [(most, _), (fewer, bytes)] = parts[..] else { panic!("{parts:?}") };
    assert_eq!(most, 10_000);
    assert!(fewer < 9_000 && (3_400 * 1024..3_600 * 1024).contains(&bytes), "{fewer} endpoints in {bytes} bytes");
}

#[tokio::test]
async fn a_shutdown_ends_streams_so_that_proxies_go_elsewhere() {
    let mesh = Mesh::start(Settings::default());
    mesh.apply(WEB);
    let mut stream = mesh.greeted().await;
    stream.subscribe(1, web(80)).await;
    stream.next().await;
    mesh.shutdown.trigger();
    assert_eq!(stream.end().await.as_deref(), Some("draining"));
}

#[tokio::test]
async fn streams_and_subscriptions_that_end_leave_nothing_watched() {
    let mesh = Mesh::start(Settings::default());
    mesh.apply(WEB);
    let ids: BTreeSet<u64> = (1..=20).collect();
    let mut stream = mesh.greeted().await;
    for id in &ids {
        stream.subscribe(*id, web(u32::try_from(*id).unwrap())).await;
        stream.next().await;
    }
    assert_eq!(mesh.index.lock().unwrap().watched(), 20);
    drop(stream);
    let empty = async {
        let mut n = 0_u8;
        while mesh.index.lock().unwrap().watched() > 0 {
            n = n.wrapping_add(1);
            mesh.apply(&workload("a", &format!("10.1.0.{n}")));
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(PATIENCE, empty).await.is_ok());
}

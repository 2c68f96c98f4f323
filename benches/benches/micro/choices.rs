//! Decisions: what protocol, which endpoint, which route.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use mesh_proxy::balance::{Backend, Tried, Wish};
use mesh_proxy::detect::{self, Verdict};
use mesh_proxy::model::policy::{BackendPolicy, Balancing, BalancingKind};
use mesh_proxy::model::{Endpoint, EndpointSet, Traits};
use mesh_tests::pair::Pair;
use rustls::pki_types::ServerName;

use crate::meter::Meter;

const HTTP1: &[u8] =
    b"GET /api/v1/orders?limit=20 HTTP/1.1\r\nhost: orders.shop:8080\r\nuser-agent: curl/8.9.1\r\n\r\n";
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const OPAQUE: &[u8] = &[0; 64];
/// Destinations that are known while one of them is asked for.
const TARGETS: u16 = 1000;

/// Each protocol's first bytes.
pub(crate) fn detect(meter: &mut Meter) -> anyhow::Result<()> {
    let hello = client_hello()?;
    let tls = Verdict::Tls { sni: Some("orders.shop".into()) };
    let inputs = [
        ("detect/http1", HTTP1, Verdict::Http1),
        ("detect/http2", HTTP2, Verdict::Http2),
        ("detect/tls", &hello, tls),
        ("detect/opaque", OPAQUE, Verdict::Opaque),
    ];
    for (name, bytes, verdict) in inputs {
        let found = detect::detect(bytes);
        ensure!(found == verdict, "{name}: {found:?}");
        meter.step(name, || drop(black_box(detect::detect(black_box(bytes)))));
    }
    Ok(())
}

/// What a TLS client says first, with a name.
fn client_hello() -> anyhow::Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = ServerName::try_from("orders.shop").context("a name")?;
    let mut hello = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), name)?.write_tls(&mut hello)?;
    Ok(hello)
}

/// An endpoint of few and of many, and its load given back.
pub(crate) fn pick(meter: &mut Meter, pair: &Pair) {
    for count in [2, 10, 1000] {
        pick_of(meter, pair, &format!("of-{count}"), (1..=count).map(endpoint).collect(), Wish::default());
    }
    let hash = BalancingKind::ConsistentHash { keys: Box::default(), bounded_load_percent: 125 };
    let kinds = [
        ("of-10-least-request", BalancingKind::LeastRequest),
        ("of-10-round-robin", BalancingKind::RoundRobin),
        ("of-10-hash", hash),
    ];
    for (name, kind) in kinds {
        let balancing = Balancing { kind, ..Balancing::default() };
        let policy = Some(Arc::new(BackendPolicy { balancing, ..BackendPolicy::default() }));
        let endpoints = EndpointSet { policy, ..(1..=10).map(endpoint).collect() };
        pick_of(meter, pair, name, endpoints, Wish { hash: Some(7), ..Wish::default() });
    }
}

fn pick_of(meter: &mut Meter, pair: &Pair, name: &str, endpoints: EndpointSet, wish: Wish) {
    let backend = {
        let _inside = meter.runtime.enter();
        let backend = Backend::new(name, &pair.reach);
        backend.apply(endpoints);
        backend
    };
    let tried = Tried::default();
    meter.step(&format!("pick/{name}"), || {
        black_box(backend.pick(&tried, &wish).is_ok());
    });
}

fn endpoint(port: u16) -> Endpoint {
    let addr = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), port));
    Endpoint { addr, name: "web".into(), traits: Arc::new(Traits::default()) }
}

/// What an outbound connection and each of its requests ask: the destination, and its route as things are.
pub(crate) fn route(meter: &mut Meter, pair: &Pair) {
    let Pair { outbound, discovery, reach, metrics, .. } = pair;
    let dialed = |port: u16| SocketAddr::from((Ipv4Addr::new(10, 96, 0, 1), port));
    let route = |dialed| outbound.target(dialed).route(discovery, reach, metrics);
    {
        let _inside = meter.runtime.enter();
        (1..=TARGETS).for_each(|port| drop(route(dialed(port))));
    }
    let asked = dialed(TARGETS / 2);
    meter.step("route/destination-of-1000", || drop(black_box(outbound.target(black_box(asked)))));
    let target = outbound.target(asked);
    meter.step("route/of-a-request", || drop(black_box(target.route(discovery, reach, metrics))));
}

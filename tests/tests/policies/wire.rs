//! From a manifest with every field to what a proxy makes of it.
//!
//! Invariant: the proxy's own parser is asked, and each field is looked at: one that is lost on the way, or refused,
//! fails here. Non-goal: what proxies do about it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_destination::index::{Backend, Dialed, Index, Marks, Proxy, Resource};
use mesh_destination::manifest;
use mesh_destination::model::Name;
use mesh_destination::service;
use mesh_mtls::spiffe;
use mesh_proto::discovery as wire;
use mesh_proxy::control::Discovery;
use mesh_proxy::model::policy::{Allowed, BalancingKind, HashKey, Origin, Probe, Rate, SessionCarrier, Timeouts};
use mesh_proxy::model::{BackendId, InboundPolicy, Protocol, Target};
use mesh_tests::fuzz::discovery::{asked, client};
use prost::Message as _;

const POLICY: &str = include_str!("../../../fuzz/seeds/manifest/policy");
const STEERED: &str = include_str!("../../../fuzz/seeds/manifest/steered");

/// Destination's index on one side, a proxy's client on the other.
struct Pair {
    index: Index,
    proxy: Discovery,
}

impl Pair {
    fn of(manifests: &str) -> Self {
        let manifest = manifest::parse(manifests);
        assert!(manifest.findings.is_empty(), "{:#?}", manifest.findings);
        let mut index = Index::new("cluster.local");
        manifest.objects.into_iter().for_each(|declared| index.apply(declared.object));
        index.complete();
        index.publish(Instant::now());
        Self { index, proxy: client() }
    }

    /// Gives the proxy what it has just asked for.
    fn tell(&mut self, resource: Resource) {
        let id = asked(&self.proxy).expect("a subscription");
        let snapshot = self.index.watch(resource, &Arc::new(Marks::default()), id).latest();
        let update = wire::WatchResponse::decode(service::encode(&snapshot).0).expect("what we encode can be decoded");
        self.proxy.take(wire::WatchResponse { id, ..update });
        let status = self.proxy.status();
        assert_eq!(status.rejected, 0, "{:?}", status.last_error);
    }

    fn target(&mut self, addr: &str) -> Arc<Target> {
        let addr: SocketAddr = addr.parse().expect("an address");
        let subscription = self.proxy.outbound(addr);
        self.tell(Resource::Outbound(Dialed { addr, namespace: "shop".into() }));
        subscription.current().expect("a value")
    }

    fn inbound(&mut self, ip: [u8; 4]) -> Arc<InboundPolicy> {
        let subscription = self.proxy.inbound();
        let id = spiffe::Id::new("cluster.local", "shop", "default").expect("an identity");
        self.tell(Resource::Inbound(Arc::new(Proxy { addresses: [ip.into()].into(), id })));
        subscription.current().expect("a value")
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn what_a_policy_says_of_requests_arrives() {
    let target = Pair::of(POLICY).target("10.96.0.1:80");
    let Target::Service { protocol, policy: Some(policy), .. } = &*target else { panic!("{target:?}") };
    assert_eq!((*protocol, &*policy.name), (Protocol::Http1, "shop/web"));
    let limit = |time| Some(Some(time));
    let timeouts = Timeouts {
        request: limit(seconds(30)),
        response_headers: limit(seconds(300)),
        backend: limit(seconds(10)),
        stream_idle: limit(seconds(300)),
        tcp_idle: limit(seconds(3600)),
        half_close: limit(seconds(60)),
    };
    assert_eq!(policy.timeouts, timeouts);
    let retries = policy.retries.as_ref().expect("retries");
    assert_eq!(*retries.statuses, [502..=504, 500..=599, 429..=429, 500..=502]);
    assert_eq!((retries.attempts, retries.grpc), (2, 1 << 14 | 1 << 4));
    assert!(retries.connect_failure && retries.reset && retries.refused_stream && !retries.timeout);
    assert!(retries.least_backoff.is_zero(), "full jitter");
    let millis = [retries.backoff, retries.max_backoff, retries.max_retry_after].map(|time| time.as_millis());
    assert_eq!(millis, [20, 200, 20_000]);
    let budget = policy.budget.expect("a budget");
    assert_eq!((budget.percent, budget.min_per_second, budget.ttl), (30, 4, seconds(11)));
    let [first, second] = &*policy.faults else { panic!("{:?}", policy.faults) };
    assert_eq!(first.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x-chaos", "x-more"]);
    assert_eq!(first.delay, Some((100_000, seconds(2))));
    let abort =
        |fault: &mesh_proxy::model::policy::Fault| fault.abort.map(|(share, it)| (share, it.status.as_u16(), it.grpc));
    assert_eq!([abort(first), abort(second)], [Some((15_000, 503, Some(14))), Some((1_000_000, 503, Some(15)))]);
}

#[test]
fn what_a_policy_says_of_a_backend_arrives() {
    let mut pair = Pair::of(POLICY);
    let backend = BackendId { namespace: "shop".into(), service: "web".into(), port: 80 };
    let subscription = pair.proxy.endpoints(&backend);
    pair.tell(Resource::Endpoints(Backend { service: Name::new("shop", "web"), port: 80 }));
    let endpoints = subscription.current().expect("a value");
    assert_eq!((endpoints.list[0].traits.weight, &*endpoints.list[0].traits.zone), (7, "west"));
    let policy = endpoints.policy.as_deref().expect("a policy");
    let breaker = policy.breaker;
    assert!(breaker.is_enabled);
    assert_eq!((breaker.consecutive_failures, breaker.success_permille, breaker.min_requests), (8, 805, 12));
    assert_eq!((breaker.window, breaker.min_ejection, breaker.max_ejection), (seconds(11), seconds(2), seconds(50)));
    assert_eq!(breaker.max_ejected_percent, 40);
    let limits = policy.limits;
    assert_eq!((limits.connections, limits.requests, limits.pending), (Some(101), Some(102), Some(103)));
    assert_eq!((limits.pending_wait, limits.requests_per_connection), (Some(seconds(2)), Some(104)));
    assert_eq!(limits.connection_age, Some(seconds(7200)));
    assert_eq!((policy.connect_timeout, &*policy.name), (Some(seconds(1)), "shop/web"));
    assert_eq!((policy.balancing.slow_start, policy.balancing.ignores_zones), (Some(seconds(30)), true));
    let BalancingKind::ConsistentHash { keys, bounded_load_percent: 150 } = &policy.balancing.kind else {
        panic!("{:?}", policy.balancing)
    };
    let [HashKey::Header(header), HashKey::Cookie(cookie), HashKey::SourceAddress, HashKey::Query(query)] = &**keys
    else {
        panic!("{keys:?}")
    };
    assert_eq!((header.as_str(), &*cookie.name, &**query), ("x-user", "sid", "user"));
    assert_eq!(cookie.set, Some(("/a".into(), Some(seconds(3600)))));
    let failover: Vec<_> =
        policy.failover.iter().map(|to| format!("{}/{}:{}", to.namespace, to.service, to.port)).collect();
    assert_eq!(failover, ["shop/web-west:80", "other/web:81"]);
}

#[test]
fn what_a_policy_and_a_workload_say_of_its_own_ports_arrives() {
    let inbound = Pair::of(POLICY).inbound([10, 1, 0, 1]);
    assert_eq!((&*inbound.zone, inbound.ports[&8080].protocol), ("west", Protocol::Http1));
    let rates = inbound.ports[&8080].rates.as_deref().expect("rates");
    let rate = |per_minute, burst| Rate { per_minute, burst };
    assert_eq!((rates.total, rates.per_client), (Some(rate(60_000, 50)), Some(rate(100, 10))));
    let clients: Vec<_> = rates.clients.iter().map(|(id, rate)| (id.as_str(), *rate)).collect();
    let ids = ["spiffe://cluster.local/ns/shop/sa/batch", "spiffe://cluster.local/ns/other/sa/job"];
    assert_eq!(clients, ids.map(|id| (id, rate(600, 10))));
    let header = rates.header.as_ref().expect("rates by header");
    assert_eq!((header.name.as_str(), header.per_value), ("x-tenant", Some(rate(600, 10))));
    assert_eq!(*header.values, ["gold", "silver"].map(|value| (value.into(), rate(6_000, 100))));
    let [http, grpc, tcp] = &*inbound.checks else { panic!("{:?}", inbound.checks) };
    assert_eq!(http.probe, Probe::Http { path: "/ready".into(), host: Some("web".into()), expected: 200..=299 });
    assert_eq!((http.interval, http.timeout, http.unhealthy_after, http.healthy_after), (seconds(5), seconds(2), 4, 2));
    assert_eq!((grpc.port, &grpc.probe), (50_051, &Probe::Grpc { service: "web".into() }));
    assert_eq!((tcp.port, &tcp.probe, tcp.interval), (5_432, &Probe::Tcp, seconds(10)));
}

#[test]
fn what_routes_say_beside_where_requests_go_arrives() {
    let target = Pair::of(STEERED).target("10.96.0.1:80");
    let Target::Service { routes: Some(routes), .. } = &*target else { panic!("{target:?}") };
    let rule = |name: &str| routes.rules.iter().find(|rule| &*rule.name == name).expect("a rule");
    let first = rule("shop/web/first");
    let [mirror, gone] = &*first.filters.mirrors else { panic!("{:?}", first.filters) };
    assert!(mirror.to.is_ok() && gone.to.is_err() && first.backends[0].filters.mirrors[0].to.is_err());
    assert_eq!((mirror.numerator, mirror.denominator, gone.numerator, gone.denominator), (10, 100, 1, 1000));
    let cors = first.filters.cors.as_ref().expect("CORS");
    assert_eq!(cors.origins[0], Origin::Within("https://".into(), ".example.com".into()));
    assert!(matches!(&cors.origins[1], Origin::Exact(origin) if origin == "http://localhost:8080"));
    assert!(cors.credentials && cors.max_age == Some(seconds(60)) && cors.exposed == Allowed::Any);
    assert!(matches!(&cors.headers, Allowed::These(names) if names[0] == "x-one"));
    assert!(matches!(&cors.methods, Allowed::These(methods) if methods.len() == 2));
    let policy = first.policy.as_ref().expect("a policy");
    // The rule's own words stand over the policy's; its zero switches off.
    assert_eq!((policy.timeouts.request, policy.timeouts.backend), (Some(Some(seconds(5))), Some(None)));
    let retries = policy.retries.as_ref().expect("retries");
    assert_eq!((retries.attempts, &*retries.statuses), (3, &[500..=500, 503..=503][..]));
    assert_eq!([retries.backoff, retries.least_backoff], [Duration::from_millis(100); 2]);
    assert!(retries.connect_failure && retries.reset && retries.refused_stream && retries.timeout);
    let session = first.session.as_ref().expect("a session");
    assert_eq!(session.carrier, SessionCarrier::Cookie { name: "sid".into(), is_permanent: true });
    assert_eq!((session.absolute, session.idle), (Some(seconds(3600)), Some(seconds(300))));
    let calls = rule("shop/calls").session.as_ref().expect("a session");
    assert!(matches!(&calls.carrier, SessionCarrier::Header(name) if name.as_str().starts_with("x-session-")));
}

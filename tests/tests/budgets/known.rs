//! What is allocated for each known destination of ten endpoints, once it has been asked for one response.
//!
//! Invariant: blocks and bytes are exact, so this budget is what was measured and little more. Destinations before have what
//! all have in common, and all series of metrics that there may be.
//! Non-goal: what the allocator adds; `memory` has the whole.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use mesh_proto::discovery as wire;
use mesh_proxy::http::{Body, Caller, Handler as _};
use mesh_tests::pair::{self, Pair};
use wire::resource::Kind as Resource;
use wire::watch_response::Snapshot;

use crate::with_pair;

/// Blocks, bytes; the control plane's maps are among them, as full as they are after so many.
const BUDGET: (f64, f64) = (21.5, 2600.0);

const ENDPOINTS: usize = 10;
/// More than there may be series for.
const FIRST: u16 = 200;
const COUNTED: u16 = 800;

#[test]
fn a_known_destination_keeps_to_its_blocks_and_bytes() {
    with_pair(|runtime, pair| {
        let endpoints = Endpoints::start(&pair);
        let ask = |numbers: std::ops::Range<u16>| {
            runtime.block_on(async {
                for number in numbers {
                    ask(&pair, &endpoints, number).await;
                }
            });
        };
        ask(0..FIRST);
        let info = allocation_counter::measure(|| ask(FIRST..FIRST + COUNTED));
        let each = |sum: i64| {
            // Sums of a test are far below what a float holds exactly.
            #[allow(clippy::cast_precision_loss)]
            let each = sum as f64 / f64::from(COUNTED);
            each
        };
        let (blocks, bytes) = (each(info.count_current), each(info.bytes_current));
        println!("a known destination: {blocks:.2} blocks, {bytes:.0} bytes");
        assert!(blocks <= BUDGET.0 && bytes <= BUDGET.1, "{blocks:.2} blocks, {bytes:.0} bytes; budget: {BUDGET:?}");
    });
}

/// One request to a destination that nobody has asked for before.
async fn ask(pair: &Arc<Pair>, endpoints: &Endpoints, number: u16) {
    let [high, low] = number.to_be_bytes();
    let target = pair.outbound.target(SocketAddr::from(([10, 96, high, low], 80)));
    endpoints.tell(pair);
    // Asks for the endpoints.
    target.route(&pair.discovery, &pair.reach, &pair.metrics);
    endpoints.tell(pair);
    let handler = Arc::clone(&pair.outbound).handler(target, pair.drain.clone());
    let request = Request::get("/b/100").header(http::header::HOST, "web").body(Body::empty()).expect("a request");
    let response = handler.handle(Box::new(request), Caller::Deaf).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().collect().await.expect("a whole answer");
}

/// Applications behind the one sidecar, as the control plane lists them.
struct Endpoints(Vec<wire::Endpoint>);

impl Endpoints {
    fn start(pair: &Pair) -> Self {
        let IpAddr::V4(ip) = pair.app.ip() else { panic!("{}", pair.app) };
        let endpoint = |number| wire::Endpoint {
            address: Some(wire::SocketAddress {
                ip: ip.octets().to_vec().into(),
                port: pair::app(ip.into()).expect("an application").port().into(),
            }),
            name: format!("test/web-{number}"),
            identity: "spiffe://cluster.local/ns/test/sa/web".to_owned(),
            tunnel_port: pair.config.inbound_listen.addrs[0].port().into(),
            ..wire::Endpoint::default()
        };
        Self((0..ENDPOINTS).map(endpoint).collect())
    }

    /// Answers all that the client's sidecar has to ask of the control plane.
    fn tell(&self, pair: &Pair) {
        while let Some(request) = pair.discovery.next_request() {
            let Some(wire::watch_request::Kind::Subscribe(wire::Subscribe { id, resource })) = request.kind else {
                continue;
            };
            let snapshot = Some(self.snapshot(resource.and_then(|resource| resource.kind).expect("a resource")));
            pair.discovery.take(wire::WatchResponse { id, version: 1, snapshot });
        }
    }

    fn snapshot(&self, resource: Resource) -> Snapshot {
        match resource {
            Resource::Inbound(_) => Snapshot::Inbound(wire::InboundPolicy::default()),
            Resource::Endpoints(_) => {
                let endpoints = self.0.clone();
                Snapshot::Endpoints(wire::Endpoints { endpoints, ..wire::Endpoints::default() })
            }
            Resource::Outbound(dialed) => {
                let service = dialed.ip.iter().map(u8::to_string).collect::<Vec<_>>().join("-");
                let backend = Some(wire::BackendRef { namespace: "test".to_owned(), service, port: dialed.port });
                let service = wire::Service { backend, ..wire::Service::default() };
                Snapshot::Outbound(wire::OutboundTarget { kind: Some(wire::outbound_target::Kind::Service(service)) })
            }
        }
    }
}

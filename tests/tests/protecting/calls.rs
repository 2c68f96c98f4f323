//! Circuit breakers by what calls of gRPC say at their end, in trailers after messages, of servers that use tonic.
//!
//! Invariant: each call has two messages and then its status, and those who failed are counted by who they were sent to.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use futures_util::{Stream, stream};
use mesh_tests::client::{rpc, within};
use mesh_tests::echo::echo_server::{Echo, EchoServer};
use mesh_tests::echo::{EchoReply, EchoRequest};
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::{Host, until};
use mesh_tests::streams;
use tonic::{Code, Request, Response, Status, Streaming};

const PORT: u16 = 9000;
const MESSAGES: u32 = 2;

/// A server whose streams end as it is told at each moment.
#[derive(Clone)]
struct Server {
    name: &'static str,
    code: Arc<AtomicU32>,
    calls: Arc<AtomicUsize>,
}

type Replies = Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Server {
    type ServerStreamStream = Replies;
    type BidiStream = Replies;

    async fn server_stream(&self, _: Request<EchoRequest>) -> Result<Response<Replies>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let message = |number| Ok(EchoReply { server: self.name.to_owned(), number, ..EchoReply::default() });
        let code = i32::try_from(self.code.load(Ordering::Relaxed)).expect("a code");
        let end = (code != 0).then(|| Err(Status::new(Code::from_i32(code), self.name)));
        let replies: Vec<_> = (1..=MESSAGES).map(message).chain(end).collect();
        Ok(Response::new(Box::pin(stream::iter(replies))))
    }

    async fn unary(&self, _: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        Err(Status::unimplemented("streams only"))
    }

    async fn client_stream(&self, _: Request<Streaming<EchoRequest>>) -> Result<Response<EchoReply>, Status> {
        Err(Status::unimplemented("streams only"))
    }

    async fn bidi(&self, _: Request<Streaming<EchoRequest>>) -> Result<Response<Replies>, Status> {
        Err(Status::unimplemented("streams only"))
    }
}

impl Server {
    /// Ends with the process.
    fn start(host: &Host, name: &'static str) -> Self {
        let server = Self { name, code: Arc::default(), calls: Arc::default() };
        let echo = EchoServer::new(server.clone());
        streams::serve_calls(host, PORT, tonic::transport::Server::builder().add_service(echo));
        server
    }

    fn ends_with(&self, code: Code) {
        self.code.store(u32::try_from(i32::from(code)).expect("a code"), Ordering::Relaxed);
    }
}

/// A service over both servers, and what the client's sidecar knows of it.
struct Calls {
    mesh: Mesh,
    servers: [Server; 2],
    /// Out of two that are called in turn, each has half of the calls unless something keeps it from them.
    web: SocketAddr,
    /// The same with a breaker that counts failures in a row only.
    spared: SocketAddr,
}

impl Calls {
    fn start() -> Self {
        let mut mesh = Mesh::new();
        mesh.workload("client").service_account("client").add();
        let hosts = ["web-1", "web-2"].map(|name| mesh.workload(name).of("web").add());
        let [web, spared] =
            ["web", "spared"].map(|name| mesh.service(name, 80, PORT).over("web").protocol("grpc").add().v4);
        for (name, more) in [("web", ""), ("spared", ", circuitBreaker: {successRate: {minRequests: 100000}}")] {
            let policy = format!(
                "apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}}}\n\
                 spec: {{targetRefs: [{{name: {name}}}], balancing: {{policy: RoundRobin}}{more}}}\n"
            );
            mesh.manifests.write(&format!("policy-{name}"), &policy);
        }
        mesh.start();
        let servers = [Server::start(&hosts[0], "web-1"), Server::start(&hosts[1], "web-2")];
        let calls = Self { mesh, servers, web, spared };
        for to in [web, spared] {
            until(SOON, || {
                calls.call(to, 2);
                crate::state(&calls.mesh, to)["balancing"] == "RoundRobin"
            });
        }
        calls
    }

    /// How so many calls ended, one after the other on one connection; each has brought its messages.
    fn call(&self, to: SocketAddr, calls: usize) -> Vec<Code> {
        within(&self.mesh.get("client").host, async {
            let mut client = rpc::connect(to).await.expect("a connection");
            let mut codes = Vec::new();
            for _ in 0..calls {
                let replies = client.server_stream(EchoRequest::default()).await;
                let mut replies = replies.expect("a head of its own, before the trailers").into_inner();
                for number in 1..=MESSAGES {
                    let message = replies.message().await.expect("messages come before the end");
                    assert_eq!(message.map(|message| message.number), Some(number));
                }
                codes.push(replies.message().await.map_or_else(|status| status.code(), |_| Code::Ok));
            }
            codes
        })
    }

    /// How many of so many calls came to each.
    fn spread(&self, to: SocketAddr, calls: usize) -> [usize; 2] {
        let seen = || self.servers.each_ref().map(|server| server.calls.load(Ordering::Relaxed));
        let before = seen();
        self.call(to, calls);
        let after = seen();
        [after[0] - before[0], after[1] - before[1]]
    }

    fn ejections(&self) -> f64 {
        self.mesh.get("client").metric("mesh_balancer_ejections_total", &[])
    }
}

#[test]
fn streams_that_end_badly_after_messages_count_as_what_their_trailers_say() {
    let it = Calls::start();
    // A word on this call alone, however often.
    for code in [Code::PermissionDenied, Code::NotFound, Code::InvalidArgument, Code::Unimplemented] {
        it.servers[0].ends_with(code);
        assert_eq!(it.spread(it.web, 60), [30, 30], "{code:?}");
    }
    assert!(it.ejections() < 0.5, "they eject nobody");

    // Too much to do: it gets a tenth of its share, and no breaker opens.
    it.servers[0].ends_with(Code::ResourceExhausted);
    let [spared, other] = it.spread(it.spared, 200);
    println!("RESOURCE_EXHAUSTED: {spared} of 200 came to who says so");
    // Half would be 100; it takes part again for a moment each second.
    assert!((3..80).contains(&spared) && other > 120, "{spared} and {other}");
    assert!(it.ejections() < 0.5, "{spared} calls in a row were too many for it, and it is ejected");
    it.servers[0].ends_with(Code::Ok);
    until(SOON, || it.spread(it.spared, 40)[0] == 20);

    // Not there: out, until it is.
    it.servers[0].ends_with(Code::Unavailable);
    until(SOON, || {
        it.call(it.web, 10);
        it.ejections() > 0.5
    });
    let before = it.ejections();
    let codes = it.call(it.web, 200);
    let (failed, probes) = (codes.iter().filter(|code| **code == Code::Unavailable).count(), it.ejections() - before);
    assert!(codes.iter().all(|code| [Code::Ok, Code::Unavailable].contains(code)), "{codes:?}");
    assert!(failed as f64 <= probes + 1.0, "{failed} calls failed, {probes} of them probes");
    let state = crate::state(&it.mesh, it.web);
    let open = state["endpoints"].as_array().expect("endpoints").iter().filter(|it| it["breaker"]["open"] == true);
    assert_eq!(open.count(), 1, "{state}");
    it.servers[0].ends_with(Code::Ok);
    until(SOON, || it.spread(it.web, 40)[0] == 20);
}

//! Who gets what, of several endpoints: by request for HTTP and gRPC, by connection for bytes.
//!
//! Invariant: answers say who gave them, and shares are counted over all answers of a client; none may fail.
//! Non-goal: endpoints that die; `lifecycle` has those.

mod live;
mod shares;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_tests::client::{rpc, tcp, within};
use mesh_tests::echo::EchoRequest;
use mesh_tests::echo::echo_client::EchoClient;
use mesh_tests::mesh::{App, Mesh};
use tonic::transport::Channel;

const HTTP: u16 = 8000;
const GRPC: u16 = 9000;
const TCP: u16 = 7000;

/// Calls at a time on one connection.
const TOGETHER: usize = 16;
/// How long each replica takes for an answer, so that what the machine does besides is small against it.
const TAKES_MS: u32 = 5;

/// Answers, by who gave them.
type Shares = BTreeMap<String, usize>;

/// The addresses of the service `web`, by what is spoken there.
struct Addrs {
    http: SocketAddr,
    grpc: SocketAddr,
    tcp: SocketAddr,
}

/// Adds an endpoint of the service `web`, which has an app of each kind.
fn replica(mesh: &mut Mesh, name: &str, delay: &str) {
    let named = format!("--name={name}");
    let spec = mesh.workload(name).of("web").app(App::demo("demo-http", HTTP, &[&named, "--delay", delay]));
    let spec = spec.app(App::demo("demo-grpc", GRPC, &[&named]));
    spec.app(App::demo("demo-greet", TCP, &[&named])).add();
}

/// A client and endpoints, not started.
fn mesh(replicas: &[(&str, &str)]) -> (Mesh, Addrs) {
    let mut mesh = Mesh::new();
    // A short memory for who was slow once.
    mesh.workload("client").service_account("client").env("MESH_BALANCE_DECAY", "1s").add();
    for (name, delay) in replicas {
        replica(&mut mesh, name, delay);
    }
    let http = mesh.service("web", 80, HTTP).add().v4;
    let grpc = mesh.service("web-grpc", GRPC, GRPC).over("web").add().v4;
    let tcp = mesh.service("web-tcp", TCP, TCP).over("web").add().v4;
    (mesh, Addrs { http, grpc, tcp })
}

fn count(names: impl IntoIterator<Item = String>) -> Shares {
    let mut shares = Shares::new();
    for name in names {
        *shares.entry(name).or_default() += 1;
    }
    shares
}

/// `rounds` times [`TOGETHER`] calls on one gRPC connection.
async fn calls(echo: &EchoClient<Channel>, rounds: usize) -> Shares {
    let caller = || async {
        let mut echo = echo.clone();
        let mut names = Vec::new();
        for _ in 0..rounds {
            let request = EchoRequest { delay_ms: TAKES_MS, ..EchoRequest::default() };
            names.push(echo.unary(request).await.expect("an answer").into_inner().server);
        }
        names
    };
    count(join_all((0..TOGETHER).map(|_| caller())).await.into_iter().flatten())
}

/// An HTTP/2 connection that several callers share.
type Shared = http2::SendRequest<Empty<Bytes>>;

async fn share(addr: SocketAddr) -> Shared {
    let io = TokioIo::new(tcp::connect(addr).await.expect("a connection"));
    let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    tokio::spawn(driver);
    sender
}

/// `rounds` times [`TOGETHER`] requests on one HTTP/2 connection.
async fn requests(connection: &Shared, rounds: usize) -> Shares {
    let caller = || async {
        let mut connection = connection.clone();
        let mut names = Vec::new();
        for _ in 0..rounds {
            connection.ready().await.expect("a live connection");
            let uri = format!("http://web/bytes?n=100&delay={TAKES_MS}ms");
            let request = Request::get(uri).body(Empty::new()).expect("a URI");
            let answer = connection.send_request(request).await.expect("an answer");
            assert_eq!(answer.status(), 200, "{:?}", answer.headers());
            let name = answer.headers().get("x-served-by").and_then(|name| name.to_str().ok()).unwrap_or_default();
            names.push(name.to_owned());
            assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes().len(), 100);
        }
        names
    };
    count(join_all((0..TOGETHER).map(|_| caller())).await.into_iter().flatten())
}

async fn echo(addr: SocketAddr) -> EchoClient<Channel> {
    rpc::connect(addr).await.expect("a connection")
}

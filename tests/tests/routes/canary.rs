//! A new version that gets a twentieth of all requests, and all of those who ask for it.
//!
//! Invariant: shares are counted over so many requests that two percent are several standard deviations.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures_util::future::join_all;
use http::Request;
use mesh_tests::body;
use mesh_tests::client::http::{Connection, Version};
use mesh_tests::client::{rpc, within};
use mesh_tests::echo::EchoRequest;
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::until;

use super::Echo;

/// Of all, to the new version.
const SHARE: f64 = 0.05;
/// How far off it may be.
const OFF: f64 = 0.02;
/// Seven standard deviations are two percent of them.
const REQUESTS: usize = 6000;
/// Four are.
const CALLS: usize = 2000;
const TOGETHER: usize = 16;

const ROUTES: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary}
spec:
  parentRefs: [{group: '', kind: Service, name: echo, port: 80}]
  rules:
  - matches: [{headers: [{name: x-canary, value: 'yes'}]}]
    backendRefs: [{name: echo-v2, port: 80}]
  - backendRefs: [{name: echo-v1, port: 80, weight: 95}, {name: echo-v2, port: 80, weight: 5}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: canary}
spec:
  parentRefs: [{group: '', kind: Service, name: echo, port: 7070}]
  rules:
  - matches: [{headers: [{name: x-canary, value: 'yes'}]}]
    backendRefs: [{name: echo-v2, port: 7070}]
  - backendRefs: [{name: echo-v1, port: 7070, weight: 95}, {name: echo-v2, port: 7070, weight: 5}]
";

/// Who answered how many.
type Shares = BTreeMap<String, usize>;

fn count(names: impl Iterator<Item = String>) -> Shares {
    names.fold(Shares::new(), |mut shares, name| {
        *shares.entry(name).or_default() += 1;
        shares
    })
}

fn requests(mesh: &Mesh, to: SocketAddr, all: usize, field: Option<(&str, &str)>) -> Shares {
    within(&mesh.get("client").host, async {
        let one = async || {
            let mut connection = Connection::open(to, Version::H1).await.expect("a connection");
            let mut names = Vec::new();
            for _ in 0..all / TOGETHER {
                let request = Request::get("/").header("host", "echo");
                let request = field.iter().fold(request, |request, (name, value)| request.header(*name, *value));
                let answer = connection.fetch(request.body(body::empty()).expect("a request")).await;
                let answer = answer.expect("an answer");
                assert_eq!(answer.status, 200, "{:?}", answer.headers);
                names.push(String::from_utf8_lossy(answer.headers["x-served-by"].as_bytes()).into_owned());
            }
            names
        };
        count(join_all((0..TOGETHER).map(|_| one())).await.into_iter().flatten())
    })
}

fn calls(mesh: &Mesh, to: SocketAddr, all: usize, field: Option<(&'static str, &str)>) -> Shares {
    within(&mesh.get("client").host, async {
        let client = rpc::connect(to).await.expect("a connection");
        let one = async || {
            let (mut client, mut names) = (client.clone(), Vec::new());
            for _ in 0..all / TOGETHER {
                let mut request = tonic::Request::new(EchoRequest::default());
                if let Some((name, value)) = field {
                    request.metadata_mut().insert(name, value.parse().expect("a value"));
                }
                names.push(client.unary(request).await.expect("an answer").into_inner().server);
            }
            names
        };
        count(join_all((0..TOGETHER).map(|_| one())).await.into_iter().flatten())
    })
}

fn assert_share(shares: &Shares) {
    let all: usize = shares.values().sum();
    let share = shares.get("echo-v2").copied().unwrap_or_default() as f64 / all as f64;
    println!("{:.2} % of {all} to the new version", 100.0 * share);
    assert!((share - SHARE).abs() <= OFF && shares.len() == 2, "{shares:?}");
}

#[test]
fn a_new_version_gets_its_share_and_all_who_ask_for_it() {
    let echo = Echo::start();
    echo.mesh.manifests.write("route-canary", ROUTES);
    let [http, grpc] = [80, 7070].map(|port| echo.dial("echo", port));
    let asked = Some(("x-canary", "yes"));
    let is_new = |shares: &Shares| shares.len() == 1 && shares.contains_key("echo-v2");
    until(SOON, || is_new(&requests(&echo.mesh, http, 4 * TOGETHER, asked)));
    until(SOON, || is_new(&calls(&echo.mesh, grpc, 4 * TOGETHER, asked)));
    assert_share(&requests(&echo.mesh, http, REQUESTS, None));
    assert_share(&calls(&echo.mesh, grpc, CALLS, None));
    assert!(is_new(&requests(&echo.mesh, http, 20 * TOGETHER, asked)), "by their header");
    assert!(is_new(&calls(&echo.mesh, grpc, 20 * TOGETHER, asked)), "by their header");
    let other = requests(&echo.mesh, http, 20 * TOGETHER, Some(("x-canary", "no")));
    assert!(other.contains_key("echo-v1"), "who says no to it is as who says nothing: {other:?}");
}

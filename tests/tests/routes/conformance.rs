//! The Gateway API's tests for meshes, made anew: 23 tests with 85 cases, and stricter, as `Location` and what the backend saw
//! are looked at.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_tests::body;
use mesh_tests::client::http::{Answer, Connection, Version};
use mesh_tests::client::{rpc, within};
use mesh_tests::echo::EchoRequest;
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Who, record};

use super::Echo;
use super::cases::{ALL, Case, Expect, Test};

/// For a change of manifests to reach a sidecar.
const CONVERGE: Duration = Duration::from_secs(30);
/// Requests of a batch whose shares are counted.
const BATCH: usize = 1000;

#[test]
fn r65_all_cases_of_mesh_conformance_hold_and_what_the_backend_saw() {
    let echo = Echo::start();
    let mut findings = Vec::new();
    let mut cases = 0;
    for test in ALL {
        for (place, manifest) in test.routes.iter().enumerate() {
            echo.mesh.manifests.write(&format!("route-{place}"), manifest);
        }
        converge(&echo, test);
        for case in test.cases {
            cases += 1;
            let mut what = run(&echo, case);
            if case.is_batch() {
                // Backends are drawn: one batch in two thousand is off by chance, but wrong shares are wrong twice.
                what = what.and_then(|_| run(&echo, case));
            }
            findings.extend(what.map(|what| format!("{}, {} {}: {what}", test.name, case.dial, case.path)));
        }
        for place in 0..test.routes.len() {
            echo.mesh.manifests.remove(&format!("route-{place}"));
        }
        gone(&echo);
    }
    assert!(findings.is_empty(), "{} of {cases} failed:\n{}", findings.len(), findings.join("\n"));
    assert_eq!((ALL.len(), cases), (23, 85));
    record(65, "mesh conformance", Who::Mesh, true, &format!("{cases} of {cases} cases of {} tests", ALL.len()));
}

/// The routes are in force when all cases hold several times in a row, for before a route is there any backend may answer;
/// what never holds is found by the run after this.
fn converge(echo: &Echo, test: &Test) {
    // Of shares one batch says enough.
    let in_a_row = if test.cases.iter().any(Case::is_batch) { 1 } else { 4 };
    let (deadline, mut held) = (Instant::now() + CONVERGE, 0);
    while held < in_a_row && Instant::now() < deadline {
        let holds = test.cases.iter().all(|case| run(echo, case).is_none());
        held = if holds { held + 1 } else { 0 };
        if !holds {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Without routes, all is answered by anybody.
fn gone(echo: &Echo) {
    for name in ["echo", "echo-v1", "echo-v2"] {
        let addr = echo.dial(name, 80);
        until(CONVERGE, || {
            let plain =
                ["client", "consumer"].map(|client| ask(&echo.mesh, client, addr, "echo", "GET", "/no-route", &[]));
            plain.iter().all(|answer| {
                answer.as_ref().is_ok_and(|answer| answer.status == 200 && !answer.headers.contains_key("x-header-set"))
            })
        });
    }
}

fn ask(
    mesh: &Mesh,
    client: &str,
    addr: SocketAddr,
    host: &str,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> std::io::Result<Answer> {
    let request = fields
        .iter()
        .fold(Request::builder().method(method).uri(path), |request, (name, value)| request.header(*name, *value));
    let request = request.header("host", host).body(body::empty()).expect("a request that a test wrote");
    within(&mesh.get(client).host, async { Connection::open(addr, Version::H1).await?.fetch(request).await })
}

/// What is wrong with a case, if anything.
fn run(echo: &Echo, case: &Case) -> Option<String> {
    let client = if case.from_consumer { "consumer" } else { "client" };
    let addr = echo.dial(case.dial, case.port);
    if let Expect::Shares(shares) = case.expect[0] {
        return batch(echo, case, addr, shares);
    }
    if case.grpc {
        return call(echo, case, addr);
    }
    let host = case.host.unwrap_or(case.dial.trim_start_matches("pod:"));
    let answer = match ask(&echo.mesh, client, addr, host, "GET", case.path, case.send) {
        Ok(answer) => answer,
        Err(error) => return Some(format!("{error:?}")),
    };
    let served = answer.headers.get("x-served-by").map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    let saw: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let mut wrong = case.expect.iter().filter_map(|expect| judge(expect, &answer, served.as_deref(), &saw));
    wrong.next()
}

fn judge(expect: &Expect, answer: &Answer, served: Option<&str>, saw: &serde_json::Value) -> Option<String> {
    let fields = |name: &str| -> Vec<String> {
        let all = saw["headers"].as_array().into_iter().flatten();
        let same = all.filter(|field| field[0].as_str() == Some(name));
        same.filter_map(|field| field[1].as_str().map(str::to_owned)).collect()
    };
    let answered =
        |name: &str| answer.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let (right, what) = match expect {
        Expect::By(name) => (answer.status == 200 && served == Some(name), format!("{} by {served:?}", answer.status)),
        Expect::Status(status) => (answer.status == *status, format!("{}", answer.status)),
        Expect::Location(place) => {
            (answered("location").as_deref() == Some(place), format!("{:?}", answered("location")))
        }
        Expect::Path(path) => (saw["target"].as_str() == Some(path), format!("{}", saw["target"])),
        Expect::Saw(name, value) => (fields(name).join(",") == *value, format!("{name}: {:?}", fields(name))),
        Expect::NotSaw(name) => (fields(name).is_empty(), format!("{name}: {:?}", fields(name))),
        Expect::Answered(name, value) => (answered(name).as_deref() == Some(value), format!("{:?}", answered(name))),
        Expect::NotAnswered(name) => (answered(name).is_none(), format!("{:?}", answered(name))),
        Expect::Shares(_) => (false, "shares are of batches".to_owned()),
    };
    (!right).then(|| format!("expected {expect:?}, was {what}"))
}

/// Shares of both versions in percent, each within 5.
fn batch(echo: &Echo, case: &Case, addr: SocketAddr, shares: [usize; 2]) -> Option<String> {
    let host = &echo.mesh.get("client").host;
    let counts = within(host, async {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        if case.grpc {
            let mut client = rpc::connect(addr).await.expect("a connection");
            for _ in 0..BATCH {
                let reply = client.unary(EchoRequest::default()).await;
                *counts
                    .entry(reply.map_or_else(|status| status.to_string(), |reply| reply.into_inner().server))
                    .or_default() += 1;
            }
            return counts;
        }
        let mut connection = Connection::open(addr, Version::H1).await.expect("a connection");
        for _ in 0..BATCH {
            let request = Request::get(case.path).header("host", case.dial).body(body::empty()).expect("a request");
            let answer = connection.fetch(request).await.expect("an answer");
            let name =
                answer.headers.get("x-served-by").map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
            *counts.entry(name.unwrap_or_else(|| answer.status.to_string())).or_default() += 1;
        }
        counts
    });
    let near =
        |name: &str, share: usize| counts.get(name).copied().unwrap_or(0).abs_diff(BATCH * share / 100) <= BATCH / 20;
    let right = counts.len() == 2 && near("echo-v1", shares[0]) && near("echo-v2", shares[1]);
    (!right).then(|| format!("of {BATCH} {counts:?}"))
}

/// A gRPC call whose fields come back as the backend saw them.
fn call(echo: &Echo, case: &Case, addr: SocketAddr) -> Option<String> {
    let host = &echo.mesh.get("client").host;
    let reply = within(host, async {
        let mut client = rpc::connect(addr).await.map_err(|error| format!("{error}"))?;
        let mut request = tonic::Request::new(EchoRequest::default());
        for (name, value) in case.send {
            let value = value.parse().map_err(|error| format!("{error}"))?;
            request.metadata_mut().append(*name, value);
        }
        client.unary(request).await.map_err(|status| status.to_string())
    });
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return Some(error),
    };
    let (head, message) = (reply.metadata().clone().into_headers(), reply.get_ref());
    let fields: Vec<_> = head
        .iter()
        .map(|(name, value)| serde_json::json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let saw = serde_json::json!({ "headers": fields });
    let answer = Response::new(());
    let answer = Answer { status: answer.status(), headers: head, body: Default::default(), trailers: None };
    let mut wrong = case.expect.iter().filter_map(|expect| judge(expect, &answer, Some(&message.server), &saw));
    wrong.next()
}

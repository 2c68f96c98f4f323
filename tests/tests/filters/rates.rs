//! Rate limits of a serving sidecar: who shares which bucket, how exact it is, and what a refused client is told.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mesh_tests::body;
use mesh_tests::client::http::{Connection, Version};
use mesh_tests::client::{rpc, within};
use mesh_tests::echo::EchoRequest;
use mesh_tests::mesh::{App, Mesh, SOON};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;
use tonic::Code;

use super::{APP, GRPC, ask, policy, request, values};

/// What is measured against, and connections that ask all the time.
const RATE: f64 = 1000.0;
const TOGETHER: usize = 16;

fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    for client in ["cart", "batch"] {
        mesh.workload(client).service_account(client).add();
    }
    for outsider in ["outsider-1", "outsider-2"] {
        mesh.workload(outsider).plain().add();
    }
    // A limit is the sidecar's, whichever of its workers gets a connection.
    let web = mesh.workload("web-1").of("web").env("MESH_WORKERS", "2");
    web.app(App::demo("demo-http", APP, &[])).app(App::demo("demo-grpc", GRPC, &[])).add();
    mesh
}

fn refused(mesh: &Mesh) -> f64 {
    mesh.get("web-1").metric("mesh_errors_total", &[("direction", "inbound"), ("reason", "rate_limited")])
}

/// Whether the sidecar of `web-1` limits a port.
fn limits(mesh: &Mesh, port: u16) -> bool {
    let state = mesh.get("web-1").state();
    let rates = state["workers"][0]["inbound"]["rates"].as_array().cloned().unwrap_or_default();
    rates.iter().any(|limited| limited["port"] == port)
}

#[test]
fn clients_have_their_own_buckets_by_what_they_proved_and_all_others_share_one() {
    let mut mesh = mesh();
    let web = mesh.service("web", 80, APP).add().v4;
    let spec = "rateLimits: {perClient: {requests: 1, per: 1m, burst: 3}, clients: [{serviceAccounts: [{name: batch}], \
                requests: 1, per: 1m, burst: 5}]}";
    mesh.manifests.write("policy", &policy("web", spec));
    mesh.start();
    until(SOON, || limits(&mesh, APP));
    let direct = mesh.get("web-1").at(APP)[0];
    let admitted = |from: &str, addr, fields: &[(&str, &str)]| {
        let answers: Vec<u16> = (0..8).map(|_| ask(mesh.get(from), addr, "/", fields).status.as_u16()).collect();
        assert!(answers.iter().all(|status| [200, 429].contains(status)), "{from}: {answers:?}");
        answers.iter().filter(|status| **status == 200).count()
    };
    assert_eq!(admitted("cart", web, &[]), 3);
    // Its identity is what it proved, not what it says.
    let lie = [("mesh-client-id", "spiffe://cluster.local/ns/default/sa/batch")];
    assert_eq!(admitted("cart", web, &lie), 0);
    assert_eq!(admitted("batch", direct, &[]), 5);
    assert_eq!(admitted("outsider-1", direct, &lie), 3);
    assert_eq!(admitted("outsider-2", direct, &[]), 0);
    let (asked, admitted) = (5.0 * 8.0, 11.0);
    assert!((refused(&mesh) - (asked - admitted)).abs() < 0.5, "{}", refused(&mesh));
}

#[test]
fn limits_come_and_go_on_open_connections_and_a_refused_client_learns_when_to_come_again() {
    let mut mesh = mesh();
    let web = mesh.service("web", 80, APP).add().v4;
    let grpc = mesh.service("rpc", 80, GRPC).over("web").protocol("grpc").add().v4;
    mesh.start();
    let limit = "rateLimits: {header: {name: x-tenant, perValue: {requests: 30, per: 1m, burst: 1}, \
                 values: [{values: [gold], requests: 1000}]}}";
    let statuses = within(&mesh.get("cart").host, async {
        let mut connection = Connection::open(web, Version::H1).await.expect("a connection");
        let mut seen = Vec::new();
        for (limited, status) in [(false, 200), (true, 429), (false, 200)] {
            match limited {
                true => mesh.manifests.write("policy", &policy("web", limit)),
                false if seen.is_empty() => {}
                false => mesh.manifests.remove("policy"),
            }
            let deadline = Instant::now() + SOON;
            let answer = loop {
                let asked = request("GET", "/", &[("x-tenant", "free")], body::empty());
                let answer = connection.fetch(asked).await.expect("an answer on the same connection");
                if answer.status == status {
                    break answer;
                }
                assert!(Instant::now() < deadline, "{:?}", answer.headers);
            };
            if limited {
                let gold = request("GET", "/", &[("x-tenant", "gold")], body::empty());
                assert_eq!(connection.fetch(gold).await.expect("an answer").status, 200);
            }
            seen.push(answer);
        }
        seen
    });
    let told = |name: &str| values(&statuses[1], name).concat();
    let retry: u64 = told("retry-after").parse().expect("seconds");
    assert!((1..=2).contains(&retry), "{retry}");
    assert_eq!((told("ratelimit-limit"), told("ratelimit-remaining")), ("30".into(), "0".into()));
    assert_eq!((told("ratelimit-reset"), told("ratelimit-policy")), (retry.to_string(), "30;w=60".into()));
    assert!(told("mesh-error").starts_with("rate_limited; limit header: "), "{}", told("mesh-error"));
    assert!(statuses[1].text().starts_with("mesh: rate_limited; "), "{}", statuses[1].text());

    mesh.manifests.write("policy", &policy("rpc", "rateLimits: {total: {requests: 1, per: 1m, burst: 1}}"));
    until(SOON, || limits(&mesh, GRPC));
    let status = within(&mesh.get("cart").host, async {
        let mut client = rpc::connect(grpc).await.expect("a connection");
        client.unary(EchoRequest::default()).await.expect("the first");
        client.unary(EchoRequest::default()).await.expect_err("more than one")
    });
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").and_then(|value| value.to_str().ok());
    let pushback: u64 = pushback.and_then(|value| value.parse().ok()).expect("milliseconds");
    assert!((1..=60_000).contains(&pushback), "{pushback}");
}

/// Answers in the order of their arrival: when, and whether they were admitted.
fn storm(mesh: &Mesh, addr: std::net::SocketAddr, lasts: Duration) -> Vec<(Instant, bool)> {
    let answers = Mutex::new(Vec::new());
    within(&mesh.get("cart").host, async {
        let end = Instant::now() + lasts;
        let client = async || {
            let mut connection = Connection::open(addr, Version::H2).await.expect("a connection");
            while Instant::now() < end {
                let request = http::Request::get("http://web/bytes?n=0").body(body::empty()).expect("a URI");
                let status = connection.fetch(request).await.expect("an answer").status.as_u16();
                assert!([200, 429].contains(&status), "{status}");
                answers.lock().expect("nobody panicked").push((Instant::now(), status == 200));
            }
        };
        join_all((0..TOGETHER).map(|_| client())).await;
    });
    answers.into_inner().expect("nobody panicked")
}

/// From a refusal to a refusal the bucket is empty at both ends, so what was admitted between is what the rate says, however
/// the machine stalls for less than the burst. A machine that cannot ask fast enough is measured at a rate that it can exceed.
#[test]
fn a_limit_is_exact_within_two_percent() {
    let mut mesh = mesh();
    let web = mesh.service("web", 80, APP).add().v4;
    mesh.start();
    let warm = storm(&mesh, web, Duration::from_secs(2));
    let able = f64::from(u32::try_from(warm.len()).expect("few")) / 2.0;
    let rate = (able / 3.0).clamp(50.0, RATE).floor();
    let spec = format!("rateLimits: {{total: {{requests: {rate}, burst: {rate}}}}}");
    mesh.manifests.write("policy", &policy("web", &spec));
    until(SOON, || limits(&mesh, APP));
    let answers = storm(&mesh, web, Duration::from_secs(count(9, 20)));
    let first = answers.iter().position(|(_, admitted)| !admitted).expect("a refusal");
    let last = answers.iter().rposition(|(_, admitted)| !admitted).expect("a refusal");
    let between = &answers[first..=last];
    let admitted = f64::from(u32::try_from(between.iter().filter(|(_, admitted)| *admitted).count()).expect("few"));
    let lasted = (answers[last].0 - answers[first].0).as_secs_f64();
    let error = 100.0 * (admitted / (rate * lasted) - 1.0);
    println!("{admitted} admitted of {} in {lasted:.3} s at {rate}/s: {error:+.2} % off", between.len());
    assert!(lasted > 3.0, "{lasted} s");
    assert!(error.abs() <= 2.0, "{error:+.2} %: {admitted} in {lasted:.3} s at {rate}/s");
}

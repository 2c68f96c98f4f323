//! Rate limits of a serving sidecar: who shares which bucket, how exact it is, and what a refused client is told.

use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use mesh_tests::body;
use mesh_tests::client::http::{Connection, Version};
use mesh_tests::client::{rpc, within};
use mesh_tests::echo::EchoRequest;
use mesh_tests::mesh::{App, Mesh, SOON};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;
use tonic::Code;

use super::{APP, GRPC, ask, policy, request, values};

/// What is measured against.
const RATE: f64 = 1000.0;

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
    // An operator sees who limits, how many have used something of theirs, and how often it was too much.
    let state = mesh.get("web-1").state();
    let limiter = &state["workers"][0]["inbound"]["rates"][0];
    let shown = ["port", "policy", "clients", "values", "refused"].map(|field| limiter[field].to_string());
    // Those who proved who they are; the others have no buckets of their own.
    assert_eq!(shown, [&APP.to_string(), "\"default/web\"", "2", "0", "29"], "{limiter}");
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

/// What the serving sidecar had counted between two moments.
#[derive(Clone)]
struct Sample {
    asked: Instant,
    told: Instant,
    admitted: f64,
    refused: f64,
}

impl Sample {
    fn of(mesh: &Mesh) -> Self {
        let asked = Instant::now();
        let metrics = mesh.get("web-1").metrics();
        let told = Instant::now();
        let of = |status| metrics.sum("mesh_http_responses_total", &[("direction", "inbound"), ("status", status)]);
        Self { asked, told, admitted: of("200"), refused: of("429") }
    }

    /// The first and the last of a time in which there were more requests than the limit admits: of the twentieth of a second
    /// before either some were refused, so the bucket was empty at both ends, and of any half second between, so it was never
    /// full. What a longer stall of the machine interrupts is begun again.
    fn of_a_time(mesh: &Mesh, lasts: Duration) -> [Self; 2] {
        const EACH: Duration = Duration::from_millis(50);
        const STALL: Duration = Duration::from_millis(500);
        let (mut first, mut last): (Option<Self>, _) = (None, Self::of(mesh));
        let (mut refused, deadline) = (Instant::now(), Instant::now() + 4 * SOON);
        loop {
            std::thread::sleep(EACH);
            let next = Self::of(mesh);
            let is_storm = next.refused > last.refused;
            // Whenever in it something was refused: a longer time is no sharp end.
            let is_sharp = next.told - last.asked < 2 * EACH;
            last = next;
            if refused.elapsed() > STALL {
                first = None;
            }
            if is_storm {
                refused = Instant::now();
            }
            if is_storm && is_sharp {
                let begun = first.get_or_insert_with(|| last.clone());
                if begun.told.elapsed() >= lasts {
                    return [begun.clone(), last];
                }
            }
            assert!(Instant::now() < deadline, "requests came more slowly than they are admitted");
        }
    }
}

/// Clients that ask as fast as they are answered, until this is dropped.
struct Storm(Child);

impl Storm {
    fn start(mesh: &Mesh, addr: SocketAddr) -> Self {
        let mut wrk = mesh.get("cart").host.command("wrk");
        let wrk = wrk.args(["-t1", "-c48", "-d120s", "--timeout=60s"]).arg(format!("http://{addr}/bytes?n=0"));
        Self(wrk.stdout(Stdio::null()).spawn().expect("wrk"))
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Between two moments at which the bucket is empty, what was admitted is what the rate says, however the machine stalls for less
/// than the burst; counted and timed at the sidecar that limits. A machine that cannot ask for more than a limit of 1,000/s is
/// measured at one that it can exceed.
#[test]
fn a_limit_is_exact_within_two_percent() {
    let mut mesh = mesh();
    let web = mesh.service("web", 80, APP).add().v4;
    mesh.start();
    let _storm = Storm::start(&mesh, web);
    until(SOON, || Sample::of(&mesh).admitted > 100.0);
    let first = Sample::of(&mesh);
    std::thread::sleep(Duration::from_secs(2));
    let second = Sample::of(&mesh);
    let able = (second.admitted - first.admitted) / (second.told - first.told).as_secs_f64();
    let rate = (able * 0.4).clamp(50.0, RATE).floor();
    let spec = format!("rateLimits: {{total: {{requests: {rate}, burst: {rate}}}}}");
    mesh.manifests.write("policy", &policy("web", &spec));
    let [first, last] = Sample::of_a_time(&mesh, Duration::from_secs(count(6, 20)));
    let (admitted, refused) = (last.admitted - first.admitted, last.refused - first.refused);
    let [least, most] = [last.asked - first.told, last.told - first.asked].map(|time| time.as_secs_f64());
    let error = 100.0 * (2.0 * admitted / (rate * (least + most)) - 1.0);
    let offered = (admitted + refused) / most;
    println!(
        "{admitted} of {offered:.0}/s admitted in {least:.3} to {most:.3} s at {rate}/s (able: {able:.0}/s): {error:+.2} % off"
    );
    assert!(refused > 0.0, "{offered:.0}/s were no storm");
    let within = rate * least * 0.98..=rate * most * 1.02;
    assert!(within.contains(&admitted), "{error:+.2} %: {admitted} in {least:.3} to {most:.3} s at {rate}/s");
    let refused = mesh.get("web-1").state()["workers"][0]["inbound"]["rates"][0]["refused"].as_f64();
    assert!(refused.is_some_and(|shown| shown >= last.refused), "{refused:?} of {}", last.refused);
}

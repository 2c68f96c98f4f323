//! Injected faults: shares that are delayed and aborted, and how one knows that they were injected.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mesh_tests::body;
use mesh_tests::client::http::{Connection, Version};
use mesh_tests::client::{rpc, within};
use mesh_tests::echo::EchoRequest;
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::until;
use tonic::Code;

use super::{APP, GRPC, ask, policy, replica, request, route, values};

/// Requests whose shares are counted: two percent of them are four standard deviations.
const COUNTED: u32 = 6000;
const TOGETHER: u32 = 16;

#[test]
fn shares_headers_and_calls_meet_the_faults_that_a_policy_injects() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    replica(&mut mesh, "web-1", "web", &[]);
    let web = mesh.service("web", 80, APP).add().v4;
    let grpc = mesh.service("rpc", 80, GRPC).over("web").protocol("grpc").add().v4;
    let faults = "faults: [{headers: [{name: x-chaos, value: \"slow\"}], delay: {percent: 100, duration: 300ms}},\n    \
                  {headers: [{name: x-chaos, value: \"dead\"}], abort: {percent: 100, httpStatus: 418}},\n    \
                  {delay: {percent: 20, duration: 1ms}, abort: {percent: 10, httpStatus: 503}}]";
    mesh.manifests.write("web", &policy("web", faults));
    let abort = "faults: [{abort: {percent: 100, httpStatus: 503, grpcStatus: RESOURCE_EXHAUSTED}}]";
    mesh.manifests.write("rpc", &policy("rpc", abort));
    mesh.start();
    let client = mesh.get("client");
    until(SOON, || ask(client, web, "/", &[("x-chaos", "dead")]).status == 418);

    let dead = ask(client, web, "/", &[("x-chaos", "dead")]);
    assert_eq!(values(&dead, "mesh-error"), ["fault; injected by policy default/web"]);
    let began = Instant::now();
    assert_eq!(ask(client, web, "/", &[("x-chaos", "slow")]).status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());

    let metric = |kind: &str| client.metric("mesh_faults_injected_total", &[("kind", kind)]);
    let (delayed, aborted) = (metric("delay"), metric("abort"));
    let failed = within(&client.host, async {
        let one = async || {
            let mut connection = Connection::open(web, Version::H1).await.expect("a connection");
            let mut failed = 0;
            for _ in 0..COUNTED / TOGETHER {
                let answer =
                    connection.fetch(request("GET", "/bytes?n=0", &[], body::empty())).await.expect("an answer");
                failed += u32::from(answer.status == 503);
            }
            failed
        };
        join_all((0..TOGETHER).map(|_| one())).await.into_iter().sum::<u32>()
    });
    let (delayed, aborted) = (metric("delay") - delayed, metric("abort") - aborted);
    println!("of {COUNTED}: {failed} failed, {delayed} delayed, {aborted} aborted");
    assert!((aborted - f64::from(failed)).abs() < 0.5, "{aborted} aborted, {failed} seen");
    for (share, expected) in [(aborted, 0.1), (delayed, 0.2)] {
        let share = share / f64::from(COUNTED / TOGETHER * TOGETHER);
        assert!((share - expected).abs() <= 0.02, "{share} in place of {expected}");
    }

    let status = within(&client.host, async {
        let mut client = rpc::connect(grpc).await.expect("a connection");
        client.unary(EchoRequest::default()).await.expect_err("all are aborted")
    });
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "fault; injected by policy default/rpc"));
    // Nobody counts them as the application's.
    let seen = mesh.get("web-1").metric("mesh_http_requests_total", &[("direction", "inbound"), ("target", ":9000")]);
    assert!(seen < 0.5, "{seen}");

    // A route's rule has a policy of its own.
    mesh.manifests.write("route", &route("web", "name: all\n    backendRefs: [{name: web, port: 80}]"));
    let of_rule = policy("web", "faults: [{abort: {percent: 100, httpStatus: 451}}]")
        .replace("{name: web}", "{name: of-rule}")
        .replace(
            "{kind: Service, name: web}",
            "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: all}",
        );
    mesh.manifests.write("of-rule", &of_rule);
    until(SOON, || ask(client, web, "/", &[]).status == 451);
}

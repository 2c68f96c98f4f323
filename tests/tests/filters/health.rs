//! Health checks that a sidecar makes of its own application: an endpoint that says that it is not well gets no requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mesh_tests::health::health_check_response::ServingStatus;
use mesh_tests::health::health_server::{Health, HealthServer};
use mesh_tests::health::{HealthCheckRequest, HealthCheckResponse};
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::until;
use mesh_tests::raw::Server;
use mesh_tests::streams;

use super::{APP, ask, replica, values};

/// Where `web-1` says how it is, by HTTP and by gRPC.
const HEALTH: u16 = 8100;
const CALLS: u16 = 8101;
const TURNS: &str = "{apiVersion: mesh.internal/v1alpha1, kind: TrafficPolicy, metadata: {name: turns}, spec: {\n  \
    targetRefs: [{kind: Service, name: web}], balancing: {policy: RoundRobin}}}\n";

/// Two endpoints of the service whose address is returned.
fn start() -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    for name in ["web-1", "web-2"] {
        replica(&mut mesh, name, "web", &[]);
    }
    let web = mesh.service("web", 80, APP).add().v4;
    // In turn, so that who gets nothing is out, and not only slower than the other.
    mesh.manifests.write("turns", TURNS);
    mesh.start();
    (mesh, web)
}

/// How many of some requests `web-1` gets.
fn by_web_1(mesh: &Mesh, web: SocketAddr) -> usize {
    let served = || values(&ask(mesh.get("client"), web, "/", &[]), "x-served-by").concat();
    (0..24).filter(|_| served() == "web-1").count()
}

#[test]
fn an_endpoint_that_says_that_it_is_not_well_gets_no_requests_until_it_is() {
    let (mesh, web) = start();
    let is_well = Arc::new(AtomicBool::new(true));
    let _server = Server::start(&mesh.get("web-1").host, HEALTH, {
        let is_well = Arc::clone(&is_well);
        move |mut conversation| {
            let head = conversation.head()?;
            let status = if is_well.load(Ordering::Relaxed) && head.starts_with("GET /well ") { "200" } else { "503" };
            conversation
                .say(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes())
        }
    });
    let checks = format!(
        "  healthChecks:\n    - {{port: {HEALTH}, http: {{path: /well}}, interval: 100ms, timeout: 5s, unhealthyAfter: 2, healthyAfter: 2}}\n    \
         - {{port: {APP}, tcp: {{}}, interval: 100ms, timeout: 5s}}\n"
    );
    mesh.manifests.write("workload-web-1", &(mesh.get("web-1").manifest.clone() + &checks));
    let reported = || mesh.get("web-1").state()["discovery"]["health"].clone();
    until(SOON, || reported()["is_healthy"] == true);

    let by_web_1 = || by_web_1(&mesh, web);
    until(SOON, || by_web_1() > 0);
    for well in [false, true] {
        is_well.store(well, Ordering::Relaxed);
        let began = Instant::now();
        until(SOON, || reported()["is_healthy"] == well);
        let told = began.elapsed();
        until(SOON, || (by_web_1() > 0) == well);
        println!("well: {well}; reported after {told:?}, seen after {:?} at most", began.elapsed());
    }
    assert_eq!(reported()["detail"], "");
    is_well.store(false, Ordering::Relaxed);
    until(SOON, || reported()["detail"] == format!("HTTP {HEALTH}/well: status 503"));

    // Checks that are gone have no say.
    mesh.publish("web-1");
    until(SOON, || reported()["is_healthy"] == true && by_web_1() > 0);
}

/// What `web-1` says to those who ask for the service `shop`.
struct Shop(Arc<AtomicBool>);

#[tonic::async_trait]
impl Health for Shop {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, tonic::Status> {
        if request.get_ref().service != "shop" {
            return Err(tonic::Status::not_found("no such service"));
        }
        let status = if self.0.load(Ordering::Relaxed) { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(tonic::Response::new(HealthCheckResponse { status: status.into() }))
    }
}

#[test]
fn a_server_of_grpc_says_for_each_service_whether_it_is_well() {
    let (mesh, web) = start();
    let is_well = Arc::new(AtomicBool::new(true));
    let shop = HealthServer::new(Shop(Arc::clone(&is_well)));
    streams::serve_calls(&mesh.get("web-1").host, CALLS, tonic::transport::Server::builder().add_service(shop));
    let asks = |service: &str| {
        let check = format!(
            "  healthChecks: [{{port: {CALLS}, grpc: {{service: {service}}}, interval: 100ms, timeout: 5s, unhealthyAfter: 2, healthyAfter: 2}}]\n"
        );
        mesh.manifests.write("workload-web-1", &(mesh.get("web-1").manifest.clone() + &check));
    };
    let reported = || mesh.get("web-1").state()["discovery"]["health"].clone();
    asks("shop");
    until(SOON, || reported()["is_healthy"] == true && by_web_1(&mesh, web) > 0);
    is_well.store(false, Ordering::Relaxed);
    until(SOON, || reported()["is_healthy"] == false && by_web_1(&mesh, web) == 0);
    assert!(reported()["detail"].as_str().is_some_and(|detail| detail.starts_with(&format!("gRPC {CALLS} shop: "))));
    is_well.store(true, Ordering::Relaxed);
    until(SOON, || reported()["is_healthy"] == true && by_web_1(&mesh, web) > 0);
    asks("bakery");
    until(SOON, || reported()["is_healthy"] == false && by_web_1(&mesh, web) == 0);
}

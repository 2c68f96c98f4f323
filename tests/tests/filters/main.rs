//! What sidecars do to requests on their way: rate limits, faults, copies, CORS, sessions.
//!
//! Invariant: manifests are what steers, and both ends are looked at: what the client got and what the application saw.
//! Non-goal: which route a request takes; `routes` has that.

mod cors;
mod faults;
mod health;
mod mirror;
mod rates;
mod session;

use std::net::SocketAddr;

use http::Request;
use mesh_tests::body::{self, Body};
use mesh_tests::client::http::{Answer, Connection, Version};
use mesh_tests::client::within;
use mesh_tests::mesh::{App, Mesh, Workload};

/// Where applications listen.
const APP: u16 = 8000;
const GRPC: u16 = 9000;

/// Adds an endpoint of the service `of`.
fn replica(mesh: &mut Mesh, name: &str, of: &str, args: &[&str]) {
    let named = format!("--name={name}");
    let args: Vec<&str> = args.iter().copied().chain([named.as_str()]).collect();
    let spec = mesh.workload(name).of(of).app(App::demo("demo-http", APP, &args));
    spec.app(App::demo("demo-grpc", GRPC, &[&named])).add();
}

/// An `HTTPRoute` named as the service it is attached to, with one rule.
fn route(service: &str, rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {service}}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  rules:\n  - {rule}\n"
    )
}

/// A `TrafficPolicy` of a service.
fn policy(service: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {service}}}\nspec:\n  \
         targetRefs: [{{kind: Service, name: {service}}}]\n  {spec}\n"
    )
}

fn request(method: &str, path: &str, fields: &[(&str, &str)], body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", "web");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(body).expect("a request that a test wrote")
}

/// One request on a connection of its own.
fn ask(from: &Workload, addr: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Answer {
    within(&from.host, async {
        let mut connection = Connection::open(addr, Version::H1).await.expect("a connection");
        connection.fetch(request("GET", path, fields, body::empty())).await.expect("an answer")
    })
}

/// All values of a field.
fn values(answer: &Answer, name: &str) -> Vec<String> {
    answer.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

//! What keeps a client from endpoints that are not well, and endpoints from each other, over real sidecars: circuit breakers,
//! bulkheads, ways of balancing, zones, failover.
//!
//! Invariant: endpoints do what a test says at each moment, and say who they are; a test sees what a client sees.
//! Non-goal: how balancers compare; `simulation` has that.

mod balancing;
mod breaking;
mod bulkheads;
mod calls;
mod connections;
mod crossing;
mod healing;
mod leaving;
mod switchable;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mesh_tests::mesh::{Mesh, Service};
use mesh_tests::netns::Host;
use mesh_tests::raw;

use switchable::Endpoint;

/// Where the endpoints listen.
const APP: u16 = 8000;

/// A client, endpoints `web-1` and so on of the service `web`, and what they do.
struct World {
    mesh: Mesh,
    web: Service,
    endpoints: Vec<Endpoint>,
}

/// Answers by status and name.
type Tally = BTreeMap<(u16, String), usize>;

/// An answer: its status, its head and who gave it.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl World {
    /// With services over `web` beside it, one for each of `more`.
    fn start<const N: usize>(endpoints: usize, more: [&str; N]) -> (Self, [Service; N]) {
        let mut mesh = Mesh::new();
        mesh.workload("client").service_account("client").add();
        let hosts: Vec<_> = (1..=endpoints).map(|i| mesh.workload(&name(i)).of("web").add()).collect();
        let web = mesh.service("web", 80, APP).add();
        let services = more.map(|name| mesh.service(name, 80, APP).over("web").add());
        mesh.start();
        let endpoints = (1..).zip(&hosts).map(|(i, host)| Endpoint::start(host, APP, &name(i))).collect();
        (Self { mesh, web, endpoints }, services)
    }

    /// Writes a policy for a service.
    fn policy(&self, service: &str, spec: &str) {
        self.mesh.manifests.write(&format!("policy-{service}"), &policy(service, spec));
    }

    /// A request with `fields`, on a connection of its own.
    fn get(&self, to: SocketAddr, path: &str, fields: &str) -> Answer {
        get(&self.mesh.get("client").host, to, path, fields)
    }

    /// How many of so many requests each endpoint has answered, by status and name.
    fn tally(&self, to: SocketAddr, requests: usize) -> Tally {
        tally(&self.mesh.get("client").host, to, requests)
    }

    /// Who gets a request with `fields`.
    fn who(&self, to: SocketAddr, fields: &str) -> String {
        let answer = self.get(to, "/", fields);
        assert_eq!(answer.status, 200, "{}", answer.head);
        answer.body
    }

    /// What the client's sidecar knows of a destination.
    fn state(&self, dialed: SocketAddr) -> serde_json::Value {
        state(&self.mesh, dialed)
    }
}

/// A policy for a service.
fn policy(service: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {service}}}\n\
         spec:\n  targetRefs: [{{kind: Service, name: {service}}}]\n{spec}"
    )
}

/// See [`World::state`].
fn state(mesh: &Mesh, dialed: SocketAddr) -> serde_json::Value {
    let state = mesh.get("client").state();
    let targets = state["workers"][0]["outbound"]["targets"].as_array().cloned().unwrap_or_default();
    targets.into_iter().find(|target| target["address"] == dialed.to_string()).unwrap_or_default()
}

/// See [`World::get`].
fn get(from: &Host, to: SocketAddr, path: &str, fields: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{fields}\r\n");
    let answer = raw::send(from, to, request.as_bytes());
    let answer = answer.unwrap_or_else(|error| panic!("no answer from {to}: {error}"));
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Answer { status: raw::status(&answer).unwrap_or(0), head: head.to_lowercase(), body: body.trim().to_owned() }
}

/// See [`World::tally`].
fn tally(from: &Host, to: SocketAddr, requests: usize) -> Tally {
    let mut tally = Tally::new();
    for _ in 0..requests {
        let answer = get(from, to, "/", "");
        *tally.entry((answer.status, answer.body)).or_default() += 1;
    }
    tally
}

fn name(i: usize) -> String {
    format!("web-{i}")
}

/// Answers of `name`, whatever their status.
fn of(tally: &Tally, name: &str) -> usize {
    tally.iter().filter(|((_, who), _)| who == name).map(|(_, count)| count).sum()
}

//! Which authority a request names: each spelling goes in as it is, and the app's server keeps what comes out.
//!
//! Invariant: either exactly one authority arrives, or the answer is 400 and not a byte arrives.
//! Non-goal: which route a name leads to.

use std::net::SocketAddr;

use mesh_tests::attacks::authority::{Expected, Names, Outcome, http1, http2};
use mesh_tests::mesh::Mesh;
use mesh_tests::raw;
use mesh_tests::yardstick::{self, Who};

use super::{APP, mesh, verdict};

const APP_H2: u16 = 8002;

/// The ways to the app: through both sidecars, and from a client without one.
fn ways(mesh: &Mesh, service: SocketAddr, port: u16) -> [(&'static str, SocketAddr); 2] {
    [("client", service), ("outsider", mesh.get("web").at(port)[0])]
}

fn findings(client: &str, outcomes: &[Outcome]) -> Vec<String> {
    let wrong = outcomes.iter().filter(|outcome| !outcome.is_as_tabled());
    wrong.map(|outcome| format!("{client}: {outcome:?}")).collect()
}

#[test]
fn r14_one_authority_arrives_or_the_request_is_refused() {
    let mut mesh = mesh();
    let service = mesh.service("web", 80, APP).add();
    let server = raw::Server::ok(&mesh.get("web").host, APP);
    mesh.start();
    let (mut all, mut tried) = (Vec::new(), 0);
    for (client, addr) in ways(&mesh, service.v4, APP) {
        let outcomes = http1(&mesh.get(client).host, addr, &server);
        all.extend(findings(client, &outcomes));
        all.extend(counted(&mesh, client, &outcomes));
        tried = outcomes.len();
    }
    let figure = format!("{tried} spellings x 2 ways, {} wrong; one refusal counted for each", all.len());
    yardstick::record(14, "HTTP/1", Who::Mesh, all.is_empty(), &figure);
    verdict(2 * tried, &all);
}

/// Whatever a request calls its target, it is counted under the one that was dialed, and a refusal once.
fn counted(mesh: &Mesh, client: &str, outcomes: &[Outcome]) -> Option<String> {
    let refusals = outcomes.iter().filter(|outcome| outcome.expected == Expected::Refused).count();
    let wanted = f64::from(u32::try_from(refusals).unwrap_or(0));
    let (proxied, direction, target) =
        if client == "client" { ("client", "outbound", "default/web:80") } else { ("web", "inbound", ":8000") };
    let sum = |name, labels: &[(&str, &str)]| mesh.get(proxied).metric(name, labels);
    let all = sum("mesh_http_requests_total", &[("direction", direction)]);
    let named = sum("mesh_http_requests_total", &[("direction", direction), ("target", target)]);
    let refused = sum("mesh_errors_total", &[("direction", direction), ("reason", "bad_request")]);
    let right = named == all && refused == wanted;
    (!right).then(|| format!("{proxied}: {named} of {all} requests under {target}, {refused} of {wanted} refusals"))
}

#[test]
fn r14_one_authority_arrives_over_http2_or_the_request_is_refused() {
    let mut mesh = mesh();
    let service = mesh.service("web", 80, APP_H2).add();
    let names = Names::serve(&mesh.get("web").host, APP_H2);
    mesh.start();
    let (mut all, mut tried) = (Vec::new(), 0);
    for (client, addr) in ways(&mesh, service.v4, APP_H2) {
        let outcomes = http2(&mesh.get(client).host, addr, &names);
        all.extend(findings(client, &outcomes));
        tried = outcomes.len();
    }
    let figure = format!("{tried} spellings x 2 ways, {} wrong", all.len());
    yardstick::record(14, "HTTP/2", Who::Mesh, all.is_empty(), &figure);
    verdict(2 * tried, &all);
}

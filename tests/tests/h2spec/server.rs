//! Clients that break a rule (R8): 147 cases at each place where the mesh is an HTTP/2 server.

use mesh_tests::attacks::h2spec::{self, Outcome, Target, back_end};
use mesh_tests::frames::Member;
use mesh_tests::mesh::INBOUND_PORT;
use mesh_tests::yardstick::{Bystander, Front, Mesh, Who, record};

/// Cases: generic, HTTP/2, HPACK.
const ALL: usize = 44 + 95 + 8;

/// A mesh whose application answers.
fn mesh() -> Mesh {
    let mesh = Mesh::start(|_| {});
    back_end(&mesh.fronts[0].back, mesh.fronts[0].port);
    mesh
}

/// Runs all cases beside a polite client, and judges.
fn hold(front: &Front, way: &str, target: &Target) {
    let bystander = Bystander::start(&front.client, front.addr);
    let outcomes = h2spec::run(target);
    let bystander = bystander.finish();
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.seen.is_err()).map(line).collect();
    let figure = format!("{} of {ALL}, {bystander}", outcomes.len() - failed.len());
    println!("{way}: {figure}");
    outcomes.iter().map(line).for_each(|line| println!("{line}"));
    assert_eq!(outcomes.len(), ALL, "cases");
    assert!(failed.is_empty(), "{way}: {figure}\n{}", failed.join("\n"));
    record(8, way, Who::Mesh, true, &figure);
}

fn line(Outcome { case, seen }: &Outcome) -> String {
    let (verdict, what) = match seen {
        Ok(what) => ("held", what),
        Err(what) => ("FAILED", what),
    };
    format!("{verdict} {} {}: {what}", case.rfc, case.name)
}

#[test]
fn r8_a_client_without_a_sidecar_who_breaks_a_rule_of_http2() {
    let mesh = mesh();
    let front = &mesh.fronts[0];
    hold(front, "inbound", &Target::front(front));
}

#[test]
fn r8_an_application_that_breaks_a_rule_of_http2() {
    let mesh = mesh();
    let front = &mesh.fronts[1];
    hold(front, "both sidecars", &Target::front(front));
}

#[test]
fn r8_a_sidecar_that_breaks_a_rule_of_http2() {
    let mesh = mesh();
    let front = &mesh.fronts[0];
    let member = Member::of(&mesh.mesh, &front.client, "client").expect("a certificate");
    let tunnels = (front.back.v4, INBOUND_PORT).into();
    let destination = format!("{}:{}", front.back.v4, front.port);
    let target = Target {
        dial: Box::new(|| member.dial(tunnels, "web")),
        fields: vec![("mesh-destination".into(), destination), ("mesh-origin".into(), "2".into())],
    };
    hold(front, "tunnel", &target);
}

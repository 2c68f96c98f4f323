//! Clients that break a rule (R8): 147 cases at each place where the mesh is an HTTP/2 server.

use mesh_mtls::grpc;
use mesh_tests::attacks::h2spec::{self, Answers, Outcome, Target, back_end};
use mesh_tests::client::PATIENCE;
use mesh_tests::frames::{Frame, Member, PREFACE};
use mesh_tests::mesh::{ADMIN_PORT, INBOUND_PORT};
use mesh_tests::netns::until;
use mesh_tests::raw;
use mesh_tests::yardstick::{Bystander, Front, Mesh, Process, Vitals, Who, count, record};

/// Cases: generic, HTTP/2, HPACK.
const ALL: usize = 44 + 95 + 8;
/// What a sidecar may need more for all of them, in KiB.
const MEMORY: u64 = 8 << 10;

/// A mesh whose application answers.
fn mesh() -> Mesh {
    let mesh = Mesh::start(|_| {});
    back_end(&mesh.fronts[0].back, mesh.fronts[0].port);
    mesh
}

/// Runs all cases at the sidecar of `front` beside a polite client, and judges.
fn hold(mesh: &Mesh, front: &Front, way: &str, target: &Target) {
    let (workload, direction) = if way == "outbound" { ("client", "outbound") } else { ("web", "inbound") };
    let sidecar = mesh.mesh.get(workload).proxy().expect("a sidecar");
    let abuse = || mesh.mesh.get(workload).metric("mesh_http2_abuse_total", &[("direction", direction)]);
    let process = Process(sidecar.pid().expect("a sidecar that runs"));
    let bystander = Bystander::start(&front.client, front.addr);
    let (vitals, before) = (Vitals::of(sidecar), abuse());
    process.forget_peak();
    let idle = process.resident();
    let outcomes: Vec<_> = (0..count(1, 20)).flat_map(|_| h2spec::run(target)).collect();
    let peak = process.peak().saturating_sub(idle);
    let bystander = bystander.finish();
    outcomes.iter().map(line).for_each(|line| println!("{line}"));
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.seen.is_err()).map(line).collect();
    let (all, ended) = (outcomes.len(), outcomes.iter().filter(|outcome| was_ended(outcome, way)).count());
    let figure = format!("{} of {all}, peak +{peak} KiB, {bystander}", all - failed.len());
    println!("{way}: {figure}");
    assert_eq!(all, count(1, 20) * ALL, "cases");
    assert!(failed.is_empty(), "{way}: {figure}\n{}", failed.join("\n"));
    // The client sees the end before it is counted.
    until(PATIENCE, || abuse() - before >= ended as f64);
    assert_eq!(abuse() - before, ended as f64, "{way}: connections ended because of what the client did");
    assert!(peak <= MEMORY, "{way}: {peak} KiB more at the peak");
    vitals.finish(sidecar, &[]);
    record(8, way, Who::Mesh, true, &figure);
}

/// Whether the mesh ended the connection because of what the client did. Without GOAWAY it does so for a bad preface alone
/// (RFC 9113, 3.4 allows that); but in cleartext such bytes are not HTTP/2, and it is the application that closes. A client's own
/// GOAWAY may end the connection as well, and is nobody's fault.
fn was_ended(Outcome { case, seen }: &Outcome, way: &str) -> bool {
    let ended = |seen: &String| {
        seen.starts_with("GOAWAY") || (way == "tunnel" && case.name == "no preface" && seen == "closed")
    };
    seen.as_ref().is_ok_and(ended)
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
    hold(&mesh, front, "inbound", &Target::front(front));
}

#[test]
fn r8_an_application_that_breaks_a_rule_of_http2() {
    let mesh = mesh();
    let front = &mesh.fronts[1];
    hold(&mesh, front, "outbound", &Target::front(front));
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
        fields: vec![("mesh-destination".into(), destination)],
        answers: Answers::BackEnd,
    };
    hold(&mesh, front, "tunnel", &target);
}

/// Identity answers on HTTP/2 as well, and to everybody.
#[test]
fn r8_a_client_of_the_control_plane_that_breaks_a_rule_of_http2() {
    let mesh = mesh();
    let member = Member::of(&mesh.mesh, &mesh.fronts[0].client, "client").expect("a certificate");
    let addr = mesh.mesh.control().identity_addr();
    let target = Target {
        dial: Box::new(|| member.dial_in("mesh-system", addr, "identity", grpc::ALPN)),
        fields: vec![("content-type".into(), "application/grpc".into())],
        answers: Answers::Anything,
    };
    let daemon = mesh.mesh.programs().find(|daemon| daemon.name() == "identity").expect("a daemon of this name");
    let vitals = Vitals::of(daemon);
    let outcomes = h2spec::run(&target);
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.seen.is_err()).map(line).collect();
    outcomes.iter().map(line).for_each(|line| println!("{line}"));
    let figure = format!("{} of {}", outcomes.len() - failed.len(), outcomes.len());
    println!("identity: {figure}");
    assert!(failed.is_empty(), "identity: {figure}\n{}", failed.join("\n"));
    vitals.finish(daemon, &[]);
    record(8, "identity", Who::Mesh, true, &figure);
}

/// Admin servers speak HTTP/1 only: the connection ends, without a frame.
#[test]
fn r8_an_admin_server_that_is_addressed_in_http2() {
    let mesh = mesh();
    let front = &mesh.fronts[0];
    let sidecar = mesh.mesh.get("web").proxy().expect("a sidecar");
    let vitals = Vitals::of(sidecar);
    for _ in 0..count(20, 10_000) {
        let hello = [PREFACE, &Frame::settings(&[]).bytes()].concat();
        let answer = raw::send(&front.client, (front.back.v4, ADMIN_PORT).into(), &hello).expect("an end");
        assert!(answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
    }
    vitals.finish(sidecar, &[]);
}

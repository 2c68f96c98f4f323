//! Servers that break a rule (R9): behind the outbound side, and as the application behind the inbound side.
//!
//! Invariant: the first request meets the bad server, and is a POST, so that nobody may send it twice; the second one meets a
//! good one.

use std::net::SocketAddr;

use mesh_tests::attacks::h2spec::{Accept, Answer, App, CLIENT_CASES, ClientCase, ClientOutcome, back_end, behind};
use mesh_tests::client::PATIENCE;
use mesh_tests::frames::{Listener, Member, code};
use mesh_tests::mesh::{INBOUND_PORT, Workload};
use mesh_tests::netns::{Host, until};
use mesh_tests::yardstick::{Bystander, Front, Mesh, Process, Vitals, Who, record};

use super::mesh;

/// Each case has a port of its own, and thereby a pool of its own in the proxy.
const FIRST_PORT: u16 = 10_000;
/// What a sidecar may need more for all of them, in KiB.
const MEMORY: u64 = 8 << 10;
/// How an answer that breaks off ends.
const CUT: Option<u32> = Some(code::INTERNAL_ERROR);
/// Of the case in which the server never begins.
const PREFACE: &str = "9113 3.4";
/// The code that one of the cases makes up.
const UNKNOWN: u32 = 0xff;

/// What is wrong with an outcome.
fn failure(outcome: &ClientOutcome) -> Option<String> {
    let ClientOutcome { case, server, answers } = outcome;
    let first = match (&answers[0], case.app) {
        (Answer::Status(200, None), App::Answered | App::Either | App::Refused) => Ok(()),
        (Answer::Status(502, Some(said)), App::Failed | App::Cut | App::Either)
            if said.starts_with("upstream_reset") =>
        {
            Ok(())
        }
        // No sidecar without HTTP/2: the tunnel has not come about.
        (Answer::Status(503, Some(said)), App::Failed)
            if case.case.rfc == PREFACE && said.starts_with("peer_identity") =>
        {
            Ok(())
        }
        // Its head may have been thrown away, if the reset came at the same time.
        (Answer::Broken(code) | Answer::Reset(code), App::Cut | App::Either) if *code == CUT => Ok(()),
        (Answer::Reset(Some(code::REFUSED_STREAM)), App::Refused) => Ok(()),
        // A reset of the server's own, passed on with its code.
        (Answer::Reset(Some(code::CANCEL)), App::Either) => Ok(()),
        (Answer::Reset(Some(UNKNOWN)), App::Failed) => Ok(()),
        (other, wanted) => Err(format!("{other:?} in place of {wanted:?}")),
    };
    let second = match &answers[1] {
        Answer::Status(200, None) => Ok(()),
        other => Err(format!("afterwards {other:?}")),
    };
    let wrong: Vec<_> = [server.clone().map(drop), first, second].into_iter().filter_map(Result::err).collect();
    (!wrong.is_empty()).then(|| format!("{} {}: {}", case.case.rfc, case.case.name, wrong.join("; ")))
}

/// Runs all cases with `run` beside a polite client of `front`, and judges. `sidecar` is the one that counts errors.
fn hold(
    mesh: &Mesh,
    front: &Front,
    (way, sidecar): (&str, &str),
    run: impl Fn(u16, &'static ClientCase) -> ClientOutcome,
) {
    let sidecar: &Workload = mesh.mesh.get(sidecar);
    let direction = if sidecar.name == "web" { "inbound" } else { "outbound" };
    let errors = || sidecar.metric("mesh_errors_total", &[("direction", direction), ("reason", "upstream_reset")]);
    let daemon = sidecar.proxy().expect("a sidecar");
    let process = Process(daemon.pid().expect("a sidecar that runs"));
    back_end(&front.back, front.port);
    let bystander = Bystander::start(&front.client, front.addr);
    let (vitals, before) = (Vitals::of(daemon), errors());
    process.forget_peak();
    let idle = process.resident();
    let outcomes: Vec<_> = (FIRST_PORT..).zip(CLIENT_CASES).map(|(port, case)| run(port, case)).collect();
    let peak = process.peak().saturating_sub(idle);
    let bystander = bystander.finish();
    for ClientOutcome { case, server, answers } in &outcomes {
        println!("{} {}: {server:?}, {answers:?}", case.case.rfc, case.case.name);
    }
    let failed: Vec<_> = outcomes.iter().filter_map(failure).collect();
    let cases = outcomes.len();
    let figure = format!("{} of {cases}, peak +{peak} KiB, {bystander}", cases - failed.len());
    println!("{way}: {figure}");
    assert!(failed.is_empty(), "{way}: {figure}\n{}", failed.join("\n"));
    let answered = outcomes.iter().filter(|outcome| matches!(outcome.answers[0], Answer::Status(502, _))).count();
    assert_eq!(errors() - before, answered as f64, "{way}: errors counted");
    assert!(peak <= MEMORY, "{way}: {peak} KiB more at the peak");
    vitals.finish(daemon, &[]);
    record(9, way, Who::Mesh, true, &figure);
}

/// A bad server in cleartext on a port of its own.
fn plain(client: &Host, back: &Host, port: u16, case: &'static ClientCase) -> ClientOutcome {
    let listener = Listener::bind(back, port);
    behind(case, client, (back.v4, port).into(), &|patience| listener.accept(patience))
}

#[test]
fn r9_a_server_behind_the_outbound_side_that_breaks_a_rule_of_http2() {
    let mesh = mesh(|_| {});
    let host = |name| &mesh.mesh.get(name).host;
    let run = |port, case| plain(host("client"), host("legacy"), port, case);
    hold(&mesh, &mesh.fronts[1], ("outbound", "client"), run);
}

#[test]
fn r9_an_application_behind_the_inbound_side_that_breaks_a_rule_of_http2() {
    let mesh = mesh(|_| {});
    let host = |name| &mesh.mesh.get(name).host;
    let run = |port, case| plain(host("outsider"), host("web"), port, case);
    hold(&mesh, &mesh.fronts[0], ("inbound", "web"), run);
}

/// The reason comes from the far sidecar, and reaches the application as it is.
#[test]
fn r9_an_application_behind_two_sidecars_that_breaks_a_rule_of_http2() {
    let mesh = mesh(|_| {});
    let host = |name| &mesh.mesh.get(name).host;
    let run = |port, case| plain(host("client"), host("web"), port, case);
    hold(&mesh, &mesh.fronts[1], ("both sidecars", "web"), run);
}

/// It has a certificate of the mesh, as a sidecar has that somebody else has taken over.
#[test]
fn r9_a_sidecar_behind_the_outbound_side_that_breaks_a_rule_of_http2() {
    let mut mesh = mesh(|mesh| drop(mesh.workload("rogue").of("rogue").add()));
    mesh.mesh.get_mut("rogue").proxy_mut().kill();
    let mesh = mesh;
    let (client, rogue) = (mesh.mesh.get("client"), &mesh.mesh.get("rogue").host);
    let member = Member::of(&mesh.mesh, &mesh.fronts[0].client, "rogue").expect("a certificate");
    let tunnels = Listener::bind(rogue, INBOUND_PORT);
    let accept: &Accept = &|patience| member.accept(&tunnels, patience);
    let addr: SocketAddr = (rogue.v4, mesh.fronts[1].port).into();
    let open = || client.metric("mesh_tunnel_connections", &[("direction", "outbound")]);
    let run = |_, case| {
        let outcome = behind(case, &client.host, addr, accept);
        // All cases meet in one pool: the next one shall not begin on a tunnel that is about to end.
        until(PATIENCE, || open() <= 1.0);
        outcome
    };
    hold(&mesh, &mesh.fronts[1], ("outbound, mutual TLS", "client"), run);
}

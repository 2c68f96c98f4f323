//! R13: HTTP/2 requests that would be something else in HTTP/1.
//!
//! Invariant: the mesh speaks to an application in the version of its client, so HTTP/2 becomes HTTP/1 in one place alone: where
//! a sidecar takes a request out of a tunnel that another member says was HTTP/1 when it went in.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_tests::attacks::downgrade::{self, Answer, CASES, Outcome};
use mesh_tests::attacks::h2spec::{Answers, Target};
use mesh_tests::attacks::http1::{Arrived, Recorder};
use mesh_tests::frames::{Member, PREFACE};
use mesh_tests::mesh::INBOUND_PORT;
use mesh_tests::netns::{Host, until};
use mesh_tests::yardstick::{Front, Mesh, Who, count, record};

use super::watch::Watch;
use super::{DECLARED, Wire, verdict};

/// Where the application of the member's requests listens.
const OLD: u16 = 8002;

/// The targets of requests.
type Targets = Arc<Mutex<Vec<String>>>;

fn take(targets: &Targets) -> Vec<String> {
    std::mem::take(&mut targets.lock().unwrap_or_else(PoisonError::into_inner))
}

/// An application that speaks both versions, and keeps the targets of requests that came whole. Those for `/` are a bystander's.
fn application(host: &Host, port: u16) -> Targets {
    let targets = Targets::default();
    let listener = host.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let keep = Arc::clone(&targets);
    host.run_in_thread(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("within a runtime");
            while let Ok((stream, _)) = listener.accept().await {
                let keep = Arc::clone(&keep);
                let service = service_fn(move |request| answer(Arc::clone(&keep), request));
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // Who breaks off is for the test to see at the other end.
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
    });
    targets
}

async fn answer(keep: Targets, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let whole = body.is_end_stream() || body.collect().await.is_ok();
    if whole && head.uri.path() != "/" {
        keep.lock().unwrap_or_else(PoisonError::into_inner).push(head.uri.path().to_owned());
    }
    Ok(Response::default())
}

/// Connections that a front's sidecar has ended because of what their clients did, and requests that it has refused itself.
fn counted(wire: &Wire, front: &Front) -> (f64, f64) {
    (wire.mesh.metric(front, "mesh_http2_abuse_total", &[]), wire.refusals(front))
}

/// Tries all cases by one way, whose first sidecar is that of `front`, and says what went wrong.
fn attack(wire: &Wire, front: &Front, way: &str, target: &Target, arrived: impl Fn() -> Vec<String>) -> Vec<String> {
    let (watch, before) = (Watch::begin(wire, front), counted(wire, front));
    let outcomes: Vec<Outcome> = (0..count(1, 20)).flat_map(|_| downgrade::run(target, &arrived)).collect();
    let told = |is: fn(&Answer) -> bool| outcomes.iter().filter(|outcome| is(&outcome.answer)).count();
    let ended = told(|answer| matches!(answer, Answer::Goaway(_)));
    let refused = told(|answer| matches!(answer, Answer::Status(400)));
    let reset = told(|answer| matches!(answer, Answer::Reset(_)));
    let expected = (before.0 + ended as f64, before.1 + refused as f64);
    // A connection is counted once it is over, which is after its peer was told.
    until(mesh_tests::client::PATIENCE, || counted(wire, front) >= expected);
    let watched = watch.finish();
    let mut found: Vec<String> =
        outcomes.iter().filter(|outcome| !outcome.is_held()).map(|outcome| line(way, outcome)).collect();
    let seen = counted(wire, front);
    if seen != expected {
        found.push(format!("{way}: {seen:?} ended and refused are counted, {expected:?} were"));
    }
    let figure = format!(
        "{} of {}: {reset} streams reset, {refused} answered 400, {ended} connections ended; {watched}",
        outcomes.len() - found.len().min(outcomes.len()),
        outcomes.len()
    );
    println!("{way}: {figure}");
    record(13, way, Who::Mesh, found.is_empty(), &figure);
    found
}

fn line(way: &str, Outcome { case, answer, arrived, honest }: &Outcome) -> String {
    format!("{way}, {}: {answer:?}, the back end read {arrived:?}, the next client got {honest:?}", case.name)
}

#[test]
fn r13_a_malformed_request_of_http2_reaches_no_application() {
    let wire = Wire::start();
    let targets = application(&wire.fronts[0].back, wire.fronts[0].port);
    let mut found = Vec::new();
    for front in &wire.fronts[..2] {
        found.extend(attack(&wire, front, front.way, &Target::front(front), || take(&targets)));
    }
    verdict(2 * CASES.len(), &found);
}

#[test]
fn r13_a_member_smuggles_nothing_out_of_its_tunnel_into_http1() {
    let wire = Wire::start();
    let front = &wire.fronts[0];
    // For the bystander.
    let _targets = application(&front.back, front.port);
    let recorder = Recorder::start(&front.back, OLD);
    let member = Member::of(&wire.mesh.mesh, &front.client, "client").expect("a certificate");
    let mut found = Vec::new();
    for origin in ["1.1", "1.0", "1.1 absolute"] {
        let destination = SocketAddr::from((front.back.v4, OLD)).to_string();
        let fields = [("mesh-destination", destination.as_str()), ("mesh-origin", origin)];
        let target = Target {
            dial: Box::new(|| member.dial((front.back.v4, INBOUND_PORT).into(), "web")),
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            answers: Answers::Anything,
        };
        let arrived = || recorder.take().iter().map(path).collect();
        found.extend(attack(&wire, front, &format!("tunnel of a member, to HTTP/{origin}"), &target, arrived));
    }
    verdict(3 * CASES.len(), &found);
}

/// The target without its host, which the absolute form has.
fn path(arrived: &Arrived) -> String {
    let name = arrived.name();
    name.strip_prefix("http://web").unwrap_or(&name).to_owned()
}

#[test]
fn r13_http2_does_not_become_http1_for_an_application_that_knows_no_other() {
    let mut service = None;
    let mesh = Mesh::start(|mesh| {
        let declared = mesh.service("declared", 80, DECLARED).over("web").protocol("http").add().v4;
        service = Some((declared, mesh.service("old", 80, OLD).over("web").add().v4));
    });
    let (declared, old) = service.expect("prepared");
    let [inbound, both] = &mesh.fronts;
    let web = inbound.addr.ip();
    let recorders = [OLD, DECLARED].map(|port| Recorder::start(&inbound.back, port));
    let ways = [(inbound, (web, OLD).into()), (both, old), (inbound, (web, DECLARED).into()), (both, declared)];
    for (front, addr) in ways {
        let front = Front { addr, ..front.clone() };
        let answer = downgrade::honest(&Target::front(&front));
        assert_ne!(answer, Answer::Status(200), "{}, {addr}: who has answered?", front.way);
        println!("{}, {addr}: {answer:?}", front.way);
    }
    for recorder in &recorders {
        let requests: Vec<_> = recorder.take().into_iter().filter(|it| matches!(it, Arrived::Clean(_))).collect();
        assert!(requests.is_empty(), "requests arrived: {requests:?}");
        for bytes in recorder.server.received() {
            assert!(PREFACE.starts_with(&bytes) || bytes.starts_with(PREFACE), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
    let [asked, declared] = recorders.map(|recorder| recorder.server.received());
    assert!(!asked.is_empty(), "nobody asked the application");
    assert!(declared.iter().all(Vec::is_empty), "the sidecar knew before it asked: {declared:?}");
    let figure =
        format!("{} connections, which began with HTTP/2's preface; none where HTTP/1 is declared", asked.len());
    record(13, "no downgrade", Who::Mesh, true, &figure);
}

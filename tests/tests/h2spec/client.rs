//! Servers that break a rule (R9): behind the outbound side, and as the application behind the inbound side.
//!
//! Invariant: the first request meets the bad server, and is a POST, so that nobody may send it twice; the second one meets a
//! good one.

use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use mesh_tests::attacks::h2spec::{Answers, App, CLIENT_CASES, ClientCase, Peer, Seen, Sent, back_end, go_on};
use mesh_tests::client::PATIENCE;
use mesh_tests::frames::{Connection, Frame, Listener, Read, code, flag, hpack, kind};
use mesh_tests::netns::Host;
use mesh_tests::yardstick::{Bystander, Front, Mesh, Vitals, Who, record};
use socket2::Socket;

/// Each case has a port of its own, and thereby a pool of its own in the proxy.
const FIRST_PORT: u16 = 10_000;
/// What a sidecar may need more for all of them, in KiB.
const MEMORY: u64 = 8 << 10;
/// How an answer that breaks off ends.
const CUT: Option<u32> = Some(code::INTERNAL_ERROR);
/// The code that one of the cases makes up.
const UNKNOWN: u32 = 0xff;

/// What the application has seen of a request.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// A whole answer: its status, and the mesh's reason word.
    Status(u16, Option<String>),
    /// A reset in place of an answer.
    Reset(Option<u32>),
    /// An answer that began and was reset.
    Broken(Option<u32>),
    Nothing,
}

/// One case: the bad server's view, and the application's of both requests.
struct Outcome {
    case: &'static ClientCase,
    server: Seen,
    answers: [Answer; 2],
}

impl Outcome {
    fn failure(&self) -> Option<String> {
        let Self { case, server, answers } = self;
        let first = match (&answers[0], case.app) {
            (Answer::Status(200, None), App::Answered | App::Either | App::Refused) => Ok(()),
            (Answer::Status(502, Some(said)), App::Failed | App::Cut | App::Either)
                if said.starts_with("upstream_reset") =>
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
}

/// Runs a case: the bad server on `port` of `back`, the application on `client`.
fn run(case: &'static ClientCase, client: &Host, back: &Host, port: u16) -> Outcome {
    let (listener, sockets) = (&Listener::bind(back, port), &Sockets::default());
    let addr = (back.v4, port).into();
    thread::scope(|scope| {
        let (misbehaved, server) = sync_channel(1);
        scope.spawn(move || {
            let Some(frames) = listener.accept(PATIENCE) else { return };
            sockets.keep(&frames);
            let mut peer = Peer::new(frames, &[], Answers::Anything);
            let _ = misbehaved.send((case.case.run)(&mut peer));
            scope.spawn(|| serve(listener, sockets));
            go_on(&mut peer);
        });
        let first = ask(client, addr, case.sent);
        let server = server.recv_timeout(3 * PATIENCE).unwrap_or_else(|_| Err("nobody connects".to_owned()));
        let second = ask(client, addr, Sent::Whole);
        sockets.close();
        Outcome { case, server, answers: [first, second] }
    })
}

/// A good server, until the case ends.
fn serve(listener: &Listener, sockets: &Sockets) {
    while !sockets.are_closed() {
        let Some(mut frames) = listener.accept(Duration::from_millis(20)) else { continue };
        sockets.keep(&frames);
        if frames.begin_server(&[]).is_ok() {
            go_on(&mut Peer::new(frames, &[], Answers::Anything));
        }
    }
}

/// The server's sockets, to end a case.
#[derive(Default)]
struct Sockets(Mutex<(bool, Vec<Socket>)>);

impl Sockets {
    fn keep(&self, frames: &Connection) {
        self.0.lock().expect("unpoisoned").1.extend(frames.socket().try_clone());
    }

    fn are_closed(&self) -> bool {
        self.0.lock().expect("unpoisoned").0
    }

    fn close(&self) {
        let mut sockets = self.0.lock().expect("unpoisoned");
        sockets.0 = true;
        // Those that the proxy has closed are closed.
        sockets.1.iter().for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
    }
}

/// A POST on a connection of its own.
fn ask(client: &Host, addr: SocketAddr, sent: Sent) -> Answer {
    let Ok(mut frames) = Connection::dial(client, addr) else { return Answer::Nothing };
    if frames.begin(&[]).is_err() {
        return Answer::Nothing;
    }
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "web")];
    let head = Frame::headers(1, flag::END_HEADERS, &hpack::literal(&fields));
    let body = Frame::data(1, if sent == Sent::Whole { flag::END_STREAM } else { flag::NONE }, *b"a body");
    frames.write(&[head.bytes(), body.bytes()].concat());
    let is_answer = |frame: &Frame| frame.stream == 1 && matches!(frame.kind, kind::HEADERS | kind::RST_STREAM);
    let Read::Frame(frame) = frames.until(is_answer) else { return Answer::Nothing };
    // The whole answer counts: one that breaks off is a failure.
    if frame.kind == kind::HEADERS && !frame.has(flag::END_STREAM) {
        let end = frames.until(|frame| frame.ends(1) || (frame.kind == kind::RST_STREAM && frame.stream == 1));
        match end {
            Read::Frame(end) if end.kind == kind::RST_STREAM => return Answer::Broken(end.code()),
            Read::Frame(_) => {}
            _ => return Answer::Nothing,
        }
    }
    match frame.status() {
        Some(status) => Answer::Status(status, frame.field("mesh-error").map(str::to_owned)),
        None => Answer::Reset(frame.code()),
    }
}

/// All cases behind the sidecar of `front`, beside a polite client; `client` asks, the server is on `back`.
fn hold(mesh: &Mesh, front: &Front, client: &str, back: &str) {
    let host = |name| &mesh.mesh.get(name).host;
    let sidecar = mesh.mesh.get(if front.way == "inbound" { "web" } else { "client" }).proxy().expect("a sidecar");
    let direction = if front.way == "inbound" { "inbound" } else { "outbound" };
    let errors = || mesh.metric(front, "mesh_errors_total", &[("direction", direction), ("reason", "upstream_reset")]);
    back_end(&front.back, front.port);
    let bystander = Bystander::start(&front.client, front.addr);
    let (vitals, errors_before) = (Vitals::of(sidecar), errors());
    front.proxy.forget_peak();
    let idle = front.proxy.resident();
    let outcomes: Vec<_> =
        (FIRST_PORT..).zip(CLIENT_CASES).map(|(port, case)| run(case, host(client), host(back), port)).collect();
    let peak = front.proxy.peak().saturating_sub(idle);
    let bystander = bystander.finish();
    for Outcome { case, server, answers } in &outcomes {
        println!("{} {}: {server:?}, {answers:?}", case.case.rfc, case.case.name);
    }
    let failed: Vec<_> = outcomes.iter().filter_map(Outcome::failure).collect();
    let cases = outcomes.len();
    let figure = format!("{} of {cases}, peak +{peak} KiB, {bystander}", cases - failed.len());
    println!("{direction}: {figure}");
    assert!(failed.is_empty(), "{direction}: {figure}\n{}", failed.join("\n"));
    let answered = outcomes.iter().filter(|outcome| matches!(outcome.answers[0], Answer::Status(502, _))).count();
    assert_eq!(errors() - errors_before, answered as f64, "{direction}: errors counted");
    assert!(peak <= MEMORY, "{direction}: {peak} KiB more at the peak");
    vitals.finish(sidecar, &[]);
    record(9, direction, Who::Mesh, true, &figure);
}

#[test]
fn r9_a_server_behind_the_outbound_side_that_breaks_a_rule_of_http2() {
    let mesh = Mesh::start(|_| {});
    hold(&mesh, &mesh.fronts[1], "client", "legacy");
}

#[test]
fn r9_an_application_behind_the_inbound_side_that_breaks_a_rule_of_http2() {
    let mesh = Mesh::start(|_| {});
    hold(&mesh, &mesh.fronts[0], "outsider", "web");
}

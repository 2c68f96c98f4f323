//! One request through a client of HTTP/2 to a server that breaks a rule, and one to a good server after it.
//!
//! Invariant: the first request meets the bad server, and is a POST, so that nobody may send it twice.
//! Non-goal: judging; what the application should see is in the case.

use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::Socket;

use super::client_side::{App, ClientCase, Sent, go_on};
use super::peer::{Peer, Seen};
use super::{Answers, Case};
use crate::client::PATIENCE;
use crate::frames::{Connection, Frame, Read, flag, hpack, kind};
use crate::netns::Host;

/// Takes the next connection that the client under test opens; `None` when there is none in time.
pub type Accept<'a> = dyn Fn(Duration) -> Option<Connection> + Sync + 'a;

/// What the application has seen of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A whole answer: its status, and the mesh's reason word.
    Status(u16, Option<String>),
    /// A reset in place of an answer.
    Reset(Option<u32>),
    /// An answer that began and was reset.
    Broken(Option<u32>),
    /// Nothing in time, or no connection.
    Nothing,
}

/// How a case went.
pub struct ClientOutcome {
    /// The case.
    pub case: &'static ClientCase,
    /// What the bad server has seen.
    pub server: Seen,
    /// What the application has seen of the request to the bad server, and of the one after it.
    pub answers: [Answer; 2],
}

impl ClientOutcome {
    /// What is wrong with it, whoever made the client: the bad server was not dealt with, the application was not told in some
    /// way that fits the case, or the next request had to suffer.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let app = self.case.app;
        let told = match &self.answers[0] {
            Answer::Status(200, _) => matches!(app, App::Answered | App::Either | App::Refused),
            Answer::Status(500.., _) | Answer::Reset(_) => app != App::Answered,
            Answer::Broken(_) => matches!(app, App::Cut | App::Either),
            Answer::Status(..) | Answer::Nothing => false,
        };
        let first = (!told).then(|| format!("{:?} in place of {app:?}", self.answers[0]));
        let then = &self.answers[1];
        let second = (!matches!(then, Answer::Status(200, _))).then(|| format!("afterwards {then:?}"));
        let wrong: Vec<_> = [self.server.clone().err(), first, second].into_iter().flatten().collect();
        let Case { rfc, name, .. } = &self.case.case;
        (!wrong.is_empty()).then(|| format!("{rfc} {name}: {}", wrong.join("; ")))
    }
}

/// Runs a case: the application on `client` dials `addr`, and what comes of that is for `accept` to take.
#[must_use]
pub fn behind(case: &'static ClientCase, client: &Host, addr: SocketAddr, accept: &Accept) -> ClientOutcome {
    let sockets = &Sockets::default();
    thread::scope(|scope| {
        let (misbehaved, server) = sync_channel(1);
        scope.spawn(move || {
            let Some(frames) = accept(PATIENCE) else { return };
            sockets.keep(&frames);
            let mut peer = Peer::new(frames, &[], Answers::Anything);
            // Nobody waits for it any more when the case has taken too long.
            let _ = misbehaved.send((case.case.run)(&mut peer));
            scope.spawn(|| serve(accept, sockets));
            go_on(&mut peer);
        });
        let first = ask(client, addr, case.sent);
        let server = server.recv_timeout(3 * PATIENCE).unwrap_or_else(|_| Err("nobody connects".to_owned()));
        let second = ask(client, addr, Sent::Whole);
        sockets.close();
        ClientOutcome { case, server, answers: [first, second] }
    })
}

/// A good server, until the case ends.
fn serve(accept: &Accept, sockets: &Sockets) {
    while !sockets.are_closed() {
        let Some(mut frames) = accept(Duration::from_millis(20)) else { continue };
        sockets.keep(&frames);
        if frames.begin_server(&[]).is_ok() {
            go_on(&mut Peer::new(frames, &[], Answers::Anything));
        }
    }
}

/// The server's sockets, to end a case.
#[derive(Default)]
struct Sockets(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    closed: bool,
    sockets: Vec<Socket>,
}

impl Sockets {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, frames: &Connection) {
        let mut kept = self.kept();
        // One that comes too late ends like the others.
        if kept.closed {
            let _ = frames.socket().shutdown(Shutdown::Both);
        }
        kept.sockets.extend(frames.socket().try_clone());
    }

    fn are_closed(&self) -> bool {
        self.kept().closed
    }

    fn close(&self) {
        let mut kept = self.kept();
        kept.closed = true;
        // Those that the proxy has closed are closed.
        kept.sockets.iter().for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
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

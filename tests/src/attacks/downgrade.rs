//! HTTP/2 requests that would be something else in HTTP/1 (R13): what frames, addresses or ends a message there stands in a
//! place where HTTP/2 has only bytes.
//!
//! Invariant: RFC 9113 (8.1.1, 8.2, 8.3) calls each of these requests malformed or RFC 9110 calls its target one that nobody
//! serves, so no proxy may pass one on. After each an honest request goes the same way: it gets its own answer.

use std::io;

use super::h2spec::Target;
use crate::frames::{Connection, Frame, GET, Read, flag, hpack, kind};

/// The fields that an attack replaces or adds to, and what follows them.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What is odd about it.
    pub name: &'static str,
    /// In place of the honest field of this name; `None` leaves it out.
    instead: Option<(&'static str, Option<&'static str>)>,
    /// Behind the honest fields.
    more: &'static [(&'static str, &'static str)],
    /// In DATA that ends the stream.
    data: Option<&'static str>,
}

const fn instead(name: &'static str, field: &'static str, value: &'static str) -> Case {
    Case { name, instead: Some((field, Some(value))), more: &[], data: None }
}

const fn with(name: &'static str, more: &'static [(&'static str, &'static str)]) -> Case {
    Case { name, instead: None, more, data: None }
}

const fn body(name: &'static str, more: &'static [(&'static str, &'static str)], data: &'static str) -> Case {
    Case { name, instead: Some((":method", Some("POST"))), more, data: Some(data) }
}

const LATE: Case = Case {
    name: "a pseudo-field behind a field",
    instead: Some((":authority", None)),
    more: &[("x", "1"), (":authority", "web")],
    data: None,
};

/// All requests.
pub const CASES: &[Case] = &[
    instead("a request in :method", ":method", "GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\nGET"),
    instead("a target in :method", ":method", "GET /smuggled"),
    instead("NUL in :method", ":method", "GET\0"),
    instead("a request in :path", ":path", "/a HTTP/1.1\r\nHost: web\r\n\r\nGET /smuggled"),
    instead("LF in :path", ":path", "/a\nx-smuggled: 1"),
    instead("a version in :path", ":path", "/a HTTP/1.1"),
    instead("NUL in :path", ":path", "/a\0b"),
    instead("no :path", ":path", ""),
    instead("* as :path of GET", ":path", "*"),
    instead("an absolute :path", ":path", "http://other/smuggled"),
    instead("a :path without its slash", ":path", "smuggled"),
    instead("a query as :path", ":path", "?smuggled"),
    instead("a target in :scheme", ":scheme", "http://other/smuggled?"),
    instead("a field in :authority", ":authority", "web\r\nx-smuggled: 1"),
    instead("space in :authority", ":authority", "web other"),
    instead("NUL in :authority", ":authority", "web\0"),
    instead("a path in :authority", ":authority", "web/smuggled"),
    with("a field in a name", &[("x: 1\r\nx-smuggled", "1")]),
    with("space in a name", &[("x smuggled", "1")]),
    with("space behind a name", &[("transfer-encoding ", "chunked")]),
    with("NUL in a name", &[("x\0smuggled", "1")]),
    with("a colon in a name", &[("x:smuggled", "1")]),
    with("an empty name", &[("", "smuggled")]),
    with("a name in capitals", &[("X-Smuggled", "1")]),
    with("a field in a value", &[("x", "1\r\nx-smuggled: 1")]),
    with("a request in a value", &[("x", "1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web")]),
    with("LF in a value", &[("x", "1\nx-smuggled: 1")]),
    with("CR in a value", &[("x", "1\rx-smuggled: 1")]),
    with("NUL in a value", &[("x", "1\0")]),
    with("te that is not trailers", &[("te", "chunked")]),
    with("connection", &[("connection", "x-secret")]),
    with("keep-alive", &[("keep-alive", "timeout=5")]),
    with("proxy-connection", &[("proxy-connection", "keep-alive")]),
    with("upgrade", &[("upgrade", "websocket")]),
    with("two :path", &[(":path", "/smuggled")]),
    with("two :method", &[(":method", "POST")]),
    LATE,
    with("content-length without DATA", &[("content-length", "5")]),
    body(
        "transfer-encoding",
        &[("transfer-encoding", "chunked")],
        "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n",
    ),
    body(
        "more DATA than content-length",
        &[("content-length", "5")],
        "helloGET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n",
    ),
    body("less DATA than content-length", &[("content-length", "50")], "hello"),
    body("two content-lengths", &[("content-length", "5"), ("content-length", "0")], "hello"),
    body("content-lengths as a list", &[("content-length", "5, 5")], "hello"),
    body("a content-length with a sign", &[("content-length", "+5")], "hello"),
];

/// How a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its stream was reset, with this code.
    Reset(u32),
    /// Its connection was ended, with this code.
    Goaway(u32),
    /// This status.
    Status(u16),
    /// None of these; what came in place of them.
    Other(String),
}

/// How a case went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case.
    pub case: &'static Case,
    /// What the attacker was told.
    pub answer: Answer,
    /// What the back end read meanwhile.
    pub arrived: Vec<String>,
    /// What the honest client was told.
    pub honest: Answer,
}

impl Outcome {
    /// Whether nobody but the attacker has noticed, and he was refused.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let refused = matches!(self.answer, Answer::Reset(_) | Answer::Goaway(_) | Answer::Status(400));
        refused && self.harmed_nobody()
    }

    /// The same, where he may be refused in any way, as by a connection that is closed without a word.
    #[must_use]
    pub fn is_kept_out(&self) -> bool {
        self.answer != Answer::Status(200) && self.harmed_nobody()
    }

    fn harmed_nobody(&self) -> bool {
        self.arrived == [HONEST] && self.honest == Answer::Status(200)
    }
}

/// The path of the honest request.
const HONEST: &str = "/honest";

/// Sends all cases, each on a connection of its own. `arrived` takes the targets of what the back end has read as a whole
/// request since the last call, and what was no request.
#[must_use]
pub fn run(target: &Target<'_>, arrived: impl Fn() -> Vec<String>) -> Vec<Outcome> {
    let one = |case: &'static Case| {
        let answer = ask(target, case);
        let honest = honest(target);
        Outcome { case, answer, arrived: arrived(), honest }
    };
    CASES.iter().map(one).collect()
}

/// One honest request.
#[must_use]
pub fn honest(target: &Target<'_>) -> Answer {
    ask(target, &instead("honest", ":path", HONEST))
}

fn ask(target: &Target<'_>, case: &Case) -> Answer {
    let asked = (target.dial)().and_then(|mut peer| {
        peer.begin(&[])?;
        say(&mut peer, target, case);
        Ok(peer)
    });
    match asked {
        Ok(mut peer) => answer(&mut peer),
        Err(error) => Answer::Other(format!("no connection: {error}")),
    }
}

/// The whole request in one write.
fn say(peer: &mut Connection, target: &Target<'_>, case: &Case) {
    let said = |&(name, value): &(&'static str, &'static str)| match case.instead {
        Some((replaced, other)) if replaced == name => other.map(|other| (name, other)),
        _ if name == ":path" => Some((name, "/attack")),
        _ => Some((name, value)),
    };
    let mut fields: Vec<(&str, &str)> = GET.iter().filter_map(said).collect();
    // The way's own fields stand before those of the attack, which may end the reading of the block.
    let way = target.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    fields.extend(way.chain(case.more.iter().copied()));
    let end = if case.data.is_none() { flag::END_STREAM } else { flag::NONE };
    let mut bytes = Frame::headers(1, flag::END_HEADERS | end, &hpack::literal(&fields)).bytes();
    if let Some(data) = case.data {
        bytes.extend(Frame::data(1, flag::END_STREAM, data).bytes());
    }
    peer.write(&bytes);
}

fn answer(peer: &mut Connection) -> Answer {
    let is_answer = |frame: &Frame| {
        matches!(frame.kind, kind::RST_STREAM | kind::GOAWAY) || frame.status().is_some_and(|status| status >= 200)
    };
    match peer.until(is_answer) {
        Read::Frame(frame) => match (frame.kind, frame.code(), frame.status()) {
            (kind::RST_STREAM, Some(code), _) => Answer::Reset(code),
            (kind::GOAWAY, Some(code), _) => Answer::Goaway(code),
            (_, _, Some(status)) => Answer::Status(status),
            _ => Answer::Other(format!("{frame:?}")),
        },
        Read::Closed(io::ErrorKind::UnexpectedEof) => Answer::Other("closed".to_owned()),
        read => Answer::Other(format!("{read:?}")),
    }
}

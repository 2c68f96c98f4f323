//! Conformance of an HTTP/2 client: a server that breaks one rule, and what the client in front of it does.
//!
//! Invariant: as for servers; and what the application sees is part of a case ([`App`]).

use std::net::Shutdown;

use super::peer::{Peer, Seen};
use super::states::allowed;
use super::{Case, case};
use crate::frames::code::{
    CANCEL, COMPRESSION_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED,
};
use crate::frames::{Frame, flag, hpack, kind, setting};

/// What the application sees of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// The server's answer, 200.
    Answered,
    /// 502 with a reason word.
    Failed,
    /// That it failed; the answer may have begun, and be reset.
    Cut,
    /// That nobody has processed it, unless it was sent once more.
    Refused,
    /// Either, for the answer was complete before the rule was broken.
    Either,
}

/// What the application sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A POST with a body.
    Whole,
    /// A POST with a body that does not end.
    Open,
}

/// A case in which the server breaks a rule.
pub struct ClientCase {
    /// What the server does.
    pub case: Case,
    /// What the application sends first.
    pub sent: Sent,
    /// What it sees.
    pub app: App,
}

const fn ignored(rfc: &'static str, name: &'static str, run: fn(&mut Peer) -> Seen) -> ClientCase {
    ClientCase { case: case(rfc, name, run), sent: Sent::Whole, app: App::Answered }
}

const fn fails(rfc: &'static str, name: &'static str, run: fn(&mut Peer) -> Seen) -> ClientCase {
    ClientCase { case: case(rfc, name, run), sent: Sent::Whole, app: App::Failed }
}

const fn cut(rfc: &'static str, name: &'static str, run: fn(&mut Peer) -> Seen) -> ClientCase {
    ClientCase { case: case(rfc, name, run), sent: Sent::Whole, app: App::Cut }
}

const fn either(rfc: &'static str, name: &'static str, run: fn(&mut Peer) -> Seen) -> ClientCase {
    ClientCase { case: case(rfc, name, run), sent: Sent::Whole, app: App::Either }
}

const fn open(rfc: &'static str, name: &'static str, app: App, run: fn(&mut Peer) -> Seen) -> ClientCase {
    ClientCase { case: case(rfc, name, run), sent: Sent::Open, app }
}

const WHOLE: u8 = flag::END_HEADERS | flag::END_STREAM;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
const LARGEST_FRAME: usize = 1 << 14;
const UNKNOWN: u8 = 0x16;
const UNKNOWN_CODE: u32 = 0xff;
const OK: (&str, &str) = (":status", "200");

/// All of them. The request comes on stream 1, and is a POST.
pub const CLIENT_CASES: &[ClientCase] = &[
    fails("9113 3.4", "HTTP/1 in place of SETTINGS", |peer| {
        peer.frames.read_preface().map_err(|error| error.to_string())?;
        peer.frames.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        peer.connection_error(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR])
    }),
    ignored("9113 4.1", "a frame of an unknown type", |peer| harmless(peer, &Frame::new(UNKNOWN, 0, 0, [0; 8]))),
    ignored("9113 4.1", "undefined flags", |peer| harmless(peer, &Frame::new(kind::PING, 0x16, 0, [1; 8]))),
    ignored("9113 4.1", "the reserved bit", |peer| harmless(peer, &Frame::new(kind::PING, 0, 1 << 31, [1; 8]))),
    ignored("9113 4.2", "DATA of 2^14 bytes", |peer| {
        peer.serve()?;
        peer.send_all(&[head(1), Frame::data(1, flag::END_STREAM, vec![b'x'; LARGEST_FRAME])]);
        peer.alive()
    }),
    cut("9113 4.2", "DATA larger than SETTINGS_MAX_FRAME_SIZE", |peer| {
        peer.serve()?;
        let most = allowed(peer, setting::MAX_FRAME_SIZE).unwrap_or(LARGEST_FRAME);
        peer.send_all(&[head(1), Frame::data(1, flag::END_STREAM, vec![b'x'; most + 1])]);
        peer.stream_error(1, &[FRAME_SIZE_ERROR])
    }),
    fails("9113 4.2", "HEADERS larger than SETTINGS_MAX_FRAME_SIZE", |peer| {
        peer.serve()?;
        let most = allowed(peer, setting::MAX_FRAME_SIZE).unwrap_or(LARGEST_FRAME);
        peer.send(&Frame::headers(1, WHOLE, &hpack::literal(&[OK, ("custom-key", &"x".repeat(most))])));
        peer.connection_error(&[FRAME_SIZE_ERROR])
    }),
    fails("9113 4.3", "a field block that ends within a field", |peer| broken(peer, &[0, 10, b'x'])),
    fails("9113 4.3", "PRIORITY within a field block", |peer| within(peer, Frame::priority(1, 0, 255))),
    fails("9113 4.3", "HEADERS of another stream within a field block", |peer| within(peer, head(3))),
    fails("9113 5.1", "idle: DATA", |peer| bad(peer, &Frame::data(3, flag::END_STREAM, *b"test"), PROTOCOL_ERROR)),
    fails("9113 5.1", "idle: RST_STREAM", |peer| bad(peer, &Frame::reset(3, CANCEL), PROTOCOL_ERROR)),
    fails("9113 5.1", "idle: WINDOW_UPDATE", |peer| bad(peer, &Frame::window(3, 100), PROTOCOL_ERROR)),
    fails("9113 5.1", "idle: CONTINUATION", |peer| bad(peer, &end_block(3), PROTOCOL_ERROR)),
    open("9113 5.1", "half-closed (remote): DATA", App::Either, |peer| {
        half_closed(peer, Frame::data(1, flag::END_STREAM, *b"test"))
    }),
    open("9113 5.1", "half-closed (remote): HEADERS", App::Either, |peer| half_closed(peer, whole(1))),
    open("9113 5.1", "half-closed (remote): CONTINUATION", App::Either, |peer| half_closed(peer, end_block(1))),
    either("9113 5.1", "closed by RST_STREAM: DATA", |peer| {
        late(peer, Frame::reset(1, CANCEL), Frame::data(1, flag::END_STREAM, *b"test"))
    }),
    either("9113 5.1", "closed by RST_STREAM: HEADERS", |peer| late(peer, Frame::reset(1, CANCEL), head(1))),
    either("9113 5.1", "closed by RST_STREAM: CONTINUATION", |peer| late(peer, Frame::reset(1, CANCEL), end_block(1))),
    either("9113 5.1", "closed: DATA", |peer| late(peer, whole(1), Frame::data(1, flag::END_STREAM, *b"test"))),
    either("9113 5.1", "closed: HEADERS", |peer| late(peer, whole(1), head(1))),
    either("9113 5.1", "closed: CONTINUATION", |peer| late(peer, whole(1), end_block(1))),
    fails("9113 5.1.1", "HEADERS on an even stream", |peer| bad(peer, &whole(2), PROTOCOL_ERROR)),
    fails("9113 5.1.1", "HEADERS on a stream that nobody opened", |peer| bad(peer, &whole(101), PROTOCOL_ERROR)),
    fails("9113 5.4.1", "the connection is closed after an error", |peer| {
        bad(peer, &Frame::new(kind::PING, 0, 3, [0; 8]), PROTOCOL_ERROR)
    }),
    fails("9113 5.4.1", "GOAWAY comes before the connection is closed", |peer| {
        let seen = bad(peer, &Frame::new(kind::PING, 0, 3, [0; 8]), PROTOCOL_ERROR)?;
        if seen.starts_with("GOAWAY") { Ok(seen) } else { Err(format!("{seen} without GOAWAY")) }
    }),
    ignored("9113 5.5", "a frame of an extension", |peer| harmless(peer, &Frame::new(UNKNOWN, 0xff, 0, [0; 8]))),
    fails("9113 5.5", "a frame of an extension within a field block", |peer| {
        within(peer, Frame::new(UNKNOWN, 0, 0, [0; 8]))
    }),
    fails("9113 6.1", "DATA on stream 0", |peer| bad(peer, &Frame::data(0, 0, *b"test"), PROTOCOL_ERROR)),
    fails("9113 6.1", "DATA before HEADERS", |peer| {
        peer.serve()?;
        peer.send(&Frame::data(1, flag::END_STREAM, *b"test"));
        peer.stream_error(1, &[PROTOCOL_ERROR])
    }),
    cut("9113 6.1", "DATA with more padding than payload", |peer| {
        peer.serve()?;
        peer.send_all(&[head(1), Frame::data(1, flag::PADDED | flag::END_STREAM, *b"\x06test")]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    fails("9113 6.2", "HEADERS on stream 0", |peer| bad(peer, &whole(0), PROTOCOL_ERROR)),
    fails("9113 6.2", "HEADERS with more padding than payload", |peer| {
        let block = [&[255][..], &hpack::literal(&[OK])].concat();
        bad(peer, &Frame::headers(1, WHOLE | flag::PADDED, &block), PROTOCOL_ERROR)
    }),
    fails("9113 6.3", "PRIORITY on stream 0", |peer| bad(peer, &Frame::priority(0, 1, 255), PROTOCOL_ERROR)),
    fails("9113 6.3", "PRIORITY of 4 bytes", |peer| {
        peer.serve()?;
        peer.send(&Frame::new(kind::PRIORITY, 0, 1, [0; 4]));
        peer.stream_error(1, &[FRAME_SIZE_ERROR])
    }),
    fails("9113 6.4", "RST_STREAM on stream 0", |peer| bad(peer, &Frame::reset(0, CANCEL), PROTOCOL_ERROR)),
    fails("9113 6.4", "RST_STREAM of 3 bytes", |peer| {
        bad(peer, &Frame::new(kind::RST_STREAM, 0, 1, [0; 3]), FRAME_SIZE_ERROR)
    }),
    fails("9113 6.5", "SETTINGS with ACK and a payload", |peer| {
        bad(peer, &Frame::new(kind::SETTINGS, flag::ACK, 0, [0; 6]), FRAME_SIZE_ERROR)
    }),
    fails("9113 6.5", "SETTINGS on a stream", |peer| {
        bad(peer, &Frame::new(kind::SETTINGS, 0, 1, Frame::settings(&[(3, 100)]).payload), PROTOCOL_ERROR)
    }),
    fails("9113 6.5", "SETTINGS of 3 bytes", |peer| {
        bad(peer, &Frame::new(kind::SETTINGS, 0, 0, [0; 3]), FRAME_SIZE_ERROR)
    }),
    fails("9113 6.5.2", "SETTINGS_ENABLE_PUSH of 2", |peer| set(peer, setting::ENABLE_PUSH, 2, PROTOCOL_ERROR)),
    fails("9113 6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE of 2^31", |peer| {
        set(peer, setting::INITIAL_WINDOW_SIZE, LARGEST_WINDOW + 1, FLOW_CONTROL_ERROR)
    }),
    fails("9113 6.5.2", "SETTINGS_MAX_FRAME_SIZE of 2^14 - 1", |peer| {
        set(peer, setting::MAX_FRAME_SIZE, (1 << 14) - 1, PROTOCOL_ERROR)
    }),
    fails("9113 6.5.2", "SETTINGS_MAX_FRAME_SIZE of 2^24", |peer| {
        set(peer, setting::MAX_FRAME_SIZE, 1 << 24, PROTOCOL_ERROR)
    }),
    ignored("9113 6.5.2", "an unknown setting", |peer| harmless(peer, &Frame::settings(&[(0xff, 1)]))),
    ignored("9113 6.5.3", "SETTINGS are acknowledged", |peer| {
        peer.serve()?;
        let seen = super::generic::acknowledged(peer)?;
        peer.send(&whole(1));
        Ok(seen)
    }),
    ignored("9113 6.7", "PING", |peer| harmless(peer, &Frame::ping([1; 8]))),
    ignored("9113 6.7", "PING with ACK is not answered", |peer| {
        const SENT: [u8; 8] = *b"no reply";
        let seen = harmless(peer, &Frame::new(kind::PING, flag::ACK, 0, SENT))?;
        let answered = peer.frames.seen.iter().any(|frame| frame.kind == kind::PING && frame.payload == SENT);
        if answered { Err("answered".to_owned()) } else { Ok(seen) }
    }),
    fails("9113 6.7", "PING on a stream", |peer| bad(peer, &Frame::new(kind::PING, 0, 1, [0; 8]), PROTOCOL_ERROR)),
    fails("9113 6.7", "PING of 6 bytes", |peer| bad(peer, &Frame::new(kind::PING, 0, 0, [0; 6]), FRAME_SIZE_ERROR)),
    fails("9113 6.8", "GOAWAY on a stream", |peer| {
        bad(peer, &Frame::new(kind::GOAWAY, 0, 1, Frame::goaway(0, NO_ERROR).payload), PROTOCOL_ERROR)
    }),
    ClientCase {
        case: case("9113 6.8", "GOAWAY that excludes the request", |peer| {
            peer.serve()?;
            peer.send(&Frame::goaway(0, NO_ERROR));
            peer.connection_error(&[])
        }),
        sent: Sent::Whole,
        app: App::Refused,
    },
    ignored("9113 6.8", "GOAWAY that includes the request, then its answer", |peer| {
        peer.serve()?;
        peer.send_all(&[Frame::goaway(1, NO_ERROR), whole(1)]);
        peer.connection_error(&[])
    }),
    fails("9113 6.8", "GOAWAY that includes the request, then the end", |peer| {
        peer.serve()?;
        peer.send(&Frame::goaway(1, NO_ERROR));
        let _ = peer.frames.socket().shutdown(Shutdown::Write);
        peer.connection_error(&[])
    }),
    fails("9113 6.9", "WINDOW_UPDATE of 0 for the connection", |peer| bad(peer, &Frame::window(0, 0), PROTOCOL_ERROR)),
    fails("9113 6.9", "WINDOW_UPDATE of 0 for a stream", |peer| {
        peer.serve()?;
        peer.send(&Frame::window(1, 0));
        peer.stream_error(1, &[PROTOCOL_ERROR])
    }),
    fails("9113 6.9", "WINDOW_UPDATE of 3 bytes", |peer| {
        bad(peer, &Frame::new(kind::WINDOW_UPDATE, 0, 0, [0, 0, 1]), FRAME_SIZE_ERROR)
    }),
    fails("9113 6.9.1", "the connection's window above 2^31 - 1", |peer| {
        bad(peer, &Frame::window(0, LARGEST_WINDOW), FLOW_CONTROL_ERROR)
    }),
    open("9113 6.9.1", "a stream's window above 2^31 - 1", App::Failed, |peer| {
        peer.serve_open()?;
        peer.send(&Frame::window(1, LARGEST_WINDOW));
        peer.stream_error(1, &[FLOW_CONTROL_ERROR])
    }),
    fails("9113 6.9.2", "SETTINGS_INITIAL_WINDOW_SIZE above the largest window", |peer| {
        set(peer, setting::INITIAL_WINDOW_SIZE, u32::MAX, FLOW_CONTROL_ERROR)
    }),
    ignored("9113 6.10", "CONTINUATION several times", |peer| {
        peer.serve()?;
        let more = Frame::continuation(1, flag::NONE, &hpack::literal(&[("number", "1")]));
        peer.send_all(&[open_block(), more.clone(), more, end_block(1)]);
        peer.alive()
    }),
    fails("9113 6.10", "CONTINUATION, then another frame", |peer| {
        let more = Frame::continuation(1, flag::NONE, &hpack::literal(&[("number", "1")]));
        peer.serve()?;
        peer.send_all(&[open_block(), more, Frame::data(1, flag::END_STREAM, *b"test")]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    fails("9113 6.10", "CONTINUATION on stream 0", |peer| within(peer, end_block(0))),
    cut("9113 6.10", "CONTINUATION after HEADERS with END_HEADERS", |peer| {
        peer.serve()?;
        peer.send_all(&[head(1), end_block(1)]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    cut("9113 6.10", "CONTINUATION after DATA", |peer| {
        peer.serve()?;
        peer.send_all(&[head(1), Frame::data(1, flag::NONE, *b"test"), end_block(1)]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    ignored("9113 7", "GOAWAY with an unknown code, then the answer", |peer| {
        peer.serve()?;
        peer.send_all(&[Frame::goaway(1, UNKNOWN_CODE), whole(1)]);
        peer.connection_error(&[])
    }),
    fails("9113 7", "RST_STREAM with an unknown code", |peer| {
        peer.serve()?;
        peer.send(&Frame::reset(1, UNKNOWN_CODE));
        peer.alive()
    }),
    fails("9113 8.2", "a field name in upper case", |peer| malformed(peer, &[OK, ("X-TEST", "ok")])),
    fails("9113 8.3", "an unknown pseudo-field", |peer| malformed(peer, &[OK, (":test", "ok")])),
    fails("9113 8.3", "a pseudo-field after other fields", |peer| malformed(peer, &[("x-test", "ok"), OK])),
    fails("9113 8.3.2", "no :status", |peer| malformed(peer, &[("x-test", "ok")])),
    fails("9113 8.3.2", ":status twice", |peer| malformed(peer, &[OK, OK])),
    fails("9113 8.3.2", ":status that is no number", |peer| malformed(peer, &[(":status", "two")])),
    fails("9113 8.2.2", "a field of the connection", |peer| malformed(peer, &[OK, ("connection", "keep-alive")])),
    cut("9113 8.1.1", "content-length that is not that of DATA", |peer| {
        peer.serve()?;
        let block = hpack::literal(&[OK, ("content-length", "1")]);
        peer.send_all(&[Frame::headers(1, flag::END_HEADERS, &block), Frame::data(1, flag::END_STREAM, *b"test")]);
        peer.stream_error(1, &[PROTOCOL_ERROR])
    }),
    fails("9113 8.4", "PUSH_PROMISE, though SETTINGS_ENABLE_PUSH is 0", |peer| {
        peer.serve()?;
        let promised = [&2_u32.to_be_bytes()[..], &peer.request("GET", &[])].concat();
        peer.send(&Frame::new(kind::PUSH_PROMISE, flag::END_HEADERS, 1, promised));
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    fails("7541 2.3.3", "an indexed field that is in no table", |peer| broken(peer, &hpack::indexed(70))),
    fails("7541 4.2", "a change of the table's size at the end of a block", |peer| broken(peer, &hpack::table_size(1))),
    fails("7541 5.2", "a Huffman string with EOS", |peer| {
        broken(peer, &[vec![0], hpack::string(b"custom-key"), hpack::huffman(&[0xff; 4])].concat())
    }),
    fails("7541 6.1", "an indexed field of index 0", |peer| broken(peer, &hpack::indexed(0))),
    fails("7541 6.3", "a table larger than SETTINGS_HEADER_TABLE_SIZE", |peer| {
        peer.serve()?;
        let block = [hpack::table_size(4097), hpack::literal(&[OK])].concat();
        peer.send(&Frame::headers(1, WHOLE, &block));
        peer.connection_error(&[COMPRESSION_ERROR])
    }),
];

impl Peer<'_> {
    /// As a server: begins, and takes the request.
    fn serve(&mut self) -> Result<(), String> {
        self.frames.begin_server(&[]).map_err(|error| format!("no beginning: {error}"))?;
        self.expect("a request", |frame| frame.ends(1)).map(drop)
    }

    /// As [`Peer::serve`], for a request whose body does not end.
    fn serve_open(&mut self) -> Result<(), String> {
        self.frames.begin_server(&[]).map_err(|error| format!("no beginning: {error}"))?;
        self.expect("a request", |frame| frame.kind == kind::HEADERS).map(drop)
    }
}

/// Answers each further request on a connection with 200, until it ends.
pub fn go_on(peer: &mut Peer) {
    while let Some(frame) = peer.frames.until(|frame| frame.has(flag::END_STREAM) && frame.ends(frame.stream)).frame() {
        peer.send(&whole(frame.stream));
    }
}

/// The head of an answer, whose body follows.
fn head(stream: u32) -> Frame {
    Frame::headers(stream, flag::END_HEADERS, &hpack::literal(&[OK]))
}

/// An answer without a body.
fn whole(stream: u32) -> Frame {
    Frame::headers(stream, WHOLE, &hpack::literal(&[OK]))
}

/// An answer whose field block goes on.
fn open_block() -> Frame {
    Frame::headers(1, flag::END_STREAM, &hpack::literal(&[OK]))
}

/// The end of a field block.
fn end_block(stream: u32) -> Frame {
    Frame::continuation(stream, flag::END_HEADERS, &hpack::literal(&[("custom-key", "custom-value")]))
}

/// A frame that changes nothing, then the answer.
fn harmless(peer: &mut Peer, frame: &Frame) -> Seen {
    peer.serve()?;
    peer.send(frame);
    let seen = peer.alive()?;
    peer.send(&whole(1));
    Ok(seen)
}

/// A frame that ends the connection.
fn bad(peer: &mut Peer, frame: &Frame, code: u32) -> Seen {
    peer.serve()?;
    peer.send(frame);
    peer.connection_error(&[code])
}

/// A setting that ends the connection.
fn set(peer: &mut Peer, setting: u16, value: u32, code: u32) -> Seen {
    bad(peer, &Frame::settings(&[(setting, value)]), code)
}

/// A frame within a field block.
fn within(peer: &mut Peer, frame: Frame) -> Seen {
    peer.serve()?;
    peer.send_all(&[open_block(), frame]);
    peer.connection_error(&[PROTOCOL_ERROR])
}

/// A field block that cannot be decoded.
fn broken(peer: &mut Peer, end: &[u8]) -> Seen {
    peer.serve()?;
    peer.send(&Frame::headers(1, WHOLE, &[hpack::literal(&[OK]), end.to_vec()].concat()));
    peer.connection_error(&[COMPRESSION_ERROR])
}

/// A frame on a stream whose answer is complete, while the request's body is not.
fn half_closed(peer: &mut Peer, frame: Frame) -> Seen {
    peer.serve_open()?;
    peer.send_all(&[whole(1), frame]);
    peer.stream_error(1, &[STREAM_CLOSED])
}

/// A frame on a stream that is closed already.
fn late(peer: &mut Peer, end: Frame, frame: Frame) -> Seen {
    peer.serve()?;
    peer.send_all(&[end, frame]);
    peer.stream_error(1, &[STREAM_CLOSED])
}

/// An answer that is none.
fn malformed(peer: &mut Peer, fields: &[(&str, &str)]) -> Seen {
    peer.serve()?;
    // The stream stays open: else there would be nothing to reset.
    peer.send(&Frame::headers(1, flag::END_HEADERS, &hpack::literal(fields)));
    peer.stream_error(1, &[PROTOCOL_ERROR])
}

//! Connections and streams: preface, format and size of frames, field blocks, states, identifiers, errors (RFC 9113, 3 to 5).

use super::{Case, Peer, Seen, case};
use crate::frames::code::{CANCEL, COMPRESSION_ERROR, FRAME_SIZE_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, STREAM_CLOSED};
use crate::frames::{Frame, flag, header, hpack, kind, setting};

const RESERVED: u32 = 1 << 31;
/// A type that nobody has defined.
const UNKNOWN: u8 = 0x16;
const LARGEST_FRAME: usize = 1 << 14;
const WHOLE: u8 = flag::END_HEADERS | flag::END_STREAM;

pub(super) const CASES: &[Case] = &[
    case("9113 3.4", "a preface", |peer| {
        peer.begin()?;
        let first = peer.frames.seen.front();
        let is_settings = first.is_some_and(|frame| frame.kind == kind::SETTINGS && !frame.has(flag::ACK));
        if is_settings { Ok("SETTINGS came first".to_owned()) } else { Err(format!("{first:?} came first")) }
    }),
    case("9113 3.4", "no preface", |peer| {
        peer.frames.write(b"INVALID CONNECTION PREFACE\r\n\r\n");
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 4.1", "a frame of an unknown type", |peer| {
        peer.begin()?;
        peer.send(&Frame::new(UNKNOWN, 0, 0, [0; 8]));
        peer.alive()
    }),
    case("9113 4.1", "undefined flags", |peer| {
        peer.begin()?;
        ping(peer, 0x16, 0)
    }),
    case("9113 4.1", "the reserved bit", |peer| {
        peer.begin()?;
        ping(peer, 0, RESERVED)
    }),
    case("9113 4.2", "DATA of 2^14 bytes", |peer| {
        peer.begin()?;
        peer.send(&peer.post(1));
        peer.send(&Frame::data(1, flag::END_STREAM, vec![b'x'; LARGEST_FRAME]));
        peer.answered(1)
    }),
    case("9113 4.2", "DATA larger than SETTINGS_MAX_FRAME_SIZE", |peer| {
        peer.begin()?;
        let most = allowed(peer, setting::MAX_FRAME_SIZE).unwrap_or(LARGEST_FRAME);
        peer.send(&peer.post(1));
        peer.send(&Frame::data(1, flag::END_STREAM, vec![b'x'; most + 1]));
        peer.stream_error(1, &[FRAME_SIZE_ERROR])
    }),
    case("9113 4.2", "HEADERS larger than SETTINGS_MAX_FRAME_SIZE", |peer| {
        peer.begin()?;
        let most = allowed(peer, setting::MAX_FRAME_SIZE).unwrap_or(LARGEST_FRAME);
        let block = peer.request("GET", &[("custom-key", &"x".repeat(most))]);
        peer.send(&Frame::headers(1, WHOLE, &block));
        peer.connection_error(&[FRAME_SIZE_ERROR])
    }),
    case("9113 4.3", "a field block that ends within a field", |peer| {
        peer.begin()?;
        let block = [peer.request("GET", &[]), vec![0, 10, b'x']].concat();
        peer.send(&Frame::headers(1, WHOLE, &block));
        peer.connection_error(&[COMPRESSION_ERROR])
    }),
    case("9113 4.3", "PRIORITY within a field block", |peer| {
        peer.begin()?;
        peer.send_all(&[open_block(peer), Frame::priority(1, 0, 255), end_block()]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 4.3", "HEADERS of another stream within a field block", |peer| {
        peer.begin()?;
        peer.send_all(&[open_block(peer), peer.get(3), end_block()]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 5.1", "idle: DATA", |peer| {
        peer.begin()?;
        peer.send(&Peer::body(1));
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 5.1", "idle: RST_STREAM", |peer| {
        peer.begin()?;
        peer.send(&Frame::reset(1, CANCEL));
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 5.1", "idle: WINDOW_UPDATE", |peer| {
        peer.begin()?;
        peer.send(&Frame::window(1, 100));
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 5.1", "idle: CONTINUATION", |peer| {
        peer.begin()?;
        peer.send(&Frame::continuation(1, flag::END_HEADERS, &peer.request("GET", &[])));
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 5.1", "half-closed (remote): DATA", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.get(1), Peer::body(1)]);
        peer.stream_error(1, &[STREAM_CLOSED])
    }),
    case("9113 5.1", "half-closed (remote): HEADERS", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.get(1), peer.get(1)]);
        peer.stream_error(1, &[STREAM_CLOSED])
    }),
    case("9113 5.1", "half-closed (remote): CONTINUATION", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.get(1), end_block()]);
        peer.connection_error(&[STREAM_CLOSED, PROTOCOL_ERROR])
    }),
    case("9113 5.1", "closed by RST_STREAM: DATA", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::reset(1, CANCEL), Peer::body(1)]);
        peer.stream_error(1, &[STREAM_CLOSED])
    }),
    case("9113 5.1", "closed by RST_STREAM: HEADERS", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::reset(1, CANCEL), peer.get(1)]);
        peer.stream_error(1, &[STREAM_CLOSED])
    }),
    case("9113 5.1", "closed by RST_STREAM: CONTINUATION", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::reset(1, CANCEL), end_block()]);
        peer.connection_error(&[STREAM_CLOSED, PROTOCOL_ERROR])
    }),
    case("9113 5.1", "closed: DATA", |peer| {
        peer.begin()?;
        peer.exchange(1)?;
        peer.send(&Peer::body(1));
        peer.stream_error(1, &[STREAM_CLOSED])
    }),
    case("9113 5.1", "closed: HEADERS", |peer| {
        peer.begin()?;
        peer.exchange(1)?;
        peer.send(&peer.get(1));
        peer.connection_error(&[STREAM_CLOSED])
    }),
    case("9113 5.1", "closed: CONTINUATION", |peer| {
        peer.begin()?;
        peer.exchange(1)?;
        peer.send(&end_block());
        peer.connection_error(&[STREAM_CLOSED, PROTOCOL_ERROR])
    }),
    case("9113 5.1.1", "an even identifier", |peer| {
        peer.begin()?;
        peer.send(&peer.get(2));
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 5.1.1", "an identifier lower than one before", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.get(5), peer.get(3)]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 5.1.2", "more streams than SETTINGS_MAX_CONCURRENT_STREAMS", |peer| {
        peer.begin()?;
        let Some(most) = allowed(peer, setting::MAX_CONCURRENT_STREAMS) else {
            return Err("the server sets no limit".to_owned());
        };
        let last = u32::try_from(2 * most + 1).map_err(|_| format!("the server's limit is {most}"))?;
        let all: Vec<_> = (1..=last).step_by(2).map(|stream| peer.post(stream)).collect();
        peer.send_all(&all);
        peer.stream_error(last, &[REFUSED_STREAM])
    }),
    case("7540 5.3.1", "HEADERS that depend on themselves", |peer| {
        peer.begin()?;
        let block = [&[0, 0, 0, 1, 255][..], &peer.request("GET", &[])].concat();
        peer.send(&Frame::headers(1, WHOLE | flag::PRIORITY, &block));
        peer.stream_error(1, &[PROTOCOL_ERROR])
    }),
    case("7540 5.3.1", "PRIORITY that depends on itself", |peer| {
        peer.begin()?;
        peer.send(&Frame::priority(1, 1, 255));
        peer.stream_error(1, &[PROTOCOL_ERROR])
    }),
    case("9113 5.4.1", "the connection is closed after an error", |peer| {
        peer.begin()?;
        peer.send(&Frame::new(kind::PING, 0, 3, [0; 8]));
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 5.4.1", "GOAWAY comes before the connection is closed", |peer| {
        peer.begin()?;
        peer.send(&Frame::new(kind::PING, 0, 3, [0; 8]));
        let seen = peer.connection_error(&[PROTOCOL_ERROR])?;
        if seen.starts_with("GOAWAY") { Ok(seen) } else { Err(format!("{seen} without GOAWAY")) }
    }),
    case("9113 5.5", "a frame of an extension", |peer| {
        peer.begin()?;
        peer.send(&Frame::new(UNKNOWN, 0xff, 0, [0; 8]));
        peer.exchange(1)?;
        Ok("ignored".to_owned())
    }),
    case("9113 5.5", "a frame of an extension within a field block", |peer| {
        peer.begin()?;
        peer.send_all(&[open_block(peer), Frame::new(UNKNOWN, 0, 0, [0; 8]), end_block()]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
];

/// A GET whose field block goes on.
pub(super) fn open_block(peer: &Peer) -> Frame {
    Frame::headers(1, flag::END_STREAM, &peer.request("GET", &[]))
}

/// The end of a field block.
pub(super) fn end_block() -> Frame {
    Frame::continuation(1, flag::END_HEADERS, &hpack::literal(&[("custom-key", "custom-value")]))
}

/// What the server's SETTINGS say.
pub(super) fn allowed(peer: &Peer, setting: u16) -> Option<usize> {
    let settings = peer.frames.seen.iter().find(|frame| frame.kind == kind::SETTINGS && !frame.has(flag::ACK))?;
    let value = settings.payload.chunks(6).find_map(|pair| match *pair {
        [a, b, ref value @ ..] if u16::from_be_bytes([a, b]) == setting => value.try_into().ok(),
        _ => None,
    });
    usize::try_from(u32::from_be_bytes(value?)).ok()
}

/// PING with a header of its own is answered.
fn ping(peer: &mut Peer, flags: u8, reserved: u32) -> Seen {
    const DATA: [u8; 8] = *b"any data";
    peer.frames.write(&[&header(8, kind::PING, flags, reserved)[..], &DATA].concat());
    peer.expect("an answer to PING", |frame| {
        frame.kind == kind::PING && frame.has(flag::ACK) && frame.payload == DATA
    })?;
    Ok("answered".to_owned())
}

//! Frame by frame: what each may carry, and windows (RFC 9113, 6 and 7).

use super::generic::acknowledged;
use super::states::{end_block, open_block};
use super::{Answers, Case, Peer, Seen, case};
use crate::frames::code::{CANCEL, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED};
use crate::frames::{Frame, flag, hpack, kind, setting};

const WHOLE: u8 = flag::END_HEADERS | flag::END_STREAM;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
const UNKNOWN_CODE: u32 = 0xff;

pub(super) const CASES: &[Case] = &[
    case("9113 6.1", "DATA on stream 0", |peer| bad(peer, &Peer::body(0), PROTOCOL_ERROR)),
    case("9113 6.1", "DATA on a stream that is not open", |peer| {
        peer.begin()?;
        peer.exchange(1)?;
        peer.send_all(&[peer.get(3), Peer::body(1)]);
        peer.stream_error(1, &[STREAM_CLOSED])
    }),
    case("9113 6.1", "DATA with more padding than payload", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::data(1, flag::PADDED | flag::END_STREAM, *b"\x06test")]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 6.2", "HEADERS without END_HEADERS, then PRIORITY", |peer| {
        peer.begin()?;
        peer.send_all(&[open_block(peer), Frame::priority(3, 0, 255)]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 6.2", "HEADERS without END_HEADERS, then HEADERS of another stream", |peer| {
        peer.begin()?;
        peer.send_all(&[open_block(peer), peer.get(3)]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 6.2", "HEADERS on stream 0", |peer| bad(peer, &peer.get(0), PROTOCOL_ERROR)),
    case("9113 6.2", "HEADERS with more padding than payload", |peer| {
        let block = [&[255][..], &peer.request("GET", &[])[..50]].concat();
        bad(peer, &Frame::headers(1, WHOLE | flag::PADDED, &block), PROTOCOL_ERROR)
    }),
    case("9113 6.3", "PRIORITY on stream 0", |peer| bad(peer, &Frame::priority(0, 1, 255), PROTOCOL_ERROR)),
    case("9113 6.3", "PRIORITY of 4 bytes", |peer| {
        peer.begin()?;
        peer.send(&Frame::new(kind::PRIORITY, 0, 1, [0, 0, 0, 0]));
        peer.stream_error(1, &[FRAME_SIZE_ERROR])
    }),
    case("9113 6.4", "RST_STREAM on stream 0", |peer| bad(peer, &Frame::reset(0, CANCEL), PROTOCOL_ERROR)),
    case("9113 6.4", "RST_STREAM on an idle stream", |peer| bad(peer, &Frame::reset(1, CANCEL), PROTOCOL_ERROR)),
    case("9113 6.4", "RST_STREAM of 3 bytes", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::new(kind::RST_STREAM, 0, 1, [0; 3])]);
        peer.connection_error(&[FRAME_SIZE_ERROR])
    }),
    case("9113 6.5", "SETTINGS with ACK and a payload", |peer| {
        bad(peer, &Frame::new(kind::SETTINGS, flag::ACK, 0, [0; 6]), FRAME_SIZE_ERROR)
    }),
    case("9113 6.5", "SETTINGS on a stream", |peer| {
        bad(peer, &Frame::new(kind::SETTINGS, 0, 1, Frame::settings(&[(3, 100)]).payload), PROTOCOL_ERROR)
    }),
    case("9113 6.5", "SETTINGS of 3 bytes", |peer| {
        bad(peer, &Frame::new(kind::SETTINGS, 0, 0, [0; 3]), FRAME_SIZE_ERROR)
    }),
    case("9113 6.5.2", "SETTINGS_ENABLE_PUSH of 2", |peer| set(peer, setting::ENABLE_PUSH, 2, PROTOCOL_ERROR)),
    case("9113 6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE of 2^31", |peer| {
        set(peer, setting::INITIAL_WINDOW_SIZE, LARGEST_WINDOW + 1, FLOW_CONTROL_ERROR)
    }),
    case("9113 6.5.2", "SETTINGS_MAX_FRAME_SIZE of 2^14 - 1", |peer| {
        set(peer, setting::MAX_FRAME_SIZE, (1 << 14) - 1, PROTOCOL_ERROR)
    }),
    case("9113 6.5.2", "SETTINGS_MAX_FRAME_SIZE of 2^24", |peer| {
        set(peer, setting::MAX_FRAME_SIZE, 1 << 24, PROTOCOL_ERROR)
    }),
    case("9113 6.5.2", "an unknown setting", |peer| {
        peer.begin()?;
        peer.send(&Frame::settings(&[(0xff, 1)]));
        peer.alive()
    }),
    case("9113 6.5.3", "two values of SETTINGS_INITIAL_WINDOW_SIZE", |peer| {
        peer.begin()?;
        let twice = [(setting::INITIAL_WINDOW_SIZE, 100), (setting::INITIAL_WINDOW_SIZE, 1)];
        peer.send_all(&[Frame::settings(&twice), peer.get(1)]);
        data(peer, 1)
    }),
    case("9113 6.5.3", "SETTINGS are acknowledged", |peer| {
        peer.begin()?;
        acknowledged(peer)
    }),
    case("9113 6.7", "PING", |peer| {
        peer.begin()?;
        peer.alive()
    }),
    case("9113 6.7", "PING with ACK is not answered", |peer| {
        const SENT: [u8; 8] = *b"no reply";
        peer.begin()?;
        peer.send(&Frame::new(kind::PING, flag::ACK, 0, SENT));
        let seen = peer.alive()?;
        let answered = peer.frames.seen.iter().any(|frame| frame.kind == kind::PING && frame.payload == SENT);
        if answered { Err("answered".to_owned()) } else { Ok(seen) }
    }),
    case("9113 6.7", "PING on a stream", |peer| bad(peer, &Frame::new(kind::PING, 0, 1, [0; 8]), PROTOCOL_ERROR)),
    case("9113 6.7", "PING of 6 bytes", |peer| bad(peer, &Frame::new(kind::PING, 0, 0, [0; 6]), FRAME_SIZE_ERROR)),
    case("9113 6.8", "GOAWAY on a stream", |peer| {
        bad(peer, &Frame::new(kind::GOAWAY, 0, 1, Frame::goaway(0, NO_ERROR).payload), PROTOCOL_ERROR)
    }),
    case("9113 6.9", "WINDOW_UPDATE of 0 for the connection", |peer| bad(peer, &Frame::window(0, 0), PROTOCOL_ERROR)),
    case("9113 6.9", "WINDOW_UPDATE of 0 for a stream", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::window(1, 0)]);
        peer.stream_error(1, &[PROTOCOL_ERROR])
    }),
    case("9113 6.9", "WINDOW_UPDATE of 3 bytes", |peer| {
        bad(peer, &Frame::new(kind::WINDOW_UPDATE, 0, 0, [0, 0, 1]), FRAME_SIZE_ERROR)
    }),
    case("9113 6.9.1", "a window of 1 byte is kept", |peer| {
        peer.begin()?;
        peer.send_all(&[window(1), peer.get(1)]);
        data(peer, 1)
    }),
    case("9113 6.9.1", "the connection's window above 2^31 - 1", |peer| {
        peer.begin()?;
        peer.send_all(&[Frame::window(0, LARGEST_WINDOW), Frame::window(0, LARGEST_WINDOW)]);
        peer.connection_error(&[FLOW_CONTROL_ERROR])
    }),
    case("9113 6.9.1", "a stream's window above 2^31 - 1", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::window(1, LARGEST_WINDOW), Frame::window(1, LARGEST_WINDOW)]);
        peer.stream_error(1, &[FLOW_CONTROL_ERROR])
    }),
    case("9113 6.9.2", "the window of open streams changes with the setting", |peer| {
        peer.begin()?;
        peer.send_all(&[window(0), peer.get(1)]);
        peer.expect("the head of the answer", |frame| frame.status() == Some(200))?;
        peer.alive()?;
        if peer.frames.seen.iter().any(|frame| frame.kind == kind::DATA && !frame.payload.is_empty()) {
            return Err("DATA without a window".to_owned());
        }
        peer.send(&window(1));
        data(peer, 1)
    }),
    case("9113 6.9.2", "a window becomes negative", |peer| {
        peer.begin()?;
        peer.send_all(&[window(3), peer.get(1)]);
        data(peer, 3)?;
        // 0 - 1 + 2 = 1.
        peer.send_all(&[window(2), Frame::window(1, 2)]);
        data(peer, 1)
    }),
    case("9113 6.9.2", "SETTINGS_INITIAL_WINDOW_SIZE above the largest window", |peer| {
        set(peer, setting::INITIAL_WINDOW_SIZE, u32::MAX, FLOW_CONTROL_ERROR)
    }),
    case("9113 6.10", "CONTINUATION several times", |peer| {
        peer.begin()?;
        let more = Frame::continuation(1, flag::NONE, &hpack::literal(&[("number", "1")]));
        peer.send_all(&[open_block(peer), more.clone(), more, end_block()]);
        peer.answered(1)
    }),
    case("9113 6.10", "CONTINUATION, then another frame", |peer| {
        peer.begin()?;
        let more = Frame::continuation(1, flag::NONE, &hpack::literal(&[("number", "1")]));
        peer.send_all(&[open_block(peer), more, Peer::body(1)]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 6.10", "CONTINUATION on stream 0", |peer| {
        peer.begin()?;
        peer.send_all(&[open_block(peer), Frame::continuation(0, flag::END_HEADERS, &end_block().payload)]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 6.10", "CONTINUATION after HEADERS with END_HEADERS", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), end_block()]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 6.10", "CONTINUATION after CONTINUATION with END_HEADERS", |peer| {
        peer.begin()?;
        peer.send_all(&[open_block(peer), end_block(), end_block()]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 6.10", "CONTINUATION after DATA", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::data(1, flag::NONE, *b"test"), end_block()]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
    case("9113 7", "GOAWAY with an unknown code", |peer| {
        peer.begin()?;
        peer.send(&Frame::goaway(0, UNKNOWN_CODE));
        peer.alive_or_closed()
    }),
    case("9113 7", "RST_STREAM with an unknown code", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::reset(1, UNKNOWN_CODE)]);
        peer.alive()
    }),
];

/// A frame that ends the connection.
fn bad(peer: &mut Peer, frame: &Frame, code: u32) -> Seen {
    peer.begin()?;
    peer.send(frame);
    peer.connection_error(&[code])
}

/// A setting that ends the connection.
fn set(peer: &mut Peer, setting: u16, value: u32, code: u32) -> Seen {
    bad(peer, &Frame::settings(&[(setting, value)]), code)
}

fn window(size: u32) -> Frame {
    Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, size)])
}

/// DATA comes on stream 1, of `length` bytes in all and not one more.
fn data(peer: &mut Peer, length: usize) -> Seen {
    if peer.answers == Answers::Anything {
        return peer.alive();
    }
    let mut came = 0;
    while came < length {
        let frame = peer.expect("DATA", |frame| frame.kind == kind::DATA && frame.stream == 1)?;
        came += frame.payload.len();
    }
    // What was sent before the answer to this has come as well.
    let before = peer.frames.seen.len();
    peer.alive()?;
    came += peer
        .frames
        .seen
        .iter()
        .skip(before)
        .filter(|frame| frame.kind == kind::DATA)
        .map(|f| f.payload.len())
        .sum::<usize>();
    if came == length { Ok(format!("DATA of {came}")) } else { Err(format!("DATA of {came} in place of {length}")) }
}

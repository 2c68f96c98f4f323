//! What every server must be able to do: each frame and each form of a field, as they are meant.

use super::states::allowed;
use super::{Answers, Case, Peer, Seen, case};
use crate::frames::{Frame, code, flag, hpack, kind, setting};

/// The highest bit of a dependency.
const EXCLUSIVE: u32 = 1 << 31;
const WHOLE: u8 = flag::END_HEADERS | flag::END_STREAM;

pub(super) const CASES: &[Case] = &[
    case("9113 3.4", "generic: a preface", |peer| {
        peer.begin()?;
        peer.alive()
    }),
    case("9113 5.1", "generic: PRIORITY on an idle stream", |peer| {
        peer.begin()?;
        peer.send(&Frame::priority(1, 0, 255));
        peer.alive()
    }),
    case("9113 5.1", "generic: WINDOW_UPDATE on a half-closed (remote) stream", |peer| {
        after_get(peer, Frame::window(1, 100))?;
        peer.answered(1)
    }),
    case("9113 5.1", "generic: PRIORITY on a half-closed (remote) stream", |peer| {
        after_get(peer, Frame::priority(1, 0, 255))?;
        peer.answered(1)
    }),
    case("9113 5.1", "generic: RST_STREAM on a half-closed (remote) stream", |peer| {
        after_get(peer, Frame::reset(1, code::CANCEL))?;
        peer.alive()
    }),
    case("9113 5.1", "generic: PRIORITY on a closed stream", |peer| {
        peer.begin()?;
        peer.exchange(1)?;
        peer.send(&Frame::priority(1, 0, 255));
        peer.alive()
    }),
    case("9113 6.1", "generic: DATA", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Peer::body(1)]);
        peer.answered(1)
    }),
    case("9113 6.1", "generic: DATA several times", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::data(1, flag::NONE, *b"te"), Frame::data(1, flag::NONE, *b"st")]);
        peer.send(&Frame::data(1, flag::END_STREAM, []));
        peer.answered(1)
    }),
    case("9113 6.1", "generic: DATA with padding", |peer| {
        peer.begin()?;
        peer.send(&peer.post(1));
        peer.send(&Frame::data(1, flag::PADDED | flag::END_STREAM, *b"\x06test\0\0\0\0\0\0"));
        peer.answered(1)
    }),
    case("9113 6.2", "generic: HEADERS", |peer| {
        peer.begin()?;
        peer.send(&peer.get(1));
        peer.answered(1)
    }),
    case("9113 6.2", "generic: HEADERS with padding", |peer| {
        peer.begin()?;
        let padded = [&[3][..], &peer.request("GET", &[]), &[0; 3]].concat();
        peer.send(&Frame::headers(1, WHOLE | flag::PADDED, &padded));
        peer.answered(1)
    }),
    case("9113 6.2", "generic: HEADERS with a priority", |peer| {
        peer.begin()?;
        let block = [&[0, 0, 0, 0, 255][..], &peer.request("GET", &[])].concat();
        peer.send(&Frame::headers(1, WHOLE | flag::PRIORITY, &block));
        peer.answered(1)
    }),
    case("9113 6.3", "generic: PRIORITY of weight 1", |peer| priority(peer, &Frame::priority(1, 0, 0))),
    case("9113 6.3", "generic: PRIORITY of weight 256", |peer| priority(peer, &Frame::priority(1, 0, 255))),
    case("9113 6.3", "generic: PRIORITY with a dependency", |peer| priority(peer, &Frame::priority(1, 3, 15))),
    case("9113 6.3", "generic: PRIORITY with an exclusive dependency", |peer| {
        priority(peer, &Frame::priority(1, EXCLUSIVE | 3, 15))
    }),
    case("9113 6.3", "generic: PRIORITY for an idle stream, then HEADERS on a lower one", |peer| {
        priority(peer, &Frame::priority(5, 0, 255))
    }),
    case("9113 6.4", "generic: RST_STREAM", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::reset(1, code::CANCEL)]);
        peer.alive()
    }),
    case("9113 6.5", "generic: SETTINGS", |peer| {
        peer.begin()?;
        acknowledged(peer)
    }),
    case("9113 6.7", "generic: PING", |peer| {
        peer.begin()?;
        peer.alive()
    }),
    case("9113 6.8", "generic: GOAWAY", |peer| {
        peer.begin()?;
        peer.send(&Frame::goaway(0, code::NO_ERROR));
        peer.alive_or_closed()
    }),
    case("9113 6.9", "generic: WINDOW_UPDATE of the connection", |peer| {
        peer.begin()?;
        peer.send(&Frame::window(0, 1));
        peer.alive()
    }),
    case("9113 6.9", "generic: WINDOW_UPDATE of a stream", |peer| {
        peer.begin()?;
        peer.send_all(&[peer.post(1), Frame::window(1, 1), Peer::body(1)]);
        peer.answered(1)
    }),
    case("9113 6.10", "generic: CONTINUATION", |peer| in_pieces(peer, 2)),
    case("9113 6.10", "generic: CONTINUATION twice", |peer| in_pieces(peer, 3)),
    case("9113 8.1", "generic: GET", |peer| {
        peer.begin()?;
        peer.send(&peer.get(1));
        peer.answered(1)
    }),
    case("9113 8.1", "generic: HEAD", |peer| {
        peer.begin()?;
        peer.send(&Frame::headers(1, WHOLE, &peer.request("HEAD", &[])));
        let seen = peer.answered(1);
        let body = peer.frames.seen.iter().any(|frame| frame.kind == kind::DATA && !frame.payload.is_empty());
        if body { Err("answered with a body".to_owned()) } else { seen }
    }),
    case("9113 8.1", "generic: POST", |peer| {
        peer.begin()?;
        let head = peer.request("POST", &[("content-length", "4")]);
        peer.send_all(&[Frame::headers(1, flag::END_HEADERS, &head), Peer::body(1)]);
        peer.answered(1)
    }),
    case("9113 8.1", "generic: POST with trailers", |peer| {
        peer.begin()?;
        let trailers = hpack::literal(&[("x-checksum", "1")]);
        peer.send_all(&[peer.post(1), Frame::data(1, flag::NONE, *b"test"), Frame::headers(1, WHOLE, &trailers)]);
        saw(peer, "saw-trailers", "1")
    }),
    case("7541 6.1", "generic: an indexed field", |peer| form(peer, |_| hpack::indexed(16), None)),
    case("7541 6.2.1", "generic: a literal with indexing, known name", |peer| agent(peer, 6, 0x40, plain)),
    case("7541 6.2.1", "generic: a literal with indexing, known name, Huffman", |peer| agent(peer, 6, 0x40, coded)),
    case("7541 6.2.1", "generic: a literal with indexing, new name", |peer| custom(peer, 0x40, plain)),
    case("7541 6.2.1", "generic: a literal with indexing, new name, Huffman", |peer| custom(peer, 0x40, coded)),
    case("7541 6.2.2", "generic: a literal without indexing, known name", |peer| agent(peer, 4, 0, plain)),
    case("7541 6.2.2", "generic: a literal without indexing, known name, Huffman", |peer| agent(peer, 4, 0, coded)),
    case("7541 6.2.2", "generic: a literal without indexing, new name", |peer| custom(peer, 0, plain)),
    case("7541 6.2.2", "generic: a literal without indexing, new name, Huffman", |peer| custom(peer, 0, coded)),
    case("7541 6.2.3", "generic: a literal never indexed, known name", |peer| agent(peer, 4, 0x10, plain)),
    case("7541 6.2.3", "generic: a literal never indexed, known name, Huffman", |peer| agent(peer, 4, 0x10, coded)),
    case("7541 6.2.3", "generic: a literal never indexed, new name", |peer| custom(peer, 0x10, plain)),
    case("7541 6.2.3", "generic: a literal never indexed, new name, Huffman", |peer| custom(peer, 0x10, coded)),
    case("7541 6.3", "generic: a change of the table's size", |peer| resized(peer, &[128])),
    case("7541 6.3", "generic: two changes of the table's size", |peer| resized(peer, &[128, 4096])),
];

/// A GET and, in the same write, `frame`.
fn after_get(peer: &mut Peer, frame: Frame) -> Result<(), String> {
    peer.begin()?;
    peer.send_all(&[peer.get(1), frame]);
    Ok(())
}

/// PRIORITY, then a request on stream 3, which is answered.
fn priority(peer: &mut Peer, frame: &Frame) -> Seen {
    peer.begin()?;
    peer.send(frame);
    peer.send(&peer.get(3));
    peer.answered(3)
}

/// SETTINGS are acknowledged, beside those of the preface.
pub(super) fn acknowledged(peer: &mut Peer) -> Seen {
    let is_ack = |frame: &Frame| frame.kind == kind::SETTINGS && frame.has(flag::ACK);
    if !peer.frames.seen.iter().any(is_ack) {
        peer.expect("an acknowledgement of the first SETTINGS", is_ack)?;
    }
    peer.send(&Frame::settings(&[(setting::MAX_CONCURRENT_STREAMS, 100)]));
    peer.expect("an acknowledgement", is_ack)?;
    Ok("acknowledged".to_owned())
}

/// A GET whose field block comes in `pieces`.
fn in_pieces(peer: &mut Peer, pieces: usize) -> Seen {
    peer.begin()?;
    let block = peer.request("GET", &[("custom-key", "in pieces")]);
    let parts: Vec<_> = block.chunks(block.len().div_ceil(pieces)).collect();
    peer.send(&Frame::headers(1, flag::END_STREAM, parts[0]));
    for (number, part) in parts.iter().enumerate().skip(1) {
        let flags = if number + 1 == parts.len() { flag::END_HEADERS } else { flag::NONE };
        peer.send(&Frame::continuation(1, flags, part));
    }
    saw(peer, "saw-custom-key", "in pieces")
}

/// The application answers stream 1, and has seen a field.
fn saw(peer: &mut Peer, name: &str, value: &str) -> Seen {
    let head = peer.answer(1)?;
    if peer.answers == Answers::Anything {
        return Ok("answered".to_owned());
    }
    match head.field(name) {
        Some(seen) if seen == value => Ok(format!("answered, {name}: {value}")),
        seen => Err(format!("{name} is {seen:?} in place of {value}")),
    }
}

/// A GET with pseudo-fields of the static table, and a field in the form in question.
fn form(peer: &mut Peer, field: impl Fn(&Peer) -> Vec<u8>, seen: Option<(&str, &str)>) -> Seen {
    peer.begin()?;
    // GET, http, /; and the authority's name.
    let pseudo = [0x82, 0x86, 0x84, 0x01].into_iter().chain(hpack::string(b"web"));
    let block = [pseudo.collect(), field(peer), peer.rest()].concat();
    peer.send(&Frame::headers(1, WHOLE, &block));
    match seen {
        Some((name, value)) => saw(peer, name, value),
        None => peer.answered(1),
    }
}

/// `user-agent` by its number in the static table, 58, in a prefix of `bits`.
fn agent(peer: &mut Peer, bits: u32, first: u8, string: fn(Text) -> Vec<u8>) -> Seen {
    let field = |_: &Peer| [hpack::integer(58, bits, first), string(Text::Value)].concat();
    form(peer, field, Some(("saw-user-agent", "custom-value")))
}

/// `custom-key` by its name.
fn custom(peer: &mut Peer, first: u8, string: fn(Text) -> Vec<u8>) -> Seen {
    let field = |_: &Peer| [vec![first], string(Text::Key), string(Text::Value)].concat();
    form(peer, field, Some(("saw-custom-key", "custom-value")))
}

/// Sizes that the server does not allow become the largest that it does.
fn resized(peer: &mut Peer, sizes: &[usize]) -> Seen {
    peer.begin()?;
    let most = allowed(peer, setting::HEADER_TABLE_SIZE).unwrap_or(4096);
    let sizes: Vec<_> = sizes.iter().flat_map(|&size| hpack::table_size(size.min(most))).collect();
    peer.send(&Frame::headers(1, WHOLE, &[sizes, peer.request("GET", &[])].concat()));
    peer.answered(1)
}

/// The strings of RFC 7541, C.4.3.
#[derive(Clone, Copy)]
enum Text {
    Key,
    Value,
}

fn plain(text: Text) -> Vec<u8> {
    hpack::string(match text {
        Text::Key => b"custom-key",
        Text::Value => b"custom-value",
    })
}

fn coded(text: Text) -> Vec<u8> {
    hpack::huffman(match text {
        Text::Key => &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f],
        Text::Value => &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf],
    })
}

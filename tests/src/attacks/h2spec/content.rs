//! Requests that are no requests (RFC 9113, 8).

use super::{Case, Peer, Seen, case};
use crate::frames::code::PROTOCOL_ERROR;
use crate::frames::{Frame, flag, hpack, kind};

const WHOLE: u8 = flag::END_HEADERS | flag::END_STREAM;
const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/");
const AUTHORITY: (&str, &str) = (":authority", "web");

pub(super) const CASES: &[Case] = &[
    case("9113 8.1", "a second HEADERS without END_STREAM", |peer| {
        peer.begin()?;
        let trailers = hpack::literal(&[("x-test", "ok")]);
        peer.send_all(&[peer.post(1), Frame::data(1, flag::NONE, *b"test")]);
        peer.send(&Frame::headers(1, flag::END_HEADERS, &trailers));
        peer.malformed(1)
    }),
    case("9113 8.2", "a field name in upper case", |peer| with(peer, ("X-TEST", "ok"))),
    case("9113 8.3", "an unknown pseudo-field", |peer| {
        fields(peer, &[METHOD, SCHEME, PATH, AUTHORITY, (":test", "ok")])
    }),
    case("9113 8.3", "a pseudo-field of responses", |peer| {
        fields(peer, &[METHOD, SCHEME, PATH, AUTHORITY, (":status", "200")])
    }),
    case("9113 8.3", "a pseudo-field in trailers", |peer| {
        peer.begin()?;
        let trailers = hpack::literal(&[("x-test", "ok"), METHOD]);
        peer.send_all(&[peer.post(1), Frame::data(1, flag::NONE, *b"test"), Frame::headers(1, WHOLE, &trailers)]);
        peer.malformed(1)
    }),
    case("9113 8.3", "a pseudo-field after other fields", |peer| {
        fields(peer, &[METHOD, SCHEME, AUTHORITY, ("x-test", "ok"), PATH])
    }),
    case("9113 8.2.2", "a field of the connection", |peer| with(peer, ("connection", "keep-alive"))),
    case("9113 8.2.2", "TE other than trailers", |peer| with(peer, ("te", "trailers, deflate"))),
    case("9113 8.3.1", "an empty :path", |peer| fields(peer, &[METHOD, SCHEME, (":path", ""), AUTHORITY])),
    case("9113 8.3.1", "no :method", |peer| fields(peer, &[SCHEME, PATH, AUTHORITY])),
    case("9113 8.3.1", "no :scheme", |peer| fields(peer, &[METHOD, PATH, AUTHORITY])),
    case("9113 8.3.1", "no :path", |peer| fields(peer, &[METHOD, SCHEME, AUTHORITY])),
    case("9113 8.3.1", ":method twice", |peer| fields(peer, &[METHOD, SCHEME, PATH, AUTHORITY, METHOD])),
    case("9113 8.3.1", ":scheme twice", |peer| fields(peer, &[METHOD, SCHEME, PATH, AUTHORITY, SCHEME])),
    case("9113 8.3.1", ":path twice", |peer| fields(peer, &[METHOD, SCHEME, PATH, AUTHORITY, PATH])),
    case("9113 8.1.1", "content-length that is not that of DATA", |peer| {
        length(peer, &[Frame::data(1, flag::END_STREAM, *b"test")])
    }),
    case("9113 8.1.1", "content-length that is not that of DATA in several frames", |peer| {
        length(peer, &[Frame::data(1, flag::NONE, *b"te"), Frame::data(1, flag::END_STREAM, *b"st")])
    }),
    case("9113 8.4", "PUSH_PROMISE of a client", |peer| {
        peer.begin()?;
        let promised = [&2_u32.to_be_bytes()[..], &peer.request("GET", &[])].concat();
        peer.send_all(&[peer.post(1), Frame::new(kind::PUSH_PROMISE, flag::END_HEADERS, 1, promised)]);
        peer.connection_error(&[PROTOCOL_ERROR])
    }),
];

/// A GET with these fields is malformed.
fn fields(peer: &mut Peer, fields: &[(&str, &str)]) -> Seen {
    peer.begin()?;
    peer.send(&Frame::headers(1, WHOLE, &peer.block(fields)));
    peer.malformed(1)
}

/// A GET with this field besides is malformed.
fn with(peer: &mut Peer, field: (&str, &str)) -> Seen {
    fields(peer, &[METHOD, SCHEME, PATH, AUTHORITY, field])
}

/// A POST that promises one byte, and `body`.
fn length(peer: &mut Peer, body: &[Frame]) -> Seen {
    peer.begin()?;
    peer.send(&Frame::headers(1, flag::END_HEADERS, &peer.request("POST", &[("content-length", "1")])));
    peer.send_all(body);
    peer.malformed(1)
}

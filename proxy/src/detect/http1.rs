//! Is this an HTTP/1 request line (RFC 9112 3)?
//!
//! Invariant: every decision is made at one byte, left to right; a line longer than [`LINE`] is decided by its shape.
//! Absent: any check of the target or of the headers; hyper answers those with a 400.

use super::Verdict;

/// Methods longer than this are not HTTP for us; the longest registered one (`UPDATEREDIRECTREF`) has 17 letters.
const METHOD: usize = 32;

/// A line this long without an end is judged by the shape of its target.
const LINE: usize = 8 * 1024;

/// Empty lines that a server should skip before the request line (RFC 9112 2.2).
const EMPTY_LINES: usize = 2;

/// Judges the bytes as an HTTP/1 request line after at most [`EMPTY_LINES`] empty ones.
pub(super) fn request_line(bytes: &[u8]) -> Verdict {
    let mut line = bytes;
    for _ in 0..EMPTY_LINES {
        match line {
            [b'\r', b'\n', rest @ ..] => line = rest,
            [b'\r'] => return Verdict::NeedMore,
            _ => break,
        }
    }
    match method(line) {
        Method::Ends { at } => target_and_version(&line[at + 1..], LINE - at - 1),
        Method::Goes => Verdict::NeedMore,
        Method::Not => Verdict::Opaque,
    }
}

enum Method {
    /// A method, with its space at index `at`, which is at most [`METHOD`].
    Ends {
        at: usize,
    },
    Goes,
    Not,
}

fn method(line: &[u8]) -> Method {
    for (at, byte) in line.iter().enumerate() {
        match byte {
            b' ' if at > 0 => return Method::Ends { at },
            _ if at == METHOD => return Method::Not,
            b'A'..=b'Z' => {}
            b'0'..=b'9' | b'-' | b'_' if at > 0 => {}
            _ => return Method::Not,
        }
    }
    Method::Goes
}

/// Judges what follows the method's space; the line may have `room` more bytes before its end.
fn target_and_version(rest: &[u8], room: usize) -> Verdict {
    let seen = &rest[..rest.len().min(room)];
    let shape = shape(seen);
    for (at, byte) in seen.iter().enumerate() {
        match byte {
            b'\n' => return version(&seen[..at]),
            // The last byte of a line that ends with CRLF.
            b'\r' => {}
            // No text of HTTP, and a message may well end here. But a request for `/` with a NUL in it is a bad request
            // and not a stream of bytes, so the end of the line decides about it.
            0..0x20 | 0x7f if matches!(shape, Shape::Other) => return Verdict::Opaque,
            _ => {}
        }
    }
    match shape {
        _ if seen.len() < room => Verdict::NeedMore,
        Shape::Http => Verdict::Http1,
        Shape::Short | Shape::Other => Verdict::Opaque,
    }
}

/// What the first bytes of a target say about it.
enum Shape {
    /// `/..`, `*`, `http://..`, `https://..`.
    Http,
    /// Too short to tell: so far a prefix of a scheme.
    Short,
    /// Anything else, for example `CONNECT`'s `host:port`, or a key.
    Other,
}

fn shape(target: &[u8]) -> Shape {
    if matches!(target.first(), Some(b'/' | b'*')) {
        return Shape::Http;
    }
    let mut shape = Shape::Other;
    for scheme in [&b"http://"[..], b"https://"] {
        let common = target.len().min(scheme.len());
        if target[..common].eq_ignore_ascii_case(&scheme[..common]) {
            if common == scheme.len() {
                return Shape::Http;
            }
            shape = Shape::Short;
        }
    }
    shape
}

/// Judges a whole line, without its LF and without its method.
fn version(line: &[u8]) -> Verdict {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") { Verdict::Http1 } else { Verdict::Opaque }
}

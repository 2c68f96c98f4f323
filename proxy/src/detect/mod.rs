//! The first bytes of a connection, read: which protocol do they speak?
//!
//! Invariant: a verdict once given holds for every longer input (`detect` is a scan from the left that never looks past
//! the byte that decides), and it is given at the earliest byte that can decide, because a client that speaks first may
//! be waiting for an answer to what it has already sent. Judging whether the message is *valid* is the parsers' work:
//! what is shaped like HTTP is called HTTP even when it deserves a 400, so that a broken request is not laundered as
//! bytes.
//!
//! Absent: time. How long to wait for more bytes, and what silence means, is for the caller.

mod http1;
mod tls;

#[cfg(test)]
mod tests;

/// At this many bytes the verdict is never [`Verdict::NeedMore`]; bytes after them are not looked at.
pub const MAX: usize = 16 * 1024;

/// What a client says first when it knows that the server speaks HTTP/2 (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An HTTP/1.0 or HTTP/1.1 request line.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// A TLS ClientHello.
    Tls {
        /// The server name in lower case; `None` when there is none, when it is no host name, or when it does not come
        /// within [`MAX`] bytes.
        sni: Option<Box<str>>,
    },
    /// Anything else: bytes to be passed on as they are.
    Opaque,
    /// The bytes so far can still become more than one of the others.
    NeedMore,
}

/// Reads the protocol off the prefix of a connection's bytes. Total, and monotone in the length of the input.
pub fn detect(bytes: &[u8]) -> Verdict {
    let bytes = &bytes[..bytes.len().min(MAX)];
    match bytes.first() {
        None => Verdict::NeedMore,
        Some(&tls::HANDSHAKE) => tls::client_hello(bytes),
        // Both begin with an upper-case letter, so whoever is still a prefix of the preface may be HTTP/1 as well
        // (`PRI` is a well-formed method).
        Some(_) if bytes.starts_with(PREFACE) => Verdict::Http2,
        Some(_) if PREFACE.starts_with(bytes) => Verdict::NeedMore,
        Some(_) => http1::request_line(bytes),
    }
}

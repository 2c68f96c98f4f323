//! Requests with two readings: whoever follows the other one finds `GET /smuggled` as a request of its own.
//!
//! Source of the classes: RFC 9112 section 11.2 and the records that the yardstick lists (hyper CVE-2021-32714 and -32715,
//! HAProxy CVE-2021-40346 and CVE-2023-40225, Pingora CVE-2026-2835, Envoy CVE-2019-9900).

use super::Case;
use super::Right::{self, Cut, Either, Refuse, Serve};

/// The request that must not come to be; 37 bytes, 25 in hexadecimal.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n";

const NONE: &[&str] = &[];
const ONE: &[&str] = &["/a"];
const BOTH: &[&str] = &["/a", "/smuggled"];

/// Field lines of a POST whose body, by whichever reading, is [`SMUGGLED`] as it is.
const LENGTHS: &[(&str, Right)] = &[
    ("Content-Length: 37", Serve(ONE)),
    ("Content-Length:\t 37 \t", Serve(ONE)),
    ("CONTENT-LENGTH: 37", Serve(ONE)),
    ("Content-Length: 0037", Either(ONE)),
    ("Content-Length: 0", Serve(BOTH)),
    ("X-None: 1", Serve(BOTH)),
    ("Content_Length: 37", Serve(BOTH)),
    ("Content-Length: +37", Refuse(NONE)),
    ("Content-Length: -37", Refuse(NONE)),
    ("Content-Length: -0", Refuse(NONE)),
    ("Content-Length: 0x25", Refuse(NONE)),
    ("Content-Length: 0b100101", Refuse(NONE)),
    ("Content-Length: 3_7", Refuse(NONE)),
    ("Content-Length: 3 7", Refuse(NONE)),
    ("Content-Length: 37.0", Refuse(NONE)),
    ("Content-Length: 37e0", Refuse(NONE)),
    ("Content-Length: \"37\"", Refuse(NONE)),
    ("Content-Length: 37;", Refuse(NONE)),
    ("Content-Length: \u{663}\u{667}", Refuse(NONE)),
    ("Content-Length: \u{a0}37", Refuse(NONE)),
    ("Content-Length:", Refuse(NONE)),
    ("Content-Length: chunked", Refuse(NONE)),
    ("Content-Length: 18446744073709551616", Refuse(NONE)),
    ("Content-Length: 18446744073709551653", Refuse(NONE)),
    ("Content-Length: 37, 37", Either(ONE)),
    ("Content-Length: 37, 0", Refuse(NONE)),
    ("Content-Length: ,37", Refuse(NONE)),
    ("Content-Length: 37,", Refuse(NONE)),
    ("Content-Length: 37\r\nContent-Length: 37", Either(ONE)),
    ("Content-Length: 37\r\nContent-Length: 0", Refuse(NONE)),
    ("Content-Length: 0\r\nContent-Length: 37", Refuse(NONE)),
    ("Content-Length: 37\r\nContent-Length:", Refuse(NONE)),
    ("Content-Length: 37\r\ncontent-length: 037", Either(ONE)),
    ("Content-Length : 37", Refuse(NONE)),
    ("Content-Length\t: 37", Refuse(NONE)),
    ("Content-Length\u{b}: 37", Refuse(NONE)),
    ("Content-Length\0: 37", Refuse(NONE)),
    ("Content-Length: 37\u{b}", Refuse(NONE)),
    ("Content-Length: 37\0", Refuse(NONE)),
    ("Content-Length:\r\n 37", Refuse(NONE)),
    ("Content-Length: 3\r\n 7", Refuse(NONE)),
    ("X: 1\nContent-Length: 37", Refuse(NONE)),
    ("X: 1\rContent-Length: 37", Refuse(NONE)),
    ("X: 1\0\r\nContent-Length: 37", Refuse(NONE)),
    (": 1\r\nContent-Length: 37", Refuse(NONE)),
    ("Connection: close, content-length\r\nContent-Length: 37", Serve(ONE)),
];

/// Field lines of a POST whose body is [`SMUGGLED`] as one chunk.
const ENCODINGS: &[(&str, Right)] = &[
    ("Transfer-Encoding: chunked", Serve(ONE)),
    ("Transfer-Encoding: CHUNKED", Serve(ONE)),
    ("transfer-encoding:\t chunked \t", Serve(ONE)),
    ("Connection: transfer-encoding\r\nTransfer-Encoding: chunked", Serve(ONE)),
    ("Transfer-Encoding: xchunked", Refuse(NONE)),
    ("Transfer-Encoding: chunkedx", Refuse(NONE)),
    ("Transfer-Encoding: chunk", Refuse(NONE)),
    ("Transfer-Encoding: chunked, chunked", Refuse(NONE)),
    ("Transfer-Encoding: gzip, chunked", Refuse(NONE)),
    ("Transfer-Encoding: chunked, gzip", Refuse(NONE)),
    ("Transfer-Encoding: chunked;q=1", Refuse(NONE)),
    ("Transfer-Encoding: identity", Refuse(NONE)),
    ("Transfer-Encoding: identity, chunked", Refuse(NONE)),
    ("Transfer-Encoding: ,chunked", Refuse(NONE)),
    ("Transfer-Encoding: chunked,", Refuse(NONE)),
    ("Transfer-Encoding: \"chunked\"", Refuse(NONE)),
    ("Transfer-Encoding:", Refuse(NONE)),
    ("Transfer-Encoding: \u{b}chunked", Refuse(NONE)),
    ("Transfer-Encoding: \u{c}chunked", Refuse(NONE)),
    ("Transfer-Encoding: chunked\u{b}", Refuse(NONE)),
    ("Transfer-Encoding: \0chunked", Refuse(NONE)),
    ("Transfer-Encoding: chunked\0", Refuse(NONE)),
    ("Transfer-Encoding: chunked\u{7f}", Refuse(NONE)),
    ("Transfer-Encoding: \u{a0}chunked", Refuse(NONE)),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Refuse(NONE)),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", Refuse(NONE)),
    ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", Refuse(NONE)),
    ("Transfer-Encoding:\r\n chunked", Refuse(NONE)),
    ("Transfer-Encoding: chun\r\n ked", Refuse(NONE)),
    ("Transfer-Encoding : chunked", Refuse(NONE)),
    ("Transfer-Encoding\0: chunked", Refuse(NONE)),
    ("X: 1\nTransfer-Encoding: chunked", Refuse(NONE)),
    ("X: 1\rTransfer-Encoding: chunked", Refuse(NONE)),
    // Both: the length wins, or the chunks do; a proxy may go by the chunks, or refuse.
    ("Content-Length: 4\r\nTransfer-Encoding: chunked", Either(ONE)),
    ("Transfer-Encoding: chunked\r\nContent-Length: 4", Either(ONE)),
    ("Content-Length: 0\r\nTransfer-Encoding: chunked", Either(ONE)),
    ("Content-Length: 48\r\nTransfer-Encoding: Chunked", Either(ONE)),
    ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\nContent-Length: 4", Either(ONE)),
    ("Transfer-Encoding: chunked\r\nContent-Length: x", Either(ONE)),
    ("Content-Length: 4\r\nTransfer-Encoding: xchunked", Refuse(NONE)),
];

/// Whole messages: `⏎` is CRLF, `{S}` is [`SMUGGLED`].
const MESSAGES: &[(&str, &str, Right)] = &[
    (
        "the length ends where the chunks do, then a request",
        "POST /a HTTP/1.1⏎Host: web⏎Content-Length: 5⏎Transfer-Encoding: chunked⏎⏎0⏎⏎{S}",
        Refuse(NONE),
    ),
    ("chunks in HTTP/1.0", "POST /a HTTP/1.0⏎Host: web⏎Transfer-Encoding: chunked⏎⏎25⏎{S}⏎0⏎⏎", Refuse(NONE)),
    ("a GET with a body", "GET /a HTTP/1.1⏎Host: web⏎Content-Length: 37⏎⏎{S}", Serve(ONE)),
    ("a GET in chunks", "GET /a HTTP/1.1⏎Host: web⏎Transfer-Encoding: chunked⏎⏎25⏎{S}⏎0⏎⏎", Serve(ONE)),
    ("a HEAD with a body", "HEAD /a HTTP/1.1⏎Host: web⏎Content-Length: 37⏎⏎{S}", Serve(ONE)),
    ("an OPTIONS with a body", "OPTIONS /a HTTP/1.1⏎Host: web⏎Content-Length: 37⏎⏎{S}", Serve(ONE)),
    (
        "a body that nobody awaits after Expect",
        "POST /a HTTP/1.1⏎Host: web⏎Expect: 100-continue⏎Content-Length: 37⏎⏎{S}",
        Serve(ONE),
    ),
    ("Expect without a body", "GET /a HTTP/1.1⏎Host: web⏎Expect: 100-continue⏎⏎{S}", Serve(BOTH)),
    (
        "Expect of something else",
        "POST /a HTTP/1.1⏎Host: web⏎Expect: 100-continuex⏎Content-Length: 37⏎⏎{S}",
        Either(ONE),
    ),
    ("two requests and a body between them", "POST /a HTTP/1.1⏎Host: web⏎Content-Length: 3⏎⏎abc{S}", Serve(BOTH)),
    (
        "a chunk that is longer than its size",
        "POST /a HTTP/1.1⏎Host: web⏎Transfer-Encoding: chunked⏎⏎3⏎abc0⏎⏎{S}",
        Refuse(NONE),
    ),
    (
        "a length in trailers",
        "POST /a HTTP/1.1⏎Host: web⏎Transfer-Encoding: chunked⏎⏎0⏎Content-Length: 37⏎⏎{S}",
        Serve(BOTH),
    ),
    (
        "an encoding and a Host in trailers",
        "POST /a HTTP/1.1⏎Host: web⏎Trailer: transfer-encoding, host⏎Transfer-Encoding: chunked⏎⏎0⏎Transfer-Encoding: chunked⏎Host: other⏎⏎{S}",
        Serve(BOTH),
    ),
    ("a trailer with LF alone", "POST /a HTTP/1.1⏎Host: web⏎Transfer-Encoding: chunked⏎⏎0⏎X: 1\n⏎{S}", Refuse(NONE)),
    ("a body that is cut", "POST /a HTTP/1.1⏎Host: web⏎Content-Length: 100⏎⏎{S}", Cut),
    ("chunks that are cut", "POST /a HTTP/1.1⏎Host: web⏎Transfer-Encoding: chunked⏎⏎26⏎{S}", Cut),
    ("a head that ends with LF alone", "POST /a HTTP/1.1⏎Host: web⏎\n{S}", Refuse(NONE)),
    ("a request line that ends with LF alone", "GET /a HTTP/1.1\nHost: web⏎⏎{S}", Refuse(NONE)),
    (
        "a good request, then two readings",
        "GET /a HTTP/1.1⏎Host: web⏎⏎POST /b HTTP/1.1⏎Host: web⏎Content-Length: +37⏎⏎{S}",
        Refuse(ONE),
    ),
    ("a good request, then LF alone", "GET /a HTTP/1.1⏎Host: web⏎⏎GET /b HTTP/1.1⏎Host: web\nX: 1⏎⏎{S}", Refuse(ONE)),
    ("a space before the first field", "POST /a HTTP/1.1⏎ Content-Length: 37⏎Host: web⏎⏎{S}", Refuse(NONE)),
    ("a folded Host", "POST /a HTTP/1.1⏎Host: web⏎ Content-Length: 37⏎⏎{S}", Refuse(NONE)),
];

/// All of them.
#[must_use]
pub fn cases() -> Vec<Case> {
    let post = |fields: &str, body: &str| format!("POST /a HTTP/1.1\r\nHost: web\r\n{fields}\r\n\r\n{body}");
    let chunk = format!("25\r\n{SMUGGLED}\r\n0\r\n\r\n");
    let lengths = LENGTHS.iter().map(|(fields, right)| Case::new(*fields, post(fields, SMUGGLED), right.clone()));
    let encodings = ENCODINGS.iter().map(|(fields, right)| Case::new(*fields, post(fields, &chunk), right.clone()));
    let whole = |text: &str| text.replace("{S}", SMUGGLED).replace('⏎', "\r\n");
    let messages = MESSAGES.iter().map(|(name, text, right)| Case::new(*name, whole(text), right.clone()));
    lengths.chain(encodings).chain(messages).collect()
}

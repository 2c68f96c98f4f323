//! What RFC 9112 and RFC 9110 say about requests, one by one, and bytes that are hardly HTTP.
//!
//! `⏎` is CRLF. What the standards leave to the reader is `Either`.

use super::Case;
use super::Right::{self, Cut, Either, Refuse, Serve};

const NONE: &[&str] = &[];
const A: &[&str] = &["/a"];

/// Request lines before `⏎Host: web⏎⏎`.
const LINES: &[(&str, Right)] = &[
    ("GET /a HTTP/1.1", Serve(A)),
    ("GET /a HTTP/1.0", Serve(A)),
    ("⏎GET /a HTTP/1.1", Serve(A)),
    ("⏎⏎GET /a HTTP/1.1", Either(A)),
    ("\nGET /a HTTP/1.1", Either(A)),
    (" GET /a HTTP/1.1", Refuse(NONE)),
    ("GET  /a HTTP/1.1", Either(A)),
    ("GET /a  HTTP/1.1", Either(A)),
    ("GET\t/a HTTP/1.1", Either(A)),
    ("GET /a\tHTTP/1.1", Either(A)),
    ("GET /a HTTP/1.1 ", Either(A)),
    ("GET /a HTTP/1.1\t", Either(A)),
    ("GET\u{b}/a HTTP/1.1", Either(A)),
    ("GET /a", Refuse(NONE)),
    ("GET /a ", Refuse(NONE)),
    ("GET /a http/1.1", Refuse(NONE)),
    ("GET /a HTTP/1.2", Either(A)),
    ("GET /a HTTP/2.0", Refuse(NONE)),
    ("GET /a HTTP/0.9", Refuse(NONE)),
    ("GET /a HTTP/1", Refuse(NONE)),
    ("GET /a HTTP/01.1", Refuse(NONE)),
    ("GET /a HTTP/1.10", Refuse(NONE)),
    ("GET /a HTTP/1.1x", Refuse(NONE)),
    ("GET /a HTTP/ 1.1", Refuse(NONE)),
    ("GET /a HTTPS/1.1", Refuse(NONE)),
    ("FOO /a HTTP/1.1", Serve(A)),
    ("get /a HTTP/1.1", Serve(A)),
    ("G(T /a HTTP/1.1", Refuse(NONE)),
    ("G\u{1}T /a HTTP/1.1", Refuse(NONE)),
    (" /a HTTP/1.1", Refuse(NONE)),
    ("GET a HTTP/1.1", Refuse(NONE)),
    ("GET web:80 HTTP/1.1", Refuse(NONE)),
    ("GET * HTTP/1.1", Refuse(NONE)),
    ("OPTIONS * HTTP/1.1", Serve(&["*"])),
    ("GET /a#b HTTP/1.1", Refuse(NONE)),
    ("GET /a b HTTP/1.1", Refuse(NONE)),
    ("GET /a\u{1} HTTP/1.1", Refuse(NONE)),
    ("GET /a\u{7f} HTTP/1.1", Refuse(NONE)),
    ("GET /a\0 HTTP/1.1", Refuse(NONE)),
    ("GET /\u{e9} HTTP/1.1", Refuse(NONE)),
    ("GET /a%zz HTTP/1.1", Either(&["/a%zz"])),
    ("GET /a%00 HTTP/1.1", Either(&["/a%00"])),
    ("GET /a\\b HTTP/1.1", Either(&["/a\\b"])),
    ("GET //a HTTP/1.1", Serve(&["//a"])),
    ("GET /../a HTTP/1.1", Serve(&["/../a"])),
    ("GET /a?b=c&d=/?e HTTP/1.1", Serve(&["/a?b=c&d=/?e"])),
    ("GET http://web/a HTTP/1.1", Serve(&["http://web/a"])),
    ("GET http://user@web/a HTTP/1.1", Refuse(NONE)),
    ("GET http:///a HTTP/1.1", Refuse(NONE)),
    ("GET http://web:99999/a HTTP/1.1", Refuse(NONE)),
    ("GET HTTP/1.1", Refuse(NONE)),
];

/// Fields of `GET /a HTTP/1.1`, Host among them or not.
const FIELDS: &[(&str, Right)] = &[
    ("X: 1", Refuse(NONE)),
    ("Host:", Refuse(NONE)),
    ("Host: web⏎Host: web", Refuse(NONE)),
    ("Host: web⏎Host: other", Refuse(NONE)),
    ("Host: fd00::1", Refuse(NONE)),
    ("Host: web\tother", Refuse(NONE)),
    ("Host: web:-1", Refuse(NONE)),
    ("Host: web.", Serve(A)),
    ("Host: [fd00::1]:80", Serve(A)),
    ("Host: web⏎X:", Serve(A)),
    ("Host: web⏎X:1", Serve(A)),
    ("Host: web⏎X: \u{e9}", Either(A)),
    ("Host: web⏎X: a\u{1}b", Refuse(NONE)),
    ("Host: web⏎X: a\0b", Refuse(NONE)),
    ("Host: web⏎X: a\u{7f}b", Refuse(NONE)),
    ("Host: web⏎X: a\rb", Refuse(NONE)),
    ("Host: web⏎X: a⏎ b", Either(A)),
    ("Host: web⏎X : 1", Refuse(NONE)),
    ("Host: web⏎X\t: 1", Refuse(NONE)),
    ("Host: web⏎X(a): 1", Refuse(NONE)),
    ("Host: web⏎X a: 1", Refuse(NONE)),
    ("Host: web⏎X\u{e9}: 1", Refuse(NONE)),
    ("Host: web⏎X", Refuse(NONE)),
    ("Host: web⏎: 1", Refuse(NONE)),
    ("Host: web\nX: 1", Either(A)),
];

/// Bytes that are hardly HTTP.
const MALFORMED: &[(&str, &str, Right)] = &[
    ("a response", "HTTP/1.1 200 OK⏎Content-Length: 0⏎⏎", Refuse(NONE)),
    ("a field first", "Host: web⏎⏎", Refuse(NONE)),
    ("JSON", "{\"a\": 1}⏎⏎", Refuse(NONE)),
    ("NUL", "\0\0\0\0⏎⏎", Refuse(NONE)),
    ("text", "hello, world⏎⏎", Refuse(NONE)),
    ("a number", "1⏎⏎", Refuse(NONE)),
    ("a method", "GET⏎⏎", Refuse(NONE)),
    ("a target", "/a⏎⏎", Refuse(NONE)),
    ("a version", "HTTP/1.1⏎⏎", Refuse(NONE)),
    ("a colon", ":⏎⏎", Refuse(NONE)),
    ("spaces", "   ⏎⏎", Refuse(NONE)),
    ("DEL", "\u{7f}⏎⏎", Refuse(NONE)),
    ("letters of no ASCII", "\u{416}ET /a HTTP/1.1⏎Host: web⏎⏎", Refuse(NONE)),
    ("a mark of byte order", "\u{feff}GET /a HTTP/1.1⏎Host: web⏎⏎", Refuse(NONE)),
    ("the head twice without an end", "GET /a HTTP/1.1⏎GET /a HTTP/1.1⏎Host: web⏎⏎", Refuse(NONE)),
    ("a bracket", "[⏎⏎", Refuse(NONE)),
    ("a redis command", "*1⏎$4⏎PING⏎", Refuse(NONE)),
    ("a mail client", "EHLO web⏎", Refuse(NONE)),
    ("a request in CR alone", "GET /a HTTP/1.1\rHost: web\r\r", Refuse(NONE)),
    ("CR at the end of a line", "GET /a HTTP/1.1\r⏎Host: web⏎⏎", Refuse(NONE)),
    ("nothing", "", Cut),
    ("empty lines", "⏎⏎", Cut),
    ("the begin of a request line", "GET /a HT", Cut),
    ("a request line", "GET /a HTTP/1.1⏎", Cut),
    ("a head without its end", "GET /a HTTP/1.1⏎Host: web⏎", Cut),
    ("a field without its end", "GET /a HTTP/1.1⏎Host: web⏎X: 1", Cut),
];

fn crlf(text: &str) -> String {
    text.replace('⏎', "\r\n")
}

/// What the standards say of one request.
#[must_use]
pub fn cases() -> Vec<Case> {
    let line = |(line, right): &(&str, Right)| {
        Case::new(format!("{line:?}"), crlf(&format!("{line}⏎Host: web⏎⏎")), right.clone())
    };
    let fields = |(fields, right): &(&str, Right)| {
        Case::new(format!("{fields:?}"), crlf(&format!("GET /a HTTP/1.1⏎{fields}⏎⏎")), right.clone())
    };
    LINES.iter().map(line).chain(FIELDS.iter().map(fields)).collect()
}

/// How many Host fields (R15): one.
#[must_use]
pub fn hosts() -> Vec<Case> {
    let request = |name: &str, hosts: &str, right: Right| {
        Case::new(name, format!("GET /a HTTP/1.1\r\n{hosts}X: 1\r\n\r\n"), right)
    };
    vec![
        request("none", "", Right::Refuse(&[])),
        request("two that agree", "Host: web\r\nHost: web\r\n", Right::Refuse(&[])),
        request("two that differ", "Host: web\r\nHost: other\r\n", Right::Refuse(&[])),
        request("an empty one", "Host:\r\n", Right::Refuse(&[])),
        request("an empty one and a good one", "Host: \r\nHost: web\r\n", Right::Refuse(&[])),
        request("one", "Host: web\r\n", Right::Serve(&["/a"])),
    ]
}

/// What is hardly HTTP.
#[must_use]
pub fn malformed() -> Vec<Case> {
    MALFORMED.iter().map(|(name, text, right)| Case::new(*name, crlf(text), right.clone())).collect()
}

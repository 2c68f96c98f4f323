//! Chunks as no standard spells them, in requests and in responses.
//!
//! Source of the classes: hyper CVE-2021-32714, Go CVE-2025-22871, Kestrel CVE-2025-55315, Apache CVE-2015-3183.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::oracle;
use super::{Case, Right};
use crate::netns::Host;
use crate::raw::{self, Server};
use crate::yardstick::Front;

/// Bodies in chunks, each with one fault.
pub const SPELLINGS: [&str; 36] = [
    "0x3\r\nabc\r\n0\r\n\r\n",
    "+3\r\nabc\r\n0\r\n\r\n",
    "-3\r\nabc\r\n0\r\n\r\n",
    "3_\r\nabc\r\n0\r\n\r\n",
    "_3\r\nabc\r\n0\r\n\r\n",
    " 3\r\nabc\r\n0\r\n\r\n",
    "3 \r\nabc\r\n0\r\n\r\n",
    "\t3\r\nabc\r\n0\r\n\r\n",
    "3\t\r\nabc\r\n0\r\n\r\n",
    "3h\r\nabc\r\n0\r\n\r\n",
    "3.0\r\nabc\r\n0\r\n\r\n",
    "\"3\"\r\nabc\r\n0\r\n\r\n",
    "3,3\r\nabc\r\n0\r\n\r\n",
    "\u{663}\r\nabc\r\n0\r\n\r\n",
    "\r\nabc\r\n0\r\n\r\n",
    ";a\r\nabc\r\n0\r\n\r\n",
    "00000000000000003\r\nabc\r\n0\r\n\r\n",
    "10000000000000003\r\nabc\r\n0\r\n\r\n",
    "3\nabc\r\n0\r\n\r\n",
    "3\rabc\r\n0\r\n\r\n",
    "3;a\nabc\r\n0\r\n\r\n",
    "3;a\rb\r\nabc\r\n0\r\n\r\n",
    "3;a\0\r\nabc\r\n0\r\n\r\n",
    "3 a\r\nabc\r\n0\r\n\r\n",
    "3\r\nabcd\r\n0\r\n\r\n",
    "3\r\nab\r\n0\r\n\r\n",
    "3\r\nabc\n0\r\n\r\n",
    "3\r\nabc\r0\r\n\r\n",
    "3\r\nabc0\r\n\r\n",
    "3\r\nabc\r\n-0\r\n\r\n",
    "3\r\nabc\r\n0\n\r\n",
    "3\r\nabc\r\n0\r\n\n",
    "3\r\nabc\r\n0\r\n\rX",
    "3\r\nabc\r\n0\r\nX : 1\r\n\r\n",
    "3\r\nabc\r\n0\r\n: 1\r\n\r\n",
    "3\r\nabc\r\n0\r\nX: 1\n\r\n",
];

/// Requests in such chunks, with a request behind them that must not come to be.
#[must_use]
pub fn uploads() -> Vec<Case> {
    let upload = |body: &str| {
        let head = "POST /a HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n";
        let behind = "GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n";
        Case::new(format!("{body:?}"), [head, body, behind].concat(), Right::Refuse(&[]))
    };
    SPELLINGS.iter().map(|body| upload(body)).collect()
}

/// A back end that answers `GET /N` with the N-th spelling, and says which of its connections answered anything else.
pub struct Speller {
    /// The server.
    pub server: Server,
    last: Arc<AtomicUsize>,
}

/// What became of a response in such chunks.
#[derive(Clone, Debug)]
pub struct Download {
    /// What the client got.
    pub answer: String,
    /// The client took it for a whole answer with 200.
    pub taken: bool,
    /// A later request came on the connection of the malformed response.
    pub reused: bool,
}

impl Speller {
    /// Listens on `port` of `host`.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(host: &Host, port: u16) -> Self {
        let last = Arc::new(AtomicUsize::new(usize::MAX));
        let bad = Arc::clone(&last);
        let server = Server::start(host, port, move |mut conversation| {
            loop {
                let head = conversation.head()?;
                let target = head.split(' ').nth(1).unwrap_or_default();
                match target.strip_prefix('/').and_then(|nth| SPELLINGS.get(nth.parse::<usize>().ok()?)) {
                    Some(body) => {
                        bad.store(conversation.number, Ordering::Relaxed);
                        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                        conversation.say([head, body].concat().as_bytes())?;
                    }
                    None => {
                        let number = conversation.number.to_string();
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{number}", number.len());
                        conversation.say(head.as_bytes())?;
                    }
                }
            }
        });
        Self { server, last }
    }
}

/// Asks for the `nth` spelling, then for something else until an answer says that another connection gave it.
#[must_use]
pub fn download(front: &Front, speller: &Speller, nth: usize) -> Download {
    let ask = |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
        raw::send(&front.client, front.addr, request.as_bytes()).unwrap_or_default()
    };
    let answer = ask(&format!("/{nth}"));
    let bad = speller.last.load(Ordering::Relaxed).to_string().into_bytes();
    let taken = oracle::whole_answer(&answer).is_some_and(|(status, _)| status == 200);
    let next = oracle::whole_answer(&ask("/next"));
    let reused = next.is_none_or(|(status, by)| status != 200 || by == bad);
    Download { answer: String::from_utf8_lossy(&answer).into_owned(), taken, reused }
}

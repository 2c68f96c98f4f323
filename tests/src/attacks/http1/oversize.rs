//! Heads and trailers that are larger than anybody needs.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::{Case, Outcome, Right, Seen};
use crate::client::PATIENCE;
use crate::yardstick::{Front, count};

const KIB: usize = 1 << 10;

fn request(target: &str, fields: &str, behind: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: web\r\n{fields}\r\n{behind}")
}

fn url(length: usize) -> Case {
    let bytes = request(&format!("/{}", "a".repeat(length - 1)), "", "");
    Case::new(format!("a target of {} KiB", length / KIB), bytes, Right::Refuse(&[]))
}

fn fields(count: usize) -> Case {
    let fields: String = (0..count - 1).map(|nth| format!("x-{nth}: 1\r\n")).collect();
    Case::new(format!("{count} fields"), request("/a", &fields, ""), Right::Refuse(&[]))
}

fn trailers(count: usize, length: usize) -> Case {
    let trailers: String = (0..count).map(|nth| format!("x-{nth}: {}\r\n", "t".repeat(length))).collect();
    let bytes = request("/a", "Transfer-Encoding: chunked\r\n", &format!("0\r\n{trailers}\r\n"));
    Case::new(format!("{count} trailers of {length} bytes"), bytes, Right::Refuse(&[]))
}

/// A field of `length` bytes.
#[must_use]
pub fn cookie(length: usize) -> Case {
    let bytes = request("/a", &format!("Cookie: {}\r\n", "c".repeat(length)), "");
    Case::new(format!("a cookie of {} KiB", length / KIB), bytes, Right::Refuse(&[]))
}

/// What every proxy has to take: a long target, a long field, many fields.
#[must_use]
pub fn large() -> Vec<Case> {
    let serve = |case: Case, target: &'static [&'static str]| Case { right: Right::Serve(target), ..case };
    vec![serve(cookie(8 * KIB), &["/a"]), serve(fields(90), &["/a"]), serve(trailers(10, 100), &["/a"])]
}

/// What no proxy should.
#[must_use]
pub fn oversize() -> Vec<Case> {
    let targets = [64, 128, 256, 512, 1024].map(|kib| url(kib * KIB));
    let others = [
        fields(101),
        fields(10_000),
        cookie(64 * KIB),
        cookie(1024 * KIB),
        trailers(10_000, 1),
        trailers(1, 1024 * KIB),
    ];
    targets.into_iter().chain(others).collect()
}

/// Whether a head that is too large was refused with a status that says so. A client that goes on sending may see the reset
/// before the answer.
#[must_use]
pub fn is_refused(seen: &Seen, case: &Case) -> bool {
    let reset = seen.statuses.is_empty() && seen.closed && seen.arrived.is_empty() && seen.contaminated.is_none();
    matches!(seen.outcome(case), Outcome::Refused(400 | 414 | 431)) || reset
}

/// What many large heads at once cost.
#[derive(Clone, Copy, Debug)]
pub struct Weight {
    /// KiB for each of them.
    pub each: u64,
    /// How many there were.
    pub all: usize,
    /// How many got an answer of any kind.
    pub answered: usize,
}

impl Weight {
    /// The most that one may cost, KiB: twice the largest head that the mesh takes.
    pub const MOST: u64 = 2 * 64;

    /// Sends them.
    #[must_use]
    pub fn of(front: &Front) -> Self {
        let (all, bytes) = (count(32, 200), cookie(KIB * KIB).bytes);
        let before = front.proxy.resident();
        front.proxy.forget_peak();
        let answered = flood(front, all, &bytes);
        Self { each: front.proxy.peak().saturating_sub(before) / all as u64, all, answered }
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB for each of {} heads at once, {} of them answered", self.each, self.all, self.answered)
    }
}

/// So many connections send `bytes` at the same time, and wait for the end. How many got an answer of any kind.
fn flood(front: &Front, connections: usize, bytes: &[u8]) -> usize {
    let one = || {
        let mut stream = TcpStream::connect_timeout(&front.addr, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        // Who refuses need not take all of it.
        let _ = stream.write_all(bytes);
        let mut first = [0; 12];
        stream.read_exact(&mut first).ok()
    };
    front.client.enter(|| {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..connections).map(|_| scope.spawn(one)).collect();
            all.into_iter().filter_map(|one| one.join().ok().flatten()).count()
        })
    })
}

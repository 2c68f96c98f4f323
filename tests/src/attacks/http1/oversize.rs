//! Heads and trailers that are larger than anybody needs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::{Case, Right};
use crate::client::PATIENCE;
use crate::yardstick::Front;

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

/// So many connections send `bytes` at the same time, and wait for the end. How many got an answer of any kind.
#[must_use]
pub fn flood(front: &Front, connections: usize, bytes: &[u8]) -> usize {
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

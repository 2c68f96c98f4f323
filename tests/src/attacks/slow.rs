//! Clients that take their time, in each phase of a connection.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::connections::{EACH, STEP, hold};
use crate::netns::Host;
use crate::yardstick::{Front, Process, count};

/// One phase: what is said at once, and what is said byte by byte after it.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// In the table's words.
    pub name: &'static str,
    /// At once.
    pub hello: &'static [u8],
    /// Byte by byte, round and round; nothing where it is empty.
    pub drip: &'static [u8],
    /// Whether what comes back is read before the end.
    pub reads: bool,
    /// What one client may cost at most, KiB.
    pub costs: u64,
}

/// What one may cost whose request has not come, KiB.
const FEW: u64 = 20;
/// One who has an exchange, HTTP/1 at both ends: hyper has four buffers and a channel for it, and each takes a page at least.
const EXCHANGE: u64 = 32;
/// One whose answer is under way: it fills the write buffer of 64 KiB, and the window on the tunnel, 256 KiB.
const ANSWER: u64 = 400;

/// A head.
pub const HEAD: Phase =
    Phase { name: "head", hello: b"GET / HTTP/1.1\r\nhost: web\r\nx: ", drip: b"slow", reads: true, costs: FEW };
/// A body that does not go on.
pub const BODY: Phase = Phase {
    name: "body",
    hello: b"POST /count HTTP/1.1\r\nhost: web\r\ncontent-length: 1000\r\n\r\nbegun",
    drip: b"",
    reads: true,
    costs: EXCHANGE,
};
/// An answer that nobody reads.
pub const READ: Phase = Phase {
    name: "slow read",
    hello: b"GET /endless HTTP/1.1\r\nhost: web\r\n\r\n",
    drip: b"",
    reads: false,
    costs: ANSWER,
};
/// The beginning of HTTP/2's preface.
pub const PREFACE: Phase =
    Phase { name: "h2 preface", hello: b"PRI * HTTP/2.0\r\n", drip: b"", reads: true, costs: FEW };
/// The header of a TLS record with a hello of 512 bytes, which do not come.
pub const HELLO: Phase =
    Phase { name: "TLS hello", hello: &[22, 3, 1, 2, 4, 1, 0, 2, 0, 3, 3], drip: &[7], reads: true, costs: FEW };
/// Nothing at all.
pub const SILENCE: Phase = Phase { name: "silence", hello: b"", drip: b"", reads: true, costs: FEW };

/// For facts that a busy machine brings about late.
const LATE: Duration = Duration::from_secs(30);

/// So long after all were let go, those that were reset have been told.
const SETTLED: Duration = Duration::from_secs(3);

/// What a slow client may cost here, KiB.
#[must_use]
pub fn allowed(phase: Phase) -> u64 {
    match phase.costs {
        // A debug build's futures are larger.
        FEW => count(26, FEW),
        more => more,
    }
}

/// As many as fit: at both ends of a sidecar in this process, or at three daemons at once. Answers that nobody reads fill buffers of
/// the kernel's, which has so much for all connections of the machine: were that used up, everybody on it would wait.
#[must_use]
pub fn clients(phase: Phase) -> usize {
    let most = count(200, Process::most_connections(10_000, 3));
    if phase.reads { most } else { most.min(buffers() / UNREAD) }
}

/// What an answer that nobody reads fills at both ends and in between.
const UNREAD: usize = 2 << 20;

/// What connections may have in buffers before the kernel becomes sparing: the first figure of `tcp_mem`, in pages. All, where it
/// is not said.
fn buffers() -> usize {
    const PAGE: usize = 4096;
    let said = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").unwrap_or_default();
    let pages = said.split_whitespace().next().and_then(|pages| pages.parse::<usize>().ok());
    pages.map_or(usize::MAX, |pages| pages * PAGE)
}

/// One byte of each client in so long.
#[must_use]
pub fn pace() -> Duration {
    Duration::from_millis(count(250, 5000))
}

/// Until the last one of them is ended: before that, all have to be opened.
#[must_use]
pub fn patience(clients: usize) -> Duration {
    LATE + Duration::from_millis(10) * u32::try_from(clients).unwrap_or(0)
}

/// All clients in `phase` at once, and KiB that each has cost the proxy of `front` at most.
#[must_use]
pub fn attack(front: &Front, addr: SocketAddr, phase: Phase) -> (Ends, u64) {
    let (process, clients) = (front.proxy, clients(phase));
    let (idle, mut most) = (process.anonymous(), 0);
    let (files, mut most_files) = (process.files(), 0);
    let look = || {
        let now = process.files();
        (most, most_files) = (most.max(process.anonymous()), most_files.max(now));
        !phase.reads && most_files >= files + clients && now <= files + 5
    };
    let ends = drip(&front.client, addr, (phase, clients), (pace(), patience(clients)), look);
    (ends, most.saturating_sub(idle) / clients as u64)
}

/// How the connections of an attack have ended.
#[derive(Debug, Default)]
pub struct Ends {
    /// Those that had come about.
    pub connected: usize,
    /// Of those, how many have been ended by the far end in time.
    pub ended: usize,
    /// How long the first one and the last one took, from their begin.
    pub first: Duration,
    /// See `first`.
    pub last: Duration,
    /// The last bytes that one of them was told.
    pub told: String,
    /// When the far end held none of them any more, of those that do not read: behind bytes that nobody takes, only a reset shows.
    pub let_go: Option<Duration>,
}

/// Holds `count` connections in `phase`, one byte every `pace`, until all have been ended or `patience` is over. `look` is
/// called in between, and says whether the far end holds none of them any more.
///
/// # Panics
/// When this process may not have so many files.
pub fn drip(
    host: &Host,
    addr: SocketAddr,
    (phase, count): (Phase, usize),
    (pace, patience): (Duration, Duration),
    mut look: impl FnMut() -> bool,
) -> Ends {
    let (begin, mut streams) = (Instant::now(), Vec::new());
    // Not faster than a flood of connections comes: to be many is not what these are about.
    for begun in (0..count).step_by(STEP) {
        let due = EACH * u32::try_from(begun).unwrap_or(u32::MAX);
        thread::sleep(due.saturating_sub(begin.elapsed()));
        streams.extend(hold(host, addr, STEP.min(count - begun), phase.hello).open);
    }
    let mut ends = Ends { connected: streams.len(), ..Ends::default() };
    let mut drops = phase.drip.iter().cycle();
    let rests = |let_go: Option<Duration>| let_go.is_some_and(|since| begin.elapsed() > since + SETTLED);
    while !streams.is_empty() && !rests(ends.let_go) && begin.elapsed() < patience {
        thread::sleep(pace);
        ends.let_go = look().then(|| ends.let_go.unwrap_or_else(|| begin.elapsed()));
        let drop = drops.next().copied();
        streams.retain_mut(|stream| {
            let lives =
                drop.is_none_or(|byte| stream.write_all(&[byte]).is_ok()) && !has_ended(stream, phase, &mut ends);
            if !lives {
                ends.ended += 1;
                ends.last = begin.elapsed();
                if ends.first.is_zero() {
                    ends.first = ends.last;
                }
            }
            lives
        });
    }
    look();
    ends
}

fn has_ended(stream: &mut TcpStream, phase: Phase, ends: &mut Ends) -> bool {
    let error = |stream: &TcpStream| stream.take_error().ok().flatten();
    if !phase.reads {
        return error(stream).is_some();
    }
    let mut chunk = [0; 1024];
    let _ = stream.set_nonblocking(true);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return true,
            Ok(n) => ends.told = String::from_utf8_lossy(&chunk[..n]).into_owned(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return true,
        }
    }
    let _ = stream.set_nonblocking(false);
    false
}

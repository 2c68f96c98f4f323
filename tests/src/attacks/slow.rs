//! Clients that take their time, in each phase of a connection.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::connections::hold;
use crate::netns::Host;

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
}

/// Holds `count` connections in `phase`, one byte every `pace`, until all have been ended or `patience` is over. `look` is
/// called in between.
///
/// # Panics
/// When this process may not have so many files.
pub fn drip(
    host: &Host,
    addr: SocketAddr,
    (phase, count): (Phase, usize),
    (pace, patience): (Duration, Duration),
    mut look: impl FnMut(),
) -> Ends {
    let begin = Instant::now();
    let mut streams = hold(host, addr, count, phase.hello).open;
    let mut ends = Ends { connected: streams.len(), ..Ends::default() };
    let mut drops = phase.drip.iter().cycle();
    while !streams.is_empty() && begin.elapsed() < patience {
        thread::sleep(pace);
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
        look();
    }
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

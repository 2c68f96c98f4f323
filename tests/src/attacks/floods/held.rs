//! Answers that their client does not take (R7), and many clients with large heads who do the same (R4).

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::rounds::{BOMBS, bomb, request};
use crate::attacks::h2spec::Target;
use crate::frames::{Connection, Read, flag, kind, setting};
use crate::yardstick::{Beside, Counts};

/// Bytes of each answer that is not taken.
const ANSWER: u64 = 8 << 20;
/// Of all of them.
const ALL: u64 = STREAMS as u64 * ANSWER;
/// What an answer that nobody takes may cost, KiB.
const EACH: u64 = 400;
/// Streams of one connection.
pub const STREAMS: usize = 100;

/// What became of answers that nobody took.
#[derive(Debug, Default)]
pub struct Held {
    /// Answers that began.
    pub begun: usize,
    /// Streams that were reset.
    pub resets: usize,
    /// The connection was closed.
    pub closed: bool,
    /// From the last request to the last of these.
    pub took: Duration,
    /// Bytes that the back end got rid of.
    pub pushed: u64,
}

impl Held {
    /// How many streams have ended.
    #[must_use]
    pub fn ended(&self) -> usize {
        if self.closed { STREAMS } else { self.resets }
    }

    /// What the row does not allow about what was seen.
    #[must_use]
    pub fn fault(seen: &Beside<Self>) -> Option<String> {
        let (ended, pushed) = (seen.result.ended(), seen.result.pushed);
        let faults = [
            (ended < STREAMS).then(|| format!("{} streams go on", STREAMS - ended)),
            // What it has sent and nobody took is in the kernel's buffers, or in the proxy's.
            (pushed >= ALL).then(|| "nobody held the back end back".to_owned()),
            (each(seen) > EACH).then(|| format!("more than {EACH} KiB of each stream")),
        ];
        faults.into_iter().flatten().next().or_else(|| seen.fault())
    }

    /// What was seen, in the table's words.
    #[must_use]
    pub fn figure(seen: &Beside<Self>) -> String {
        let Self { took, pushed, .. } = &seen.result;
        let (each, ended) = (each(seen), seen.result.ended());
        let sent = format!("the back end sent {} of {} MiB", pushed >> 20, ALL >> 20);
        format!("{each} KiB of each stream, {sent}, {ended} streams ended after {took:.0?}; {}", seen.polite)
    }
}

/// KiB of each stream.
fn each(seen: &Beside<Held>) -> u64 {
    seen.grown / STREAMS as u64
}

/// R7: asks for [`STREAMS`] answers of 8 MiB, takes nothing of any, and waits until all streams are ended or `patience` is
/// over. `back` is what the back end counts.
///
/// # Errors
/// When no connection begins.
pub fn hold_answers(target: &Target, back: &Counts, patience: Duration) -> io::Result<Held> {
    let pushed = back.pushed.load(Relaxed);
    let mut peer = (target.dial)()?;
    peer.begin(&[(setting::INITIAL_WINDOW_SIZE, 0)])?;
    let path = format!("/bytes/{ANSWER}");
    for nth in 0..STREAMS {
        peer.send(&request(nth, flag::END_STREAM, &target.request(&path)));
    }
    let (begin, mut held) = (Instant::now(), Held::default());
    while held.ended() < STREAMS {
        let left = patience.saturating_sub(begin.elapsed());
        peer.patience(left);
        match peer.read() {
            Read::Frame(frame) if frame.kind == kind::RST_STREAM => held.resets += 1,
            Read::Frame(frame) => held.begun += usize::from(frame.status().is_some()),
            Read::Closed(_) => held.closed = true,
            Read::Silence => break,
        }
        held.took = begin.elapsed();
    }
    held.pushed = back.pushed.load(Relaxed) - pushed;
    Ok(held)
}

/// R4: so many peers, each of whom holds [`STREAMS`] streams with heads that just fit, whose answers it does not let come. Those
/// that were let in.
#[must_use]
pub fn crowd(target: &Target, peers: usize) -> Vec<Connection> {
    let begin = |nth: usize| {
        let mut peer = (target.dial)().ok()?;
        peer.begin(&[(setting::INITIAL_WINDOW_SIZE, 0)]).ok()?;
        let name = BOMBS[nth % BOMBS.len()];
        // A hundredth of the fields that a head may have, so that none is refused for their number.
        let size = if name == "one large entry" { 56 << 10 } else { 3 << 10 };
        for stream in 0..STREAMS {
            if !peer.write(&bomb(name, stream, size, &target.request("/bytes/65536"))) {
                break;
            }
        }
        Some(peer)
    };
    (0..peers).filter_map(begin).collect()
}

//! One flood: what it sends, what came of it, and whether the row allows that.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use crate::attacks::h2spec::Target;
use crate::frames::{Connection, Frame, Read, code, kind};
use crate::yardstick::Beside;

/// What is sent waits no longer than this: a far end that takes nothing throttles.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);

/// What goes over one connection, again and again.
pub struct Flood<'a> {
    /// The row of the yardstick.
    pub row: u8,
    /// The case, in the table's words.
    pub name: String,
    /// How often it is done.
    pub rounds: usize,
    /// How many resets the far end may send.
    pub resets: usize,
    /// Whether the connection has to end.
    pub must_end: bool,
    /// How many rounds may get through.
    pub most: usize,
    /// What the process may grow by, KiB.
    pub memory: u64,
    /// What it may use of a processor.
    pub cpu: Duration,
    /// From what was sent last to the end of the connection, if it ends.
    pub within: Duration,
    pub(super) settings: &'static [(u16, u32)],
    pub(super) first: Vec<u8>,
    /// Rounds in one write.
    pub(super) batch: usize,
    /// Reads only when all is sent.
    pub(super) deaf: bool,
    pub(super) round: Box<dyn Fn(usize) -> Vec<u8> + 'a>,
}

/// What a flood came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How often it was done before it could be done no more.
    pub done: usize,
    /// The code of GOAWAY, if it came.
    pub goaway: Option<u32>,
    /// How many streams were reset.
    pub resets: usize,
    /// The last status.
    pub status: Option<u16>,
    /// Whether the far end closed the connection; by FIN or by RST.
    pub closed: Option<ErrorKind>,
    /// From the last thing that was sent to the end of the connection.
    pub took: Duration,
    /// The far end reads no more: nothing can be sent, and nothing comes.
    pub throttled: bool,
}

impl Flood<'_> {
    /// Sends all rounds, and reads to the end of the connection, or until nothing comes for a second.
    ///
    /// # Errors
    /// When no connection begins.
    pub fn run(&self, target: &Target) -> io::Result<Outcome> {
        let mut peer = (target.dial)()?;
        peer.begin(self.settings)?;
        peer.write(&self.first);
        Ok(self.pour(&mut peer))
    }

    fn pour(&self, peer: &mut Connection) -> Outcome {
        let mut outcome = Outcome::default();
        let _ = peer.socket().set_write_timeout(Some(TAKEN_WITHIN));
        peer.patience(Duration::from_millis(1));
        while outcome.done < self.rounds {
            let until = (outcome.done + self.batch).min(self.rounds);
            let bytes: Vec<u8> = (outcome.done..until).flat_map(&self.round).collect();
            if !peer.write(&bytes) {
                break;
            }
            outcome.done = until;
            if !self.deaf {
                while outcome.note(peer.read()) {}
                if outcome.closed.is_some() {
                    break;
                }
            }
        }
        let sent = Instant::now();
        peer.patience(Duration::from_secs(1));
        while outcome.note(peer.read()) {}
        outcome.took = sent.elapsed();
        outcome.throttled = outcome.done < self.rounds && outcome.closed.is_none();
        outcome
    }

    /// What the row does not allow about what was seen.
    #[must_use]
    pub fn fault(&self, seen: &Beside<Outcome>) -> Option<String> {
        let (Self { resets, most, memory, cpu, within, .. }, Outcome { done, closed, took, .. }) = (self, &seen.result);
        let faults = [
            (self.must_end && closed.is_none()).then(|| "the connection goes on".to_owned()),
            (done > most).then(|| format!("more than {most} got through")),
            (seen.result.resets > *resets).then(|| format!("more than {resets} resets")),
            (seen.grown > *memory).then(|| format!("grew by more than {memory} KiB")),
            (seen.cpu > *cpu).then(|| format!("{:.1?} of CPU", seen.cpu)),
            (closed.is_some() && took > within).then(|| format!("closed {took:.1?} after the last of it")),
        ];
        faults.into_iter().flatten().next().or_else(|| seen.fault())
    }

    /// What was seen, in the table's words; `more` is the row's own.
    #[must_use]
    pub fn figure(&self, seen: &Beside<Outcome>, more: &str) -> String {
        let Outcome { done, resets, .. } = &seen.result;
        let resets = if *resets == 0 { String::new() } else { format!(", {resets} resets") };
        let end = seen.result.end();
        format!("{end} after {done} of {}{resets}{more}; grew by {} KiB; {}", self.rounds, seen.grown, seen.polite)
    }
}

impl Outcome {
    /// How the connection ended.
    #[must_use]
    pub fn end(&self) -> String {
        match (self.goaway, self.closed, self.throttled, self.status) {
            (Some(code), ..) => format!("GOAWAY {}", word(code)),
            (_, Some(_), ..) => "closed".to_owned(),
            (_, _, true, _) => "held back".to_owned(),
            (.., Some(status)) => format!("answered {status}"),
            _ => "all taken".to_owned(),
        }
    }

    /// Whether there may be more.
    fn note(&mut self, read: Read) -> bool {
        match read {
            Read::Frame(frame) => {
                match frame.kind {
                    kind::GOAWAY => self.goaway = frame.code(),
                    kind::RST_STREAM => self.resets += 1,
                    _ => self.status = Frame::status(&frame).or(self.status),
                }
                true
            }
            Read::Closed(kind) => {
                self.closed = Some(kind);
                false
            }
            Read::Silence => false,
        }
    }
}

/// An error code in words.
fn word(code: u32) -> &'static str {
    match code {
        code::NO_ERROR => "no_error",
        code::ENHANCE_YOUR_CALM => "enhance_your_calm",
        code::PROTOCOL_ERROR => "protocol_error",
        code::FLOW_CONTROL_ERROR => "flow_control_error",
        code::FRAME_SIZE_ERROR => "frame_size_error",
        code::COMPRESSION_ERROR => "compression_error",
        code::STREAM_CLOSED => "stream_closed",
        code::INTERNAL_ERROR => "internal_error",
        _ => "other",
    }
}

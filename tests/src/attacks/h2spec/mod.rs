//! Conformance of an HTTP/2 server: 147 cases after RFC 9113 and RFC 7541, each a conversation frame by frame.
//!
//! Invariant: a case has a connection of its own, and passes only by what came over the wire. Where the RFC leaves a choice, any
//! allowed one passes: a connection may be closed for what is an error of a stream alone (5.4.1), and the general codes
//! `PROTOCOL_ERROR` and `INTERNAL_ERROR` may stand for a more specific one (5.4).
//! Non-goal: what the application behind sees; `hpack` and `generic` look at its answers.

mod back_end;
mod behind;
mod client_side;
mod content;
mod control;
mod generic;
mod hpack;
mod peer;
mod states;

use std::io;
use std::time::Duration;

pub use back_end::{BODY, back_end};
pub use behind::{Accept, Answer, ClientOutcome, behind};
pub use client_side::{App, CLIENT_CASES, ClientCase, Sent};
pub use peer::{Peer, Seen};

use crate::client::PATIENCE;
use crate::frames::{Connection, GET};
use crate::yardstick::Front;

/// One case.
pub struct Case {
    /// Where the rule is: `9113 6.5.2`.
    pub rfc: &'static str,
    /// What the client does.
    pub name: &'static str,
    /// Does it, and looks.
    pub run: fn(&mut Peer) -> Seen,
}

/// How a case went: what was seen, or what should have been.
pub struct Outcome {
    /// The case.
    pub case: &'static Case,
    /// What was seen.
    pub seen: Seen,
}

/// A way to a server.
pub struct Target<'a> {
    /// Connects, without a word.
    pub dial: Box<dyn Fn() -> io::Result<Connection> + Sync + 'a>,
    /// Fields that each request needs to get to the application.
    pub fields: Vec<(String, String)>,
    /// What answers.
    pub answers: Answers,
}

/// What answers requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// [`back_end()`]: what it has seen is looked at, and its body is counted.
    BackEnd,
    /// Anything that answers with 200: an answer is all that is asked for, and it need not have a body.
    Anything,
}

const fn case(rfc: &'static str, name: &'static str, run: fn(&mut Peer) -> Seen) -> Case {
    Case { rfc, name, run }
}

/// All cases in their order: generic (44), HTTP/2 (95), HPACK (8).
pub const CASES: [&[Case]; 5] = [generic::CASES, states::CASES, control::CASES, content::CASES, hpack::CASES];

impl<'a> Target<'a> {
    /// The way through a proxy in cleartext.
    #[must_use]
    pub fn front(front: &'a Front) -> Self {
        Self {
            dial: Box::new(|| Connection::dial(&front.client, front.addr)),
            fields: Vec::new(),
            answers: Answers::BackEnd,
        }
    }

    /// The fields of a GET for `path` that gets to the application.
    #[must_use]
    pub fn request<'b>(&'b self, path: &'b str) -> Vec<(&'b str, &'b str)> {
        let plain = GET.iter().map(|(name, value)| (*name, if *name == ":path" { path } else { *value }));
        plain.chain(self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))).collect()
    }
}

/// Runs all cases one after the other. The back end is [`back_end()`].
#[must_use]
pub fn run(target: &Target) -> Vec<Outcome> {
    CASES.into_iter().flatten().map(|case| Outcome { case, seen: one(target, case, PATIENCE) }).collect()
}

fn one(target: &Target, case: &Case, patience: Duration) -> Seen {
    let mut frames = (target.dial)().map_err(|error| format!("no connection: {error}"))?;
    frames.patience(patience);
    (case.run)(&mut Peer::new(frames, &target.fields, target.answers))
}

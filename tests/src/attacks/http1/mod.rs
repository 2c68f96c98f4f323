//! HTTP/1 as attackers write it: tables of messages, a back end that records, and one try of a message.
//!
//! Invariant: each entry says what a proxy has to do with it, by RFC 9110, RFC 9112 and the yardstick; nothing here knows
//! what the mesh does.

pub mod answered;
pub mod attempt;
pub mod chunks;
pub mod compliance;
pub mod early;
pub mod fields;
pub mod oracle;
pub mod recorder;
pub mod smuggling;

pub use attempt::{Outcome, Seen, attempt};
pub use recorder::{Arrived, Recorder};

/// A message, or several, as they are written on a new connection.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is odd about it.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What has to become of them.
    pub right: Right,
    /// A field that the first request carries when it arrives: its name, and its values as they have to arrive.
    pub carries: Option<(&'static str, &'static [&'static str])>,
}

/// What has to become of a case's bytes: which requests reach the back end, by their targets, and how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// These requests are served; then the next thing on the connection is refused, and the connection is closed.
    Refuse(&'static [&'static str]),
    /// Exactly these are served.
    Serve(&'static [&'static str]),
    /// These are served, or the last of them is refused: the standards allow for both.
    Either(&'static [&'static str]),
    /// The message is cut short: no request arrives whole.
    Cut,
}

impl Case {
    /// A case of a table.
    #[must_use]
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>, right: Right) -> Self {
        Self { name: name.into(), bytes: bytes.into(), right, carries: None }
    }
}

//! The figures of rows, for `tests/RELIABILITY.md`.
//!
//! Invariant: recording never fails a test; a run without `YARDSTICK` records nothing.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;

use serde_json::json;

/// Whose figure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Ours.
    Mesh,
    /// Envoy.
    Envoy,
    /// `HAProxy`.
    Haproxy,
}

impl Who {
    /// In the table's words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
        }
    }
}

/// Appends one figure of a row to the file that `YARDSTICK` names, as a line of JSON.
///
/// `row` is the number of the yardstick, `case` the part of the row ("rapid reset, inbound"), `figure` what was seen in a few
/// words ("GOAWAY after 21 resets, 0.3 MiB").
pub fn record(row: u8, case: &str, who: Who, held: bool, figure: &str) {
    let Some(path) = file() else { return };
    let line = json!({ "row": row, "case": case, "who": who.name(), "held": held, "figure": figure });
    // One write, so that lines of tests that run at once do not mix.
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        eprintln!("recording row {row}: {error}");
    }
}

/// Whether this run records.
#[must_use]
pub fn is_recording() -> bool {
    file().is_some()
}

#[expect(clippy::disallowed_methods, reason = "a switch of the test's own")]
fn file() -> Option<OsString> {
    std::env::var_os("YARDSTICK").filter(|path| !path.is_empty())
}

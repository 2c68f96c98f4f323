//! `promtool`, Prometheus's own judge of metric pages.
//!
//! Invariant: whatever it says is returned, also its warnings.
//! Non-goal: rules and queries.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// What `promtool check metrics` finds in a page; empty when it likes it.
///
/// # Panics
/// When promtool is not installed.
#[must_use]
pub fn findings(page: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().and_then(|mut child| {
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(page.as_bytes()))?;
        child.wait_with_output()
    });
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    let failed = if output.status.success() { String::new() } else { format!("{}: ", output.status) };
    failed + &String::from_utf8_lossy(&said)
}

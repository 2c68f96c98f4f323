//! Recorded figures -> the table.
//!
//! Invariant: of several figures of one case the last counts, so a run may be repeated in part.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::rows::{ROWS, Row};

/// A figure of a row, as `yardstick::record` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) row: u8,
    pub(crate) case: String,
    pub(crate) who: String,
    pub(crate) held: bool,
    pub(crate) figure: String,
}

impl Record {
    /// As it was read.
    pub(crate) fn line(&self) -> Value {
        let Self { row, case, who, held, figure } = self;
        serde_json::json!({ "row": row, "case": case, "who": who, "held": held, "figure": figure })
    }
}

/// Reads lines of JSON.
pub(crate) fn parse(text: &str) -> anyhow::Result<Vec<Record>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| record(&serde_json::from_str(line)?)).collect()
}

fn record(value: &Value) -> anyhow::Result<Record> {
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let parsed = (value["row"].as_u64().and_then(|row| u8::try_from(row).ok()), value["held"].as_bool());
    match (parsed, text("case"), text("who"), text("figure")) {
        ((Some(row), Some(held)), Some(case), Some(who), Some(figure)) => Ok(Record { row, case, who, held, figure }),
        _ => anyhow::bail!("not a record: {value}"),
    }
}

const HEAD: &str = "\
# Reliability

What each row of the yardstick saw, and what two other proxies do under the same attack. Written by `make reliability`; do not
edit. *Ours* is from `make test`, whose counts are small and whose programs are debug builds; *full counts* is from the last
`make torture` and `make soak` (`tests/torture.jsonl`), for the cases that have a figure. Envoy and HAProxy are plain reverse
proxies here, with their makers' default limits; both can be set up more strictly. `n of m` counts the cases that went as the
standards want; rows that another proxy has no part in, or whose attack is not aimed at it, are empty.

| row | what | ours | ours, full counts | Envoy | HAProxy | command |
|---|---|---|---|---|---|---|
";

/// The whole document, of figures at small counts and at full ones.
pub(crate) fn render(records: &[Record], full: &[Record]) -> String {
    let (records, full) = (last(records), last(full));
    let mut text = HEAD.to_owned();
    for row in &ROWS {
        let cell = |who| cell(&records, row.number, who);
        let ours = match (cell("mesh"), row) {
            (cell, _) if !cell.is_empty() => cell,
            (_, Row { waits_for: Some(feature), .. }) => format!("waits for {feature}"),
            _ => "not recorded".to_owned(),
        };
        let (envoy, haproxy) = (cell("envoy"), cell("haproxy"));
        let full = self::cell(&full, row.number, "mesh");
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {ours} | {full} | {envoy} | {haproxy} | {} |",
            row.name(),
            row.what,
            row.command()
        );
    }
    text
}

/// The last figure of each case.
fn last(records: &[Record]) -> Vec<&Record> {
    let mut last: BTreeMap<(u8, &str, &str), &Record> = BTreeMap::new();
    for record in records {
        last.insert((record.row, &record.who, &record.case), record);
    }
    last.into_values().collect()
}

fn cell(records: &[&Record], row: u8, who: &str) -> String {
    let one = |record: &&Record| {
        let verdict = if record.held { "" } else { "**not held**: " };
        format!("{verdict}{}: {}", plain(&record.case), plain(&record.figure))
    };
    let found = records.iter().filter(|record| record.row == row && record.who == who);
    found.map(one).collect::<Vec<_>>().join("<br>")
}

/// Text that stays in its cell.
fn plain(text: &str) -> String {
    text.replace('|', "/").replace(['\n', '\r'], " ").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(row: u8, who: &str, case: &str, held: bool, figure: &str) -> Record {
        Record { row, case: case.to_owned(), who: who.to_owned(), held, figure: figure.to_owned() }
    }

    #[test]
    fn every_row_has_a_line_and_the_last_figure_counts() {
        let records = [
            seen(10, "mesh", "inbound", false, "1 of 2"),
            seen(10, "mesh", "inbound", true, "2 of 2"),
            seen(10, "envoy", "two readings", false, "1 of 2 | more"),
        ];
        let full = [seen(10, "mesh", "inbound", true, "20 of 20")];
        let text = render(&records, &full);
        assert_eq!(text.lines().filter(|line| line.starts_with("| R")).count(), 66, "{text}");
        let row = text.lines().find(|line| line.starts_with("| R10 |")).expect("a line");
        assert!(
            row.contains("| inbound: 2 of 2 | inbound: 20 of 20 | **not held**: two readings: 1 of 2 / more |"),
            "{row}"
        );
        assert!(text.contains("| R63 | ") && text.contains("waits for"), "{text}");
    }

    #[test]
    fn what_tests_write_is_read() {
        let line = r#"{"row":64,"case":"a","who":"mesh","held":true,"figure":"16 of 16"}"#;
        let record = seen(64, "mesh", "a", true, "16 of 16");
        assert_eq!(parse(line).expect("a record"), std::slice::from_ref(&record));
        assert_eq!(parse(&record.line().to_string()).expect("a record"), [record]);
        assert!(parse(r#"{"row":64}"#).is_err());
    }
}

//! Figures of rows, as lines of JSON.
//!
//! Invariant: a file of records has an order of its own, so that a run changes the lines of its rows alone.

use serde_json::Value;

/// A figure of a row, as `yardstick::record` writes it. Row 0 is no row: it has the versions of the other makers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) row: u8,
    pub(crate) who: String,
    pub(crate) case: String,
    pub(crate) held: bool,
    pub(crate) figure: String,
}

/// The row of versions.
pub(crate) const VERSION: u8 = 0;

impl Record {
    /// One of ours from a run at full counts, which has a column of its own.
    pub(crate) fn at_full_count(self) -> Self {
        Self { who: "full".to_owned(), ..self }
    }

    /// As it was read, with the end of its line.
    pub(crate) fn line(&self) -> String {
        let Self { row, case, who, held, figure } = self;
        let value = serde_json::json!({ "row": row, "case": case, "who": who, "held": held, "figure": figure });
        format!("{value}\n")
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
        ((Some(row), Some(held)), Some(case), Some(who), Some(figure)) => Ok(Record { row, who, case, held, figure }),
        _ => anyhow::bail!("not a record: {value}"),
    }
}

/// Puts new figures in the place of all those of their rows and makers; of several of one case the last stays.
pub(crate) fn replace(kept: &mut Vec<Record>, new: Vec<Record>) {
    kept.retain(|old| !new.iter().any(|new| (new.row, &new.who) == (old.row, &old.who)));
    for record in new {
        kept.retain(|old| (old.row, &old.who, &old.case) != (record.row, &record.who, &record.case));
        kept.push(record);
    }
    kept.sort();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(row: u8, who: &str, case: &str, figure: &str) -> Record {
        let [who, case, figure] = [who, case, figure].map(str::to_owned);
        Record { row, who, case, held: true, figure }
    }

    #[test]
    fn what_tests_write_is_read() {
        let line = r#"{"row":64,"case":"a","who":"mesh","held":true,"figure":"16 of 16"}"#;
        let record = seen(64, "mesh", "a", "16 of 16");
        assert_eq!(parse(line).expect("a record"), std::slice::from_ref(&record));
        assert_eq!(parse(&record.line()).expect("a record"), [record]);
        assert!(parse(r#"{"row":64}"#).is_err());
    }

    #[test]
    fn a_partial_run_replaces_its_rows_of_its_makers_alone() {
        let mut kept = vec![
            seen(2, "mesh", "a", "old"),
            seen(1, "envoy", "a", "old"),
            seen(1, "mesh", "gone", "old"),
            seen(1, "mesh", "a", "old"),
        ];
        replace(&mut kept, vec![seen(1, "mesh", "a", "first"), seen(1, "mesh", "a", "again")]);
        let wanted = [seen(1, "envoy", "a", "old"), seen(1, "mesh", "a", "again"), seen(2, "mesh", "a", "old")];
        assert_eq!(kept, wanted);
    }
}

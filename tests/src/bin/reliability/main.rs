//! `reliability`: runs the attacks that are functions of a front against Envoy and HAProxy, and writes `tests/RELIABILITY.md`
//! from their figures and from those that our own tests have recorded.
//!
//! Usage: `reliability RECORDS OUTPUT [--ours FILE] [--full FILE] [--rows 1,2] [--ours-only]`. RECORDS is kept in the repository
//! beside the page: what is new takes the place of what is there, row by row and maker by maker, so a run may be partial.
//! Invariant: every row of the yardstick has a line, also where nothing was recorded; the page is a function of the records.

#![forbid(unsafe_code)]

mod attacks;
mod records;
mod rows;
mod summary;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser;
use records::Record;

#[derive(Parser)]
#[command(about = "The table of reliability: the mesh beside Envoy and HAProxy")]
struct Options {
    /// Lines of JSON that the page is made of; brought up to date
    records: PathBuf,
    /// Where the page goes
    output: PathBuf,
    /// What tests have recorded just now, by the variable YARDSTICK
    #[arg(long)]
    ours: Option<PathBuf>,
    /// Run nothing: the others keep the figures that they have
    #[arg(long)]
    ours_only: bool,
    /// What the last `make torture` and `make soak` have recorded; need not be there
    #[arg(long)]
    full: Option<PathBuf>,
    /// Run these rows alone against the others, as 1,2,9
    #[arg(long, value_delimiter = ',')]
    rows: Vec<u8>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut records = records::parse(&fs::read_to_string(&options.records).unwrap_or_default())?;
    if let Some(path) = &options.ours {
        records::replace(&mut records, records::parse(&read(path)?)?);
    }
    if !options.ours_only {
        records::replace(&mut records, attacks::all(&options.rows)?);
    }
    write(&options.records, &records.iter().map(Record::line).collect::<String>())?;
    let full = options.full.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    write(&options.output, &page(records, &full)?)
}

/// The page of these records, and of those of a run at full counts.
fn page(mut records: Vec<Record>, full: &str) -> anyhow::Result<String> {
    records.extend(records::parse(full)?.into_iter().map(Record::at_full_count));
    Ok(table::render(&records))
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_repository_is_that_of_the_records_beside_it() {
        // A run that records is about to write it.
        if mesh_tests::yardstick::is_recording() {
            return;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = |name: &str| read(&folder.join(name)).expect("a file of the repository");
        let records = records::parse(&text("reliability.jsonl")).expect("records");
        let page = page(records, &text("torture.jsonl")).expect("records");
        assert!(page == text("RELIABILITY.md"), "tests/RELIABILITY.md is out of date: `make reliability-page`");
    }
}

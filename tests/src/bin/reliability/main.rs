//! `reliability`: runs the attacks that are functions of a front against Envoy and HAProxy, and writes `tests/RELIABILITY.md`
//! from their figures and from those that our own tests have recorded.
//!
//! Usage: `reliability RECORDS OUTPUT [--rows 1,2]`; RECORDS is the file that `YARDSTICK` named while the tests ran, and is added to.
//! Invariant: every row of the yardstick has a line, also where nothing was recorded.

#![forbid(unsafe_code)]

mod attacks;
mod rows;
mod summary;
mod table;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use mesh_tests::yardstick::{Who, version};

#[derive(Parser)]
#[command(about = "The table of reliability: the mesh beside Envoy and HAProxy")]
struct Options {
    /// Lines of JSON that tests have recorded; made if it is not there
    records: PathBuf,
    /// Where the table goes
    output: PathBuf,
    /// Run nothing: the file has their figures, or they stay empty
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
    let ours = fs::read_to_string(&options.records).unwrap_or_default();
    let mut records = table::parse(&ours)?;
    if !options.ours_only {
        let theirs = attacks::all(&options.rows)?;
        let lines: String = theirs.iter().map(|record| format!("{}\n", record.line())).collect();
        fs::write(&options.records, ours + &lines).with_context(|| options.records.display().to_string())?;
        records.extend(theirs);
    }
    let full = options.full.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    records.extend(table::parse(&full)?.into_iter().map(table::Record::at_full_count));
    let text = table::render(&records, &[Who::Envoy, Who::Haproxy].map(named).join(" and "));
    fs::write(&options.output, text).with_context(|| options.output.display().to_string())
}

/// A proxy, with its version where it is installed.
fn named(who: Who) -> String {
    let name = if who == Who::Envoy { "Envoy" } else { "HAProxy" };
    version(who).map_or_else(|_| name.to_owned(), |version| format!("{name} {version}"))
}

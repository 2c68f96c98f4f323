//! `bench`: the mesh and its peers, side by side, as a table.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, value_parser};
use mesh_benches::cell::Cell;
use mesh_benches::peers::Peer;
use mesh_benches::report::Run;
use mesh_benches::run::Plan;
use mesh_benches::scenario;

/// Runs each scenario against each contestant in turn, and prints medians of the rounds as a table.
///
/// Load and back end are in two network namespaces, joined by a veth pair; a sidecar stands before each, traffic is
/// redirected to it by rules, and between them there is mutual TLS. Each cell has fresh sidecars. A cell with an error,
/// a sidecar that was passed by, or plaintext on the wire is invalid. Needs root, and what `make bench` installs.
#[derive(Parser)]
#[command(
    max_term_width = 110,
    after_help = "Examples:\n  bench --quick                                       the main scenarios, short\n  \
                  bench --only h1-small,h2-small --rounds 5           two of them\n  \
                  bench --only h1-small --json a.json                 keep the cells\n  \
                  bench --from a.json,b.json --markdown all.md        one table of several runs"
)]
struct Options {
    /// The main scenarios, for a short time each
    #[arg(long)]
    quick: bool,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO")]
    only: Vec<String>,
    /// The contestants [default: all; with --quick: mesh, envoy, haproxy]
    #[arg(long, value_delimiter = ',', value_enum, value_name = "NAME")]
    proxies: Vec<Peer>,
    /// How often each cell is run [default: 3; with --quick: 1]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long each load takes [default: 5; with --quick: 2]
    #[arg(long, value_name = "S", value_parser = value_parser!(u64).range(1..=300))]
    seconds: Option<u64>,
    /// Neighbours: so many threads that never wait, beside all of it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u16).range(..=64))]
    busy: u16,
    /// Writes header and cells here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table here
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Runs nothing: the table of the cells in these files
    #[arg(long, value_delimiter = ',', value_name = "FILE", conflicts_with_all = ["quick", "only", "proxies", "rounds", "seconds", "busy"])]
    from: Vec<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let run = match options.from.is_empty() {
        true => options.plan()?.run(tell)?,
        false => merged(&options.from)?,
    };
    if let Some(path) = &options.json {
        write(path, &serde_json::to_string_pretty(&run)?)?;
    }
    let table = run.markdown();
    if let Some(path) = &options.markdown {
        write(path, &table)?;
    }
    print!("{table}");
    Ok(())
}

impl Options {
    fn plan(&self) -> anyhow::Result<Plan> {
        let scenarios = match self.only.is_empty() {
            true => scenario::all().into_iter().filter(|scenario| scenario.is_quick || !self.quick).collect(),
            false => scenario::named(&self.only)?,
        };
        let peers = match (self.proxies.is_empty(), self.quick) {
            (false, _) => self.proxies.clone(),
            (true, false) => Peer::ALL.to_vec(),
            (true, true) => vec![Peer::Mesh, Peer::Envoy, Peer::Haproxy],
        };
        let (rounds, seconds) = if self.quick { (1, 2) } else { (3, 5) };
        let (rounds, seconds) = (self.rounds.unwrap_or(rounds), self.seconds.unwrap_or(seconds));
        Ok(Plan { scenarios, peers, rounds, seconds, busy: self.busy })
    }
}

/// A line on stderr, so that a run of half an hour shows that it lives.
fn tell(cell: &Cell) {
    let shown = ["cpu_us", "per_second", "p50_us", "p99_us", "anon_each_kib", "cpu_us_per_second", "anon_left_kib"];
    let figure = |name: &&str| Some(format!("{name} {:.1}", cell.figures.get(*name)?));
    let figures: Vec<_> = shown.iter().filter_map(figure).collect();
    let problems: String = cell.problems.iter().map(|problem| format!(" INVALID: {problem}")).collect();
    eprintln!("{} {:<14} {:<8} {}{problems}", cell.round, cell.scenario, cell.peer, figures.join(", "));
}

/// The cells of several runs under the header of the last.
fn merged(paths: &[PathBuf]) -> anyhow::Result<Run> {
    let mut all = Run::default();
    for path in paths {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let run: Run = serde_json::from_str(&text).with_context(|| format!("{} is not of bench", path.display()))?;
        all.header = run.header;
        all.cells.extend(run.cells);
    }
    all.header.command = format!("{} runs of bench", paths.len());
    Ok(all)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

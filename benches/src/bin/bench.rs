//! `bench`: the mesh and its peers, side by side, as a table.

use std::path::PathBuf;

use clap::Parser;
use mesh_benches::cell::{Cell, Plan};
use mesh_benches::peers::Peer;
use mesh_benches::report;
use mesh_benches::rig::Rig;
use mesh_benches::scenario;

/// Runs each scenario against each contestant in turn and prints medians of the rounds.
#[derive(Parser)]
#[command(max_term_width = 110)]
struct Options {
    /// Short rounds of the main scenarios
    #[arg(long)]
    quick: bool,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The contestants
    #[arg(long, value_delimiter = ',', value_enum)]
    proxies: Vec<Peer>,
    /// How often each cell is run
    #[arg(long)]
    rounds: Option<u32>,
    /// How long each load takes
    #[arg(long)]
    seconds: Option<u64>,
    /// Writes all cells here
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes the table here
    #[arg(long)]
    markdown: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let all = scenario::all();
    let chosen: Vec<_> = all
        .iter()
        .filter(|scenario| match options.only.is_empty() {
            true => scenario.is_quick || !options.quick,
            false => options.only.iter().any(|name| name == scenario.name),
        })
        .collect();
    let peers = match options.proxies.is_empty() {
        true => vec![Peer::Mesh, Peer::Envoy, Peer::Haproxy],
        false => options.proxies.clone(),
    };
    let rig = Rig::new()?;
    let mut cells = Vec::new();
    for round in 1..=options.rounds.unwrap_or(if options.quick { 1 } else { 3 }) {
        for scenario in &chosen {
            for peer in &peers {
                let seconds = options.seconds.unwrap_or(if options.quick { 2 } else { 4 });
                let cell = Cell::run(&rig, *peer, scenario, Plan { seconds, round });
                eprintln!(
                    "{round} {} {}: {:.1} us, {:.0}/s {}",
                    scenario.name,
                    peer.name(),
                    cell.figures.get("cpu_us").copied().unwrap_or_default(),
                    cell.figures.get("per_second").copied().unwrap_or_default(),
                    cell.problems.join("; ")
                );
                cells.push(cell);
            }
        }
    }
    let names: Vec<_> = peers.iter().map(|peer| peer.name()).collect();
    let scenarios: Vec<_> = chosen.iter().map(|scenario| scenario.name).collect();
    let table = report::markdown(&cells, &names, &scenarios);
    print!("{table}");
    if let Some(path) = options.json {
        std::fs::write(path, serde_json::to_string_pretty(&cells)?)?;
    }
    if let Some(path) = options.markdown {
        std::fs::write(path, table)?;
    }
    Ok(())
}

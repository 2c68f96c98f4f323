//! `bench-control`: what the control plane costs, as a Markdown table.
//!
//! Invariant: release programs beside this one, in a network namespace that is gone afterwards; figures and bars are in
//! `mesh_benches::control`. A run takes less than two minutes. Non-goal: sidecars.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use mesh_benches::control::report::Report;
use mesh_benches::control::{Scale, destination, identity};

/// Measures destination and identity, with fake proxies over real mutual TLS, and holds them against their bars. Needs root.
#[derive(Debug, Parser)]
#[command(name = "bench-control")]
struct Cli {
    /// What to measure
    #[arg(value_enum, default_value = "all")]
    part: Part,
    /// Fewer proxies, for less time
    #[arg(long)]
    quick: bool,
    /// Where to write the figures for machines
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Destination,
    Identity,
    All,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    mesh_kit::limits::raise_files().context("the limit of open files")?;
    let scale = if cli.quick { Scale::quick() } else { Scale::full() };
    let mut report = Report::default();
    if cli.part != Part::Identity {
        destination::measure(&scale, &mut report)?;
    }
    if cli.part != Part::Destination {
        identity::measure(&scale, &mut report)?;
    }
    println!("{report}");
    if let Some(path) = &cli.json {
        let json = serde_json::to_string_pretty(&report.json())?;
        fs::write(path, json).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

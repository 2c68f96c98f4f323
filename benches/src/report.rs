//! The table in Markdown, and the run in JSON.
//!
//! Invariant: medians are of valid rounds alone; where there is none, the table says `invalid` and why below it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::bars::{self, Bar, Row, Verdict};
use crate::cell::Cell;
use crate::median::median;
use crate::peers::Peer;

/// Cores below which `workers-2` says nothing: two for each sidecar, and the load and the back end want theirs.
const FREE_CORES: usize = 6;

/// A whole run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Run {
    /// What it was run on, and when.
    pub header: Header,
    /// All cells.
    pub cells: Vec<Cell>,
}

/// What a run was run on.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Header {
    /// Its day.
    pub date: String,
    /// How it was called.
    pub command: String,
    /// The kernel's version.
    pub kernel: String,
    /// The processor.
    pub processor: String,
    /// How many cores it has.
    pub cores: usize,
    /// Contestant -> version.
    pub versions: BTreeMap<String, String>,
}

/// Medians by scenario, figure and contestant.
struct Medians<'a> {
    cells: &'a [Cell],
}

impl Run {
    /// The table.
    #[must_use]
    pub fn markdown(&self) -> String {
        let medians = Medians { cells: &self.cells };
        let peers: Vec<_> = Peer::ALL.into_iter().filter(|peer| medians.has(*peer)).collect();
        let names: Vec<_> = peers.iter().map(|peer| peer.name()).collect();
        let mut text = self.header.markdown(&self.cells);
        let columns = "---:|".repeat(peers.len());
        let _ = writeln!(
            text,
            "\n| scenario | figure | {} | ratio | bar | |\n|---|---|{columns}---:|---|---|",
            names.join(" | ")
        );
        for row in bars::rows() {
            if peers.iter().any(|peer| medians.is_told(&row, *peer)) {
                text += &self.line(&medians, &row, &peers);
            }
        }
        text + &self.problems()
    }

    fn line(&self, medians: &Medians, row: &Row, peers: &[Peer]) -> String {
        let cells: Vec<_> = peers.iter().map(|peer| medians.text(row, *peer)).collect();
        let of = |peer| medians.value(row.scenario, row.figure, peer);
        let verdict = match row.figure {
            bars::SPEED_UP if self.header.cores < FREE_CORES => "no free cores",
            _ => match row.bar.judge(of(Peer::Mesh), of) {
                Verdict::Held => "holds",
                Verdict::Missed => "**missed**",
                Verdict::Unjudged => "",
            },
        };
        let (ratio, bar) = bar(row.bar, of(Peer::Mesh), of);
        format!("| {} | {} | {} | {ratio} | {bar} | {verdict} |\n", row.scenario, row.label, cells.join(" | "))
    }

    fn problems(&self) -> String {
        let of = |cell: &Cell| {
            let why = cell.problems.join("; ").replace('\n', " ");
            format!("- {} of {}, round {}: {why}\n", cell.scenario, cell.peer, cell.round)
        };
        let lines: String = self.cells.iter().filter(|cell| !cell.problems.is_empty()).map(of).collect();
        if lines.is_empty() { lines } else { format!("\nInvalid, and in no median:\n\n{lines}") }
    }
}

impl Header {
    fn markdown(&self, cells: &[Cell]) -> String {
        let versions: Vec<_> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let rounds = cells.iter().map(|cell| cell.round).collect::<BTreeSet<_>>().len();
        format!(
            "`{}` on {}: {} cores of {}, Linux {}. Medians of {rounds} rounds. {}.\n\
             CPU is of both sidecars, memory of the larger one. Envoy's sidecars speak HTTP/2 with each other; HAProxy's\n\
             what the application speaks (HTTP/1.1 over a pool of connections); `haproxy-h2`: HTTP/2 for HTTP/1.1 too.\n",
            self.command,
            self.date,
            self.cores,
            self.processor,
            self.kernel,
            versions.join(", ")
        )
    }
}

/// The mesh's figure by that of the peer that the bar names, and the bar.
fn bar(bar: Bar, mesh: Option<f64>, of: impl Fn(Peer) -> Option<f64>) -> (String, String) {
    match bar {
        Bar::Shown => (String::new(), String::new()),
        Bar::Most(most) => (String::new(), format!("<= {most}")),
        Bar::Least(least) => (String::new(), format!(">= {least}")),
        Bar::Times(times, peer) => {
            let ratio = mesh.zip(of(peer)).map(|(mesh, other)| format!("{:.2}", mesh / other));
            (ratio.unwrap_or_default(), format!("<= {times} x {}", peer.name()))
        }
    }
}

/// As many digits as say something.
fn number(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

impl Medians<'_> {
    fn has(&self, peer: Peer) -> bool {
        self.cells.iter().any(|cell| cell.peer == peer.name())
    }

    fn of(&self, scenario: &str, peer: Peer) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(move |cell| cell.scenario == scenario && cell.peer == peer.name())
    }

    fn is_told(&self, row: &Row, peer: Peer) -> bool {
        self.value(row.scenario, row.figure, peer).is_some() || self.of(row.scenario, peer).next().is_some()
    }

    fn text(&self, row: &Row, peer: Peer) -> String {
        match self.value(row.scenario, row.figure, peer) {
            Some(value) => number(value),
            None if self.is_told(row, peer) && self.of(row.scenario, peer).all(|cell| !cell.problems.is_empty()) => {
                "invalid".to_owned()
            }
            None => "-".to_owned(),
        }
    }

    fn value(&self, scenario: &str, figure: &str, peer: Peer) -> Option<f64> {
        match (scenario, figure) {
            (bars::LOAD, _) => {
                let names: BTreeSet<_> = self.cells.iter().map(|cell| cell.scenario.as_str()).collect();
                names.into_iter().filter_map(|name| self.median(name, figure, peer)).reduce(f64::max)
            }
            (_, bars::SPEED_UP) => {
                let of = |name| self.median(name, "per_second", peer);
                Some(of(scenario)? / of("h1-small")?)
            }
            _ => self.median(scenario, figure, peer),
        }
    }

    fn median(&self, scenario: &str, figure: &str, peer: Peer) -> Option<f64> {
        let good = self.of(scenario, peer).filter(|cell| cell.problems.is_empty());
        let values: Vec<_> = good.filter_map(|cell| cell.figures.get(figure).copied()).collect();
        median(&values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(scenario: &str, peer: Peer, round: u32, figures: &[(&str, f64)]) -> Cell {
        let figures = figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Cell { scenario: scenario.to_owned(), peer: peer.name().to_owned(), round, problems: Vec::new(), figures }
    }

    fn run(cells: Vec<Cell>) -> String {
        Run { cells, header: Header { cores: 2, ..Header::default() } }.markdown()
    }

    #[test]
    fn medians_of_rounds_are_judged_by_the_bar() {
        let mesh = [30.0, 10.0, 20.0].into_iter().zip(1..);
        let mut cells: Vec<_> =
            mesh.map(|(cpu, round)| cell("h1-small", Peer::Mesh, round, &[("cpu_us", cpu)])).collect();
        cells.push(cell("h1-small", Peer::Haproxy, 1, &[("cpu_us", 20.0)]));
        let text = run(cells.clone());
        assert!(
            text.contains("| h1-small | CPU, us/request | 20.0 | 20.0 | 1.00 | <= 1 x haproxy | holds |"),
            "{text}"
        );
        cells[1].figures.insert("cpu_us".to_owned(), 21.0);
        let text = run(cells);
        assert!(text.contains("| 21.0 | 20.0 | 1.05 | <= 1 x haproxy | **missed** |"), "{text}");
    }

    #[test]
    fn an_invalid_round_is_told_and_in_no_median() {
        let mut bad = cell("h1-small", Peer::Mesh, 1, &[("cpu_us", 1.0)]);
        bad.problems.push("3 errors".to_owned());
        let text = run(vec![bad.clone(), cell("h1-small", Peer::Mesh, 2, &[("cpu_us", 20.0)])]);
        assert!(text.contains("| 20.0 |") && text.contains("- h1-small of mesh, round 1: 3 errors"), "{text}");
        let text = run(vec![bad]);
        assert!(text.contains("| h1-small | CPU, us/request | invalid |"), "{text}");
    }

    #[test]
    fn load_is_the_largest_of_all_scenarios_and_two_workers_are_compared() {
        let text = run(vec![
            cell("h1-small", Peer::Mesh, 1, &[("anon_peak_kib", 5000.0), ("per_second", 1000.0)]),
            cell("h1-1m", Peer::Mesh, 1, &[("anon_peak_kib", 9000.0)]),
            cell("workers-2", Peer::Mesh, 1, &[("per_second", 1800.0)]),
        ]);
        assert!(text.contains("| load | largest RssAnon, KiB | 9000 |  | <= 8192 | **missed** |"), "{text}");
        assert!(text.contains("| 1.80 |  | >= 1.7 | no free cores |"), "{text}");
    }
}

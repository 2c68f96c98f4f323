//! The table.

use std::fmt::Write as _;

use crate::cell::Cell;
use crate::median::median;

/// Medians of the valid rounds, in Markdown.
#[must_use]
pub fn markdown(cells: &[Cell], peers: &[&str], scenarios: &[&str]) -> String {
    let mut text = format!("| scenario | figure | {} |\n|---|---|{}\n", peers.join(" | "), "---:|".repeat(peers.len()));
    for scenario in scenarios {
        for figure in ["cpu_us", "per_second", "anon_peak_kib"] {
            let _ = write!(text, "| {scenario} | {figure} |");
            for peer in peers {
                let _ = write!(text, " {} |", value(cells, scenario, peer, figure));
            }
            text.push('\n');
        }
    }
    text
}

fn value(cells: &[Cell], scenario: &str, peer: &str, figure: &str) -> String {
    let of: Vec<_> = cells.iter().filter(|cell| cell.scenario == scenario && cell.peer == peer).collect();
    let good: Vec<_> = of.iter().filter(|cell| cell.problems.is_empty()).collect();
    let values: Vec<_> = good.iter().filter_map(|cell| cell.figures.get(figure).copied()).collect();
    match median(&values) {
        Some(value) => format!("{value:.1}"),
        None if !of.is_empty() && good.is_empty() => "invalid".to_owned(),
        None => "-".to_owned(),
    }
}

//! Figures, and the bars that they are held against.
//!
//! Invariant: what is printed and what the JSON says are the same list. Non-goal: history.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub enum Bar {
    /// Nothing; it is there to be known.
    None,
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Under which circumstances.
    pub scenario: String,
    /// What it is.
    pub name: &'static str,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// Whether that is good.
    pub bar: Bar,
}

/// All of them, in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// Notes a figure.
    pub fn add(&mut self, scenario: &str, name: &'static str, value: f64, unit: &'static str, bar: Bar) {
        let scenario = scenario.to_owned();
        eprintln!("{scenario}: {name} {value:.2} {unit}");
        self.figures.push(Figure { scenario, name, value, unit, bar });
    }

    /// For machines.
    #[must_use]
    pub fn json(&self) -> Value {
        let figures = self.figures.iter().map(|figure| {
            json!({
                "scenario": figure.scenario, "figure": figure.name, "value": figure.value, "unit": figure.unit,
                "bar": figure.bar.to_string(), "holds": figure.bar.holds(figure.value),
            })
        });
        json!({ "figures": figures.collect::<Vec<_>>() })
    }
}

impl Bar {
    /// Whether `value` is good; none: nobody asked.
    #[must_use]
    pub fn holds(self, value: f64) -> Option<bool> {
        match self {
            Self::None => None,
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
        }
    }
}

/// A Markdown table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| scenario | figure | value | bar | |\n|---|---|---:|---:|---|")?;
        for Figure { scenario, name, value, unit, bar } in &self.figures {
            let verdict = match bar.holds(*value) {
                None => "",
                Some(true) => "holds",
                Some(false) => "missed",
            };
            let value = rounded(*value);
            writeln!(f, "| {scenario} | {name} | {value} {unit} | {bar} | {verdict} |")?;
        }
        Ok(())
    }
}

/// Three digits that mean something, at least.
fn rounded(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// The value that a share of all are no greater than, by the nearest rank; none of nothing.
#[must_use]
pub fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let all: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        let ms = |share| percentile(&all, share).map(|value| value.as_millis());
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(ms), [1, 100, 198, 200].map(Some));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn a_missed_bar_shows_in_table_and_json() {
        let mut report = Report::default();
        report.add("web", "delay", 51.0, "ms", Bar::AtMost(50.0));
        report.add("web", "rate", 4000.0, "/s", Bar::AtLeast(4000.0));
        report.add("web", "size", 1.0, "KiB", Bar::None);
        let table = report.to_string();
        assert!(table.contains("| 51.00 ms | <= 50 | missed |") && table.contains("| >= 4000 | holds |"), "{table}");
        let json = report.json();
        let holds: Vec<_> = (0..3).map(|n| json["figures"][n]["holds"].clone()).collect();
        assert_eq!(holds, [json!(false), json!(true), json!(null)]);
    }
}

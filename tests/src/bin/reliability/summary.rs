//! The figures of many cases -> one phrase that fits into a cell of the table.
//!
//! Invariant: figures of one shape, which is all but their numbers and how they begin, become one with the least and the most of
//! each number; nothing is left out but what the list below the table says case by case.

use std::collections::BTreeMap;
use std::time::Duration;

/// More shapes than this are left to the list.
const SHAPES: usize = 3;

/// One case's figure, and whether the row held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case<'a> {
    pub(crate) held: bool,
    pub(crate) figure: &'a str,
}

/// All cases in one phrase; empty where there are none.
pub(crate) fn of(cases: &[Case<'_>]) -> String {
    let Some(verdict) = verdict(cases) else { return String::new() };
    let (figures, polite): (Vec<_>, Vec<_>) = cases.iter().map(|case| polite(case.figure)).unzip();
    let mut shapes: BTreeMap<Vec<String>, Vec<Vec<Piece>>> = BTreeMap::new();
    for figure in &figures {
        let pieces = pieces(figure);
        shapes.entry(shape(&pieces)).or_default().push(pieces);
    }
    let merged: Vec<_> = shapes.values().map(|alike| merge(alike)).collect();
    let told = if merged.len() <= SHAPES { merged.join("; or ") } else { "of several kinds, below".to_owned() };
    let polite = together(&polite.into_iter().flatten().collect::<Vec<_>>());
    [format!("{verdict}{told}"), polite].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

fn verdict(cases: &[Case<'_>]) -> Option<String> {
    let failed = cases.iter().filter(|case| !case.held).count();
    match (cases.len(), failed) {
        (0, _) => None,
        (1, 0) => Some(String::new()),
        (1, _) => Some("**not held**: ".to_owned()),
        (all, 0) => Some(format!("{all} cases: ")),
        (all, failed) => Some(format!("**{failed} of {all} cases not held**: ")),
    }
}

/// What a figure says of the bystander: answered, asked, p99.
struct Polite {
    answered: u64,
    asked: u64,
    p99: String,
}

/// The figure without the bystander, and the bystander.
fn polite(figure: &str) -> (String, Option<Polite>) {
    let parse = || {
        let (before, rest) = figure.split_once("bystander ")?;
        let (answered, rest) = rest.split_once(" of ")?;
        let (asked, rest) = rest.split_once(", p99 ")?;
        let (p99, rest) = rest.split_once(" (")?;
        let (_, after) = rest.split_once(" before)")?;
        let polite = Polite { answered: answered.parse().ok()?, asked: asked.parse().ok()?, p99: p99.to_owned() };
        Some((format!("{}{after}", before.trim_end_matches([' ', ',', ';'])), polite))
    };
    match parse() {
        Some((figure, polite)) => (figure, Some(polite)),
        None => (figure.to_owned(), None),
    }
}

fn together(all: &[Polite]) -> String {
    let slowest = all.iter().max_by_key(|polite| duration(&polite.p99));
    let Some(slowest) = slowest else { return String::new() };
    let (answered, asked) =
        all.iter().fold((0, 0), |(answered, asked), polite| (answered + polite.answered, asked + polite.asked));
    format!("bystander {answered} of {asked}, p99 at most {}", slowest.p99)
}

/// A part of a figure.
#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    /// As it is written.
    Number(String),
}

const UNITS: [(&str, f64); 4] = [("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];

/// Numbers, with their units of time, and what stands between them.
fn pieces(figure: &str) -> Vec<Piece> {
    let mut pieces = vec![Piece::Text(String::new())];
    for word in figure.split_inclusive([' ', ',', ';', '[', ']', '(', ')']) {
        let bare = word.trim_end_matches([' ', ',', ';', '[', ']', '(', ')', ':']);
        if value(bare).is_some() {
            pieces.extend([Piece::Number(bare.to_owned()), Piece::Text(word[bare.len()..].to_owned())]);
        } else if let Some(Piece::Text(text)) = pieces.last_mut() {
            text.push_str(word);
        }
    }
    pieces
}

/// What a number is worth; a time in seconds.
fn value(word: &str) -> Option<f64> {
    let digits = word.trim_end_matches(|c: char| c.is_alphabetic() || c == '%');
    let unit = match &word[digits.len()..] {
        "" | "%" => 1.0,
        unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    let first = digits.trim_start_matches(['+', '-']);
    first.starts_with(|c: char| c.is_ascii_digit()).then(|| digits.parse::<f64>().ok()).flatten().map(|n| n * unit)
}

fn duration(word: &str) -> Duration {
    Duration::try_from_secs_f64(value(word).unwrap_or_default()).unwrap_or_default()
}

/// All but the numbers and the beginning.
fn shape(pieces: &[Piece]) -> Vec<String> {
    let text = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Number(number) => if number.ends_with('s') { "time" } else { "number" }.to_owned(),
    };
    pieces.iter().skip(1).map(text).collect()
}

/// Figures of one shape as one.
fn merge(alike: &[Vec<Piece>]) -> String {
    let Some(first) = alike.first() else { return String::new() };
    let column = |nth: usize| {
        let mut all: Vec<_> = alike.iter().map(|pieces| text(&pieces[nth])).collect();
        if let Piece::Number(_) = first[nth] {
            all.sort_by(|a, b| value(a).unwrap_or_default().total_cmp(&value(b).unwrap_or_default()));
            let (least, most) = (all[0], all[all.len() - 1]);
            return if least == most { least.to_owned() } else { format!("{least} to {most}") };
        }
        all.sort_unstable();
        all.dedup();
        beginnings(&all)
    };
    (0..first.len()).map(column).collect()
}

/// `GOAWAY a after `, `closed after ` -> `GOAWAY a or closed after `.
fn beginnings(all: &[&str]) -> String {
    let Some((last, others)) = all.split_last() else { return String::new() };
    let end = last.rsplit(' ').nth(1).map(|word| format!(" {word} ")).unwrap_or_default();
    if others.is_empty() || !all.iter().all(|text| text.ends_with(&end)) {
        return all.join(" or ");
    }
    format!("{}{end}", all.iter().map(|text| &text[..text.len() - end.len()]).collect::<Vec<_>>().join(" or "))
}

fn text(piece: &Piece) -> &str {
    match piece {
        Piece::Text(text) | Piece::Number(text) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(held: &[(bool, &str)]) -> String {
        of(&held.iter().map(|(held, figure)| Case { held: *held, figure }).collect::<Vec<_>>())
    }

    #[test]
    fn figures_of_one_shape_become_one() {
        let cases = [
            (true, "GOAWAY calm after 1200 of 20000; grew by 448 KiB; bystander 10 of 10, p99 5ms (4ms before)"),
            (true, "GOAWAY error after 500 of 20000; grew by 40 KiB; bystander 19 of 20, p99 1.2s (3ms before)"),
        ];
        let wanted = "2 cases: GOAWAY calm or GOAWAY error after 500 to 1200 of 20000; grew by 40 to 448 KiB; \
                      bystander 29 of 30, p99 at most 1.2s";
        assert_eq!(all(&cases), wanted);
    }

    #[test]
    fn times_are_compared_across_units_and_one_case_stays_as_it_is() {
        assert_eq!(all(&[(true, "back after 900µs"), (true, "back after 1ms")]), "2 cases: back after 900µs to 1ms");
        assert_eq!(all(&[(false, "98 of 108")]), "**not held**: 98 of 108");
        assert_eq!(all(&[]), "");
    }

    #[test]
    fn what_differs_too_much_is_left_to_the_list() {
        let cases = [(true, "a 1 b"), (true, "a 1 c"), (false, "a 1 d"), (true, "a 1 e")];
        assert_eq!(all(&cases), "**1 of 4 cases not held**: of several kinds, below");
    }
}

//! Faults of a configuration, each in one line.
//!
//! Invariant: values appear escaped and cut, so no variable can forge a line or fill a screen.
//! Non-goal: telling one unknown name from another program's; the prefix is ours.

use std::borrow::Cow;
use std::ffi::OsStr;

/// Characters of a value that an error shows.
const SHOWN: usize = 64;
/// Typing errors up to this distance get a suggestion.
const NEAR: usize = 3;

/// What is wrong with one variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The value does not parse, is out of range, is too long or is not UTF-8.
    #[error("{name}={value}: expected {expected}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// Its value, escaped and cut.
        value: String,
        /// What would have been right.
        expected: Cow<'static, str>,
    },
    /// The variable is not set, and has no default.
    #[error("{name} is not set: expected {expected}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What would have been right.
        expected: Cow<'static, str>,
    },
    /// The variable has our prefix but means nothing.
    #[error("{name} is not known{}", .suggestion.map(|near| format!("; did you mean {near}?")).unwrap_or_default())]
    Unknown {
        /// The variable's name, escaped and cut.
        name: String,
        /// The known name that is nearest, if one is near.
        suggestion: Option<&'static str>,
    },
}

impl Error {
    pub(super) fn invalid(name: &'static str, value: &OsStr, expected: Cow<'static, str>) -> Self {
        Self::Invalid { name, value: format!("\"{}\"", shown(value)), expected }
    }

    pub(super) fn unknown(name: &OsStr, known: &[&'static str]) -> Self {
        let text = name.to_string_lossy();
        let nearest = known.iter().map(|known| (distance(&text, known), *known)).min();
        let suggestion = nearest.filter(|(distance, _)| *distance <= NEAR).map(|(_, known)| known);
        Self::Unknown { name: shown(name), suggestion }
    }
}

fn shown(value: &OsStr) -> String {
    let text = value.to_string_lossy();
    let head: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() { format!("{head}...") } else { head }
}

/// Levenshtein distance in bytes; names so unlike in length that the answer is no are not measured.
fn distance(left: &str, right: &str) -> usize {
    if left.len().abs_diff(right.len()) > NEAR {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

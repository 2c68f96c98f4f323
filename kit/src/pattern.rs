//! Regular expressions of manifests: checked where manifests are read, used where requests are.
//!
//! Invariant: matching takes time linear in the text, whatever the expression; one compiles to a bounded size. Non-goal: the
//! last of speed; what is exact or a prefix needs none of this.

use std::fmt;

use regex_lite::{Regex, RegexBuilder};

/// Largest that an expression may compile to, in bytes.
const MAX_COMPILED: usize = 64 * 1024;
/// Deepest nesting of groups.
const MAX_NESTING: u32 = 50;

/// An expression that has to fit a whole text.
#[derive(Clone)]
pub struct Pattern {
    regex: Regex,
    text: Box<str>,
}

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPattern(String);

impl Pattern {
    /// Compiles it.
    ///
    /// # Errors
    /// It is none, or compiles to more than 64 KiB.
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        let whole = format!("^(?:{text})$");
        let built = RegexBuilder::new(&whole).size_limit(MAX_COMPILED).nest_limit(MAX_NESTING).build();
        let regex = built.map_err(|error| BadPattern(error.to_string()))?;
        // Alone as well, or `a)|(b` would do.
        Regex::new(text).map_err(|error| BadPattern(error.to_string()))?;
        Ok(Self { regex, text: text.into() })
    }

    /// Whether it fits all of `text`.
    pub fn fits(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_whole_texts_only() {
        let pattern = Pattern::new("/v[12]|/beta").unwrap();
        for (text, fits) in [("/v1", true), ("/beta", true), ("/v1/", false), ("x/v1", false), ("", false)] {
            assert_eq!(pattern.fits(text), fits, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_or_too_large_is_refused() {
        for text in ["(", "a)|(b", "[z-a]", r"(a)\\1", "(?:a{1000}){1000}", &"(".repeat(100)] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}

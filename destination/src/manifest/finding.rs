//! What is wrong with a manifest, and where.
//!
//! Invariant: a text yields at most [`MAX_FINDINGS`] findings, whatever it holds. Non-goal: how they are shown.

use std::fmt;

/// Of one text; further ones are only counted as there.
pub(super) const MAX_FINDINGS: usize = 100;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Works, but probably not as meant.
    Warning,
    /// Cannot be used.
    Error,
}

impl Severity {
    /// As compilers print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// From 1 on.
    pub line: u64,
    /// From 1 on, in characters.
    pub column: u64,
    /// How bad it is.
    pub severity: Severity,
    /// The path to the field, such as `spec.ports[1].port`; empty when it is about the whole.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = self.severity.as_str();
        write!(f, "{}:{}: {severity}: ", self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// All findings of a text.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<Finding>,
    errors: usize,
    /// Of those, errors that take away nothing but their own object.
    excused: usize,
}

impl Findings {
    pub(super) fn push(&mut self, finding: Finding) {
        let is_error = finding.severity == Severity::Error;
        self.errors += usize::from(is_error);
        if self.found.len() < MAX_FINDINGS {
            self.found.push(finding);
        } else if is_error && self.errors - self.excused == 1 {
            // The first error is told in any case: it decides whether the text is used.
            self.found[MAX_FINDINGS - 1] = finding;
        }
    }

    pub(super) fn whole_file(&mut self, message: String) {
        self.push(Finding { line: 1, column: 1, severity: Severity::Error, field: String::new(), message });
    }

    /// How many errors there are so far.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// The errors since there were `before` take away nothing but their own object. The first of them.
    pub(super) fn excuse(&mut self, before: usize) -> String {
        let first = self.found.iter().filter(|finding| finding.severity == Severity::Error).nth(before);
        self.excused += self.errors - before;
        match first {
            Some(Finding { line, field, message, .. }) if field.is_empty() => format!("line {line}: {message}"),
            Some(Finding { line, field, message, .. }) => format!("line {line}: {field}: {message}"),
            None => format!("one of more than {MAX_FINDINGS} findings"),
        }
    }

    /// Whether an error takes away more than its own object.
    pub(super) fn is_broken(&self) -> bool {
        self.errors > self.excused
    }

    pub(super) fn into_vec(self) -> Vec<Finding> {
        self.found
    }
}

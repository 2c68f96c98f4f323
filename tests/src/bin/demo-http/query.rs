//! The query of a request target as typed values with defaults.
//!
//! Invariant: a value that does not parse is the default; a test that mistypes sees it in the answer.
//! Non-goal: percent decoding.

use std::str::FromStr;

/// `a=1&b=2`.
pub(crate) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(crate) fn of(uri: &'a hyper::Uri) -> Self {
        Self(uri.query().unwrap_or_default())
    }

    /// The text of `key`, or empty.
    pub(crate) fn text(&self, key: &str) -> &'a str {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next().unwrap_or_default()
    }

    pub(crate) fn number<T: FromStr>(&self, key: &str, default: T) -> T {
        self.text(key).parse().unwrap_or(default)
    }

    /// Whether `key` stands there, with or without a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.split('&').any(|pair| pair.split('=').next() == Some(key))
    }
}

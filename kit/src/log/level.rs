//! Which events are wanted.
//!
//! Invariant: a word that is no level is refused, not taken for a target. Non-goal: filters on fields or spans.

use std::fmt;
use std::str::FromStr;

use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// Longer texts are refused.
const TEXT_LIMIT: usize = 1024;

/// A level, and exceptions by target: `info,h2=warn,mesh_proxy::outbound=debug`. Targets match by prefix, the longest
/// wins. Without a level of its own the rest is at `info`.
#[derive(Clone, Debug)]
pub struct Level {
    text: String,
    targets: Targets,
}

/// A text that is no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a log level: expected one like info or info,h2=warn (off, error, warn, info, debug, trace)")]
pub struct BadLevel;

impl Level {
    pub(super) fn admits(&self, metadata: &Metadata<'_>) -> bool {
        self.targets.would_enable(metadata.target(), metadata.level())
    }

    pub(super) fn most_verbose(&self) -> LevelFilter {
        let exceptions = self.targets.iter().map(|(_, level)| level);
        exceptions.chain(self.targets.default_level()).max().unwrap_or(LevelFilter::OFF)
    }
}

impl FromStr for Level {
    type Err = BadLevel;

    fn from_str(text: &str) -> Result<Self, BadLevel> {
        let mut targets = Targets::new().with_default(LevelFilter::INFO);
        if text.len() > TEXT_LIMIT {
            return Err(BadLevel);
        }
        for part in text.split(',') {
            targets = match part.split_once('=') {
                None => targets.with_default(filter(part)?),
                Some((target, level)) if is_target(target) => targets.with_target(target, filter(level)?),
                Some(_) => return Err(BadLevel),
            };
        }
        Ok(Self { text: text.to_owned(), targets })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn filter(word: &str) -> Result<LevelFilter, BadLevel> {
    // The standard parser takes digits as well, which say nothing to a reader.
    let named = word.bytes().all(|byte| byte.is_ascii_alphabetic());
    if named && !word.is_empty() { word.parse().map_err(|_| BadLevel) } else { Err(BadLevel) }
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
}

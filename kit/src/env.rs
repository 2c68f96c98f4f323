//! A daemon's configuration from environment variables.
//!
//! Invariant: reading never stops at the first fault; [`Env::finish`] tells all of them, one line each, and unknown
//! names with the prefix are faults too. The help text comes from the same calls that read the variables.
//! Non-goal: files and flags.

mod error;
mod value;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

pub use error::Error;
pub use value::{Size, Value};

/// The exit status for a bad configuration (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: u8 = 64;

/// Longer values are refused before they are parsed.
const VALUE_LIMIT: usize = 4096;

/// The variables with one prefix, what was asked of them, and what was wrong with them.
#[derive(Debug)]
pub struct Env {
    prefix: &'static str,
    vars: BTreeMap<OsString, OsString>,
    asked: Vec<Asked>,
    errors: Vec<Error>,
}

/// One variable as `--help` shows it.
#[derive(Debug)]
struct Asked {
    name: &'static str,
    default: Presence,
    expected: Cow<'static, str>,
    help: &'static str,
}

#[derive(Debug)]
enum Presence {
    Default(String),
    Optional,
    Required,
}

impl Env {
    /// This process's variables whose names begin with `prefix`.
    #[must_use]
    pub fn from_process(prefix: &'static str) -> Self {
        Self::from_vars(prefix, std::env::vars_os())
    }

    /// The same from any list; an empty list serves `--help`.
    #[must_use]
    pub fn from_vars<K: Into<OsString>, V: Into<OsString>>(
        prefix: &'static str,
        vars: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let vars = vars.into_iter().map(|(name, value)| (name.into(), value.into()));
        let ours = |(name, _): &(OsString, OsString)| name.as_encoded_bytes().starts_with(prefix.as_bytes());
        Self { prefix, vars: vars.filter(ours).collect(), asked: Vec::new(), errors: Vec::new() }
    }

    /// A variable with a default. When the value is bad the default is returned and the fault kept for
    /// [`Self::finish`].
    ///
    /// # Panics
    /// When `default` itself does not parse.
    pub fn get<T: Value>(&mut self, name: &'static str, default: &str, help: &'static str) -> T {
        self.get_with(name, default, T::EXPECTED, help, T::parse)
    }

    /// A whole number within `range`, with a default.
    ///
    /// # Panics
    /// When `default` itself is not within `range`.
    pub fn count(&mut self, name: &'static str, default: &str, range: RangeInclusive<u64>, help: &'static str) -> u64 {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.get_with(name, default, expected, help, |text| u64::parse(text).filter(|n| range.contains(n)))
    }

    /// A duration within `range`, with a default.
    ///
    /// # Panics
    /// When `default` itself is not within `range`.
    pub fn duration(
        &mut self,
        name: &'static str,
        default: &str,
        range: RangeInclusive<std::time::Duration>,
        help: &'static str,
    ) -> std::time::Duration {
        let expected = format!("a duration like 500ms, 30s or 5m, from {:?} to {:?}", range.start(), range.end());
        let parse = |text: &str| std::time::Duration::parse(text).filter(|value| range.contains(value));
        self.get_with(name, default, expected, help, parse)
    }

    /// A variable with a default and a parser of its own; `expected` ends the sentence "expected ...".
    ///
    /// # Panics
    /// When `default` itself does not parse.
    pub fn get_with<T>(
        &mut self,
        name: &'static str,
        default: &str,
        expected: impl Into<Cow<'static, str>>,
        help: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let fallback = parse(default).unwrap_or_else(|| panic!("the default of {name} does not parse"));
        let expected = expected.into();
        self.ask(name, Presence::Default(default.to_owned()), expected.clone(), help);
        self.take(name, expected, parse).unwrap_or(fallback)
    }

    /// A variable that may be absent. `None` when it is absent or bad.
    pub fn optional<T: Value>(&mut self, name: &'static str, help: &'static str) -> Option<T> {
        self.ask(name, Presence::Optional, T::EXPECTED.into(), help);
        self.take(name, T::EXPECTED.into(), T::parse)
    }

    /// A variable that must be there. `None` when it is absent or bad, and then [`Self::finish`] is an error.
    pub fn required<T: Value>(&mut self, name: &'static str, help: &'static str) -> Option<T> {
        self.ask(name, Presence::Required, T::EXPECTED.into(), help);
        if !self.vars.contains_key(&OsString::from(name)) {
            self.errors.push(Error::Missing { name, expected: T::EXPECTED.into() });
        }
        self.take(name, T::EXPECTED.into(), T::parse)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// All faults, in the order in which the variables were asked for, then the unknown variables.
    pub fn finish(mut self) -> Result<(), Vec<Error>> {
        let known: Vec<&str> = self.asked.iter().map(|asked| asked.name).collect();
        for (name, value) in &self.vars {
            if known.iter().any(|known| name == known) || is_service_link(self.prefix, name, value) {
                continue;
            }
            self.errors.push(Error::unknown(name, &known));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(self.errors) }
    }

    /// One paragraph per variable asked for so far: name, default, meaning.
    #[must_use]
    pub fn help(&self) -> String {
        let mut text = String::new();
        for Asked { name, default, expected, help } in &self.asked {
            let default = match default {
                Presence::Default(value) => format!("={value}"),
                Presence::Optional => " (optional)".to_owned(),
                Presence::Required => " (required)".to_owned(),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name}{default}\n      {help}: {expected}");
        }
        text
    }

    fn ask(&mut self, name: &'static str, default: Presence, expected: Cow<'static, str>, help: &'static str) {
        debug_assert!(name.starts_with(self.prefix), "{name} lacks the prefix");
        self.asked.push(Asked { name, default, expected, help });
    }

    fn take<T>(
        &mut self,
        name: &'static str,
        expected: Cow<'static, str>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.vars.get(&OsString::from(name))?;
        let parsed = value.to_str().filter(|text| text.len() <= VALUE_LIMIT).and_then(parse);
        if parsed.is_none() {
            self.errors.push(Error::invalid(name, value, expected));
        }
        parsed
    }
}

/// Kubernetes puts variables for each Service of a namespace into its pods; a Service called `mesh-x` gives
/// `MESH_X_SERVICE_HOST`, `MESH_X_PORT=tcp://...` and so on. Those are nobody's typing errors.
fn is_service_link(prefix: &str, name: &OsString, value: &OsString) -> bool {
    let (Some(name), Some(value)) = (name.to_str().and_then(|name| name.strip_prefix(prefix)), value.to_str()) else {
        return false;
    };
    let per_port = name.contains("_PORT_") && ["_TCP", "_UDP", "_SCTP"].iter().any(|part| name.contains(part));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || per_port
        || (name.ends_with("_PORT") && value.contains("://"))
}

#[cfg(test)]
mod tests;

//! How text becomes a value.
//!
//! Invariant: a parser is total and takes no surrounding white space; what it takes is told by `EXPECTED`.
//! Non-goal: types of one daemon, which implement [`Value`] where they live.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A type that can be read from a variable.
pub trait Value: Sized {
    /// What is right, as the end of the sentence "expected ...".
    const EXPECTED: &'static str;

    /// The value, or `None` when the text is not one.
    fn parse(text: &str) -> Option<Self>;
}

/// A number of bytes, written `64KiB`, `4MiB`, `1GiB` or plainly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Value for String {
    const EXPECTED: &'static str = "text, not empty, without control characters";

    fn parse(text: &str) -> Option<Self> {
        let good = !text.is_empty() && !text.chars().any(char::is_control);
        good.then(|| text.to_owned())
    }
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Option<Self> {
        String::parse(text).map(Self::from)
    }
}

impl Value for u16 {
    const EXPECTED: &'static str = "a whole number from 0 to 65535";

    fn parse(text: &str) -> Option<Self> {
        u64::parse(text)?.try_into().ok()
    }
}

impl Value for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";

    fn parse(text: &str) -> Option<Self> {
        u64::parse(text)?.try_into().ok()
    }
}

impl Value for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn parse(text: &str) -> Option<Self> {
        // The standard parser takes a leading plus sign.
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Value for Duration {
    const EXPECTED: &'static str = "a duration like 500ms, 30s, 5m or 24h";

    fn parse(text: &str) -> Option<Self> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number = u64::parse(number)?;
        match unit {
            "ms" => Some(Self::from_millis(number)),
            "s" => Some(Self::from_secs(number)),
            "m" => number.checked_mul(60).map(Self::from_secs),
            "h" => number.checked_mul(3600).map(Self::from_secs),
            _ => None,
        }
    }
}

impl Value for Size {
    const EXPECTED: &'static str = "a size like 65536, 64KiB, 4MiB or 1GiB";

    fn parse(text: &str) -> Option<Self> {
        let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
        let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
        let (number, factor) = unit.unwrap_or((text, 1));
        u64::parse(number)?.checked_mul(factor).map(Self)
    }
}

impl Value for SocketAddr {
    const EXPECTED: &'static str = "an address like 127.0.0.1:4140 or [::1]:4140";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Value for Vec<SocketAddr> {
    const EXPECTED: &'static str = "addresses like 127.0.0.1:4140,[::1]:4140, 1 to 16 of them";

    fn parse(text: &str) -> Option<Self> {
        let addrs: Option<Self> = text.split(',').map(SocketAddr::parse).collect();
        addrs.filter(|addrs| addrs.len() <= 16)
    }
}

impl Value for crate::log::Format {
    const EXPECTED: &'static str = "plain or json";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "plain" => Some(Self::Plain),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl Value for crate::log::Level {
    const EXPECTED: &'static str =
        "a level (off, error, warn, info, debug, trace), and target=level pairs, comma-separated";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

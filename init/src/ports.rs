//! Lists of TCP ports as a user writes them (`22,8000-8100`) and as `multiport` wants them.
//!
//! Invariant: the ranges are sorted, disjoint and never hold port 0. Strict on purpose: a list that is skipped or
//! misread fails open, so whatever is not plainly a port list is refused.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// xt_multiport takes at most this many slots in a rule; a range costs two.
const SLOTS: usize = 15;

/// A set of TCP ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

/// Why a text is no list of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing between two commas, or nothing at all.
    #[error("an empty item; write ports and ranges like 22,8000-8100")]
    Empty,
    /// Something other than a number of 1 to 65535.
    #[error("\"{}\" is no port; ports are numbers from 1 to 65535", .0.escape_debug())]
    NotAPort(String),
    /// A range that ends before it starts.
    #[error("range {0}-{1} ends before it starts")]
    Backwards(u16, u16),
}

impl Ports {
    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `port` is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// The lowest port of the set that `keep` agrees to.
    #[must_use]
    pub fn find(&self, keep: impl Fn(u16) -> bool) -> Option<u16> {
        self.0.iter().cloned().flatten().find(|port| keep(*port))
    }

    /// The set as arguments of `--dports`, each short enough for one rule.
    #[must_use]
    pub fn groups(&self) -> Vec<String> {
        let mut groups: Vec<(usize, String)> = Vec::new();
        for range in &self.0 {
            let (slots, item) = match (*range.start(), *range.end()) {
                (first, last) if first == last => (1, first.to_string()),
                (first, last) => (2, format!("{first}:{last}")),
            };
            match groups.last_mut() {
                Some((used, group)) if *used + slots <= SLOTS => {
                    *used += slots;
                    group.push(',');
                    group.push_str(&item);
                }
                _ => groups.push((slots, item)),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }
}

impl FromStr for Ports {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.split(',').map(range).collect()
    }
}

impl FromIterator<RangeInclusive<u16>> for Ports {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u16>>>(ranges: I) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        sorted.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(sorted.len());
        for next in sorted {
            match merged.last_mut() {
                Some(last) if *next.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(next.end());
                }
                _ => merged.push(next),
            }
        }
        Self(merged)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

fn range(item: &str) -> Result<RangeInclusive<u16>, Error> {
    if item.is_empty() {
        return Err(Error::Empty);
    }
    let Some((first, last)) = item.split_once('-') else {
        let only = port(item)?;
        return Ok(only..=only);
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(Error::Backwards(first, last));
    }
    Ok(first..=last)
}

/// One port, in plain decimal: `u16::from_str` alone would let `+22` and `0022` through.
///
/// # Errors
/// [`Error::NotAPort`] for everything that is no number of 1 to 65535.
pub fn port(text: &str) -> Result<u16, Error> {
    let refused = || Error::NotAPort(text.to_owned());
    if text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused());
    }
    text.parse().map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Ports {
        text.parse().unwrap()
    }

    #[test]
    fn a_list_is_sorted_and_overlaps_are_merged() {
        assert_eq!(ports("8080,22,8000-8100,8101,23").to_string(), "22-23,8000-8101");
        assert_eq!(ports("80-80").to_string(), "80");
        assert_eq!(ports("1-65535,65535").to_string(), "1-65535");
    }

    #[test]
    fn hostile_lists_are_refused_with_the_item_in_the_message() {
        let hostile = [
            "",
            ",",
            "22,",
            "22,,80",
            "0",
            "65536",
            "-1",
            "1-0",
            "1-",
            "-",
            "1-2-3",
            "+22",
            "022",
            "0x16",
            " 22",
            "22 ",
            "22;reboot",
            "$(id)",
            "22\n-j ACCEPT",
            "22:80",
            "http",
            "\u{0662}\u{0662}",
            "0-10",
            "1-70000",
            "99999999999999999999",
        ];
        for text in hostile {
            let error = Ports::from_str(text).expect_err(text);
            assert!(!error.to_string().contains('\n'), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_range_takes_two_of_the_fifteen_slots_of_a_rule() {
        let singles: Vec<String> = (0..15).map(|n| (1000 + 2 * n).to_string()).collect();
        assert_eq!(ports(&singles.join(",")).groups().len(), 1);
        assert_eq!(ports(&format!("{},2000", singles.join(","))).groups().len(), 2);

        let seven_ranges: Vec<String> = (0..7).map(|n| format!("{}-{}", 100 * n + 1, 100 * n + 50)).collect();
        let fifteen = format!("{},9000", seven_ranges.join(","));
        assert_eq!(ports(&fifteen).groups().len(), 1);
        let sixteen = format!("{},9000-9001", seven_ranges.join(","));
        assert_eq!(ports(&sixteen).groups(), [ports(&seven_ranges.join(",")).groups()[0].as_str(), "9000:9001"]);
    }

    #[test]
    fn groups_together_hold_each_port_once() {
        let many: Ports = (1..400).map(|n| n * 7..=n * 7 + n % 3).collect();
        let regrouped: Vec<String> = many.groups().iter().map(|group| group.replace(':', "-")).collect();
        assert_eq!(ports(&regrouped.join(",")), many);
        assert!(many.groups().iter().all(|group| group.split([',', ':']).count() <= SLOTS));
    }

    #[test]
    fn an_empty_set_needs_no_rule() {
        assert!(Ports::default().groups().is_empty());
    }
}

//! Takes a mapping apart field by field, and finds what is wrong, missing or unknown.
//!
//! Invariant: each finding bears the path and the place of its field. A field that is `null` is absent, as for Kubernetes.
//! Non-goal: what the fields mean.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use super::finding::{Finding, Findings, Severity};
use super::tree::{Key, Node, Value};

/// A mapping of a manifest; those fields are known that were asked for.
pub(super) struct Fields<'a, 'f> {
    node: &'a Node,
    map: &'a [(Key, Node)],
    path: String,
    known: Vec<&'static str>,
    findings: &'f mut Findings,
}

impl<'a, 'f> Fields<'a, 'f> {
    /// The fields of `node`, which is at `path`; none, and a finding, when it is no mapping.
    pub(super) fn of(node: &'a Node, path: String, findings: &'f mut Findings) -> Option<Self> {
        let Value::Map(map) = &node.value else {
            let message = format!("expected a mapping, found {}", node.value.describe());
            findings.push(at(node, path, message));
            return None;
        };
        Some(Self { node, map, path, known: Vec::new(), findings })
    }

    /// A field's value, unless it is absent.
    pub(super) fn take(&mut self, name: &'static str) -> Option<&'a Node> {
        self.known.push(name);
        let (_, value) = self.map.iter().find(|(key, _)| key.text == name)?;
        Some(value).filter(|value| !matches!(value.value, Value::Null))
    }

    /// Fields that exist, and that nobody here reads.
    pub(super) fn ignore(&mut self, names: &[&'static str]) {
        self.known.extend(names);
    }

    /// A string.
    pub(super) fn text(&mut self, name: &'static str) -> Option<&'a str> {
        let node = self.take(name)?;
        self.as_text(node, name)
    }

    /// `node` as a string.
    pub(super) fn as_text(&mut self, node: &'a Node, name: &str) -> Option<&'a str> {
        if let Value::Text(text) = &node.value {
            return Some(text);
        }
        let hint = match node.value {
            Value::Bool(_) | Value::Integer(_) | Value::Number(_) => " (quote it)",
            _ => "",
        };
        self.expected(node, name, &format!("a string{hint}"));
        None
    }

    /// A boolean.
    pub(super) fn boolean(&mut self, name: &'static str) -> Option<bool> {
        let node = self.take(name)?;
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        self.expected(node, name, "true or false");
        None
    }

    /// A whole number within `range`.
    pub(super) fn integer(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let node = self.take(name)?;
        self.as_integer(node, name, range)
    }

    /// `node` as a whole number within `range`.
    pub(super) fn as_integer(&mut self, node: &Node, name: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let (first, last) = (range.start(), range.end());
        let Value::Integer(number) = node.value else {
            self.expected(node, name, &format!("a number from {first} to {last}"));
            return None;
        };
        if !range.contains(&number) {
            self.error(node, name, format!("{number} is not within {first} to {last}"));
            return None;
        }
        Some(number)
    }

    /// A percentage, with decimals, in units of which `per_percent` are one.
    pub(super) fn share(&mut self, name: &'static str, per_percent: u32) -> Option<u32> {
        let node = self.take(name)?;
        let percent = match node.value {
            Value::Integer(number) if (0..=100).contains(&number) => number as f64,
            Value::Number(number) if (0.0..=100.0).contains(&number) => number,
            _ => {
                self.expected(node, name, "a percentage from 0 to 100");
                return None;
            }
        };
        // At most a hundred times `per_percent`.
        Some((percent * f64::from(per_percent)).round() as u32)
    }

    /// A port number that must be there.
    pub(super) fn port(&mut self, name: &'static str) -> Option<NonZeroU16> {
        let Some(node) = self.take(name) else {
            self.missing(name);
            return None;
        };
        self.as_port(node, name)
    }

    /// `node` as a port number.
    pub(super) fn as_port(&mut self, node: &Node, name: &str) -> Option<NonZeroU16> {
        let Value::Integer(number) = node.value else {
            self.expected(node, name, "a port from 1 to 65535");
            return None;
        };
        let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
        if port.is_none() {
            self.error(node, name, format!("port {number} is not within 1 to 65535"));
        }
        port
    }

    /// A mapping within; absent and not a mapping alike are none.
    pub(super) fn within(&mut self, name: &'static str) -> Option<Fields<'a, '_>> {
        let node = self.take(name)?;
        Fields::of(node, self.path_of(name), self.findings)
    }

    /// The mappings of a list, one after another.
    pub(super) fn each(&mut self, name: &'static str, mut read: impl FnMut(&mut Fields<'a, '_>)) {
        for (index, item) in self.list(name).iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(name));
            if let Some(mut fields) = Fields::of(item, path, self.findings) {
                read(&mut fields);
            }
        }
    }

    /// A list; absent and not a list alike are empty.
    pub(super) fn list(&mut self, name: &'static str) -> &'a [Node] {
        let Some(node) = self.take(name) else {
            return &[];
        };
        let Value::List(items) = &node.value else {
            self.expected(node, name, "a list");
            return &[];
        };
        items
    }

    /// Strings by name, such as labels.
    pub(super) fn texts(&mut self, name: &'static str) -> BTreeMap<String, String> {
        let Some(node) = self.take(name) else {
            return BTreeMap::new();
        };
        let Value::Map(entries) = &node.value else {
            self.expected(node, name, "a mapping");
            return BTreeMap::new();
        };
        let mut texts = BTreeMap::new();
        for (key, value) in entries {
            if let Some(text) = self.as_text(value, &format!("{name}[{}]", key.text)) {
                texts.insert(key.text.clone(), text.to_owned());
            }
        }
        texts
    }

    /// Addresses that something can be reached at.
    pub(super) fn addresses(&mut self, name: &'static str) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for (index, item) in self.list(name).iter().enumerate() {
            let name = format!("{name}[{index}]");
            let text = self.as_text(item, &name);
            let address = text.and_then(|text| self.as_address(item, &name, text));
            if address.is_some_and(|address| address.is_loopback()) {
                // A proxy would refuse all endpoints that this one is among.
                self.error(item, &name, "no other host reaches a loopback address".to_owned());
                continue;
            }
            addresses.extend(address);
        }
        addresses
    }

    /// `text` as an address that something can be reached at.
    pub(super) fn as_address(&mut self, node: &Node, name: &str, text: &str) -> Option<IpAddr> {
        let Ok(address) = text.parse::<IpAddr>() else {
            self.error(node, name, format!("{} is no IP address", shortened(text)));
            return None;
        };
        let address = address.to_canonical();
        let nobody = address.is_unspecified()
            || address.is_multicast()
            || matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if nobody {
            self.error(node, name, format!("{address} is not the address of one host"));
            return None;
        }
        Some(address)
    }

    /// Says that a field has to be there.
    pub(super) fn missing(&mut self, name: &str) {
        self.error(self.node, name, "missing".to_owned());
    }

    /// Says that a field is of another shape.
    pub(super) fn expected(&mut self, node: &Node, name: &str, what: &str) {
        let message = format!("expected {what}, found {}", node.value.describe());
        self.error(node, name, message);
    }

    /// Says what is wrong with a field.
    pub(super) fn error(&mut self, node: &Node, name: &str, message: String) {
        self.findings.push(at(node, self.path_of(name), message));
    }

    /// Says what is wrong with a field that was read.
    pub(super) fn error_at(&mut self, name: &str, message: String) {
        let node = self.map.iter().find(|(key, _)| key.text == name).map_or(self.node, |(_, node)| node);
        self.error(node, name, message);
    }

    /// Says what is wrong with the whole mapping.
    pub(super) fn error_at_self(&mut self, message: String) {
        self.findings.push(at(self.node, self.path.clone(), message));
    }

    /// Says what is odd about a field.
    pub(super) fn warning(&mut self, node: &Node, name: &str, message: String) {
        let severity = Severity::Warning;
        let error = at(node, self.path_of(name), message);
        self.findings.push(Finding { severity, ..error });
    }

    /// Says what is odd about a field that is not there.
    pub(super) fn warning_at_self(&mut self, name: &str, message: String) {
        self.warning(self.node, name, message);
    }

    /// Says that a document is of a kind that nobody here reads.
    pub(super) fn skipped_kind(&mut self, api_version: &str, kind: &str) {
        let known = crate::model::Kind::ALL;
        let same = known.iter().find(|known| known.as_str() == kind);
        let near = nearest(kind, known.iter().map(|known| known.as_str()));
        let hint = match (same, near) {
            (Some(same), _) => format!("; the mesh reads apiVersion {}", same.api_version()),
            (None, Some(near)) => format!("; did you mean {near}?"),
            (None, None) => String::new(),
        };
        let (api_version, kind) = (shortened(api_version), shortened(kind));
        let message = format!("{kind} of {api_version} is not used by the mesh, skipped{hint}");
        self.warning(self.node, "kind", message);
    }

    /// Finds fields that nobody asked for. To be called when all are asked for.
    pub(super) fn finish(&mut self, severity: Severity) {
        for (key, node) in self.map {
            if self.known.contains(&key.text.as_str()) {
                continue;
            }
            let near = nearest(&key.text, self.known.iter().copied());
            let hint = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
            let field = self.path_of(&shortened(&key.text));
            let message = format!("unknown field{hint}");
            let (line, column) = (key.line, key.column);
            let error = at(node, field, message);
            self.findings.push(Finding { line, column, severity, ..error });
        }
    }

    /// Gives up the mapping for what was found so far and will be found further.
    pub(super) fn into_findings(self) -> &'f mut Findings {
        self.findings
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            return name.to_owned();
        }
        format!("{}.{name}", self.path)
    }
}

fn at(node: &Node, field: String, message: String) -> Finding {
    Finding { line: node.line, column: node.column, severity: Severity::Error, field, message }
}

/// What a text of the manifest looks like in a message: short, and without control characters.
pub(super) fn shortened(text: &str) -> String {
    const LONGEST: usize = 64;
    let shown = text.chars().filter(|c| !c.is_control());
    let mut shown: String = shown.take(LONGEST + 1).collect();
    if shown.chars().count() > LONGEST {
        shown.pop();
        shown.push_str("...");
    }
    shown
}

/// The known name that `name` was probably meant to be: at most a third of its letters differ, case aside.
fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    const LONGEST: usize = 40;
    let name: Vec<u8> = name.bytes().map(|b| b.to_ascii_lowercase()).collect();
    if name.len() > LONGEST {
        return None;
    }
    let ranked = known.map(|known| (distance(&name, known.to_ascii_lowercase().as_bytes()), known));
    let (distance, nearest) = ranked.min_by_key(|(distance, _)| *distance)?;
    (distance <= (name.len() / 3).max(1)).then_some(nearest)
}

/// Levenshtein's: insertions, deletions and replacements.
fn distance(left: &[u8], right: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

//! YAML (of which JSON is a part) as a tree whose nodes know their place.
//!
//! Invariant: bounded in depth, nodes and expanded aliases, before anything is kept; a key that is there twice is an error.
//! Non-goal: what the nodes mean.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Location, Options, Spanned};

use super::finding::{Finding, Severity};

/// A value and its place; places count from 1.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// A number that is no integer; one that is too large is none at all.
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) text: String,
}

/// The documents that hold something.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, Finding> {
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| finding(&error))
}

/// Plain manifests need none of YAML's dark corners, so what they could cost is cut down to what people use.
fn options() -> Options {
    let budget = serde_saphyr::budget! {
        max_depth: 32,
        flow_nesting_limit: 32,
        max_documents: 10_000,
        max_nodes: 500_000,
        max_events: 2_000_000,
        max_anchors: 1_000,
        max_aliases: 1_000,
        max_merge_keys: 1_000,
    };
    serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
    }
}

fn finding(error: &serde_saphyr::Error) -> Finding {
    let location = error.location().unwrap_or(Location::UNKNOWN);
    // The library appends the place to the text of some errors; ours stands in front.
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    Finding {
        line: location.line().max(1),
        column: location.column().max(1),
        severity: Severity::Error,
        field: String::new(),
        message: text.lines().next().unwrap_or_default().to_owned(),
    }
}

impl Node {
    /// Bytes of all texts in it, without the names of fields.
    pub(super) fn text_bytes(&self) -> usize {
        match &self.value {
            Value::Text(text) => text.len(),
            Value::List(items) => items.iter().map(Self::text_bytes).sum(),
            Value::Map(map) => map.iter().map(|(_, value)| value.text_bytes()).sum(),
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Number(_) => 0,
        }
    }
}

impl Value {
    /// With its article.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a number",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line().max(1),
            column: spanned.referenced.column().max(1),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<String>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line().max(1),
            column: spanned.referenced.column().max(1),
            text: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Number(f64::NAN), Value::Integer))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Value, E> {
        Ok(Value::Number(f64::NAN))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Value, E> {
        Ok(Value::Number(f64::NAN))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Value::Map(map))
    }
}

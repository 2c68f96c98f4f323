//! What a rule fits: paths, methods, headers, queries; services and methods of gRPC.

use mesh_kit::pattern::Pattern;

use crate::manifest::fields::{Fields, shortened};
use crate::manifest::meta::is_field;
use crate::manifest::tree::{Node, Value};
use crate::model::route::{Match, PathMatch, TextMatch};

use super::{Kind, UNKNOWN};

/// Of one match, each.
const MAX_PATTERNS: usize = 16;
/// Longest text of any kind.
const MAX_TEXT: usize = 4096;
/// Longest expression.
const MAX_REGEX: usize = 1024;
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// What fits all requests.
pub(super) fn any(kind: Kind) -> Match {
    let path = match kind {
        Kind::Http => PathMatch::default(),
        Kind::Grpc => PathMatch::Grpc { service: None, method: None },
    };
    Match { path, ..Match::default() }
}

/// One match; none when it is wrong, which is a finding.
pub(super) fn read(fields: &mut Fields<'_, '_>, kind: Kind) -> Option<Match> {
    let mut read = any(kind);
    match kind {
        Kind::Http => {
            if let Some(mut path) = fields.within("path") {
                read.path = path_of(&mut path)?;
            }
            read.method = method(fields);
            read.query = pairs(fields, "queryParams", str::to_owned)?;
        }
        Kind::Grpc => {
            if let Some(mut method) = fields.within("method") {
                read.path = call(&mut method)?;
            }
        }
    }
    read.headers = headers(fields)?;
    fields.finish(UNKNOWN);
    Some(read)
}

fn path_of(fields: &mut Fields<'_, '_>) -> Option<PathMatch> {
    let kind = fields.text("type").unwrap_or("PathPrefix");
    let node = fields.take("value");
    let value = match node {
        Some(node) => fields.as_text(node, "value")?,
        None => "/",
    };
    fields.finish(UNKNOWN);
    let path = match kind {
        "Exact" => PathMatch::Exact(value.to_owned()),
        // `/a` and `/a/` are the same prefix.
        "PathPrefix" => {
            PathMatch::Prefix(value.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(value).to_owned())
        }
        "RegularExpression" => return regex(fields, value).map(PathMatch::Regex),
        other => {
            fields
                .error_at("type", format!("\"{}\" is none of Exact, PathPrefix, RegularExpression", shortened(other)));
            return None;
        }
    };
    let fits = value.starts_with('/') && !value.contains("//") && !value.contains("/./") && !value.contains("/../");
    if !fits || !value.bytes().all(|byte| byte.is_ascii_graphic()) || value.contains(['?', '#']) {
        fields.error_at("value", "a path begins with / and has no //, /./, /../, ?, # or blank".to_owned());
        return None;
    }
    if value.len() > MAX_TEXT {
        fields.error_at("value", format!("{} bytes are more than {MAX_TEXT}", value.len()));
        return None;
    }
    Some(path)
}

fn method(fields: &mut Fields<'_, '_>) -> Option<String> {
    let method = fields.text("method")?;
    if !METHODS.contains(&method) {
        fields.error_at("method", format!("\"{}\" is none of {}", shortened(method), METHODS.join(", ")));
    }
    Some(method.to_owned())
}

fn call(fields: &mut Fields<'_, '_>) -> Option<PathMatch> {
    let kind = fields.text("type").unwrap_or("Exact");
    let is_regex = match kind {
        "Exact" => false,
        "RegularExpression" => true,
        other => {
            fields.error_at("type", format!("\"{}\" is none of Exact, RegularExpression", shortened(other)));
            return None;
        }
    };
    let (service, method) = (fields.text("service"), fields.text("method"));
    fields.finish(UNKNOWN);
    if service.is_none() && method.is_none() {
        fields.error_at_self("a service, a method or both have to be there".to_owned());
        return None;
    }
    let mut part = |text: Option<&str>| match text {
        None => Some(None),
        Some(text) if text.len() > MAX_TEXT => {
            fields.error_at_self(format!("{} bytes are more than {MAX_TEXT}", text.len()));
            None
        }
        Some(text) if is_regex => regex(fields, text).map(|text| Some(TextMatch::Regex(text))),
        Some(text) => Some(Some(TextMatch::Exact(text.to_owned()))),
    };
    Some(PathMatch::Grpc { service: part(service)?, method: part(method)? })
}

/// Header fields and what their values have to be, of names that a proxy can look for.
pub(in crate::manifest) fn headers(fields: &mut Fields<'_, '_>) -> Option<Vec<(String, TextMatch)>> {
    let pairs = pairs(fields, "headers", str::to_ascii_lowercase)?;
    if let Some((name, _)) = pairs.iter().find(|(name, _)| !is_field(name)) {
        let message = format!("\"{}\" is no header field that can be looked at", shortened(name));
        fields.error_at("headers", message);
        return None;
    }
    Some(pairs)
}

/// Names and what their values have to be. Of two of the same name the first counts, as the API has it.
fn pairs(
    fields: &mut Fields<'_, '_>,
    list: &'static str,
    name_of: impl Fn(&str) -> String,
) -> Option<Vec<(String, TextMatch)>> {
    let mut pairs: Vec<(String, TextMatch)> = Vec::new();
    let mut is_whole = true;
    fields.each(list, |fields| match pair(fields) {
        Some((name, value)) => {
            let name = name_of(name);
            if !pairs.iter().any(|(other, _)| *other == name) {
                pairs.push((name, value));
            }
        }
        None => is_whole = false,
    });
    if pairs.len() > MAX_PATTERNS {
        fields.error_at(list, format!("more than {MAX_PATTERNS}"));
    }
    is_whole.then_some(pairs)
}

fn pair<'a>(fields: &mut Fields<'a, '_>) -> Option<(&'a str, TextMatch)> {
    let kind = fields.text("type").unwrap_or("Exact");
    let name = needed(fields, "name");
    let value = needed(fields, "value");
    fields.finish(UNKNOWN);
    let (name, value) = (name?, value?);
    let value = match kind {
        "Exact" => TextMatch::Exact(value.to_owned()),
        "RegularExpression" => TextMatch::Regex(regex(fields, value)?),
        other => {
            fields.error_at("type", format!("\"{}\" is none of Exact, RegularExpression", shortened(other)));
            return None;
        }
    };
    Some((name, value))
}

fn needed<'a>(fields: &mut Fields<'a, '_>, name: &'static str) -> Option<&'a str> {
    match fields.take(name) {
        Some(Node { value: Value::Text(text), .. }) if text.is_empty() => {
            fields.error_at(name, "empty".to_owned());
            None
        }
        Some(Node { value: Value::Text(text), .. }) if text.len() > MAX_TEXT => {
            fields.error_at(name, format!("{} bytes are more than {MAX_TEXT}", text.len()));
            None
        }
        Some(node) => fields.as_text(node, name),
        None => {
            fields.missing(name);
            None
        }
    }
}

/// An expression that the proxy can use: its own crate says so, with the same bounds.
fn regex(fields: &mut Fields<'_, '_>, text: &str) -> Option<String> {
    let problem = match text.len() {
        ..=MAX_REGEX => Pattern::new(text).err().map(|error| error.to_string()),
        length => Some(format!("{length} bytes are more than {MAX_REGEX}")),
    };
    match problem {
        None => Some(text.to_owned()),
        Some(problem) => {
            fields.error_at("value", format!("\"{}\" is no expression: {problem}", shortened(text)));
            None
        }
    }
}

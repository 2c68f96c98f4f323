//! What a rule does beside sending requests to backends: copies, CORS, retries, sessions.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::{UNKNOWN, backend_to};
use crate::manifest::fields::{Fields, shortened};
use crate::manifest::meta::is_field;
use crate::manifest::policy::cookie_name;
use crate::manifest::times;
use crate::model::policy::Retries;
use crate::model::route::{Cors, Mirror, SessionPersistence};

/// Of CORS, each.
const MAX_LIST: usize = 64;
const MAX_CODES: usize = 64;
/// Longest origin.
const MAX_ORIGIN: usize = 253;

pub(super) fn mirror(fields: &mut Fields<'_, '_>, namespace: &str) -> Option<Mirror> {
    let to = match fields.within("backendRef") {
        Some(mut fields) => {
            let to = backend_to(&mut fields, namespace);
            fields.finish(UNKNOWN);
            to
        }
        None => {
            fields.missing("backendRef");
            None
        }
    };
    let percent = fields.integer("percent", 0..=100);
    let fraction = fields.within("fraction").map(|mut fields| {
        let numerator = fields.integer("numerator", 0..=i64::from(i32::MAX));
        if numerator.is_none() {
            fields.error_at_self("numerator has to be there".to_owned());
        }
        let denominator = fields.integer("denominator", 1..=i64::from(i32::MAX)).unwrap_or(100);
        if numerator.is_some_and(|numerator| numerator > denominator) {
            fields.error_at("numerator", "more than denominator".to_owned());
        }
        fields.finish(UNKNOWN);
        (numerator.unwrap_or_default(), denominator)
    });
    if percent.is_some() && fraction.is_some() {
        fields.error_at("percent", "not beside fraction".to_owned());
    }
    fields.finish(UNKNOWN);
    let (numerator, denominator) = fraction.unwrap_or((percent.unwrap_or(100), 100));
    Some(Mirror { to: to?, numerator: u32::try_from(numerator).ok()?, denominator: u32::try_from(denominator).ok()? })
}

pub(super) fn cors(fields: &mut Fields<'_, '_>) -> Cors {
    let is_header = |text: &str| text == "*" || HeaderName::try_from(text).is_ok();
    let is_method = |text: &str| text == "*" || Method::from_bytes(text.as_bytes()).is_ok();
    let lower = |names: Vec<String>| names.iter().map(|name| name.to_ascii_lowercase()).collect();
    let cors = Cors {
        origins: words(fields, "allowOrigins", "origin, such as https://*.example.com", is_origin),
        credentials: fields.boolean("allowCredentials").unwrap_or(false),
        methods: words(fields, "allowMethods", "method", is_method),
        headers: lower(words(fields, "allowHeaders", "header field", is_header)),
        exposed: lower(words(fields, "exposeHeaders", "header field", is_header)),
        max_age: fields.integer("maxAge", 1..=i64::from(i32::MAX)).and_then(|age| u32::try_from(age).ok()).unwrap_or(5),
    };
    fields.finish(UNKNOWN);
    cors
}

fn words(fields: &mut Fields<'_, '_>, list: &'static str, what: &str, fits: impl Fn(&str) -> bool) -> Vec<String> {
    let mut words = Vec::new();
    let listed = fields.list(list);
    if listed.len() > MAX_LIST {
        fields.error_at(list, format!("{} are more than {MAX_LIST}", listed.len()));
    }
    for (index, node) in listed.iter().enumerate() {
        let field = format!("{list}[{index}]");
        match fields.as_text(node, &field) {
            Some(text) if !fits(text) => fields.error(node, &field, format!("\"{}\" is no {what}", shortened(text))),
            text => words.extend(text.map(str::to_owned)),
        }
    }
    words
}

/// `*`, or scheme, host and perhaps port, with `*` in place of the host's first label or labels.
fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let host = host.strip_prefix("*.").unwrap_or(host);
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'[' | b']' | b'_');
    text.len() <= MAX_ORIGIN
        && HeaderValue::from_str(text).is_ok()
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && !host.is_empty()
        && host.bytes().all(is_host)
}

/// Whoever writes a `retry` wants connections that were lost and backends that were too slow to be tried again as well, and nothing
/// before `backoff` is over (GEP-1731).
pub(super) fn retry(fields: &mut Fields<'_, '_>) -> Retries {
    let listed = fields.list("codes");
    let mut retries = Retries {
        connect_failure: true,
        reset: true,
        refused_stream: true,
        timeout: true,
        attempts: 1,
        ..Retries::default()
    };
    if listed.len() > MAX_CODES {
        fields.error_at("codes", format!("{} are more than {MAX_CODES}", listed.len()));
    }
    for (index, node) in listed.iter().enumerate() {
        let status = fields.as_integer(node, &format!("codes[{index}]"), 400..=599);
        let status = status.and_then(|status| u16::try_from(status).ok());
        retries.statuses.extend(status.map(|status| (status, status)));
    }
    if let Some(attempts) = fields.integer("attempts", 1..=10) {
        retries.attempts = u32::try_from(attempts).unwrap_or(1);
    }
    retries.backoff = times::read(fields, "backoff").filter(|backoff| !backoff.is_zero());
    retries.least_backoff = retries.backoff;
    fields.finish(UNKNOWN);
    retries
}

/// `rule` is its name among all, for sessions that have none of their own.
pub(super) fn session(fields: &mut Fields<'_, '_>, rule: &str) -> Option<SessionPersistence> {
    let is_header = match fields.text("type") {
        None | Some("Cookie") => false,
        Some("Header") => true,
        Some(other) => {
            fields.error_at("type", format!("\"{}\" is none of Cookie, Header", shortened(other)));
            false
        }
    };
    let name = match fields.take("sessionName") {
        None => Some(format!("x-session-{:08x}", fnv(rule))),
        Some(_) => cookie_name(fields, "sessionName"),
    };
    if is_header && name.as_ref().is_some_and(|name| !is_field(&name.to_ascii_lowercase())) {
        fields.error_at("sessionName", "the mesh's own header fields carry no sessions".to_owned());
    }
    let absolute = times::read(fields, "absoluteTimeout").unwrap_or(Duration::ZERO);
    let idle = times::read(fields, "idleTimeout").unwrap_or(Duration::ZERO);
    let mut is_permanent = false;
    if let Some(mut within) = fields.within("cookieConfig") {
        is_permanent = match within.text("lifetimeType") {
            None | Some("Session") => false,
            Some("Permanent") => true,
            Some(other) => {
                let message = format!("\"{}\" is none of Session, Permanent", shortened(other));
                within.error_at("lifetimeType", message);
                false
            }
        };
        within.finish(UNKNOWN);
    }
    if is_permanent && absolute.is_zero() {
        fields.error_at("absoluteTimeout", "a permanent cookie has to end some time".to_owned());
    }
    fields.finish(UNKNOWN);
    Some(SessionPersistence { name: name?, is_header, absolute, idle, is_permanent })
}

/// FNV-1a: the same on each start, and of another rule another one.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

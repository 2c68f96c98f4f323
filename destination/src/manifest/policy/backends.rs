//! Of backends: circuit breaking, limits, balancing.

use super::{UNKNOWN, count, positive};
use crate::manifest::fields::{Fields, shortened};
use crate::manifest::meta::is_field;
use crate::model::policy::{Balancing, BalancingKind, Breaker, HashCookie, HashKey, Limits};

const MAX_KEYS: usize = 16;
/// Longest name of a cookie or a parameter, longest path of a cookie.
const MAX_NAME: usize = 256;

pub(super) fn breaker(fields: &mut Fields<'_, '_>) -> Breaker {
    let mut breaker = Breaker {
        is_disabled: fields.boolean("enabled") == Some(false),
        consecutive_failures: count(fields, "consecutiveFailures"),
        ..Breaker::default()
    };
    if let Some(mut fields) = fields.within("successRate") {
        breaker.success_permille = fields.share("threshold", 10);
        if breaker.success_permille == Some(0) {
            fields.error_at("threshold", "below 0.1 nothing is a failure; leave successRate out".to_owned());
        }
        breaker.window = positive(&mut fields, "window");
        breaker.min_requests = count(&mut fields, "minRequests");
        fields.finish(UNKNOWN);
    }
    if let Some(mut fields) = fields.within("ejection") {
        (breaker.min_ejection, breaker.max_ejection) = (positive(&mut fields, "min"), positive(&mut fields, "max"));
        if let (Some(min), Some(max)) = (breaker.min_ejection, breaker.max_ejection)
            && max < min
        {
            fields.error_at("max", "shorter than min".to_owned());
        }
        let percent = fields.integer("maxEndpointsPercent", 1..=100);
        breaker.max_ejected_percent = percent.and_then(|percent| u32::try_from(percent).ok());
        fields.finish(UNKNOWN);
    }
    fields.finish(UNKNOWN);
    breaker
}

pub(super) fn limits(fields: &mut Fields<'_, '_>) -> Limits {
    let limits = Limits {
        connections: count(fields, "connections"),
        requests: count(fields, "requests"),
        pending: count(fields, "pendingRequests"),
        pending_wait: positive(fields, "pendingWait"),
        requests_per_connection: count(fields, "requestsPerConnection"),
        connection_age: positive(fields, "connectionAge"),
    };
    fields.finish(UNKNOWN);
    limits
}

pub(super) fn balancing(fields: &mut Fields<'_, '_>) -> Balancing {
    let kind = match fields.text("policy") {
        None | Some("PeakEwma") => BalancingKind::PeakEwma,
        Some("LeastRequest") => BalancingKind::LeastRequest,
        Some("RoundRobin") => BalancingKind::RoundRobin,
        Some("ConsistentHash") => BalancingKind::ConsistentHash,
        Some(other) => {
            let message =
                format!("\"{}\" is none of PeakEwma, LeastRequest, RoundRobin, ConsistentHash", shortened(other));
            fields.error_at("policy", message);
            BalancingKind::PeakEwma
        }
    };
    let listed = fields.list("hash").len();
    let mut hash = Vec::new();
    fields.each("hash", |fields| hash.extend(key(fields)));
    let bounded = fields.integer("boundedLoadPercent", 101..=10_000);
    let balancing = Balancing {
        kind,
        hash,
        bounded_load_percent: bounded.and_then(|percent| u32::try_from(percent).ok()),
        slow_start: positive(fields, "slowStart"),
        ignores_zones: fields.boolean("ignoreZones").unwrap_or(false),
    };
    match kind {
        BalancingKind::ConsistentHash if listed == 0 => fields.missing("hash"),
        BalancingKind::ConsistentHash if listed > MAX_KEYS => {
            fields.error_at("hash", format!("{listed} are more than {MAX_KEYS}"));
        }
        BalancingKind::ConsistentHash => {}
        _ if listed > 0 || bounded.is_some() => {
            let message = "hash and boundedLoadPercent go with policy ConsistentHash only".to_owned();
            fields.error_at("policy", message);
        }
        _ => {}
    }
    fields.finish(UNKNOWN);
    balancing
}

fn key(fields: &mut Fields<'_, '_>) -> Option<HashKey> {
    let header = fields.text("header").map(str::to_ascii_lowercase);
    let query = fields.text("query").map(str::to_owned);
    let source = fields.boolean("sourceAddress");
    let cookie = fields.within("cookie").map(|mut fields| cookie(&mut fields));
    fields.finish(UNKNOWN);
    match (header, query, source, cookie) {
        (Some(header), None, None, None) => {
            if !is_field(&header) {
                let message = format!("\"{}\" is no header field that a policy may look at", shortened(&header));
                fields.error_at("header", message);
            }
            Some(HashKey::Header(header))
        }
        (None, Some(query), None, None) => {
            if query.is_empty() || query.len() > MAX_NAME {
                fields.error_at("query", format!("not of 1 to {MAX_NAME} bytes"));
            }
            Some(HashKey::Query(query))
        }
        (None, None, Some(true), None) => Some(HashKey::SourceAddress),
        (None, None, None, Some(cookie)) => cookie.map(HashKey::Cookie),
        _ => {
            let message = "one of header, cookie, query and sourceAddress: true has to be there".to_owned();
            fields.error_at_self(message);
            None
        }
    }
}

fn cookie(fields: &mut Fields<'_, '_>) -> Option<HashCookie> {
    let name = cookie_name(fields, "name");
    let path = fields.text("path").unwrap_or("/").to_owned();
    let fits = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
    if !fits || path.len() > MAX_NAME {
        fields.error_at(
            "path",
            format!("a cookie's path begins with /, has no ; or blank, and at most {MAX_NAME} bytes"),
        );
    }
    let (ttl, set) = (positive(fields, "ttl"), fields.boolean("set").unwrap_or(false));
    fields.finish(UNKNOWN);
    Some(HashCookie { name: name?, path, ttl, set })
}

/// A name of a cookie is a token, as names of fields are.
pub(in crate::manifest) fn cookie_name(fields: &mut Fields<'_, '_>, field: &'static str) -> Option<String> {
    let Some(name) = fields.text(field) else {
        fields.missing(field);
        return None;
    };
    if name.len() > MAX_NAME || http::HeaderName::try_from(name).is_err() {
        fields.error_at(field, format!("\"{}\" is no name of a cookie", shortened(name)));
        return None;
    }
    Some(name.to_owned())
}

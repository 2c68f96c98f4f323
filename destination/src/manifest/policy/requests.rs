//! Of requests: timeouts, retries, their budget, faults.

use std::time::Duration;

use super::{UNKNOWN, count, positive};
use crate::manifest::fields::{Fields, shortened};
use crate::manifest::route::headers;
use crate::manifest::times;
use crate::model::policy::{Abort, Budget, Fault, Retries, Timeouts};

const MAX_FAULTS: usize = 16;
const MAX_CONDITIONS: usize = 64;
const MAX_ATTEMPTS: i64 = 10;
/// As gRPC numbers them.
const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];

/// The number of a name such as `unavailable`, `UNAVAILABLE` or `DEADLINE_EXCEEDED`.
fn code(name: &str) -> Option<u32> {
    let name = name.to_ascii_lowercase().replace('_', "-");
    CODES.iter().position(|known| *known == name).and_then(|code| u32::try_from(code).ok())
}

pub(super) fn timeouts(fields: &mut Fields<'_, '_>) -> Timeouts {
    let timeouts = Timeouts {
        request: times::read(fields, "request"),
        response_headers: times::read(fields, "responseHeaders"),
        backend: times::read(fields, "backendRequest"),
        stream_idle: times::read(fields, "streamIdle"),
        tcp_idle: times::read(fields, "tcpIdle"),
        half_close: times::read(fields, "halfClose"),
        connect: positive(fields, "connect"),
    };
    if let (Some(request), Some(backend)) = (timeouts.request, timeouts.backend)
        && !request.is_zero()
        && backend > request
    {
        fields.error_at("backendRequest", "longer than request".to_owned());
    }
    fields.finish(UNKNOWN);
    timeouts
}

pub(super) fn retries(fields: &mut Fields<'_, '_>) -> Retries {
    let mut retries = Retries::default();
    let listed = fields.list("on");
    if listed.is_empty() {
        fields.missing("on");
    } else if listed.len() > MAX_CONDITIONS {
        fields.error_at("on", format!("{} are more than {MAX_CONDITIONS}", listed.len()));
    }
    for (index, node) in listed.iter().enumerate() {
        let field = format!("on[{index}]");
        let Some(text) = fields.as_text(node, &field) else { continue };
        if !condition(&mut retries, text) {
            let message = format!(
                "\"{}\" is none of connect-failure, reset, refused-stream, gateway-error, 5xx, a status such as \"503\", \
                 a range such as \"500-502\", grpc-unavailable and other grpc-<status>",
                shortened(text)
            );
            fields.error(node, &field, message);
        }
    }
    let attempts = fields.integer("attempts", 1..=MAX_ATTEMPTS).unwrap_or(1);
    retries.attempts = u32::try_from(attempts).unwrap_or(1);
    retries.per_try = positive(fields, "perTryTimeout");
    if let Some(mut fields) = fields.within("backoff") {
        (retries.backoff, retries.max_backoff) = (positive(&mut fields, "initial"), positive(&mut fields, "max"));
        if let (Some(initial), Some(max)) = (retries.backoff, retries.max_backoff)
            && max < initial
        {
            fields.error_at("max", "shorter than initial".to_owned());
        }
        fields.finish(UNKNOWN);
    }
    retries.max_retry_after = positive(fields, "maxRetryAfter");
    fields.finish(UNKNOWN);
    retries
}

/// Adds what `text` says; false when it says nothing.
fn condition(retries: &mut Retries, text: &str) -> bool {
    match text {
        "connect-failure" => retries.connect_failure = true,
        "reset" => retries.reset = true,
        "refused-stream" => retries.refused_stream = true,
        "gateway-error" => retries.statuses.push((502, 504)),
        "5xx" => retries.statuses.push((500, 599)),
        text => match (text.strip_prefix("grpc-").and_then(code), statuses(text)) {
            (Some(code), _) if code != 0 => retries.grpc.push(code),
            (_, Some(range)) => retries.statuses.push(range),
            _ => return false,
        },
    }
    true
}

/// `503` or `500-502`.
pub(in crate::manifest) fn statuses(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|status| digits && (100..=599).contains(status))
    };
    Some((status(first)?, status(last)?)).filter(|(first, last)| first <= last)
}

pub(super) fn budget(fields: &mut Fields<'_, '_>) -> Option<Budget> {
    let percent = fields.integer("percent", 0..=100).unwrap_or(20);
    let floor = fields.integer("minPerSecond", 0..=1_000_000).unwrap_or(3);
    let ttl = times::read(fields, "ttl").unwrap_or(Duration::from_secs(10));
    if !(Duration::from_secs(1)..=Duration::from_mins(1)).contains(&ttl) {
        fields.error_at("ttl", "not within 1s to 1m".to_owned());
    }
    fields.finish(UNKNOWN);
    Some(Budget { percent: u32::try_from(percent).ok()?, min_per_second: u32::try_from(floor).ok()?, ttl })
}

pub(super) fn faults(fields: &mut Fields<'_, '_>) -> Option<Vec<Fault>> {
    let listed = fields.list("faults").len();
    if listed > MAX_FAULTS {
        fields.error_at("faults", format!("{listed} are more than {MAX_FAULTS}"));
    }
    let mut faults = Vec::new();
    fields.each("faults", |fields| faults.push(fault(fields)));
    (listed > 0).then_some(faults)
}

fn fault(fields: &mut Fields<'_, '_>) -> Fault {
    let headers = headers(fields).unwrap_or_default();
    let mut fault = Fault { headers, ..Fault::default() };
    let (mut has_delay, mut has_abort) = (false, false);
    if let Some(mut fields) = fields.within("delay") {
        has_delay = true;
        let share = fields.share("percent", 10_000).unwrap_or(1_000_000);
        let time = positive(&mut fields, "duration");
        if fields.take("duration").is_none() {
            fields.missing("duration");
        }
        fields.finish(UNKNOWN);
        fault.delay = time.map(|time| (share, time));
    }
    if let Some(mut fields) = fields.within("abort") {
        has_abort = true;
        fault.abort = abort(&mut fields);
    }
    if !has_delay && !has_abort {
        fields.error_at_self("a delay, an abort or both have to be there".to_owned());
    }
    fields.finish(UNKNOWN);
    fault
}

fn abort(fields: &mut Fields<'_, '_>) -> Option<(u32, Abort)> {
    let share = fields.share("percent", 10_000).unwrap_or(1_000_000);
    let status = fields.integer("httpStatus", 200..=599);
    let grpc = fields.text("grpcStatus");
    let known = grpc.and_then(code);
    if let (Some(name), None) = (grpc, known) {
        let message = format!("\"{}\" is no status of gRPC, such as UNAVAILABLE", shortened(name));
        fields.error_at("grpcStatus", message);
    }
    if status.is_none() && grpc.is_none() {
        fields.error_at_self("httpStatus, grpcStatus or both have to be there".to_owned());
    }
    fields.finish(UNKNOWN);
    let status = u16::try_from(status.unwrap_or(503)).ok()?;
    Some((share, Abort { status, grpc: known }))
}

/// As [`count`], with a default.
pub(in crate::manifest) fn count_or(fields: &mut Fields<'_, '_>, name: &'static str, default: u32) -> u32 {
    count(fields, name).unwrap_or(default)
}

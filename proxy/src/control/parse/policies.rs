//! Policies of the wire to policies of the model.
//!
//! Invariant: as `routes` has it: what leaves here is whole and within bounds, or the message is refused.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use mesh_mtls::spiffe;
use mesh_proto::discovery as wire;

use super::routes::{bounded, header_match, name, shortened, text};
use super::{Malformed, port};
use crate::model::BackendId;
use crate::model::policy::{
    Abort, Allowed, BackendPolicy, Balancing, BalancingKind, Breaker, Budget, Cors, Fault, HashCookie, HashKey,
    HeaderRates, HealthCheck, Limit, Limits, Mirror, Origin, Probe, Rate, RateLimits, RequestPolicy, Retries,
    SessionCarrier, SessionPersistence, Timeouts,
};

/// Longest time that a policy can name; what is longer is meant to be for ever.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// Most clients or values with a rate of their own.
const MAX_OVERRIDES: usize = 1024;
const MILLION: u32 = 1_000_000;

fn millis(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis).min(LONGEST))
}

fn limit(given: Option<u64>) -> Option<Limit> {
    given.map(millis)
}

fn count(count: u32) -> Option<u32> {
    (count > 0).then_some(count)
}

fn backend_of(id: wire::BackendRef) -> Result<BackendId, String> {
    id.try_into().map_err(|malformed: Malformed| malformed.to_string())
}

/// `None` when all of it is the proxy's default.
pub(super) fn requests(policy: Option<wire::RequestPolicy>) -> Result<Option<Arc<RequestPolicy>>, Malformed> {
    let Some(policy) = policy else { return Ok(None) };
    let called = shortened(&policy.name);
    let of_policy = |what| Malformed::Policy { policy: called.clone(), what };
    request_policy(policy).map(|policy| Some(Arc::new(policy))).map_err(of_policy)
}

fn request_policy(policy: wire::RequestPolicy) -> Result<RequestPolicy, String> {
    Ok(RequestPolicy {
        name: text(policy.name)?.into(),
        timeouts: Timeouts {
            request: limit(policy.request_timeout_ms),
            response_headers: limit(policy.response_headers_timeout_ms),
            backend: limit(policy.backend_timeout_ms),
            stream_idle: limit(policy.stream_idle_timeout_ms),
            tcp_idle: limit(policy.tcp_idle_timeout_ms),
            half_close: limit(policy.half_close_timeout_ms),
        },
        retries: policy.retries.map(retries).transpose()?,
        budget: policy.budget.map(budget).transpose()?,
        faults: bounded(policy.faults)?.into_iter().map(fault).collect::<Result<_, _>>()?,
    })
}

fn retries(retries: wire::Retries) -> Result<Retries, String> {
    let grpc = |bits: u32, code: u32| match code {
        0..=16 => Ok(bits | 1 << code),
        _ => Err(format!("{code} is no code of gRPC")),
    };
    let defaults = (Duration::from_millis(25), Duration::from_millis(250), Duration::from_secs(30));
    let backoff = millis(retries.backoff_ms).unwrap_or(defaults.0);
    Ok(Retries {
        attempts: if retries.attempts <= 10 { retries.attempts } else { return Err("more than 10 attempts".into()) },
        statuses: bounded(retries.statuses)?.into_iter().map(statuses).collect::<Result<_, _>>()?,
        grpc: bounded(retries.grpc)?.into_iter().try_fold(0, grpc)?,
        connect_failure: retries.connect_failure,
        reset: retries.reset,
        refused_stream: retries.refused_stream,
        timeout: retries.timeout,
        backoff,
        least_backoff: millis(retries.least_backoff_ms).unwrap_or_default(),
        max_backoff: millis(retries.max_backoff_ms).unwrap_or(defaults.1).max(backoff),
        max_retry_after: millis(retries.max_retry_after_ms).unwrap_or(defaults.2),
    })
}

fn statuses(range: wire::StatusRange) -> Result<RangeInclusive<u16>, String> {
    let bound = |status: u32| u16::try_from(status).ok().filter(|status| (100..=599).contains(status));
    match (bound(range.first), bound(range.last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("{} to {} are no statuses", range.first, range.last)),
    }
}

fn budget(budget: wire::RetryBudget) -> Result<Budget, String> {
    let ttl = millis(budget.ttl_ms).filter(|ttl| (Duration::from_secs(1)..=Duration::from_secs(60)).contains(ttl));
    match ttl {
        Some(ttl) if budget.percent <= 100 && budget.min_per_second <= MILLION => {
            Ok(Budget { percent: budget.percent, min_per_second: budget.min_per_second, ttl })
        }
        _ => Err("a retry budget that is no share of 1 to 60 s".into()),
    }
}

fn fault(fault: wire::Fault) -> Result<Fault, String> {
    let share = |ppm: u32| if ppm <= MILLION { Ok(ppm) } else { Err(format!("a share of {ppm} parts per million")) };
    let delay = match (share(fault.delay_ppm)?, millis(fault.delay_ms)) {
        (0, _) | (_, None) => None,
        (share, Some(delay)) => Some((share, delay)),
    };
    let abort = match share(fault.abort_ppm)? {
        0 => None,
        share => Some((share, abort(fault.http_status, fault.grpc_status)?)),
    };
    let headers = bounded(fault.headers)?.into_iter().map(header_match).collect::<Result<_, _>>()?;
    Ok(Fault { headers, delay, abort })
}

fn abort(status: u32, grpc: Option<u32>) -> Result<Abort, String> {
    let known = u16::try_from(status).ok().filter(|status| (200..=599).contains(status));
    let status = known.and_then(|status| StatusCode::from_u16(status).ok());
    let grpc = grpc.map(|code| u8::try_from(code).ok().filter(|code| *code <= 16).ok_or("no code of gRPC"));
    Ok(Abort { status: status.ok_or("a fault without a status")?, grpc: grpc.transpose()? })
}

/// `None` when all of it is the proxy's default.
pub(super) fn backend(policy: Option<wire::BackendPolicy>) -> Result<Option<Arc<BackendPolicy>>, Malformed> {
    let Some(policy) = policy else { return Ok(None) };
    let called = shortened(&policy.name);
    let of_policy = |what| Malformed::Policy { policy: called.clone(), what };
    backend_policy(policy).map(|policy| Some(Arc::new(policy))).map_err(of_policy)
}

fn backend_policy(policy: wire::BackendPolicy) -> Result<BackendPolicy, String> {
    Ok(BackendPolicy {
        name: text(policy.name)?.into(),
        breaker: policy.breaker.map_or(Ok(Breaker::default()), breaker)?,
        limits: policy.limits.map(limits).unwrap_or_default(),
        balancing: policy.balancing.map(balancing).transpose()?.unwrap_or_default(),
        connect_timeout: policy.connect_timeout_ms.and_then(millis),
        failover: bounded(policy.failover)?.into_iter().map(backend_of).collect::<Result<_, _>>()?,
    })
}

fn breaker(breaker: wire::Breaker) -> Result<Breaker, String> {
    if breaker.success_permille > 1000 || breaker.max_ejected_percent > 100 {
        return Err("a circuit breaker with a share above 1".into());
    }
    let default = Breaker::default();
    let min_ejection = millis(breaker.min_ejection_ms).unwrap_or(default.min_ejection);
    Ok(Breaker {
        is_enabled: !breaker.disabled,
        consecutive_failures: count(breaker.consecutive_failures).unwrap_or(default.consecutive_failures),
        success_permille: count(breaker.success_permille).unwrap_or(default.success_permille),
        window: millis(breaker.window_ms).unwrap_or(default.window),
        min_requests: count(breaker.min_requests).unwrap_or(default.min_requests),
        min_ejection,
        max_ejection: millis(breaker.max_ejection_ms).unwrap_or(default.max_ejection).max(min_ejection),
        max_ejected_percent: count(breaker.max_ejected_percent).unwrap_or(default.max_ejected_percent),
    })
}

fn limits(limits: wire::Limits) -> Limits {
    Limits {
        connections: count(limits.max_connections),
        requests: count(limits.max_requests),
        pending: count(limits.max_pending),
        pending_wait: millis(limits.max_pending_ms),
        requests_per_connection: count(limits.requests_per_connection),
        connection_age: millis(limits.max_connection_age_ms),
    }
}

fn balancing(balancing: wire::Balancing) -> Result<Balancing, String> {
    let kind = match wire::BalancingKind::try_from(balancing.kind).map_err(|_| "an unknown way of balancing")? {
        wire::BalancingKind::PeakEwma => BalancingKind::PeakEwma,
        wire::BalancingKind::LeastRequest => BalancingKind::LeastRequest,
        wire::BalancingKind::RoundRobin => BalancingKind::RoundRobin,
        wire::BalancingKind::ConsistentHash => BalancingKind::ConsistentHash {
            keys: bounded(balancing.hash)?.into_iter().map(hash_key).collect::<Result<_, _>>()?,
            bounded_load_percent: match balancing.bounded_load_percent {
                0 => 125,
                percent @ 101..=10_000 => percent,
                percent => return Err(format!("a bounded load of {percent} %")),
            },
        },
    };
    Ok(Balancing { kind, slow_start: millis(balancing.slow_start_ms), ignores_zones: balancing.ignore_zones })
}

fn hash_key(key: wire::HashKey) -> Result<HashKey, String> {
    use wire::hash_key::Kind;
    Ok(match key.kind.ok_or("an empty key of a hash")? {
        Kind::Header(header) => HashKey::Header(name(&header)?),
        Kind::Cookie(cookie) => {
            let path = if cookie.path.is_empty() { "/".to_owned() } else { cookie.path };
            let set = (cookie.set).then(|| Ok::<_, String>((cookie_part(path)?, millis(cookie.ttl_ms))));
            HashKey::Cookie(HashCookie { name: cookie_name(cookie.name)?, set: set.transpose()? })
        }
        Kind::SourceAddress(_) => HashKey::SourceAddress,
        Kind::Query(query) => HashKey::Query(text(query)?),
    })
}

/// A name of a cookie is a token, as names of fields are.
fn cookie_name(cookie: String) -> Result<Box<str>, String> {
    let is_token = HeaderName::try_from(&cookie).is_ok();
    if is_token { text(cookie) } else { Err(format!("{} is no name of a cookie", shortened(&cookie))) }
}

fn cookie_part(part: String) -> Result<Box<str>, String> {
    let fits = part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
    if fits { text(part) } else { Err(format!("path {}", shortened(&part))) }
}

pub(super) fn session(session: wire::SessionPersistence) -> Result<SessionPersistence, String> {
    let carrier = match session.header {
        true => SessionCarrier::Header(name(&session.name.to_ascii_lowercase())?),
        false => SessionCarrier::Cookie { name: cookie_name(session.name)?, is_permanent: session.permanent },
    };
    Ok(SessionPersistence { carrier, absolute: millis(session.absolute_ms), idle: millis(session.idle_ms) })
}

pub(super) fn mirror(mirror: wire::Mirror) -> Result<Mirror, String> {
    if mirror.denominator == 0 || mirror.numerator > mirror.denominator {
        return Err(format!("a mirror of {} in {}", mirror.numerator, mirror.denominator));
    }
    let to = match mirror.backend {
        Some(id) => Ok(backend_of(id)?),
        None => Err(shortened(&mirror.invalid).into()),
    };
    Ok(Mirror { to, numerator: mirror.numerator, denominator: mirror.denominator })
}

pub(super) fn cors(cors: wire::Cors) -> Result<Cors, String> {
    Ok(Cors {
        origins: bounded(cors.origins)?.iter().map(|allowed| origin(allowed)).collect::<Result<_, _>>()?,
        credentials: cors.credentials,
        methods: allowed(cors.methods, |method| {
            Method::from_bytes(method.as_bytes()).map_err(|_| format!("method {}", shortened(method)))
        })?,
        headers: allowed(cors.headers, field)?,
        exposed: allowed(cors.exposed, field)?,
        max_age: (cors.max_age_s > 0).then(|| Duration::from_secs(cors.max_age_s.into())),
    })
}

fn field(field: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(field).map_err(|_| format!("field {}", shortened(field)))
}

fn origin(origin: &str) -> Result<Origin, String> {
    if origin == "*" {
        return Ok(Origin::Any);
    }
    match origin.split_once("://*.") {
        Some((scheme, rest)) if !rest.contains('*') => {
            Ok(Origin::Within(text(format!("{scheme}://"))?, text(format!(".{rest}"))?))
        }
        None if !origin.contains('*') => {
            HeaderValue::from_str(origin).map(Origin::Exact).map_err(|_| format!("origin {}", shortened(origin)))
        }
        _ => Err(format!("origin {}", shortened(origin))),
    }
}

fn allowed<T>(list: Vec<String>, parse: impl Fn(&str) -> Result<T, String>) -> Result<Allowed<T>, String> {
    if list.iter().any(|word| word == "*") {
        return Ok(Allowed::Any);
    }
    Ok(Allowed::These(bounded(list)?.iter().map(|word| parse(word)).collect::<Result<_, _>>()?))
}

/// `None`: there are none.
pub(super) fn rates(rates: Option<wire::RateLimits>) -> Result<Option<Arc<RateLimits>>, Malformed> {
    let Some(rates) = rates else { return Ok(None) };
    let called = shortened(&rates.name);
    let of_policy = |what| Malformed::Policy { policy: called.clone(), what };
    rate_limits(rates).map(|rates| Some(Arc::new(rates))).map_err(of_policy)
}

fn rate_limits(rates: wire::RateLimits) -> Result<RateLimits, String> {
    let client = |key: String| key.parse::<spiffe::Id>().map_err(|_| format!("client {}", shortened(&key)));
    let header = match rates.header.as_str() {
        "" => None,
        field => Some(HeaderRates {
            name: name(field)?,
            per_value: rates.per_value.map(rate).transpose()?,
            values: overrides(rates.values, text)?,
        }),
    };
    Ok(RateLimits {
        name: text(rates.name)?.into(),
        total: rates.total.map(rate).transpose()?,
        per_client: rates.per_client.map(rate).transpose()?,
        clients: overrides(rates.overrides, client)?,
        header,
    })
}

fn overrides<K>(
    overrides: Vec<wire::RateOverride>,
    key: impl Fn(String) -> Result<K, String>,
) -> Result<Box<[(K, Rate)]>, String> {
    let mut parsed = Vec::new();
    for one in overrides {
        let of = rate(one.rate.ok_or("an override without a rate")?)?;
        for name in one.keys {
            parsed.push((key(name)?, of));
        }
        if parsed.len() > MAX_OVERRIDES {
            return Err(format!("more than {MAX_OVERRIDES} rates of their own"));
        }
    }
    Ok(parsed.into())
}

fn rate(rate: wire::Rate) -> Result<Rate, String> {
    const MOST: u64 = 60_000_000;
    match rate.per_minute {
        1..=MOST => Ok(Rate { per_minute: rate.per_minute, burst: rate.burst.max(1) }),
        other => Err(format!("{other} requests a minute")),
    }
}

/// The target of a request, which is written out as it is.
fn target(path: String) -> Result<Box<str>, String> {
    if path.starts_with('/') { graphic(path) } else { Err(format!("path {}", shortened(&path))) }
}

fn graphic(word: String) -> Result<Box<str>, String> {
    let fits = word.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { text(word) } else { Err(format!("{} has characters that a request cannot have", shortened(&word))) }
}

pub(super) fn check(check: wire::HealthCheck) -> Result<HealthCheck, Malformed> {
    use wire::health_check::Kind;
    let refuse = |what: String| Malformed::Policy { policy: "health check".into(), what };
    let number = port(check.port)?;
    let probe = match check.kind.ok_or(Malformed::Missing("kind of health check"))? {
        Kind::Http(http) => Probe::Http {
            path: target(http.path).map_err(refuse)?,
            host: if http.host.is_empty() { None } else { Some(graphic(http.host).map_err(refuse)?) },
            expected: http.expected.map_or(Ok(200..=399), statuses).map_err(refuse)?,
        },
        Kind::Grpc(grpc) => Probe::Grpc { service: text(grpc.service).map_err(refuse)? },
        Kind::Tcp(_) => Probe::Tcp,
    };
    let interval = millis(check.interval_ms).unwrap_or(Duration::from_secs(10));
    Ok(HealthCheck {
        port: number,
        probe,
        interval: interval.max(Duration::from_millis(100)),
        timeout: millis(check.timeout_ms).unwrap_or(Duration::from_secs(1)),
        unhealthy_after: check.unhealthy_after.clamp(1, 100),
        healthy_after: check.healthy_after.clamp(1, 100),
    })
}

//! Policies to bytes.
//!
//! Invariant: what is not said is absent, so that the proxy's default counts. Non-goal: those defaults.

use std::time::Duration;

use mesh_mtls::spiffe;
use mesh_proto::discovery as wire;

use super::routes::named;
use crate::index::{BackendPolicy, Inbound, Rates, RequestPolicy, RoutedMirror};
use crate::model::policy::{
    Balancing, BalancingKind, Breaker, Budget, Fault, HashKey, HealthCheck, Limits, Port, Probe, Rate, Retries,
};
use crate::model::route::{Cors, SessionPersistence};

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// 0 stands for what is not said.
fn some_millis(time: Option<Duration>) -> u64 {
    time.map_or(0, millis)
}

impl From<&RequestPolicy> for wire::RequestPolicy {
    fn from(policy: &RequestPolicy) -> Self {
        let timeouts = &policy.timeouts;
        Self {
            name: policy.name.clone(),
            request_timeout_ms: timeouts.request.map(millis),
            response_headers_timeout_ms: timeouts.response_headers.map(millis),
            backend_timeout_ms: timeouts.backend.map(millis),
            stream_idle_timeout_ms: timeouts.stream_idle.map(millis),
            tcp_idle_timeout_ms: timeouts.tcp_idle.map(millis),
            half_close_timeout_ms: timeouts.half_close.map(millis),
            retries: policy.retries.as_ref().map(Into::into),
            budget: policy.budget.map(Into::into),
            faults: policy.faults.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Retries> for wire::Retries {
    fn from(retries: &Retries) -> Self {
        let range = |(first, last): &(u16, u16)| wire::StatusRange { first: (*first).into(), last: (*last).into() };
        Self {
            attempts: retries.attempts,
            statuses: retries.statuses.iter().map(range).collect(),
            grpc: retries.grpc.clone(),
            connect_failure: retries.connect_failure,
            reset: retries.reset,
            refused_stream: retries.refused_stream,
            timeout: retries.timeout,
            backoff_ms: some_millis(retries.backoff),
            max_backoff_ms: some_millis(retries.max_backoff),
            least_backoff_ms: some_millis(retries.least_backoff),
            max_retry_after_ms: some_millis(retries.max_retry_after),
        }
    }
}

impl From<Budget> for wire::RetryBudget {
    fn from(budget: Budget) -> Self {
        Self { percent: budget.percent, min_per_second: budget.min_per_second, ttl_ms: millis(budget.ttl) }
    }
}

impl From<&Fault> for wire::Fault {
    fn from(fault: &Fault) -> Self {
        let abort = fault.abort.map(|(_, abort)| abort);
        Self {
            headers: fault.headers.iter().map(named).collect(),
            delay_ppm: fault.delay.map_or(0, |(share, _)| share),
            delay_ms: fault.delay.map_or(0, |(_, time)| millis(time)),
            abort_ppm: fault.abort.map_or(0, |(share, _)| share),
            http_status: abort.map_or(0, |abort| abort.status.into()),
            grpc_status: abort.and_then(|abort| abort.grpc),
        }
    }
}

impl From<&BackendPolicy> for wire::BackendPolicy {
    fn from(policy: &BackendPolicy) -> Self {
        Self {
            name: policy.name.clone(),
            breaker: policy.breaker.map(Into::into),
            limits: policy.limits.map(Into::into),
            balancing: policy.balancing.as_ref().map(Into::into),
            connect_timeout_ms: policy.connect.map(millis),
            failover: policy.failover.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Port> for wire::BackendRef {
    fn from(Port { service, port }: &Port) -> Self {
        Self { namespace: service.namespace.clone(), service: service.name.clone(), port: u32::from(port.get()) }
    }
}

impl From<Breaker> for wire::Breaker {
    fn from(breaker: Breaker) -> Self {
        Self {
            disabled: breaker.is_disabled,
            consecutive_failures: breaker.consecutive_failures.unwrap_or_default(),
            success_permille: breaker.success_permille.unwrap_or_default(),
            window_ms: some_millis(breaker.window),
            min_requests: breaker.min_requests.unwrap_or_default(),
            min_ejection_ms: some_millis(breaker.min_ejection),
            max_ejection_ms: some_millis(breaker.max_ejection),
            max_ejected_percent: breaker.max_ejected_percent.unwrap_or_default(),
        }
    }
}

impl From<Limits> for wire::Limits {
    fn from(limits: Limits) -> Self {
        Self {
            max_connections: limits.connections.unwrap_or_default(),
            max_requests: limits.requests.unwrap_or_default(),
            max_pending: limits.pending.unwrap_or_default(),
            max_pending_ms: some_millis(limits.pending_wait),
            requests_per_connection: limits.requests_per_connection.unwrap_or_default(),
            max_connection_age_ms: some_millis(limits.connection_age),
        }
    }
}

impl From<&Balancing> for wire::Balancing {
    fn from(balancing: &Balancing) -> Self {
        let kind = match balancing.kind {
            BalancingKind::PeakEwma => wire::BalancingKind::PeakEwma,
            BalancingKind::LeastRequest => wire::BalancingKind::LeastRequest,
            BalancingKind::RoundRobin => wire::BalancingKind::RoundRobin,
            BalancingKind::ConsistentHash => wire::BalancingKind::ConsistentHash,
        };
        Self {
            kind: kind.into(),
            hash: balancing.hash.iter().map(Into::into).collect(),
            slow_start_ms: some_millis(balancing.slow_start),
            bounded_load_percent: balancing.bounded_load_percent.unwrap_or_default(),
            ignore_zones: balancing.ignores_zones,
        }
    }
}

impl From<&HashKey> for wire::HashKey {
    fn from(key: &HashKey) -> Self {
        use wire::hash_key::Kind;
        let kind = match key {
            HashKey::Header(header) => Kind::Header(header.clone()),
            HashKey::Cookie(cookie) => Kind::Cookie(wire::HashCookie {
                name: cookie.name.clone(),
                path: cookie.path.clone(),
                ttl_ms: some_millis(cookie.ttl),
                set: cookie.set,
            }),
            HashKey::SourceAddress => Kind::SourceAddress(true),
            HashKey::Query(query) => Kind::Query(query.clone()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<&Rates> for wire::RateLimits {
    fn from(rates: &Rates) -> Self {
        let limits = &rates.limits;
        let overrides = limits.clients.iter().map(|(clients, rate)| {
            let ids = clients.iter().map(|name| spiffe::Id::new(&rates.trust_domain, &name.namespace, &name.name));
            // A service account that no certificate can name is nobody.
            let keys = ids.filter_map(|id| Some(id.ok()?.to_string())).collect();
            wire::RateOverride { keys, rate: Some((*rate).into()) }
        });
        let header = limits.header.as_ref();
        let values = header.into_iter().flat_map(|header| &header.values);
        Self {
            name: rates.name.clone(),
            total: limits.total.map(Into::into),
            per_client: limits.per_client.map(Into::into),
            overrides: overrides.collect(),
            header: header.map(|header| header.name.clone()).unwrap_or_default(),
            per_value: header.and_then(|header| header.per_value).map(Into::into),
            values: values
                .map(|(values, rate)| wire::RateOverride { keys: values.clone(), rate: Some((*rate).into()) })
                .collect(),
        }
    }
}

impl From<Rate> for wire::Rate {
    fn from(rate: Rate) -> Self {
        Self { per_minute: rate.per_minute, burst: rate.burst }
    }
}

impl From<&Inbound> for wire::InboundPolicy {
    fn from(inbound: &Inbound) -> Self {
        let ports = inbound.ports.iter().map(|(number, port)| wire::InboundPort {
            port: u32::from(*number),
            protocol: wire::Protocol::from(port.protocol).into(),
            rates: port.rates.as_deref().map(Into::into),
        });
        let checks = inbound.checks.iter().map(Into::into).collect();
        Self { ports: ports.collect(), zone: inbound.zone.to_string(), checks }
    }
}

impl From<&HealthCheck> for wire::HealthCheck {
    fn from(check: &HealthCheck) -> Self {
        use wire::health_check::Kind;
        let kind = match &check.probe {
            Probe::Http { path, host, statuses: (first, last) } => Kind::Http(wire::HttpCheck {
                path: path.clone(),
                host: host.clone(),
                expected: Some(wire::StatusRange { first: (*first).into(), last: (*last).into() }),
            }),
            Probe::Grpc { service } => Kind::Grpc(wire::GrpcCheck { service: service.clone() }),
            Probe::Tcp => Kind::Tcp(wire::TcpCheck {}),
        };
        Self {
            port: u32::from(check.port.get()),
            kind: Some(kind),
            interval_ms: millis(check.interval),
            timeout_ms: millis(check.timeout),
            unhealthy_after: check.unhealthy_after,
            healthy_after: check.healthy_after,
        }
    }
}

impl From<&RoutedMirror> for wire::Mirror {
    fn from(mirror: &RoutedMirror) -> Self {
        let (backend, invalid) = match &mirror.to {
            Ok(backend) => (Some(backend.into()), String::new()),
            Err(why) => (None, why.clone()),
        };
        Self { backend, numerator: mirror.numerator, denominator: mirror.denominator, invalid }
    }
}

impl From<&Cors> for wire::Cors {
    fn from(cors: &Cors) -> Self {
        Self {
            origins: cors.origins.clone(),
            credentials: cors.credentials,
            methods: cors.methods.clone(),
            headers: cors.headers.clone(),
            exposed: cors.exposed.clone(),
            max_age_s: cors.max_age,
        }
    }
}

impl From<&SessionPersistence> for wire::SessionPersistence {
    fn from(session: &SessionPersistence) -> Self {
        Self {
            name: session.name.clone(),
            header: session.is_header,
            absolute_ms: millis(session.absolute),
            idle_ms: millis(session.idle),
            permanent: session.is_permanent,
        }
    }
}

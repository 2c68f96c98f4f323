//! `mesh.internal/v1alpha1` TrafficPolicy, a kind of our own.
//!
//! Invariant: a field that we do not know is an error, and so is a value that a proxy would not take: what is accepted
//! here is in force everywhere. Non-goal: whether targets exist (`index`, `validate`).

mod backends;
mod rates;
mod requests;

use super::fields::{Fields, shortened};
use super::finding::Severity;
use super::meta;
use super::route::reference;
use super::times;
use crate::model::policy::{Port, Section, Spec, Subject, Target, TrafficPolicy};
use crate::model::{Key, Kind, Name, Protocol, is_subdomain};

pub(super) use backends::cookie_name;
pub(super) use requests::{count_or, statuses};

pub(super) const UNKNOWN: Severity = Severity::Error;
const MAX_TARGETS: usize = 16;
const MAX_FAILOVER: usize = 8;

pub(super) fn read(object: &mut Fields<'_, '_>) -> Option<TrafficPolicy> {
    let meta = meta::read(object, UNKNOWN);
    object.ignore(&["status"]);
    let Some(mut fields) = object.within("spec") else {
        object.missing("spec");
        return None;
    };
    let meta = meta?;
    let namespace = &meta.name.namespace;
    let targets = targets(&mut fields, namespace);
    let spec = Spec {
        protocol: protocol(&mut fields),
        timeouts: fields.within("timeouts").map(|mut fields| requests::timeouts(&mut fields)),
        retries: fields.within("retries").map(|mut fields| requests::retries(&mut fields)),
        budget: fields.within("retryBudget").and_then(|mut fields| requests::budget(&mut fields)),
        breaker: fields.within("circuitBreaker").map(|mut fields| backends::breaker(&mut fields)),
        limits: fields.within("limits").map(|mut fields| backends::limits(&mut fields)),
        balancing: fields.within("balancing").map(|mut fields| backends::balancing(&mut fields)),
        failover: failover(&mut fields, namespace),
        rates: fields.within("rateLimits").map(|mut fields| rates::read(&mut fields, namespace)),
        faults: requests::faults(&mut fields),
    };
    together(&mut fields, &spec, &targets);
    fields.finish(UNKNOWN);
    Some(TrafficPolicy { name: meta.name, created: meta.created, targets, spec })
}

/// What shows only when parts are seen beside each other.
fn together(fields: &mut Fields<'_, '_>, spec: &Spec, targets: &[Target]) {
    let per_try = spec.retries.as_ref().and_then(|retries| retries.per_try);
    if per_try.is_some() && spec.timeouts.is_some_and(|timeouts| timeouts.backend.is_some()) {
        fields.error_at("retries", "perTryTimeout is the same as timeouts.backendRequest, say one of them".to_owned());
    }
    if *spec == Spec::default() {
        fields.warning_at_self("targetRefs", "the policy says nothing".to_owned());
    }
    if !targets.iter().any(|target| matches!(target.subject, Subject::Route(_))) {
        return;
    }
    for (name, is_there) in [
        ("protocol", spec.protocol.is_some()),
        ("circuitBreaker", spec.breaker.is_some()),
        ("limits", spec.limits.is_some()),
        ("balancing", spec.balancing.is_some()),
        ("failover", spec.failover.is_some()),
        ("rateLimits", spec.rates.is_some()),
    ] {
        if is_there {
            let message = "a route cannot have it: timeouts, retries, retryBudget and faults only".to_owned();
            fields.error_at(name, message);
        }
    }
    if let Some(timeouts) = &spec.timeouts
        && (timeouts.connect.or(timeouts.tcp_idle).or(timeouts.half_close)).is_some()
    {
        let message = "a route cannot have connect, tcpIdle and halfClose: they are of connections".to_owned();
        fields.error_at("timeouts", message);
    }
}

fn targets(fields: &mut Fields<'_, '_>, namespace: &str) -> Vec<Target> {
    let mut targets = Vec::new();
    let listed = fields.list("targetRefs").len();
    if listed == 0 {
        fields.missing("targetRefs");
    } else if listed > MAX_TARGETS {
        fields.error_at("targetRefs", format!("{listed} are more than {MAX_TARGETS}"));
    }
    fields.each("targetRefs", |fields| targets.extend(target(fields, namespace)));
    targets
}

fn target(fields: &mut Fields<'_, '_>, namespace: &str) -> Option<Target> {
    let group = fields.text("group").unwrap_or_default();
    let kind = fields.text("kind").unwrap_or("Service");
    let name = fields.take("name");
    if name.is_none() {
        fields.missing("name");
    }
    let name = name.and_then(|node| meta::dns_name(fields, node, "name", is_subdomain));
    let section = fields.text("sectionName").map(str::to_owned);
    let port = fields.take("port").and_then(|node| fields.as_port(node, "port"));
    fields.finish(UNKNOWN);
    let name = Name::new(namespace, name?);
    let route = |kind| Subject::Route(Key { kind, name: name.clone() });
    let subject = match (kind, group) {
        ("Service", "" | "core") => Subject::Service(name),
        ("HTTPRoute", "gateway.networking.k8s.io") => route(Kind::HttpRoute),
        ("GRPCRoute", "gateway.networking.k8s.io") => route(Kind::GrpcRoute),
        _ => {
            let (kind, group) = (shortened(kind), shortened(group));
            let message = format!(
                "{kind} of group \"{group}\" is no target: Service of group \"\", HTTPRoute and GRPCRoute of group \
                 gateway.networking.k8s.io are"
            );
            fields.error_at("kind", message);
            return None;
        }
    };
    let section = match (section, port, &subject) {
        (None, None, _) => Section::Whole,
        (Some(name), None, _) => Section::Name(name),
        (None, Some(port), Subject::Service(_)) => Section::Port(port),
        _ => {
            fields.error_at("port", "a port is of a Service, and not beside a sectionName".to_owned());
            return None;
        }
    };
    Some(Target { subject, section })
}

fn protocol(fields: &mut Fields<'_, '_>) -> Option<Protocol> {
    let text = fields.text("protocol")?;
    let protocol = match text {
        "detect" => Protocol::Detect,
        "http1" => Protocol::Http1,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "opaque" => Protocol::Opaque,
        other => {
            let message = format!("\"{}\" is none of detect, http1, http2, grpc, opaque", shortened(other));
            fields.error_at("protocol", message);
            return None;
        }
    };
    Some(protocol)
}

fn failover(fields: &mut Fields<'_, '_>, namespace: &str) -> Option<Vec<Port>> {
    let listed = fields.list("failover").len();
    if listed > MAX_FAILOVER {
        fields.error_at("failover", format!("{listed} are more than {MAX_FAILOVER}"));
    }
    let mut failover = Vec::new();
    fields.each("failover", |fields| {
        let service = reference(fields, namespace);
        let port = fields.port("port");
        fields.finish(UNKNOWN);
        if let (Some(service), Some(port)) = (service, port) {
            failover.push(Port { service, port });
        }
    });
    (listed > 0).then_some(failover)
}

/// A duration that is no switch: zero is an error.
pub(super) fn positive(fields: &mut Fields<'_, '_>, name: &'static str) -> Option<std::time::Duration> {
    let time = times::read(fields, name)?;
    if time.is_zero() {
        fields.error_at(name, "0 is too short".to_owned());
        return None;
    }
    Some(time)
}

/// A number from 1 on.
pub(super) fn count(fields: &mut Fields<'_, '_>, name: &'static str) -> Option<u32> {
    let number = fields.integer(name, 1..=i64::from(u32::MAX))?;
    u32::try_from(number).ok()
}

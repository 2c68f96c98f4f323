//! `mesh.internal/v1alpha1` Workload, a kind of our own.
//!
//! Invariant: a field that we do not know is an error: a misspelt `meshed` or `serviceAccount` would change who is
//! trusted. Non-goal: finding out whether the workload is there.

use std::time::Duration;

use super::fields::Fields;
use super::finding::Severity;
use super::meta;
use super::policy::{count_or, positive, statuses};
use crate::model::policy::{HealthCheck, Probe};
use crate::model::{Mesh, Workload, WorkloadPort, is_subdomain};

const UNKNOWN: Severity = Severity::Error;
const MAX_WEIGHT: i64 = 10_000;
const MAX_CHECKS: usize = 16;
/// Longest path, host or service of a check.
const MAX_TEXT: usize = 1024;

pub(super) fn read(object: &mut Fields<'_, '_>) -> Option<Workload> {
    let meta = meta::read(object, UNKNOWN);
    object.ignore(&["status"]);
    let Some(mut spec) = object.within("spec") else {
        object.missing("spec");
        return None;
    };
    if spec.take("addresses").is_none() {
        spec.missing("addresses");
    }
    let mut addresses = spec.addresses("addresses");
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    let mesh = mesh(&mut spec);
    let zone = meta::zone(&mut spec);
    let ports = ports(&mut spec);
    let weight = spec.integer("weight", 1..=MAX_WEIGHT).unwrap_or(1);
    let checks = checks(&mut spec);
    if mesh == Mesh::Plain && !checks.is_empty() {
        spec.error_at("healthChecks", "without a sidecar nobody runs them".to_owned());
    }
    spec.finish(UNKNOWN);
    let meta = meta?;
    let weight = u32::try_from(weight).unwrap_or(1);
    Some(Workload { name: meta.name, labels: meta.labels, addresses, mesh, zone, ports, weight, checks })
}

fn mesh(spec: &mut Fields<'_, '_>) -> Mesh {
    let service_account = match spec.take("serviceAccount") {
        Some(node) => meta::dns_name(spec, node, "serviceAccount", is_subdomain),
        None => None,
    };
    if spec.boolean("meshed") == Some(false) {
        return Mesh::Plain;
    }
    // A malformed name is an error, so that this default never stands in for it.
    let service_account = service_account.unwrap_or_else(|| "default".to_owned());
    Mesh::Meshed { service_account }
}

fn ports(spec: &mut Fields<'_, '_>) -> Vec<WorkloadPort> {
    let mut ports: Vec<WorkloadPort> = Vec::new();
    spec.each("ports", |fields| {
        let name = meta::port_name(fields);
        let port = fields.port("port");
        let protocol = meta::app_protocol(fields);
        fields.finish(UNKNOWN);
        let Some(port) = port else {
            return;
        };
        if ports.iter().any(|other| other.port == port) {
            fields.error_at_self(format!("port {port} is there twice"));
        } else if !name.is_empty() && ports.iter().any(|other| other.name == name) {
            fields.error_at_self(format!("two ports are called {name}"));
        } else {
            ports.push(WorkloadPort { name, port, protocol });
        }
    });
    ports
}

fn checks(spec: &mut Fields<'_, '_>) -> Vec<HealthCheck> {
    let mut checks = Vec::new();
    let listed = spec.list("healthChecks").len();
    if listed > MAX_CHECKS {
        spec.error_at("healthChecks", format!("{listed} are more than {MAX_CHECKS}"));
    }
    spec.each("healthChecks", |fields| checks.extend(check(fields)));
    checks
}

fn check(fields: &mut Fields<'_, '_>) -> Option<HealthCheck> {
    let port = fields.port("port");
    let http = fields.within("http").map(|mut fields| http(&mut fields));
    let grpc = fields.within("grpc").map(|mut fields| {
        let service = text(&mut fields, "service").unwrap_or_default();
        fields.finish(UNKNOWN);
        Probe::Grpc { service }
    });
    let tcp = fields.within("tcp").map(|mut fields| {
        fields.finish(UNKNOWN);
        Probe::Tcp
    });
    let interval = positive(fields, "interval").unwrap_or(Duration::from_secs(10));
    if interval < Duration::from_millis(100) {
        fields.error_at("interval", "shorter than 100ms".to_owned());
    }
    let timeout = positive(fields, "timeout").unwrap_or(Duration::from_secs(1));
    let mut times = |name, default| {
        let times = count_or(fields, name, default);
        if times > 100 {
            fields.error_at(name, format!("{times} is not within 1 to 100"));
        }
        times
    };
    let (unhealthy_after, healthy_after) = (times("unhealthyAfter", 3), times("healthyAfter", 1));
    fields.finish(UNKNOWN);
    let mut probes = [http, grpc, tcp].into_iter().flatten();
    let (Some(probe), None) = (probes.next(), probes.next()) else {
        fields.error_at_self("one of http, grpc and tcp has to be there".to_owned());
        return None;
    };
    Some(HealthCheck { port: port?, probe, interval, timeout, unhealthy_after, healthy_after })
}

fn http(fields: &mut Fields<'_, '_>) -> Probe {
    let path = text(fields, "path").unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        fields.error_at("path", "a path begins with / and has no blank".to_owned());
    }
    let host = text(fields, "host").unwrap_or_default();
    if http::HeaderValue::from_str(&host).is_err() {
        fields.error_at("host", "no header field can have it".to_owned());
    }
    let range = match fields.text("statuses") {
        None => Some((200, 399)),
        Some(text) => statuses(text),
    };
    if range.is_none() {
        fields.error_at("statuses", "expected a status such as \"200\" or a range such as \"200-399\"".to_owned());
    }
    fields.finish(UNKNOWN);
    Probe::Http { path, host, statuses: range.unwrap_or((200, 399)) }
}

fn text(fields: &mut Fields<'_, '_>, name: &'static str) -> Option<String> {
    let text = fields.text(name)?;
    if text.len() > MAX_TEXT {
        fields.error_at(name, format!("{} bytes are more than {MAX_TEXT}", text.len()));
    }
    Some(text.to_owned())
}

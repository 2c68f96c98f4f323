//! `mesh.internal/v1alpha1` Workload, a kind of our own.
//!
//! Invariant: a field that we do not know is an error: a misspelt `meshed` or `serviceAccount` would change who is
//! trusted. Non-goal: finding out whether the workload is there.

use super::fields::Fields;
use super::finding::Severity;
use super::meta;
use crate::model::{Mesh, Workload, WorkloadPort, is_subdomain};

const UNKNOWN: Severity = Severity::Error;

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
    spec.finish(UNKNOWN);
    let meta = meta?;
    Some(Workload { name: meta.name, labels: meta.labels, addresses, mesh, zone, ports })
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

//! `discovery.k8s.io/v1` EndpointSlice.
//!
//! Invariant: an endpoint whose readiness is not said is ready, as Kubernetes has it. Non-goal: slices of DNS names, which
//! are found and read as empty; `nodeName`.

use super::fields::Fields;
use super::finding::Severity;
use super::meta;
use crate::model::{EndpointSlice, Readiness, SliceEndpoint, SlicePort, is_subdomain};

const UNKNOWN: Severity = Severity::Warning;
/// As the API has it.
const MAX_HINTS: usize = 8;
/// The label that names the Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

pub(super) fn read(object: &mut Fields<'_, '_>) -> Option<EndpointSlice> {
    let meta = meta::read(object, UNKNOWN);
    let is_ip = address_type(object);
    let mut ports = Vec::new();
    object.each("ports", |fields| {
        ports.extend(port(fields));
        fields.finish(UNKNOWN);
    });
    let mut endpoints = Vec::new();
    object.each("endpoints", |fields| {
        if is_ip {
            endpoints.push(endpoint(fields));
            fields.finish(UNKNOWN);
        }
    });
    let mut meta = meta?;
    let service = meta.labels.remove(SERVICE_LABEL);
    if service.is_none() {
        object.warning_at_self("metadata.labels", format!("without label {SERVICE_LABEL} it belongs to no Service"));
    }
    Some(EndpointSlice { name: meta.name, service, ports, endpoints })
}

fn address_type(object: &mut Fields<'_, '_>) -> bool {
    let Some(node) = object.take("addressType") else {
        object.missing("addressType");
        return false;
    };
    match object.text("addressType") {
        Some("IPv4" | "IPv6") => true,
        Some("FQDN") => {
            let message = "slices of DNS names are not used by the mesh".to_owned();
            object.warning(node, "addressType", message);
            false
        }
        Some(_) => {
            let message = "expected IPv4, IPv6 or FQDN".to_owned();
            object.error(node, "addressType", message);
            false
        }
        None => false,
    }
}

fn port(fields: &mut Fields<'_, '_>) -> Option<SlicePort> {
    let is_tcp = meta::is_tcp(fields);
    let name = meta::port_name(fields);
    // The Service's port decides on the protocol; it is looked at here only to find what is wrong with it.
    let _ = meta::app_protocol(fields);
    let port = fields.take("port");
    let port = port.and_then(|node| fields.as_port(node, "port"));
    if !is_tcp {
        return None;
    }
    Some(SlicePort { name, port: port? })
}

fn endpoint(fields: &mut Fields<'_, '_>) -> SliceEndpoint {
    let addresses = fields.addresses("addresses");
    let mut readiness = Readiness::Ready;
    if let Some(mut conditions) = fields.within("conditions") {
        if conditions.boolean("ready") == Some(false) {
            readiness = Readiness::NotReady;
        }
        conditions.ignore(&["serving", "terminating"]);
        conditions.finish(UNKNOWN);
    }
    let zone = meta::zone(fields);
    let mut hints = Vec::new();
    if let Some(mut within) = fields.within("hints") {
        within.each("forZones", |fields| {
            hints.extend(fields.take("name").and_then(|node| meta::dns_name(fields, node, "name", is_subdomain)));
            fields.finish(UNKNOWN);
        });
        within.ignore(&["forNodes"]);
        within.finish(UNKNOWN);
    }
    hints.truncate(MAX_HINTS);
    fields.ignore(&["deprecatedTopology", "hostname", "nodeName", "targetRef"]);
    SliceEndpoint { addresses, readiness, zone, hints }
}

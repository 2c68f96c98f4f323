//! `v1` Service.
//!
//! Invariant: ports of other transports are left out, for the mesh does not touch them; a Service that has no addresses of
//! its own (headless, external name) has none here. Non-goal: node ports, external and load balancer addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::fields::{Fields, shortened};
use super::finding::Severity;
use super::meta;
use super::tree::{Node, Value};
use crate::model::{Service, ServicePort, TargetPort, is_label};

const UNKNOWN: Severity = Severity::Warning;
/// What `spec` may hold beside what is read here.
const OTHERS: [&str; 17] = [
    "allocateLoadBalancerNodePorts",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "publishNotReadyAddresses",
    "sessionAffinity",
    "sessionAffinityConfig",
    "topologyKeys",
    "trafficDistribution",
    "type",
];

pub(super) fn read(object: &mut Fields<'_, '_>) -> Option<Service> {
    let meta = meta::read(object, UNKNOWN);
    object.ignore(&["status"]);
    let Some(mut spec) = object.within("spec") else {
        object.missing("spec");
        return None;
    };
    let addresses = addresses(&mut spec);
    let ports = ports(&mut spec);
    let selector = spec.texts("selector");
    spec.ignore(&OTHERS);
    spec.finish(UNKNOWN);
    Some(Service { name: meta?.name, addresses, ports, selector })
}

fn addresses(spec: &mut Fields<'_, '_>) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    if let Some(node) = spec.take("clusterIP") {
        addresses.extend(cluster_ip(spec, node, "clusterIP"));
    }
    for (index, node) in spec.list("clusterIPs").iter().enumerate() {
        addresses.extend(cluster_ip(spec, node, &format!("clusterIPs[{index}]")));
    }
    addresses
}

fn cluster_ip(spec: &mut Fields<'_, '_>, node: &Node, field: &str) -> Option<IpAddr> {
    let Value::Text(text) = &node.value else {
        spec.expected(node, field, "an IP address or None");
        return None;
    };
    match text.as_str() {
        "None" | "" => None,
        text => {
            let address = spec.as_address(node, field, text)?;
            if address.is_loopback() {
                let message = format!("{address} is a loopback address: only this host reaches it");
                spec.warning(node, field, message);
            }
            Some(address)
        }
    }
}

fn ports(spec: &mut Fields<'_, '_>) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    spec.each("ports", |fields| {
        let port = port(fields);
        fields.ignore(&["nodePort"]);
        fields.finish(UNKNOWN);
        let Some(port) = port else {
            return;
        };
        if ports.iter().any(|other| other.port == port.port) {
            fields.error_at_self(format!("port {} is there twice", port.port));
        } else if ports.iter().any(|other| other.name == port.name) {
            let name = shortened(&port.name);
            fields.error_at_self(format!("of several ports each needs a name of its own, \"{name}\" is there twice"));
        } else {
            ports.push(port);
        }
    });
    ports
}

fn port(fields: &mut Fields<'_, '_>) -> Option<ServicePort> {
    let is_tcp = meta::is_tcp(fields);
    let name = meta::port_name(fields);
    let port = fields.port("port");
    let target = fields.take("targetPort");
    let target = match target {
        Some(node) => target_port(fields, node),
        None => port.map(TargetPort::Number),
    };
    let protocol = meta::app_protocol(fields);
    if !is_tcp {
        return None;
    }
    Some(ServicePort { name, port: port?, target: target?, protocol })
}

fn target_port(fields: &mut Fields<'_, '_>, node: &Node) -> Option<TargetPort> {
    match &node.value {
        Value::Integer(_) => fields.as_port(node, "targetPort").map(TargetPort::Number),
        Value::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
            let message = "a string is the name of a port; for its number leave the quotes out";
            fields.error(node, "targetPort", message.to_owned());
            None
        }
        Value::Text(_) => {
            let name = meta::dns_name(fields, node, "targetPort", is_label);
            name.map(TargetPort::Name)
        }
        _ => {
            fields.expected(node, "targetPort", "a port's number or name");
            None
        }
    }
}

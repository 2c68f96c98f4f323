//! The parts that all kinds share: metadata, names, `appProtocol`.
//!
//! Invariant: namespaces are DNS labels and names are DNS subdomains (RFC 1123), so that they fit into a SPIFFE id, a
//! metric label and a log line. Non-goal: annotations.

use super::fields::{Fields, shortened};
use super::finding::Severity;
use super::tree::{Node, Value};
use crate::model::{Labels, Name, Protocol, is_label, is_subdomain};

/// What `metadata` may hold beside what is read here.
const OTHERS: [&str; 12] = [
    "annotations",
    "clusterName",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Name and labels.
pub(super) struct Meta {
    pub(super) name: Name,
    pub(super) labels: Labels,
    /// `creationTimestamp`, empty when absent.
    pub(super) created: String,
}

pub(super) fn read(object: &mut Fields<'_, '_>, unknown: Severity) -> Option<Meta> {
    let Some(mut fields) = object.within("metadata") else {
        object.missing("metadata");
        return None;
    };
    let name = fields.take("name");
    if name.is_none() {
        fields.missing("name");
    }
    let name = name.and_then(|node| dns_name(&mut fields, node, "name", is_subdomain));
    let namespace = match fields.take("namespace") {
        Some(node) => dns_name(&mut fields, node, "namespace", is_label),
        None => Some("default".to_owned()),
    };
    let labels = fields.texts("labels");
    let created = fields.text("creationTimestamp").unwrap_or_default().to_owned();
    fields.ignore(&OTHERS);
    fields.finish(unknown);
    let name = Name::new(namespace?, name?);
    Some(Meta { name, labels, created })
}

/// The name of an object, wherever else it is wrong; none when its name is.
pub(super) fn name_of(object: &Node) -> Option<Name> {
    let metadata = field(object, "metadata")?;
    let text = |name, is_valid: fn(&str) -> bool| match &field(metadata, name)?.value {
        Value::Text(text) if is_valid(text) => Some(text.clone()),
        _ => None,
    };
    let namespace = match field(metadata, "namespace") {
        Some(_) => text("namespace", is_label)?,
        None => "default".to_owned(),
    };
    Some(Name::new(namespace, text("name", is_subdomain)?))
}

fn field<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    let Value::Map(map) = &node.value else { return None };
    let (_, value) = map.iter().find(|(key, _)| key.text == name)?;
    Some(value).filter(|value| !matches!(value.value, Value::Null))
}

/// `node` as a name of the form that `is_valid` tells.
pub(super) fn dns_name(
    fields: &mut Fields<'_, '_>,
    node: &Node,
    field: &str,
    is_valid: fn(&str) -> bool,
) -> Option<String> {
    let Value::Text(text) = &node.value else {
        fields.expected(node, field, "a string (quote it)");
        return None;
    };
    if !is_valid(text) {
        let message =
            format!("\"{}\" is no name: lower case letters, digits and hyphens, at most 63 in a part", shortened(text));
        fields.error(node, field, message);
        return None;
    }
    Some(text.clone())
}

/// A port's name, empty when absent. Kubernetes' Services take any label.
pub(super) fn port_name(fields: &mut Fields<'_, '_>) -> String {
    let node = fields.take("name");
    // EndpointSlices say "" for the only port of a Service.
    let node = node.filter(|node| !matches!(&node.value, Value::Text(text) if text.is_empty()));
    let name = node.and_then(|node| dns_name(fields, node, "name", is_label));
    name.unwrap_or_default()
}

/// `appProtocol`; none when absent or of no meaning here, which is a finding.
pub(super) fn app_protocol(fields: &mut Fields<'_, '_>) -> Option<Protocol> {
    let node = fields.take("appProtocol")?;
    let Value::Text(text) = &node.value else {
        fields.expected(node, "appProtocol", "a string");
        return None;
    };
    let protocol = Protocol::from_app_protocol(text);
    if protocol.is_none() {
        let message = format!(
            "\"{}\" is unknown to the mesh and counts as absent; known are http, http2, grpc, tcp, tls, https, \
             kubernetes.io/h2c, kubernetes.io/ws, kubernetes.io/wss, mesh.internal/opaque, mesh.internal/detect",
            shortened(text)
        );
        fields.warning(node, "appProtocol", message);
    }
    protocol
}

/// A zone's name, empty when absent.
pub(super) fn zone(fields: &mut Fields<'_, '_>) -> String {
    let Some(node) = fields.take("zone") else {
        return String::new();
    };
    dns_name(fields, node, "zone", is_subdomain).unwrap_or_default()
}

/// Whether it is the name of a header field that is not the mesh's own.
pub(super) fn is_field(name: &str) -> bool {
    http::HeaderName::try_from(name).is_ok() && !name.starts_with("mesh-")
}

/// Whether a port of Kubernetes is one of TCP, which is the default.
pub(super) fn is_tcp(fields: &mut Fields<'_, '_>) -> bool {
    fields.text("protocol").is_none_or(|protocol| protocol == "TCP")
}

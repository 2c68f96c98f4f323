//! `gateway.networking.k8s.io/v1` `HTTPRoute` and `GRPCRoute` with Services as parents.
//!
//! Invariant: a field that changes which requests go where is understood or an error; nothing of a rule is left out in
//! silence. Parents that are no Services (a gateway's) are not ours: such a route is read, and attached to nothing of the mesh.
//! Non-goal: whether Services exist (`index`, `validate`).

mod filters;
mod matches;
mod steering;

use std::num::NonZeroU16;

use super::fields::{Fields, shortened};
use super::finding::Severity;
use super::{meta, times};
use crate::model::route::{BackendTo, Match, Parent, Route, Rule, Timeouts, WeightedBackend};
use crate::model::{Name, is_label, is_subdomain};
pub(super) use matches::headers;

const UNKNOWN: Severity = Severity::Error;
/// As the API has it.
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_BACKENDS: usize = 16;
const MAX_WEIGHT: i64 = 1_000_000;

/// Which of both kinds is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Grpc,
}

pub(super) fn read(object: &mut Fields<'_, '_>, kind: Kind) -> Option<Route> {
    let meta = meta::read(object, UNKNOWN);
    object.ignore(&["status"]);
    let Some(mut spec) = object.within("spec") else {
        object.missing("spec");
        return None;
    };
    let meta = meta?;
    let namespace = &meta.name.namespace;
    let parents = parents(&mut spec, namespace);
    if let Some(node) = spec.take("hostnames") {
        let message = "routes of a mesh are chosen by the Service that is dialed; hostnames are not looked at";
        spec.warning(node, "hostnames", message.to_owned());
    }
    spec.ignore(&["useDefaultGateways"]);
    let mut rules = Vec::new();
    let before = spec.list("rules");
    if before.len() > MAX_RULES {
        spec.error_at_self(format!("{} rules are more than {MAX_RULES}", before.len()));
    }
    spec.each("rules", |fields| {
        let place = rules.len();
        rules.push(rule(fields, kind, &meta.name, place));
    });
    if before.is_empty() && kind == Kind::Http {
        // The API's default: one rule, which fits all requests.
        rules.push(Rule { matches: vec![Match::default()], ..Rule::default() });
    }
    spec.finish(UNKNOWN);
    Some(Route { name: meta.name, created: meta.created, parents, rules })
}

fn parents(spec: &mut Fields<'_, '_>, namespace: &str) -> Vec<Parent> {
    let mut parents = Vec::new();
    if spec.list("parentRefs").is_empty() {
        spec.warning_at_self("parentRefs", "attached to nothing".to_owned());
    }
    spec.each("parentRefs", |fields| {
        let group = fields.text("group").unwrap_or("gateway.networking.k8s.io");
        let kind = fields.text("kind").unwrap_or("Gateway");
        let is_service = kind == "Service" && matches!(group, "" | "core");
        let service = reference(fields, namespace);
        let port = fields.take("port").and_then(|node| fields.as_port(node, "port"));
        let section = fields.text("sectionName").map(str::to_owned);
        fields.finish(UNKNOWN);
        if !is_service {
            let message =
                format!("{} of \"{}\" is not of the mesh, not attached there", shortened(kind), shortened(group));
            return fields.warning_at_self("kind", message);
        }
        parents.extend(service.map(|service| Parent { service, port, section }));
    });
    parents
}

/// `name` and `namespace` of something that is referred to.
pub(super) fn reference(fields: &mut Fields<'_, '_>, default: &str) -> Option<Name> {
    let name = fields.take("name");
    if name.is_none() {
        fields.missing("name");
    }
    let name = name.and_then(|node| meta::dns_name(fields, node, "name", is_subdomain));
    let namespace = match fields.take("namespace") {
        Some(node) => meta::dns_name(fields, node, "namespace", is_label)?,
        None => default.to_owned(),
    };
    Some(Name::new(namespace, name?))
}

fn rule(fields: &mut Fields<'_, '_>, kind: Kind, route: &Name, place: usize) -> Rule {
    let namespace = &route.namespace;
    let name = fields.take("name").and_then(|node| meta::dns_name(fields, node, "name", is_subdomain));
    let name = name.unwrap_or_default();
    let mut matches = Vec::new();
    fields.each("matches", |fields| matches.extend(matches::read(fields, kind)));
    if matches.len() > MAX_MATCHES {
        fields.error_at_self(format!("{} matches are more than {MAX_MATCHES}", matches.len()));
    }
    if matches.is_empty() {
        matches.push(matches::any(kind));
    }
    let filters = filters::read(fields, kind, namespace);
    let mut backends = Vec::new();
    fields.each("backendRefs", |fields| backends.extend(backend(fields, kind, namespace)));
    if backends.len() > MAX_BACKENDS {
        fields.error_at_self(format!("{} backendRefs are more than {MAX_BACKENDS}", backends.len()));
    }
    if filters.redirect.is_some() && !backends.is_empty() {
        fields.error_at_self("a rule that redirects sends nothing to backendRefs".to_owned());
    }
    if backends.iter().all(|backend| backend.weight == 0) && !backends.is_empty() {
        fields.warning_at_self("backendRefs", "all weights are 0: every request is answered with an error".to_owned());
    }
    let (timeouts, retry) = match kind {
        Kind::Http => (timeouts(fields), fields.within("retry").map(|mut fields| steering::retry(&mut fields))),
        Kind::Grpc => (Timeouts::default(), None),
    };
    let session = fields
        .within("sessionPersistence")
        .and_then(|mut fields| steering::session(&mut fields, &format!("{route}/{place}")));
    fields.finish(UNKNOWN);
    Rule { name, matches, filters, backends, timeouts, retry, session }
}

fn backend(fields: &mut Fields<'_, '_>, kind: Kind, namespace: &str) -> Option<WeightedBackend> {
    let to = backend_to(fields, namespace);
    let weight = fields.integer("weight", 0..=MAX_WEIGHT);
    let filters = filters::read(fields, kind, namespace);
    if filters.redirect.is_some() {
        fields.error_at_self("a backend cannot redirect; the rule can".to_owned());
    }
    fields.finish(UNKNOWN);
    let weight = u32::try_from(weight.unwrap_or(1)).unwrap_or_default();
    Some(WeightedBackend { to: to?, weight, filters })
}

/// What a reference to a backend comes to.
fn backend_to(fields: &mut Fields<'_, '_>, namespace: &str) -> Option<BackendTo> {
    let group = fields.text("group").unwrap_or_default();
    let of_kind = fields.text("kind").unwrap_or("Service");
    let is_service = of_kind == "Service" && matches!(group, "" | "core");
    let service = reference(fields, namespace);
    if !is_service {
        let _ = optional_port(fields, "port");
        return Some(BackendTo::Invalid(format!("{} is no kind of backend", shortened(of_kind))));
    }
    Some(BackendTo::Service { port: fields.port("port")?, service: service? })
}

fn timeouts(fields: &mut Fields<'_, '_>) -> Timeouts {
    let Some(mut fields) = fields.within("timeouts") else {
        return Timeouts::default();
    };
    let mut read = |name| times::read(&mut fields, name);
    let timeouts = Timeouts { request: read("request"), backend: read("backendRequest") };
    if let (Some(request), Some(backend)) = (timeouts.request, timeouts.backend)
        && !request.is_zero()
        && backend > request
    {
        fields.error_at_self("backendRequest is longer than request".to_owned());
    }
    fields.finish(UNKNOWN);
    timeouts
}

/// A port of something, if it says one.
fn optional_port(fields: &mut Fields<'_, '_>, name: &'static str) -> Option<NonZeroU16> {
    let node = fields.take(name)?;
    fields.as_port(node, name)
}

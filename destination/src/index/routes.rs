//! The routes of a Service's port, in the order in which a proxy tries them.
//!
//! Invariant: the order is the Gateway API's and does not depend on the order in which routes came: what is more specific
//! first, then the older route, then its name, then the order within it. Routes of the client's own namespace act for that
//! namespace only, and in place of those of the Service's. gRPC routes are tried before HTTP routes, for calls of gRPC only.

use std::cmp::Reverse;
use std::sync::Arc;

use super::objects::Objects;
use super::snapshot::{Backend, RankedMatch, Routed, RoutedMirror, RoutedRule, Routes};
use crate::model::route::{BackendTo, Filters, Match, Mirror, PathMatch, Route, Rule, TextMatch, WeightedBackend};
use crate::model::{Key, Kind, Service, ServicePort};

/// The rules of a Service's port.
pub(super) struct Ranked<'a> {
    /// The place of a rule, and what leads to it; what is tried first stands first.
    pub(super) matches: Vec<(usize, &'a Match)>,
    /// With the route of each.
    pub(super) rules: Vec<(&'a Key, &'a Rule)>,
    is_unattached: bool,
}

impl Objects {
    /// None when no route is attached to the port for clients of `namespace`.
    pub(super) fn routes(&self, service: &Service, port: &ServicePort, namespace: &str) -> Option<Arc<Routes>> {
        let ranked = self.ranked(service, port, namespace);
        if ranked.is_unattached {
            return None;
        }
        let matches = ranked.matches.into_iter().map(|(rule, on)| RankedMatch { rule, on: on.clone() }).collect();
        let rules = ranked.rules.into_iter().map(|(key, rule)| self.routed(key, rule, service, port)).collect();
        Some(Arc::new(Routes { matches, rules }))
    }

    /// The rules of a port, and what leads to them in the order in which it is tried.
    pub(super) fn ranked<'a>(&'a self, service: &Service, port: &ServicePort, namespace: &str) -> Ranked<'a> {
        let attached = |of: &str| -> Vec<(&'a Key, &'a Route)> {
            let keys = self.routes_of.of(&service.name).filter(|key| key.name.namespace == of);
            let routes = keys.filter_map(|key| Some((key, &**self.routes.get(key)?)));
            routes.filter(|(_, route)| is_attached(route, service, port)).collect()
        };
        let own = attached(namespace);
        let chosen = if own.is_empty() { attached(&service.name.namespace) } else { own };
        let is_unattached = chosen.is_empty();
        let (mut matches, mut rules) = (Vec::new(), Vec::new());
        for (key, route) in chosen {
            for rule in &route.rules {
                matches.extend(rule.matches.iter().map(|on| (Rank::of(key, route, rules.len(), on), on)));
                rules.push((key, rule));
            }
        }
        matches.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ranked { matches: matches.into_iter().map(|(rank, on)| (rank.rule, on)).collect(), rules, is_unattached }
    }

    fn routed(&self, key: &Key, rule: &Rule, service: &Service, port: &ServicePort) -> RoutedRule {
        let separator = if rule.name.is_empty() { "" } else { "/" };
        let name = format!("{}{separator}{}", key.name, rule.name);
        let backends = rule.backends.iter().map(|backend| self.routed_to(backend)).collect();
        let policy = self.rule_policy(key, rule, service, port);
        let (filters, session) = (rule.filters.clone(), rule.session.clone());
        RoutedRule { name, mirrors: self.mirrors(&filters), filters, backends, policy, session }
    }

    fn routed_to(&self, backend: &WeightedBackend) -> Routed {
        let (to, filters) = (self.backend(&backend.to), backend.filters.clone());
        Routed { to, weight: backend.weight, mirrors: self.mirrors(&filters), filters }
    }

    fn mirrors(&self, filters: &Filters) -> Vec<RoutedMirror> {
        let mirrors = filters.mirrors.iter();
        let routed = |mirror: &Mirror| RoutedMirror {
            to: self.backend(&mirror.to),
            numerator: mirror.numerator,
            denominator: mirror.denominator,
        };
        mirrors.map(routed).collect()
    }

    /// What a reference leads to, or why to nothing.
    pub(super) fn backend(&self, to: &BackendTo) -> Result<Backend, String> {
        match to {
            BackendTo::Invalid(why) => Err(why.clone()),
            BackendTo::Service { service, port } => match self.services.get(service) {
                None => Err(format!("there is no Service {service}")),
                Some(found) if !found.ports.iter().any(|other| other.port == *port) => {
                    Err(format!("Service {service} has no port {port}"))
                }
                Some(_) => Ok(Backend { service: service.clone(), port: port.get() }),
            },
        }
    }
}

fn is_attached(route: &Route, service: &Service, port: &ServicePort) -> bool {
    route.parents.iter().any(|parent| {
        parent.service == service.name
            && parent.port.is_none_or(|number| number == port.port)
            && parent.section.as_ref().is_none_or(|name| *name == port.name)
    })
}

/// What orders matches; the smallest is tried first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    is_http: bool,
    /// Exact, then expressions, then prefixes; longer ones first.
    path: (u8, Reverse<usize>, Reverse<usize>),
    has_no_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// A route without a time counts as the newest.
    created: (bool, &'a str),
    route: &'a Key,
    rule: usize,
}

impl<'a> Rank<'a> {
    fn of(key: &'a Key, route: &'a Route, rule: usize, on: &Match) -> Self {
        let path = match &on.path {
            PathMatch::Exact(path) => (0, path.len(), 0),
            PathMatch::Regex(path) => (1, path.len(), 0),
            PathMatch::Prefix(path) => (2, path.len(), 0),
            PathMatch::Grpc { service, method } => {
                let length = |part: &Option<_>| part.as_ref().map_or(0, TextMatch::len);
                (0, length(service), length(method))
            }
        };
        Self {
            is_http: key.kind == Kind::HttpRoute,
            path: (path.0, Reverse(path.1), Reverse(path.2)),
            has_no_method: on.method.is_none(),
            headers: Reverse(on.headers.len()),
            query: Reverse(on.query.len()),
            created: (route.created.is_empty(), &route.created),
            route: key,
            rule,
        }
    }
}

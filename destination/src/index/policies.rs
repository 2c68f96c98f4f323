//! Which traffic policies count for what, and what they say together.
//!
//! Invariant: the most specific target wins field by field: rule over route over port over Service, and a route's own
//! words over all; each top-level field of a policy is taken as a whole. Of two on the same target the oldest counts,
//! then the first by name. Nothing depends on the order in which policies came. Non-goal: defaults; they are the
//! proxy's.

use std::sync::Arc;

use super::objects::Objects;
use super::snapshot::{BackendPolicy, Rates, RequestPolicy};
use crate::model::policy::{Section, Spec, Subject, TrafficPolicy};
use crate::model::route::{Rule, Timeouts};
use crate::model::{Key, Protocol, Service, ServicePort};

/// The policies that count, the most specific first, and the names of those that had something to say.
struct Levels<'a> {
    policies: Vec<&'a TrafficPolicy>,
    heard: Vec<&'a TrafficPolicy>,
}

impl<'a> Levels<'a> {
    fn part<T>(&mut self, of: impl Fn(&'a Spec) -> Option<T>) -> Option<T> {
        let (policy, part) = self.policies.iter().find_map(|policy| Some((*policy, of(&policy.spec)?)))?;
        if !self.heard.iter().any(|heard| heard.name == policy.name) {
            self.heard.push(policy);
        }
        Some(part)
    }

    fn name(&self) -> String {
        self.heard.iter().map(|policy| policy.name.to_string()).collect::<Vec<_>>().join(",")
    }
}

impl Objects {
    /// The policy that counts for a part of an object: the oldest of those that are for it.
    pub(super) fn policy(&self, subject: &Subject, is_meant: impl Fn(&Section) -> bool) -> Option<&TrafficPolicy> {
        let policies = self.policies_of.of(subject).filter_map(|age| self.policies.get(&age.name));
        let mut meant = policies.filter(|policy| {
            policy.targets.iter().any(|target| target.subject == *subject && is_meant(&target.section))
        });
        meant.next().map(|policy| &**policy)
    }

    fn of_port(&self, service: &Service, port: &ServicePort) -> impl Iterator<Item = &TrafficPolicy> {
        let subject = Subject::Service(service.name.clone());
        let of_port = self.policy(&subject, |section| is_of_port(section, port));
        let of_service = self.policy(&subject, |section| *section == Section::Whole);
        of_port.into_iter().chain(of_service)
    }

    fn of_rule(&self, key: &Key, rule: &Rule) -> impl Iterator<Item = &TrafficPolicy> {
        let subject = Subject::Route(key.clone());
        let is_of_rule = |section: &Section| matches!(section, Section::Name(name) if *name == rule.name);
        let of_rule = self.policy(&subject, is_of_rule);
        let of_route = self.policy(&subject, |section| *section == Section::Whole);
        of_rule.into_iter().chain(of_route)
    }

    fn levels<'a>(&self, policies: impl Iterator<Item = &'a TrafficPolicy>) -> Levels<'a> {
        Levels { policies: policies.collect(), heard: Vec::new() }
    }

    /// For requests to a Service's port that no rule takes.
    pub(super) fn request_policy(&self, service: &Service, port: &ServicePort) -> Option<Arc<RequestPolicy>> {
        if self.policies.is_empty() {
            return None;
        }
        requests(self.levels(self.of_port(service, port)), None)
    }

    /// For requests to a Service's port that a route's rule takes.
    pub(super) fn rule_policy(
        &self,
        key: &Key,
        rule: &Rule,
        service: &Service,
        port: &ServicePort,
    ) -> Option<Arc<RequestPolicy>> {
        if self.policies.is_empty() && rule.timeouts == Timeouts::default() && rule.retry.is_none() {
            return None;
        }
        let levels = self.of_rule(key, rule).chain(self.of_port(service, port));
        requests(self.levels(levels), Some(rule))
    }

    /// For a Service's port, whichever way requests come to it.
    pub(super) fn backend_policy(&self, service: &Service, port: &ServicePort) -> Option<Arc<BackendPolicy>> {
        if self.policies.is_empty() {
            return None;
        }
        let mut levels = self.levels(self.of_port(service, port));
        let policy = BackendPolicy {
            breaker: levels.part(|spec| spec.breaker),
            limits: levels.part(|spec| spec.limits),
            balancing: levels.part(|spec| spec.balancing.clone()),
            // Timeouts count as a whole, so that those of a less specific policy do not mix in.
            connect: levels.part(|spec| spec.timeouts).and_then(|timeouts| timeouts.connect),
            failover: levels.part(|spec| spec.failover.clone()).unwrap_or_default(),
            name: String::new(),
        };
        (policy != BackendPolicy::default()).then(|| Arc::new(BackendPolicy { name: levels.name(), ..policy }))
    }

    /// For what comes to a Service's port at the serving side.
    pub(super) fn rates(&self, service: &Service, port: &ServicePort) -> Option<Arc<Rates>> {
        if self.policies.is_empty() {
            return None;
        }
        let mut levels = self.levels(self.of_port(service, port));
        let limits = levels.part(|spec| spec.rates.clone())?;
        Some(Arc::new(Rates { name: levels.name(), limits, trust_domain: Arc::clone(&self.trust_domain) }))
    }

    /// How policies say that a Service's port is to be read.
    pub(super) fn protocol_by_policy(&self, service: &Service, port: &ServicePort) -> Option<Protocol> {
        if self.policies.is_empty() {
            return None;
        }
        self.levels(self.of_port(service, port)).part(|spec| spec.protocol)
    }
}

pub(super) fn is_of_port(section: &Section, port: &ServicePort) -> bool {
    match section {
        Section::Whole => false,
        Section::Name(name) => *name == port.name,
        Section::Port(number) => *number == port.port,
    }
}

fn requests(mut levels: Levels<'_>, rule: Option<&Rule>) -> Option<Arc<RequestPolicy>> {
    let own = rule.map(|rule| rule.timeouts).unwrap_or_default();
    let mut timeouts = levels.part(|spec| spec.timeouts).unwrap_or_default();
    timeouts.connect = None; // of backends
    let retries = match rule.and_then(|rule| rule.retry.clone()) {
        Some(retry) => Some(retry),
        None => levels.part(|spec| spec.retries.clone()),
    };
    let per_try = retries.as_ref().and_then(|retries| retries.per_try);
    timeouts.request = own.request.or(timeouts.request);
    timeouts.backend = own.backend.or(per_try).or(timeouts.backend);
    let policy = RequestPolicy {
        timeouts,
        retries,
        budget: levels.part(|spec| spec.budget),
        faults: levels.part(|spec| spec.faults.clone()).unwrap_or_default(),
        name: String::new(),
    };
    (policy != RequestPolicy::default()).then(|| Arc::new(RequestPolicy { name: levels.name(), ..policy }))
}

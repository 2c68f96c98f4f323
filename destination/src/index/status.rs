//! What became of each route and policy, in the words of the Gateway API.
//!
//! Invariant: derived from the objects and from what the source rejected, and from nothing else; looking costs, changes
//! nothing, and happens when somebody asks. Non-goal: objects of other kinds; what is wrong with those breaks their
//! file.

use std::collections::BTreeMap;

use super::objects::Objects;
use super::policies::is_of_port;
use crate::model::policy::{Section, Subject, Target, TrafficPolicy};
use crate::model::route::{BackendTo, Parent, Route, Rule};
use crate::model::{Key, Kind, Service};

/// What is asked of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// Whether it is in force.
    Accepted,
    /// Whether all that it refers to is there.
    ResolvedRefs,
}

impl About {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
        }
    }
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is accepted.
    Accepted,
    /// All references lead somewhere.
    ResolvedRefs,
    /// A policy has a field or a value that cannot be.
    Invalid,
    /// A route has a field or a value that the mesh does not do.
    UnsupportedValue,
    /// An older policy is for the same target.
    Conflicted,
    /// There is no such Service, or no such port of it.
    NoMatchingParent,
    /// There is nothing of that name.
    TargetNotFound,
    /// There is no such Service, or no such port of it.
    BackendNotFound,
    /// No such thing can be a backend.
    InvalidKind,
}

impl Reason {
    /// All that mean trouble.
    pub const TROUBLES: [Self; 7] = [
        Self::Invalid,
        Self::UnsupportedValue,
        Self::Conflicted,
        Self::NoMatchingParent,
        Self::TargetNotFound,
        Self::BackendNotFound,
        Self::InvalidKind,
    ];

    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Invalid => "Invalid",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::Conflicted => "Conflicted",
            Self::NoMatchingParent => "NoMatchingParent",
            Self::TargetNotFound => "TargetNotFound",
            Self::BackendNotFound => "BackendNotFound",
            Self::InvalidKind => "InvalidKind",
        }
    }

    /// Whether it means trouble.
    pub fn is_trouble(self) -> bool {
        !matches!(self, Self::Accepted | Self::ResolvedRefs)
    }
}

/// One thing that is said of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is asked.
    pub about: About,
    /// The answer.
    pub reason: Reason,
    /// For people; empty when all is well.
    pub message: String,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which.
    pub key: Key,
    /// A version of it, the newest or the last that was good, does something: it is attached to a port, or counts for a target.
    pub is_in_force: bool,
    /// At least one for each question.
    pub conditions: Vec<Condition>,
}

impl Status {
    /// The conditions that mean trouble.
    pub fn troubles(&self) -> impl Iterator<Item = &Condition> {
        self.conditions.iter().filter(|condition| condition.reason.is_trouble())
    }
}

/// Why, and in words.
type Trouble = (Reason, String);

impl Objects {
    /// Of all routes and policies, in the order of their names; `rejected` are those whose newest version cannot be used.
    pub(super) fn statuses(&self, rejected: &BTreeMap<Key, String>) -> Vec<Status> {
        let mut statuses: BTreeMap<Key, Status> = BTreeMap::new();
        for (key, route) in &self.routes {
            statuses.insert(key.clone(), self.of_route(key, route));
        }
        for (name, policy) in &self.policies {
            let key = Key { kind: Kind::TrafficPolicy, name: name.clone() };
            statuses.insert(key.clone(), self.of_policy(key, policy));
        }
        for (key, why) in rejected {
            let none = || Status { key: key.clone(), is_in_force: false, conditions: Vec::new() };
            let stays = if statuses.contains_key(key) { "; the last good version stays in force" } else { "" };
            let reason = if key.kind == Kind::TrafficPolicy { Reason::Invalid } else { Reason::UnsupportedValue };
            let condition = Condition { about: About::Accepted, reason, message: format!("{why}{stays}") };
            let conditions = &mut statuses.entry(key.clone()).or_insert_with(none).conditions;
            conditions.retain(|condition| condition.reason != Reason::Accepted);
            conditions.insert(0, condition);
        }
        statuses.into_values().collect()
    }

    fn of_route(&self, key: &Key, route: &Route) -> Status {
        let why = |parent| Some((Reason::NoMatchingParent, self.why_no_parent(parent)?));
        let parents: Vec<_> = route.parents.iter().map(why).collect();
        let led = route.rules.iter().flat_map(Rule::leads_to);
        let led = led.filter_map(|to| {
            let reason = match to {
                BackendTo::Invalid(_) => Reason::InvalidKind,
                BackendTo::Service { .. } => Reason::BackendNotFound,
            };
            let why = self.backend(to).err()?;
            Some((reason, format!("{why}: requests for that backend are answered with 500")))
        });
        status(key.clone(), parents, led)
    }

    fn why_no_parent(&self, Parent { service, port, section }: &Parent) -> Option<String> {
        let Some(found) = self.services.get(service) else {
            return Some(format!("there is no Service {service} to attach to"));
        };
        let fits = found
            .ports
            .iter()
            .any(|p| port.is_none_or(|port| p.port == port) && section.as_ref().is_none_or(|name| p.name == *name));
        (!fits).then(|| format!("Service {service} has no such port to attach to"))
    }

    fn of_policy(&self, key: Key, policy: &TrafficPolicy) -> Status {
        let why = |target| {
            let missing = self.why_no_target(target).map(|why| (Reason::TargetNotFound, why));
            missing.or_else(|| Some((Reason::Conflicted, self.why_conflicted(policy, target)?)))
        };
        let failover = policy.spec.failover.iter().flatten().filter_map(|port| {
            let to = BackendTo::Service { service: port.service.clone(), port: port.port };
            Some((Reason::BackendNotFound, format!("failover: {}", self.backend(&to).err()?)))
        });
        status(key, policy.targets.iter().map(why).collect(), failover)
    }

    fn why_no_target(&self, Target { subject, section }: &Target) -> Option<String> {
        match subject {
            Subject::Service(name) => {
                let Some(service) = self.services.get(name) else {
                    return Some(format!("there is no Service {name}"));
                };
                let fits = *section == Section::Whole || service.ports.iter().any(|port| is_of_port(section, port));
                (!fits).then(|| format!("Service {name} has no port {}", shown(section)))
            }
            Subject::Route(key) => {
                let Some(route) = self.routes.get(key) else { return Some(format!("there is no {key}")) };
                match section {
                    Section::Name(name) if !route.rules.iter().any(|rule| rule.name == *name) => {
                        Some(format!("{key} has no rule called {name}"))
                    }
                    _ => None,
                }
            }
        }
    }

    /// An older policy for the same target, if there is one.
    fn why_conflicted(&self, policy: &TrafficPolicy, target: &Target) -> Option<String> {
        let service = match &target.subject {
            Subject::Service(name) => self.services.get(name).map(|service| &**service),
            Subject::Route(_) => None,
        };
        let oldest = self.policy(&target.subject, |section| is_same(service, section, &target.section))?;
        if oldest.name == policy.name {
            return None;
        }
        let of = match &target.subject {
            Subject::Service(name) => format!("Service {name}"),
            Subject::Route(key) => key.to_string(),
        };
        let part =
            if target.section == Section::Whole { String::new() } else { format!(" {}", shown(&target.section)) };
        Some(format!("TrafficPolicy {} is older and for the same target, {of}{part}", oldest.name))
    }
}

/// Whether two sections are the same part, a port by its number or by its name.
fn is_same(service: Option<&Service>, a: &Section, b: &Section) -> bool {
    let mut ports = service.into_iter().flat_map(|service| &service.ports);
    a == b || ports.any(|port| is_of_port(a, port) && is_of_port(b, port))
}

fn shown(section: &Section) -> String {
    match section {
        Section::Whole => String::new(),
        Section::Name(name) => format!("\"{name}\""),
        Section::Port(port) => port.to_string(),
    }
}

/// `attached` has the trouble with each thing that the object is for, or that there is none.
fn status(key: Key, attached: Vec<Option<Trouble>>, refs: impl Iterator<Item = Trouble>) -> Status {
    let is_in_force = attached.iter().any(Option::is_none);
    let mut of = conditions(About::Accepted, attached.into_iter().flatten());
    of.extend(conditions(About::ResolvedRefs, refs));
    Status { key, is_in_force, conditions: of }
}

/// The troubles, each once, or that there are none.
fn conditions(about: About, troubles: impl Iterator<Item = Trouble>) -> Vec<Condition> {
    let mut found: Vec<Condition> = Vec::new();
    for (reason, message) in troubles {
        let condition = Condition { about, reason, message };
        if !found.contains(&condition) {
            found.push(condition);
        }
    }
    if found.is_empty() {
        let reason = match about {
            About::Accepted => Reason::Accepted,
            About::ResolvedRefs => Reason::ResolvedRefs,
        };
        found.push(Condition { about, reason, message: String::new() });
    }
    found
}

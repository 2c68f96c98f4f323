//! The objects themselves, and how they hang together.
//!
//! Invariant: the relations are exactly those of the objects that are there: an object is linked once when it comes and
//! unlinked, by the same code, when it goes. Non-goal: what follows from them (`resolve`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_mtls::spiffe;

use super::Touched;
use super::relation::{Link, Relation};
use crate::model::policy::{Spec, Subject};
use crate::model::route::{BackendTo, Route, Rule};
use crate::model::{EndpointSlice, Key, Kind, Labels, Mesh, Name, Object, Service, TrafficPolicy, Workload};

#[derive(Debug)]
pub(super) struct Objects {
    pub(super) trust_domain: Arc<str>,
    pub(super) services: BTreeMap<Name, Arc<Service>>,
    pub(super) slices: HashMap<Name, Arc<EndpointSlice>>,
    pub(super) workloads: BTreeMap<Name, Arc<Member>>,
    /// Services by their own addresses.
    pub(super) services_at: Relation<IpAddr, Name>,
    /// Workloads by address.
    pub(super) workloads_at: Relation<IpAddr, Name>,
    /// Slices by Service.
    pub(super) slices_of: Relation<Name, Name>,
    /// Services whose slices have an address.
    pub(super) services_over: Relation<IpAddr, Name>,
    /// Workloads by the Service that selects them.
    pub(super) selected_by: Relation<Name, Name>,
    /// Services by the workload that they select.
    pub(super) selecting: Relation<Name, Name>,
    /// HTTP and gRPC routes.
    pub(super) routes: HashMap<Key, Arc<Route>>,
    /// Routes by the Service that they are attached to.
    pub(super) routes_of: Relation<Name, Key>,
    /// Services with a route, by a Service that it leads to.
    pub(super) routed_to: Relation<Name, Name>,
    /// Traffic policies.
    pub(super) policies: HashMap<Name, Arc<TrafficPolicy>>,
    /// Policies by what they are for, the oldest first.
    pub(super) policies_of: Relation<Subject, Age>,
}

/// What orders policies: one without a time counts as the newest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    created: (bool, String),
    pub(super) name: Name,
}

/// A workload, with what endpoints say of it ready to be shared.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) workload: Workload,
    pub(super) label: Arc<str>,
    pub(super) zone: Arc<str>,
    pub(super) standing: Standing,
}

/// Whom to expect at a workload's address.
#[derive(Debug)]
pub(super) enum Standing {
    Meshed(spiffe::Id),
    Plain,
    /// Said to be meshed, under a name that no certificate can have. Not to be spoken to: plaintext would be a downgrade.
    Nameless,
}

impl Objects {
    pub(super) fn new(trust_domain: String) -> Self {
        Self {
            trust_domain: trust_domain.into(),
            services: BTreeMap::new(),
            slices: HashMap::new(),
            workloads: BTreeMap::new(),
            services_at: Relation::default(),
            workloads_at: Relation::default(),
            slices_of: Relation::default(),
            services_over: Relation::default(),
            selected_by: Relation::default(),
            selecting: Relation::default(),
            routes: HashMap::new(),
            routes_of: Relation::default(),
            routed_to: Relation::default(),
            policies: HashMap::new(),
            policies_of: Relation::default(),
        }
    }

    pub(super) fn apply(&mut self, object: Object, touched: &mut Touched) {
        if self.has(&object) {
            return;
        }
        let key = object.key();
        self.delete(&key, touched);
        match object {
            Object::Service(service) => {
                self.link_service(Link::Add, &service, touched);
                let name = service.name.clone();
                self.services.insert(name, Arc::new(service));
            }
            Object::EndpointSlice(slice) => {
                self.link_slice(Link::Add, &slice, touched);
                self.slices.insert(slice.name.clone(), Arc::new(slice));
            }
            Object::Workload(workload) => {
                self.link_workload(Link::Add, &workload, touched);
                let name = workload.name.clone();
                let member = Member::new(&self.trust_domain, workload);
                self.workloads.insert(name, Arc::new(member));
            }
            Object::HttpRoute(route) | Object::GrpcRoute(route) => {
                self.link_route(Link::Add, &key, &route, touched);
                self.routes.insert(key, Arc::new(route));
            }
            Object::TrafficPolicy(policy) => {
                self.link_policy(Link::Add, &policy, touched);
                self.policies.insert(policy.name.clone(), Arc::from(policy));
            }
        }
    }

    pub(super) fn delete(&mut self, key: &Key, touched: &mut Touched) {
        match key.kind {
            Kind::Service => {
                if let Some(service) = self.services.remove(&key.name) {
                    self.link_service(Link::Remove, &service, touched);
                }
            }
            Kind::EndpointSlice => {
                if let Some(slice) = self.slices.remove(&key.name) {
                    self.link_slice(Link::Remove, &slice, touched);
                }
            }
            Kind::Workload => {
                if let Some(member) = self.workloads.remove(&key.name) {
                    self.link_workload(Link::Remove, &member.workload, touched);
                }
            }
            Kind::HttpRoute | Kind::GrpcRoute => {
                if let Some(route) = self.routes.remove(key) {
                    self.link_route(Link::Remove, key, &route, touched);
                }
            }
            Kind::TrafficPolicy => {
                if let Some(policy) = self.policies.remove(&key.name) {
                    self.link_policy(Link::Remove, &policy, touched);
                }
            }
        }
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::Workload => self.workloads.len(),
            Kind::HttpRoute | Kind::GrpcRoute => self.routes.keys().filter(|key| key.kind == kind).count(),
            Kind::TrafficPolicy => self.policies.len(),
        }
    }

    pub(super) fn keys(&self) -> HashSet<Key> {
        let of = |kind| move |name: &Name| Key { kind, name: name.clone() };
        let services = self.services.keys().map(of(Kind::Service));
        let slices = self.slices.keys().map(of(Kind::EndpointSlice));
        let workloads = self.workloads.keys().map(of(Kind::Workload));
        let policies = self.policies.keys().map(of(Kind::TrafficPolicy));
        services.chain(slices).chain(workloads).chain(policies).chain(self.routes.keys().cloned()).collect()
    }

    fn has(&self, object: &Object) -> bool {
        match object {
            Object::Service(new) => {
                let old = self.services.get(&new.name);
                old.is_some_and(|old| **old == *new)
            }
            Object::EndpointSlice(new) => {
                let old = self.slices.get(&new.name);
                old.is_some_and(|old| **old == *new)
            }
            Object::Workload(new) => {
                let old = self.workloads.get(&new.name);
                old.is_some_and(|old| old.workload == *new)
            }
            Object::HttpRoute(new) | Object::GrpcRoute(new) => {
                let old = self.routes.get(&object.key());
                old.is_some_and(|old| **old == *new)
            }
            Object::TrafficPolicy(new) => {
                let old = self.policies.get(&new.name);
                old.is_some_and(|old| **old == **new)
            }
        }
    }

    fn link_service(&mut self, link: Link, service: &Service, touched: &mut Touched) {
        for address in &service.addresses {
            self.services_at.set(link, *address, service.name.clone());
            touched.addresses.insert(*address);
        }
        touched.services.insert(service.name.clone());
        for parent in self.routed_to.of(&service.name) {
            let parent = self.services.get(parent);
            touched.addresses.extend(parent.iter().flat_map(|parent| &parent.addresses));
        }
        for member in of_namespace(&self.workloads, &service.name.namespace) {
            let workload = &member.workload;
            if !selects(&service.selector, &workload.labels) {
                continue;
            }
            let (service, workload_name) = (service.name.clone(), workload.name.clone());
            self.selected_by.set(link, service.clone(), workload_name.clone());
            self.selecting.set(link, workload_name, service);
            // A Service may declare the protocol of a workload's port.
            touched.addresses.extend(&workload.addresses);
        }
        for slice in self.slices_of.of(&service.name) {
            let slice = self.slices.get(slice).into_iter();
            touched.addresses.extend(slice.flat_map(|slice| addresses(slice)));
        }
    }

    /// What a Service's address leads to changes with its routes, and with what they lead to.
    fn link_route(&mut self, link: Link, key: &Key, route: &Route, touched: &mut Touched) {
        for parent in &route.parents {
            self.routes_of.set(link, parent.service.clone(), key.clone());
            for to in route.rules.iter().flat_map(Rule::leads_to) {
                if let BackendTo::Service { service, .. } = to {
                    self.routed_to.set(link, service.clone(), parent.service.clone());
                }
            }
            let service = self.services.get(&parent.service);
            touched.addresses.extend(service.iter().flat_map(|service| &service.addresses));
        }
    }

    fn link_policy(&mut self, link: Link, policy: &TrafficPolicy, touched: &mut Touched) {
        let created = (policy.created.is_empty(), policy.created.clone());
        for target in &policy.targets {
            let age = Age { created: created.clone(), name: policy.name.clone() };
            self.policies_of.set(link, target.subject.clone(), age);
            match &target.subject {
                Subject::Service(service) => self.touch_service(service, &policy.spec, touched),
                Subject::Route(key) => {
                    let route = self.routes.get(key).into_iter();
                    for parent in route.flat_map(|route| &route.parents) {
                        let service = self.services.get(&parent.service);
                        touched.addresses.extend(service.iter().flat_map(|service| &service.addresses));
                    }
                }
            }
        }
    }

    /// A policy of a Service came or went: what of it could change.
    fn touch_service(&self, name: &Name, spec: &Spec, touched: &mut Touched) {
        touched.services.insert(name.clone());
        let Some(service) = self.services.get(name) else {
            return;
        };
        touched.addresses.extend(&service.addresses);
        if spec.rates.is_none() && spec.protocol.is_none() {
            return;
        }
        for member in self.selected_by.of(name).filter_map(|name| self.workloads.get(name)) {
            touched.addresses.extend(&member.workload.addresses);
        }
        for slice in self.slices_of.of(name).filter_map(|name| self.slices.get(name)) {
            touched.addresses.extend(addresses(slice));
        }
    }

    /// The workload's standing changed: what that means for Services over it.
    pub(super) fn touch_workload(&self, label: &str, touched: &mut Touched) {
        let name = label.split_once('/').map(|(namespace, name)| Name::new(namespace, name));
        let Some(member) = name.and_then(|name| self.workloads.get(&name)) else {
            return;
        };
        touched.services.extend(self.selecting.of(&member.workload.name).cloned());
        for address in &member.workload.addresses {
            touched.services.extend(self.services_over.of(address).cloned());
        }
    }

    fn link_slice(&mut self, link: Link, slice: &EndpointSlice, touched: &mut Touched) {
        let Some(service) = &slice.service else {
            return;
        };
        let service = Name::new(&slice.name.namespace, service);
        for address in addresses(slice) {
            self.services_over.set(link, *address, service.clone());
            touched.addresses.insert(*address);
        }
        self.slices_of.set(link, service.clone(), slice.name.clone());
        touched.services.insert(service);
    }

    fn link_workload(&mut self, link: Link, workload: &Workload, touched: &mut Touched) {
        for address in &workload.addresses {
            self.workloads_at.set(link, *address, workload.name.clone());
            touched.addresses.insert(*address);
            // Slices get a workload's identity by address.
            let services = self.services_over.of(address).cloned();
            touched.services.extend(services);
        }
        for service in of_namespace(&self.services, &workload.name.namespace) {
            if !selects(&service.selector, &workload.labels) {
                continue;
            }
            let (service, workload) = (service.name.clone(), workload.name.clone());
            self.selected_by.set(link, service.clone(), workload.clone());
            self.selecting.set(link, workload, service.clone());
            touched.services.insert(service);
        }
    }
}

impl Member {
    fn new(trust_domain: &str, workload: Workload) -> Self {
        let standing = match &workload.mesh {
            Mesh::Plain => Standing::Plain,
            Mesh::Meshed { service_account } => {
                let id = spiffe::Id::new(trust_domain, &workload.name.namespace, service_account);
                id.map_or(Standing::Nameless, Standing::Meshed)
            }
        };
        Self { label: workload.name.to_string().into(), zone: workload.zone.as_str().into(), standing, workload }
    }
}

fn addresses(slice: &EndpointSlice) -> impl Iterator<Item = &IpAddr> {
    slice.endpoints.iter().flat_map(|e| &e.addresses)
}

/// The objects of a namespace, in order.
fn of_namespace<'a, T>(objects: &'a BTreeMap<Name, T>, namespace: &'a str) -> impl Iterator<Item = &'a T> {
    // No name is empty, so this stands before all of the namespace.
    let first = Name::new(namespace, "");
    objects.range(first..).take_while(move |(name, _)| name.namespace == namespace).map(|(_, object)| object)
}

/// An empty selector selects nothing, as for Services of Kubernetes.
fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

//! What follows from the objects for a resource: the decisions of discovery.
//!
//! Invariant: an endpoint that is said to be meshed is never offered as one that is not. Where several objects claim the
//! same thing, the first by name has it. Non-goal: choosing among endpoints; that is the proxy's.
//!
//! Families: the endpoints of a backend are those of both families, a selected workload once for each family that it has
//! an address of. A proxy takes those of the family that its application dialed, and others only when there are none.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::health::Reports;
use super::objects::{Member, Objects, Standing};
use super::snapshot::{Backend, Endpoint, Endpoints, Inbound, InboundPort, Proxy, Rates, Resource, State, Target};
use crate::model::{
    EndpointSlice, Name, OPAQUE_PORTS, Protocol, Readiness, Service, ServicePort, SliceEndpoint, TargetPort, Workload,
};

/// Where a sidecar takes what other sidecars send.
pub const TUNNEL_PORT: u16 = 4143;
/// A sidecar's own ports, which no application can have: inbound, tap, admin. Spoken to as they are.
pub const SIDECAR_PORTS: [u16; 3] = [TUNNEL_PORT, 4190, 4191];

impl Objects {
    pub(super) fn resolve(&self, resource: &Resource, reports: &Reports) -> State {
        match resource {
            Resource::Outbound(dialed) => State::Outbound(self.outbound(dialed.addr, &dialed.namespace)),
            Resource::Endpoints(backend) => State::Endpoints(self.endpoints(backend, reports)),
            Resource::Inbound(proxy) => State::Inbound(self.inbound(proxy)),
        }
    }

    fn outbound(&self, addr: SocketAddr, namespace: &str) -> Target {
        let mut of_service = false;
        for name in self.services_at.of(&addr.ip()) {
            let Some(service) = self.services.get(name) else {
                continue;
            };
            of_service = true;
            if let Some(port) = port_of(service, addr.port()) {
                let protocol = self.service_protocol(service, port);
                let routes = self.routes(service, port, namespace);
                let policy = self.request_policy(service, port);
                let (service, port) = (name.clone(), addr.port());
                let backend = Backend { service, port };
                return Target::Service { backend, protocol, routes, policy };
            }
        }
        if of_service || SIDECAR_PORTS.contains(&addr.port()) {
            return Target::Unknown;
        }
        let Some(member) = self.owner(addr.ip()) else {
            return Target::Unknown;
        };
        let declared = self.declared_protocols(&member.workload);
        let protocol = declared.get(&addr.port()).copied();
        let protocol = protocol.unwrap_or_else(|| Protocol::default_for(addr.port()));
        match endpoint_of(member, addr) {
            Some(endpoint) => Target::Workload { endpoint: Box::new(endpoint), protocol },
            None => Target::Unknown,
        }
    }

    fn endpoints(&self, backend: &Backend, reports: &Reports) -> Endpoints {
        let Some(service) = self.services.get(&backend.service) else {
            return Endpoints::default();
        };
        let Some(port) = port_of(service, backend.port) else {
            return Endpoints::default();
        };
        // What a slice says of an address stands, so that one that is not ready is not brought back by the selector.
        let mut found = BTreeMap::new();
        for slice in self.slices_of(&service.name) {
            self.collect_slice(slice, &port.name, &mut found);
        }
        for member in self.selected(&service.name) {
            collect_workload(member, port, &mut found);
        }
        let mut list = found.into_values().flatten().collect();
        let (unhealthy, is_preserved) = reports.sift(&mut list);
        list.shrink_to_fit();
        Endpoints { list, policy: self.backend_policy(service, port), unhealthy, is_preserved }
    }

    fn collect_slice(
        &self,
        slice: &EndpointSlice,
        port_name: &str,
        found: &mut BTreeMap<SocketAddr, Option<Endpoint>>,
    ) {
        for port in slice.ports.iter().filter(|port| port.name == port_name) {
            for endpoint in &slice.endpoints {
                for address in &endpoint.addresses {
                    let addr = SocketAddr::new(*address, port.port.get());
                    let known = found.entry(addr).or_default();
                    if endpoint.readiness == Readiness::Ready && known.is_none() {
                        *known = self.endpoint_at(addr, endpoint);
                    }
                }
            }
        }
    }

    fn endpoint_at(&self, address: SocketAddr, of: &SliceEndpoint) -> Option<Endpoint> {
        let mut endpoint = match self.owner(address.ip()) {
            Some(member) => endpoint_of(member, address)?,
            None => Endpoint { address, name: "".into(), identity: None, zone: "".into(), weight: 1, hints: None },
        };
        if !of.zone.is_empty() && *endpoint.zone != *of.zone {
            endpoint.zone = of.zone.as_str().into();
        }
        if !of.hints.is_empty() {
            endpoint.hints = Some(of.hints.as_slice().into());
        }
        Some(endpoint)
    }

    fn inbound(&self, proxy: &Proxy) -> Inbound {
        let plain = |protocol| InboundPort { protocol, rates: None };
        let mut ports: BTreeMap<u16, InboundPort> =
            OPAQUE_PORTS.iter().map(|port| (*port, plain(Protocol::Opaque))).collect();
        let Some(member) = self.workload_of(proxy) else {
            return Inbound { ports, ..Inbound::default() };
        };
        let workload = &member.workload;
        ports.extend(self.declared_protocols(workload).into_iter().map(|(port, protocol)| (port, plain(protocol))));
        for (port, rates) in self.declared_rates(workload) {
            let port = ports.entry(port).or_insert_with(|| plain(Protocol::default_for(port)));
            port.rates.get_or_insert(rates);
        }
        Inbound { ports, zone: Arc::clone(&member.zone), checks: workload.checks.clone() }
    }

    /// The workload that the proxy stands beside: it has one of the addresses, and the identity that the proxy proved.
    pub(super) fn workload_of(&self, proxy: &Proxy) -> Option<&Arc<Member>> {
        let mut addresses = proxy.addresses.iter();
        addresses.find_map(|address| {
            let mut members = self.members_at(*address);
            members.find(|member| matches!(&member.standing, Standing::Meshed(id) if *id == proxy.id))
        })
    }

    /// The protocols of a workload's ports, so far as it, a Service over it or a policy of that declares them. A policy's word
    /// counts first, then the workload's own.
    fn declared_protocols(&self, workload: &Workload) -> BTreeMap<u16, Protocol> {
        let (mut declared, mut by_service) = (BTreeMap::new(), BTreeMap::new());
        for (service, port, target) in self.ports_over(workload) {
            if let Some(protocol) = self.protocol_by_policy(service, port) {
                declared.entry(target).or_insert(protocol);
            }
            if let Some(protocol) = port.protocol {
                by_service.entry(target).or_insert(protocol);
            }
        }
        let own = workload.ports.iter().filter_map(|port| Some((port.port.get(), port.protocol?)));
        for (port, protocol) in own.chain(by_service) {
            declared.entry(port).or_insert(protocol);
        }
        declared
    }

    /// The rates of a workload's ports. Of several Services over a port the first by name counts.
    fn declared_rates(&self, workload: &Workload) -> Vec<(u16, Arc<Rates>)> {
        if self.policies.is_empty() {
            return Vec::new();
        }
        let mut ports = self.ports_over(workload);
        ports.sort_by(|(a, ..), (b, ..)| a.name.cmp(&b.name));
        let rates = ports.into_iter().filter_map(|(service, port, target)| Some((target, self.rates(service, port)?)));
        rates.collect()
    }

    /// The ports of Services that lead to a workload, and where to: those that select it, then those whose slices have it.
    fn ports_over(&self, workload: &Workload) -> Vec<(&Service, &ServicePort, u16)> {
        let mut over = Vec::new();
        for service in self.selecting.of(&workload.name).filter_map(|name| self.services.get(name)) {
            let ports = service.ports.iter().filter_map(|port| Some((&**service, port, target(workload, port)?)));
            over.extend(ports);
        }
        for address in &workload.addresses {
            let services = self.services_over.of(address).filter_map(|name| self.services.get(name));
            services.for_each(|service| self.ports_by_slices(service, *address, &mut over));
        }
        over
    }

    fn ports_by_slices<'a>(
        &'a self,
        service: &'a Service,
        address: IpAddr,
        over: &mut Vec<(&'a Service, &'a ServicePort, u16)>,
    ) {
        for slice in self.slices_of(&service.name) {
            let mut endpoints = slice.endpoints.iter();
            if !endpoints.any(|endpoint| endpoint.addresses.contains(&address)) {
                continue;
            }
            for port in &slice.ports {
                let declared = service.ports.iter().find(|p| p.name == port.name);
                over.extend(declared.map(|declared| (service, declared, port.port.get())));
            }
        }
    }

    /// The word of a policy, then of the Service, else what is usual for its port or the one that it leads to.
    fn service_protocol(&self, service: &Service, port: &ServicePort) -> Protocol {
        let usual = || match (Protocol::default_for(port.port.get()), &port.target) {
            (Protocol::Detect, TargetPort::Number(target)) => Protocol::default_for(target.get()),
            (usual, _) => usual,
        };
        self.protocol_by_policy(service, port).or(port.protocol).unwrap_or_else(usual)
    }

    fn slices_of(&self, service: &Name) -> impl Iterator<Item = &EndpointSlice> {
        let names = self.slices_of.of(service);
        names.filter_map(|name| self.slices.get(name).map(|slice| &**slice))
    }

    fn selected(&self, service: &Name) -> impl Iterator<Item = &Arc<Member>> {
        let names = self.selected_by.of(service);
        names.filter_map(|name| self.workloads.get(name))
    }

    fn members_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Member>> {
        let names = self.workloads_at.of(&address);
        names.filter_map(|name| self.workloads.get(name))
    }

    fn owner(&self, address: IpAddr) -> Option<&Arc<Member>> {
        self.members_at(address).next()
    }
}

fn port_of(service: &Service, port: u16) -> Option<&ServicePort> {
    service.ports.iter().find(|p| p.port.get() == port)
}

/// Where a Service's port leads on a workload; none when it has no port of that name.
fn target(workload: &Workload, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(number.get()),
        TargetPort::Name(name) => {
            let mut ports = workload.ports.iter();
            ports.find(|p| p.name == *name).map(|p| p.port.get())
        }
    }
}

fn collect_workload(member: &Member, port: &ServicePort, found: &mut BTreeMap<SocketAddr, Option<Endpoint>>) {
    let Some(target) = target(&member.workload, port) else {
        return;
    };
    let addresses = &member.workload.addresses;
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    let v6 = addresses.iter().find(|address| address.is_ipv6());
    for address in v4.into_iter().chain(v6) {
        let addr = SocketAddr::new(*address, target);
        found.entry(addr).or_insert_with(|| endpoint_of(member, addr));
    }
}

fn endpoint_of(member: &Member, address: SocketAddr) -> Option<Endpoint> {
    let identity = match &member.standing {
        Standing::Meshed(id) => Some(id.clone()),
        Standing::Plain => None,
        Standing::Nameless => return None,
    };
    let (name, zone) = (Arc::clone(&member.label), Arc::clone(&member.zone));
    Some(Endpoint { address, name, identity, zone, weight: member.workload.weight, hints: None })
}

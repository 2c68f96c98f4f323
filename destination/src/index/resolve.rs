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

use super::objects::{Member, Objects, Standing};
use super::snapshot::{Backend, Endpoint, Proxy, Resource, State, Target};
use crate::model::{
    EndpointSlice, Name, OPAQUE_PORTS, Protocol, Readiness, Service, ServicePort, TargetPort, Workload,
};

/// Where a sidecar takes what other sidecars send.
pub const TUNNEL_PORT: u16 = 4143;
/// A sidecar's own ports, which no application can have: inbound, tap, admin. Spoken to as they are.
pub const SIDECAR_PORTS: [u16; 3] = [TUNNEL_PORT, 4190, 4191];

impl Objects {
    pub(super) fn resolve(&self, resource: &Resource) -> State {
        match resource {
            Resource::Outbound(dialed) => State::Outbound(self.outbound(dialed.addr, &dialed.namespace)),
            Resource::Endpoints(backend) => State::Endpoints(self.endpoints(backend)),
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
                let protocol = service_protocol(port);
                let routes = self.routes(service, port, namespace);
                let (service, port) = (name.clone(), addr.port());
                let backend = Backend { service, port };
                return Target::Service { backend, protocol, routes };
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
            Some(endpoint) => Target::Workload { endpoint, protocol },
            None => Target::Unknown,
        }
    }

    fn endpoints(&self, backend: &Backend) -> Vec<Endpoint> {
        let Some(service) = self.services.get(&backend.service) else {
            return Vec::new();
        };
        let Some(port) = port_of(service, backend.port) else {
            return Vec::new();
        };
        // What a slice says of an address stands, so that one that is not ready is not brought back by the selector.
        let mut found = BTreeMap::new();
        for slice in self.slices_of(&service.name) {
            self.collect_slice(slice, &port.name, &mut found);
        }
        for member in self.selected(&service.name) {
            collect_workload(member, port, &mut found);
        }
        found.into_values().flatten().collect()
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
                        *known = self.endpoint_at(addr, &endpoint.zone);
                    }
                }
            }
        }
    }

    fn endpoint_at(&self, address: SocketAddr, zone: &str) -> Option<Endpoint> {
        let mut endpoint = match self.owner(address.ip()) {
            Some(member) => endpoint_of(member, address)?,
            None => Endpoint { address, name: "".into(), identity: None, zone: "".into() },
        };
        if !zone.is_empty() && *endpoint.zone != *zone {
            endpoint.zone = zone.into();
        }
        Some(endpoint)
    }

    fn inbound(&self, proxy: &Proxy) -> BTreeMap<u16, Protocol> {
        let mut ports: BTreeMap<u16, Protocol> = OPAQUE_PORTS.iter().map(|port| (*port, Protocol::Opaque)).collect();
        if let Some(member) = self.workload_of(proxy) {
            ports.extend(self.declared_protocols(&member.workload));
        }
        ports
    }

    /// The workload that the proxy stands beside: it has one of the addresses, and the identity that the proxy proved.
    fn workload_of(&self, proxy: &Proxy) -> Option<&Arc<Member>> {
        let mut addresses = proxy.addresses.iter();
        addresses.find_map(|address| {
            let mut members = self.members_at(*address);
            members.find(|member| matches!(&member.standing, Standing::Meshed(id) if *id == proxy.id))
        })
    }

    /// The protocols of a workload's ports, so far as it or a Service over it declares them. Its own word counts first.
    fn declared_protocols(&self, workload: &Workload) -> BTreeMap<u16, Protocol> {
        let mut declared = BTreeMap::new();
        for port in &workload.ports {
            if let Some(protocol) = port.protocol {
                declared.insert(port.port.get(), protocol);
            }
        }
        for service in self.selecting.of(&workload.name) {
            let service = self.services.get(service).into_iter();
            for port in service.flat_map(|service| &service.ports) {
                if let (Some(protocol), Some(target)) = (port.protocol, target(workload, port)) {
                    declared.entry(target).or_insert(protocol);
                }
            }
        }
        for address in &workload.addresses {
            for service in self.services_over.of(address) {
                self.declared_over_slices(service, *address, &mut declared);
            }
        }
        declared
    }

    fn declared_over_slices(&self, service: &Name, address: IpAddr, declared: &mut BTreeMap<u16, Protocol>) {
        let Some(service) = self.services.get(service) else {
            return;
        };
        for slice in self.slices_of(&service.name) {
            let mut endpoints = slice.endpoints.iter();
            if !endpoints.any(|endpoint| endpoint.addresses.contains(&address)) {
                continue;
            }
            for port in &slice.ports {
                let mut ports = service.ports.iter();
                let protocol = ports.find(|p| p.name == port.name).and_then(|p| p.protocol);
                if let Some(protocol) = protocol {
                    declared.entry(port.port.get()).or_insert(protocol);
                }
            }
        }
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

/// The word of the Service, else what is usual for its port or the one that it leads to.
fn service_protocol(port: &ServicePort) -> Protocol {
    let usual = || match (Protocol::default_for(port.port.get()), &port.target) {
        (Protocol::Detect, TargetPort::Number(target)) => Protocol::default_for(target.get()),
        (usual, _) => usual,
    };
    port.protocol.unwrap_or_else(usual)
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
    Some(Endpoint { address, name: Arc::clone(&member.label), identity, zone: Arc::clone(&member.zone) })
}

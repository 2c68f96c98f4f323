//! A service that is being described.
//!
//! Invariant: each has addresses of its own, counted up, in the ranges that clusters use.
//! Non-goal: more than one port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Mesh, manifest};

/// The address of a service.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Its cluster address, IPv4.
    pub v4: SocketAddr,
    /// Its cluster address, IPv6.
    pub v6: SocketAddr,
}

/// A service that is being described.
pub struct Spec<'mesh> {
    mesh: &'mesh mut Mesh,
    name: String,
    app: String,
    port: u16,
    target: u16,
    protocol: Option<String>,
}

impl<'mesh> Spec<'mesh> {
    pub(super) fn new(mesh: &'mesh mut Mesh, name: &str, port: u16, target: u16) -> Self {
        let (name, app, protocol) = (name.to_owned(), name.to_owned(), None);
        Self { mesh, name, app, port, target, protocol }
    }

    /// Over the workloads with the label `app: APP`, when that is not the service's name.
    #[must_use]
    pub fn over(mut self, app: &str) -> Self {
        app.clone_into(&mut self.app);
        self
    }

    /// Declares the protocol.
    #[must_use]
    pub fn protocol(mut self, protocol: &str) -> Self {
        self.protocol = Some(protocol.to_owned());
        self
    }

    /// Writes the manifest.
    pub fn add(self) -> Service {
        self.mesh.services += 1;
        let count = self.mesh.services;
        let [high, low] = count.to_be_bytes();
        let v4: IpAddr = Ipv4Addr::new(10, 96, high, low).into();
        let v6: IpAddr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, count).into();
        let manifest = manifest::Service {
            name: &self.name,
            namespace: "default",
            addresses: [v4, v6],
            port: self.port,
            target: self.target,
            protocol: self.protocol.as_deref(),
            selector: &[("app".to_owned(), self.app)],
        };
        self.mesh.manifests.write(&format!("service-{}", self.name), &manifest.yaml());
        Service { v4: (v4, self.port).into(), v6: (v6, self.port).into() }
    }
}

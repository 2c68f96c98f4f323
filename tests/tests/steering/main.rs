//! Timeouts, deadlines and retries over real sidecars: what the application saw, what the client got, and what was counted.
//!
//! Invariant: what counts is what arrived at the applications, try by try; the client's view comes second.
//! Non-goal: what holds without a policy; `elsewhere` and `lifecycle` have that.

mod app;
mod live;
mod retries;
mod routes;
mod timeouts;

use std::net::SocketAddr;

use app::Arrivals;
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::until;
use mesh_tests::raw::Server;
use mesh_tests::streams;

/// Where the apps listen.
const APP: u16 = 8000;
/// Where bytes that are not HTTP are taken, and never answered.
const RAW: u16 = 8001;

/// A policy by name: for the Service of that name, over the same applications.
type Policy = (&'static str, &'static str);

/// A client, and two applications behind as many Services as there are policies.
struct World {
    mesh: Mesh,
    services: Vec<(&'static str, SocketAddr)>,
    arrivals: Arrivals,
    _raw: [Server; 2],
}

impl World {
    fn start(policies: &[Policy]) -> Self {
        Self::with(policies, &[])
    }

    /// The same with more manifests, by name.
    fn with(policies: &[Policy], more: &[(&str, &str)]) -> Self {
        let mut mesh = Mesh::new();
        mesh.workload("outsider").plain().add();
        mesh.workload("client").service_account("client").add();
        let hosts = ["one", "two"].map(|name| mesh.workload(name).of("web").add());
        let mut services = Vec::new();
        for (name, spec) in policies {
            let target = if spec.contains("opaque") { RAW } else { APP };
            services.push((*name, mesh.service(name, 80, target).over("web").add().v4));
            mesh.manifests.write(&format!("policy-{name}"), &policy(name, spec));
        }
        more.iter().for_each(|(name, manifest)| mesh.manifests.write(&format!("more-{name}"), manifest));
        mesh.start();
        let arrivals = Arrivals::default();
        let raw = hosts.each_ref().map(|host| app::serve(host, &arrivals));
        let world = Self { mesh, services, arrivals, _raw: raw };
        world.until_known();
        world
    }

    /// A destination is dialed once, so that its policy is there when it counts.
    fn until_known(&self) {
        for (name, addr) in self.services.iter().filter(|(name, _)| *name != "opaque") {
            let known = || {
                let asked = self.ask(*addr, "/ok/known", &[]);
                let state = self.mesh.get("client").state().to_string();
                asked.is_ok() && state.contains(&format!("default/{name}:80"))
            };
            until(SOON, known);
        }
    }

    fn addr(&self, name: &str) -> SocketAddr {
        let found = self.services.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("no service {name}")).1
    }

    /// One request on a connection of its own.
    fn ask(&self, addr: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Result<app::Seen, h2::Reason> {
        self.send(addr, path, fields, b"")
    }

    fn send(
        &self,
        addr: SocketAddr,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<app::Seen, h2::Reason> {
        let host = &self.mesh.get("client").host;
        mesh_tests::client::within(host, async {
            let sender = streams::connect(addr).await.map_err(|_| h2::Reason::CONNECT_ERROR)?;
            app::ask(&sender, path, fields, body).await
        })
    }

    /// A counter of the client's sidecar at a Service.
    fn counted(&self, name: &str, service: &str, label: (&str, &str)) -> f64 {
        let target = format!("default/{service}:80");
        self.mesh.get("client").metric(name, &[("target", &target), label])
    }

    fn errors(&self, reason: &str) -> f64 {
        self.mesh.get("client").metric("mesh_errors_total", &[("direction", "outbound"), ("reason", reason)])
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{targetRefs: [{{kind: Service, name: {name}}}], {spec}}}\n"
    )
}

//! This mesh: its proxy beside each end, its control plane on a host of its own, the application known by manifest.
//!
//! Non-goal: declaring protocols: the mesh finds them out, which its peers are told.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Context as _;
use mesh_tests::bins;
use mesh_tests::mesh::Metrics;

use super::{Counters, Plan, Side, Work};
use crate::rig::{self, Rig};

pub(super) fn program() -> anyhow::Result<PathBuf> {
    bins::find("mesh-proxy").context("mesh-proxy is not built: `make bench` builds it")
}

pub(super) fn plan(rig: &Rig, side: Side, work: Work, scheduling: &str) -> anyhow::Result<Plan> {
    let control = rig.mesh.control();
    let token = rig.token(side);
    let env = [
        ("MESH_WORKERS", work.workers.to_string()),
        ("MESH_SCHEDULING", scheduling.to_owned()),
        ("MESH_IDENTITY_ADDR", control.identity_addr().to_string()),
        ("MESH_DESTINATION_ADDR", control.destination_addr().to_string()),
        ("MESH_TRUST_ANCHORS", control.anchors().display().to_string()),
        ("MESH_TOKEN_FILE", token.display().to_string()),
        ("MESH_NAMESPACE", "default".to_owned()),
        ("MESH_WORKLOAD", side.name().to_owned()),
    ];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(Plan { program: program()?, args: Vec::new(), env, metrics: "/metrics", ready: "/ready", comm: "mesh-proxy" })
}

pub(super) fn counters(side: Side, metrics: &Metrics) -> Counters {
    let direction = match side {
        Side::Client => "outbound",
        Side::Server => "inbound",
    };
    let labels = [("direction", direction)];
    Counters {
        requests: metrics.sum("mesh_http_requests_total", &labels),
        connections: metrics.sum("mesh_tcp_connections_opened_total", &labels),
    }
}

/// The manifest of the application's workload, and of a service with each of its ports.
#[must_use]
pub fn services(address: Ipv4Addr, ports: &[u16]) -> String {
    workload("server", "web", address) + &service("web", "web", rig::SERVICE.into(), ports)
}

/// The manifests of many services over the same workloads.
#[must_use]
pub fn many_services(endpoints: &[Ipv4Addr], services: &[IpAddr], port: u16) -> String {
    let workloads = endpoints.iter().enumerate();
    let workloads = workloads.map(|(number, address)| workload(&format!("many-{number}"), "many", *address));
    let services = services.iter().enumerate();
    let services = services.map(|(number, address)| service(&format!("target-{number}"), "many", *address, &[port]));
    workloads.chain(services).collect()
}

fn workload(name: &str, app: &str, address: Ipv4Addr) -> String {
    format!(
        "---\napiVersion: mesh.internal/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}\n  namespace: default\n  \
         labels: {{app: {app}}}\nspec:\n  addresses: [\"{address}\"]\n  serviceAccount: server\n  meshed: true\n"
    )
}

fn service(name: &str, app: &str, address: IpAddr, ports: &[u16]) -> String {
    let ports: String = ports
        .iter()
        .map(|port| format!("    - name: port-{port}\n      port: {port}\n      targetPort: {port}\n"))
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\nspec:\n  \
         clusterIP: \"{address}\"\n  clusterIPs: [\"{address}\"]\n  selector: {{app: {app}}}\n  ports:\n{ports}"
    )
}

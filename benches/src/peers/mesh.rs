//! This mesh: its proxy beside each end, its control plane on a host of its own, the application known by manifest.
//!
//! Non-goal: declaring protocols: the mesh finds them out, which its peers are told.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use mesh_tests::bins;
use mesh_tests::mesh::Metrics;

use super::{Counters, Plan, Side, Work};
use crate::rig::{self, Rig};

pub(super) fn program() -> anyhow::Result<PathBuf> {
    bins::find("mesh-proxy").context("mesh-proxy is not built: `make bench` builds it")
}

pub(super) fn plan(rig: &Rig, side: Side, work: Work) -> anyhow::Result<Plan> {
    let control = rig.mesh.control();
    let token = rig.token(side);
    let env = [
        ("MESH_WORKERS", work.workers.to_string()),
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

/// The manifest of the application's workload and of a service for each of its ports.
#[must_use]
pub fn services(address: std::net::Ipv4Addr, ports: &[u16]) -> String {
    let mut text = format!(
        "apiVersion: mesh.internal/v1alpha1\nkind: Workload\nmetadata:\n  name: server\n  namespace: default\n  \
         labels: {{app: web}}\nspec:\n  addresses: [\"{address}\"]\n  serviceAccount: server\n  meshed: true\n"
    );
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: default\nspec:\n  clusterIP: \"{0}\"\n  \
         clusterIPs: [\"{0}\"]\n  selector: {{app: web}}\n  ports:\n",
        rig::SERVICE
    );
    for port in ports {
        let _ = write!(text, "    - name: port-{port}\n      port: {port}\n      targetPort: {port}\n");
    }
    text
}

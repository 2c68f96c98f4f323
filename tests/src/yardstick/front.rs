//! A proxy under test, its client and its back end, whoever made the proxy.
//!
//! Invariant: a front is plain data; who made it keeps it running.

use std::net::SocketAddr;

use super::{Process, Who};
use crate::mesh;
use crate::netns::Host;

/// Where the back end listens.
const BACK: u16 = 8000;

/// One way through a proxy.
#[derive(Clone, Debug)]
pub struct Front {
    /// Who made it.
    pub who: Who,
    /// The way, in the table's words: `inbound`, `both sidecars`, `envoy`.
    pub way: &'static str,
    /// Where clients run.
    pub client: Host,
    /// Where they dial; HTTP/1 and HTTP/2 with prior knowledge.
    pub addr: SocketAddr,
    /// The host of the back end, which the row starts.
    pub back: Host,
    /// The back end's port, on all addresses.
    pub port: u16,
    /// The proxy that the client meets first.
    pub proxy: Process,
}

/// A running mesh with two fronts: `inbound`, a client without a sidecar who meets that of the back end, and
/// `both sidecars`, a client in the mesh who dials a service.
pub struct Mesh {
    /// The mesh. The workloads are `client`, `outsider` (plain), `web` and, without a sidecar, `legacy`.
    pub mesh: mesh::Mesh,
    /// Both fronts.
    pub fronts: [Front; 2],
}

impl Mesh {
    /// Starts it. `prepare` may add to it before that.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(prepare: impl FnOnce(&mut mesh::Mesh)) -> Self {
        Self::start_with(|_, spec| spec, prepare)
    }

    /// The same, and `configure` may say more of `client` and `web`: variables of their sidecars, apps.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_with(
        configure: impl for<'a> Fn(&str, mesh::Spec<'a>) -> mesh::Spec<'a>,
        prepare: impl FnOnce(&mut mesh::Mesh),
    ) -> Self {
        let mut mesh = mesh::Mesh::new();
        configure("client", mesh.workload("client").service_account("client")).add();
        mesh.workload("outsider").plain().add();
        configure("web", mesh.workload("web").of("web")).add();
        mesh.workload("legacy").of("legacy").plain().add();
        let service = mesh.service("web", 80, BACK).add();
        prepare(&mut mesh);
        mesh.start();
        let front = |way, client: &str, addr, meets: &str| Front {
            who: Who::Mesh,
            way,
            client: mesh.get(client).host.clone(),
            addr,
            back: mesh.get("web").host.clone(),
            port: BACK,
            proxy: Process(mesh.get(meets).proxy().and_then(mesh::Daemon::pid).expect("a sidecar that runs")),
        };
        let fronts = [
            front("inbound", "outsider", (mesh.get("web").host.v4, BACK).into(), "web"),
            front("both sidecars", "client", service.v4, "client"),
        ];
        Self { mesh, fronts }
    }

    /// The sum of a metric over the series with these labels, of the sidecar that the client of a front meets.
    #[must_use]
    pub fn metric(&self, front: &Front, name: &str, labels: &[(&str, &str)]) -> f64 {
        let workload = if front.way == "inbound" { "web" } else { "client" };
        self.mesh.get(workload).metric(name, labels)
    }
}

//! Routes of the Gateway API over real sidecars: which backend a request reaches, and what becomes of it on the way.
//!
//! Invariant: a case looks at both ends: the status, fields and `Location` that the client got, and the path and fields that
//! the backend saw.
//! Non-goal: gateways; the parents are Services.

mod canary;
mod cases;
mod conformance;

use std::net::SocketAddr;

use mesh_tests::mesh::{App, Mesh};

/// Where the echo apps listen.
const HTTP: u16 = 8080;
const GRPC: u16 = 7070;
/// The namespace whose routes act for its own clients only.
const CONSUMER: &str = "consumer";

/// Services `echo-v1`, `echo-v2` and `echo`, which is both, with a client in the mesh's own namespace and one in the
/// consumer's.
struct Echo {
    mesh: Mesh,
}

impl Echo {
    fn start() -> Self {
        let mut mesh = Mesh::new();
        mesh.workload("client").service_account("client").add();
        mesh.workload("consumer").namespace(CONSUMER).service_account("consumer").add();
        for name in ["echo-v1", "echo-v2"] {
            let named = format!("--name={name}");
            let spec = mesh.workload(name).of(name).label("set", "echo");
            let spec = spec.app(App::demo("demo-http", HTTP, &[&named, "--mirror"]));
            spec.app(App::demo("demo-grpc", GRPC, &[&named])).add();
        }
        for (place, (name, label)) in
            [("echo", "set: echo"), ("echo-v1", "app: echo-v1"), ("echo-v2", "app: echo-v2")].into_iter().enumerate()
        {
            let [v4, _] = address(place, 80).map(|addr| addr.ip());
            let manifest = format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: {v4}, selector: {{{label}}}, ports: [\n\
                 {{name: http, port: 80, targetPort: {HTTP}}}, {{name: http-alt, port: 8080, targetPort: {HTTP}}},\n\
                 {{name: grpc, port: 7070, targetPort: {GRPC}, appProtocol: grpc}}]}}}}\n"
            );
            mesh.manifests.write(&format!("service-{name}"), &manifest);
        }
        mesh.start();
        Self { mesh }
    }

    /// Where a Service, or a workload by its own address (`pod:echo-v2`), is dialed.
    fn dial(&self, name: &str, port: u16) -> SocketAddr {
        if let Some(workload) = name.strip_prefix("pod:") {
            return self.mesh.get(workload).at(port)[0];
        }
        let place = ["echo", "echo-v1", "echo-v2"].iter().position(|known| *known == name);
        address(place.unwrap_or_else(|| panic!("no service {name}")), port)[0]
    }
}

fn address(place: usize, port: u16) -> [SocketAddr; 2] {
    let last = u8::try_from(place + 1).expect("few services");
    [([10, 96, 7, last], port).into(), ([0xfd96, 0, 0, 0, 0, 0, 7, u16::from(last)], port).into()]
}

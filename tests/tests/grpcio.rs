//! Python's grpcio on both sides of two sidecars: a gRPC implementation that is not ours, over both address families.
//!
//! Invariant: the scripts need no generated code; what they check is in `python/echo_client.py`.
//! Non-goal: installing grpcio; `make` does, into `target/venv`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_tests::bins;
use mesh_tests::mesh::{App, Mesh};
use mesh_tests::netns::Proc;

/// All checks of the client together, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn python() -> PathBuf {
    let venv = bins::target().map(|target| target.join("venv/bin/python"));
    let python = venv.filter(|path| path.exists());
    python.expect("grpcio: python3 -m venv target/venv && target/venv/bin/pip install grpcio")
}

fn script(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
    path.display().to_string()
}

#[test]
fn grpcio_speaks_to_grpcio_through_two_sidecars() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    let server = App::new(python(), &[&script("echo_server.py"), "--port=9000"]);
    mesh.workload("server").of("echo").app(server).add();
    let service = mesh.service("echo", 9000, 9000).add();
    mesh.start();
    for addr in [service.v4, service.v6] {
        let mut command = mesh.get("client").host.command(python());
        // grpcio honours proxies of the environment, and would not dial by itself.
        command.arg(script("echo_client.py")).arg(addr.to_string()).env("no_grpc_proxy", "*");
        let mut client = Proc::spawn(&mut command);
        let status = client.wait(PATIENCE);
        println!("{addr}\n{}", client.output());
        assert!(status.success(), "{addr}: {status}\n{}", client.output());
    }
}

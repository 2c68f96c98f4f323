//! The place: two namespaces joined by one veth pair, the control plane on a bridge beside them, the applications.
//!
//! Invariant: what passes between the two ends passes the pair and nothing else; rules redirect on both sides, put in
//! and taken out by the real `mesh-init`, the same for every contestant.
//! Non-goal: IPv6.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mesh_tests::bins;
use mesh_tests::mesh::{INBOUND_PORT, Mesh, Metrics, PROXY_UID};
use mesh_tests::netns::Host;
use nix::unistd::Uid;

use crate::certs;
use crate::peers::{Peer, Side, many_services, services};
use crate::process::{Program, User, command};

/// The sidecar's port for what the application dials.
pub const OUTBOUND_PORT: u16 = 4140;
/// The service that clients dial.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 200, 1);
/// The ends of the pair.
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2)];
/// More addresses of the server, where the endpoints of many services are.
pub const ENDPOINTS: [Ipv4Addr; 10] = {
    let mut addresses = [ENDS[1]; 10];
    let mut index = 0;
    while index < addresses.len() {
        addresses[index] = Ipv4Addr::new(10, 78, 1, index as u8 + 1);
        index += 1;
    }
    addresses
};
/// The manifest of many services.
const TARGETS: &str = "targets";
/// The name of its devices.
const DEVICE: &str = "link0";
/// HTTP/1.1 and h2c.
pub const HTTP: u16 = 8000;
/// Echo of bytes.
pub const ECHO: u16 = 8001;
/// gRPC.
pub const GRPC: u16 = 8002;
/// iperf3.
pub const BULK: u16 = 5201;
const SOON: Duration = Duration::from_secs(20);

/// The place. Fields are dropped in order: programs, then namespaces and files.
pub struct Rig {
    backend: Option<Program>,
    load: Host,
    serve: Host,
    tokens: [PathBuf; 2],
    /// Certificates of the peers.
    pub certs: certs::Files,
    /// The control plane.
    pub mesh: Mesh,
}

impl Rig {
    /// Makes the namespaces, starts the control plane and the back end.
    ///
    /// # Errors
    /// When a program or a right is missing.
    pub fn new() -> anyhow::Result<Self> {
        ensure!(Uid::effective().is_root(), "network namespaces and redirect rules need root");
        let mut mesh = Mesh::new();
        let [load, serve] = ["load", "serve"].map(|name| mesh.host(name));
        join(&load, &serve)?;
        [&load, &serve].map(settle).into_iter().collect::<anyhow::Result<()>>()?;
        let token = |name| mesh.control().token("default", name, Uid::from_raw(PROXY_UID));
        let tokens = [token("client"), token("server")];
        mesh.manifests.write("server", &services(ENDS[1], &[HTTP, ECHO, GRPC, BULK]));
        mesh.start();
        let certs = certs::make(mesh.folder())?;
        let mut rig = Self { backend: None, load, serve, tokens, certs, mesh };
        rig.start_backend()?;
        Ok(rig)
    }

    fn start_backend(&mut self) -> anyhow::Result<()> {
        let program = bins::find("bench-backend").context("bench-backend is not built: `make bench` builds it")?;
        let mut command = command(&self.serve, User::Root, program);
        let ports = [("http", HTTP), ("echo", ECHO), ("grpc", GRPC)];
        command.args(ports.map(|(flag, port)| format!("--{flag}=0.0.0.0:{port}")));
        let mut backend = Program::start("backend", command, self.folder())?;
        let is_ready = |program: &Program| program.said().matches("listening").count() == ports.len();
        backend.until("listening", SOON, is_ready)?;
        self.backend = Some(backend);
        Ok(())
    }

    /// Starts the server that iperf3's clients want, until it is dropped.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_bulk_server(&self) -> anyhow::Result<Program> {
        let mut command = command(&self.serve, User::Root, "iperf3");
        command.args(["-s", "--forceflush", "-p", &BULK.to_string()]);
        let mut server = Program::start("iperf3-server", command, self.folder())?;
        server.until("listening", SOON, |program| program.said().contains("listening"))?;
        Ok(server)
    }

    /// Files of this run.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.mesh.folder()
    }

    /// The host of a side.
    #[must_use]
    pub fn host(&self, side: Side) -> &Host {
        match side {
            Side::Client => &self.load,
            Side::Server => &self.serve,
        }
    }

    pub(crate) fn token(&self, side: Side) -> &Path {
        match side {
            Side::Client => &self.tokens[0],
            Side::Server => &self.tokens[1],
        }
    }

    /// The server's sidecar.
    #[must_use]
    pub fn far(&self) -> SocketAddr {
        (ENDS[1], INBOUND_PORT).into()
    }

    /// Where clients find an application: a service's address, or the machine itself when nothing is in between.
    #[must_use]
    pub fn target(&self, peer: Peer, port: u16) -> SocketAddr {
        match peer {
            Peer::Direct => (ENDS[1], port).into(),
            _ => (SERVICE, port).into(),
        }
    }

    /// Tells the control plane of so many services more, and waits until it knows them.
    ///
    /// # Errors
    /// When it does not.
    pub fn publish(&self, count: u16) -> anyhow::Result<()> {
        let addresses: Vec<_> = (0..count).map(|number| target(number).ip()).collect();
        self.mesh.manifests.write(TARGETS, &many_services(&ENDPOINTS, &addresses, HTTP));
        let deadline = Instant::now() + SOON;
        let known = || Metrics::parse(&self.mesh.control().destination_metrics()).sum("mesh_destination_objects", &[]);
        while known() < f64::from(count) {
            ensure!(Instant::now() < deadline, "mesh-destination knows {} objects after {SOON:?}", known());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Takes them back.
    pub fn withdraw(&self) {
        self.mesh.manifests.remove(TARGETS);
    }

    /// Puts the rules in, or takes them out.
    ///
    /// # Errors
    /// When mesh-init fails.
    pub fn redirect(&self, peer: Peer) -> anyhow::Result<()> {
        let program = bins::find("mesh-init").context("mesh-init is not built: `make bench` builds it")?;
        for host in [&self.load, &self.serve] {
            let mut command = Command::new(&program);
            command.arg("--netns").arg(host.path()).args(["--ipv6", "on"]);
            if peer == Peer::Direct {
                command.arg("--cleanup");
            }
            run(&mut command)?;
        }
        Ok(())
    }
}

/// Whether an address is one of those on the pair.
#[must_use]
pub fn is_on_the_pair(address: Ipv4Addr) -> bool {
    address.octets()[..2] == ENDS[0].octets()[..2]
}

/// One of many services.
#[must_use]
pub fn target(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    (Ipv4Addr::new(10, 97, high, low), HTTP).into()
}

/// Joins two hosts by a pair of devices.
fn join(left: &Host, right: &Host) -> anyhow::Result<()> {
    let mut command = left.command("ip");
    command.args(["link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns"]).arg(right.path());
    run(&mut command)?;
    for (host, address) in [(left, ENDS[0]), (right, ENDS[1])] {
        run(host.command("ip").args(["address", "add", &format!("{address}/30"), "dev", DEVICE]))?;
        run(host.command("ip").args(["link", "set", DEVICE, "up"]))?;
    }
    for address in ENDPOINTS {
        run(right.command("ip").args(["address", "add", &format!("{address}/32"), "dev", DEVICE]))?;
        run(left.command("ip").args(["route", "add", &address.to_string(), "dev", DEVICE]))?;
    }
    Ok(())
}

/// Room for tens of thousands of connections in a short time: their ends are forgotten soon, by the stack and by the rules. And
/// TCP as Linux has it by default: a host's own choice may pace what it sends, by a timer for each burst, which hides the rest.
fn settle(host: &Host) -> anyhow::Result<()> {
    const KEYS: [(&str, &str); 6] = [
        ("ipv4/tcp_congestion_control", "cubic"),
        ("ipv4/ip_local_port_range", "10000 65000"),
        ("ipv4/tcp_tw_reuse", "1"),
        ("ipv4/tcp_max_tw_buckets", "1024"),
        ("core/somaxconn", "4096"),
        ("netfilter/nf_conntrack_tcp_timeout_time_wait", "3"),
    ];
    host.enter(|| {
        for (key, value) in KEYS {
            let path = format!("/proc/sys/net/{key}");
            match std::fs::write(&path, value) {
                // Connection tracking comes with the first rules, on some kernels.
                Err(error) if !key.starts_with("netfilter") => {
                    return Err(error).with_context(|| format!("{path}: {value}"));
                }
                _ => {}
            }
        }
        Ok(())
    })
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

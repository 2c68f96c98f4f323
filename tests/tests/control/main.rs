//! The control plane and the admin ports under fire: floods on identity's HTTP/2, on destination's messages, heads that are too large, clients that take their
//! time, more connections than there may be, and no descriptors.
//!
//! Invariant: strangers and members alike are ended and counted; meanwhile somebody else gets a certificate and learns of a
//! destination, each time; the process and its log are as before when it is over. Non-goal: what requests say, which `identity`
//! and `destination` have.

mod admin;
mod connections;
mod descriptors;
mod floods;
mod heads;
mod polite;
mod slow;
mod streams;

use std::net::SocketAddr;
use std::time::Duration;

use mesh_mtls::{grpc, messages};
use mesh_tests::client;
use mesh_tests::frames::{Connection, Member};
use mesh_tests::mesh::{Daemon, Mesh, Metrics};
use mesh_tests::netns::Host;
use mesh_tests::yardstick::{Process, Vitals, Who, record};

use polite::Polite;

/// For facts that a busy machine brings about late.
const LATE: Duration = Duration::from_secs(60);
const IDENTITY_ADMIN: u16 = 9990;
const DESTINATION_ADMIN: u16 = 9996;

/// A mesh of one service, and somebody with a certificate who means it ill.
struct Scene {
    mesh: Mesh,
    member: Member,
    attacker: Host,
    /// Where the polite client runs.
    other: Host,
    surfaces: [Surface; 2],
}

/// A server of the control plane, as plain data.
#[derive(Clone, Copy, Debug)]
struct Surface {
    /// In the table's words, and in those of metrics.
    name: &'static str,
    addr: SocketAddr,
    admin: SocketAddr,
    process: Process,
    alpn: &'static [&'static [u8]],
}

/// What identity is asked for.
const FIELDS: [(&str, &str); 6] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/mesh.identity.v1.Identity/Certify"),
    (":authority", "identity"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
];

impl Scene {
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments for both.
    fn start_with(args: &[&str]) -> Self {
        let mut mesh = Mesh::new();
        mesh.workload("web").of("web").add();
        let _ = mesh.service("web", 80, 8000).add();
        mesh.control_mut().identity_args(args);
        mesh.control_mut().destination_args(args);
        mesh.start();
        let (attacker, other) = (mesh.host("attacker"), mesh.host("other"));
        let member = Member::of(&mesh, &attacker, "attacker").expect("a certificate");
        let control = mesh.control();
        let (host, addrs) = (control.host().v4, [control.identity_addr(), control.destination_addr()]);
        let pids = [mesh.control_mut().identity().pid(), mesh.control_mut().destination().pid()];
        let of = |name, nth: usize, admin: u16, alpn| Surface {
            name,
            addr: addrs[nth],
            admin: (host, admin).into(),
            process: Process(pids[nth].expect("it runs")),
            alpn,
        };
        let surfaces =
            [of("identity", 0, IDENTITY_ADMIN, grpc::ALPN), of("destination", 1, DESTINATION_ADMIN, messages::ALPN)];
        Self { mesh, member, attacker, other, surfaces }
    }

    /// A connection of mutual TLS that has said nothing.
    fn connect(&self, surface: Surface) -> std::io::Result<Connection> {
        self.member.dial_in("mesh-system", surface.addr, surface.name, surface.alpn)
    }

    fn identity(&self) -> Surface {
        self.surfaces[0]
    }

    fn destination(&self) -> Surface {
        self.surfaces[1]
    }

    /// One to identity that has begun honestly.
    fn dial(&self) -> Connection {
        let begun = self.connect(self.identity()).and_then(|mut peer| peer.begin(&[]).map(|()| peer));
        begun.unwrap_or_else(|error| panic!("identity: {error}"))
    }

    /// The sum of a metric, whose name goes on after that of the daemon.
    fn metric(&self, surface: Surface, name: &str, labels: &[(&str, &str)]) -> f64 {
        let page = self.attacker.enter(|| client::request("GET", surface.admin, "/metrics"));
        let page = page.unwrap_or_else(|error| panic!("{}: metrics: {error}", surface.name)).1;
        Metrics::parse(&page).sum(&format!("mesh_{}_{name}", surface.name), labels)
    }

    fn daemon(&mut self, surface: Surface) -> &mut Daemon {
        let control = self.mesh.control_mut();
        if surface.name == "identity" { control.identity() } else { control.destination() }
    }

    /// Runs an attack beside a polite client. The KiB by which the process has grown at most, the attack's own result, and the
    /// polite one's figure.
    fn beside<T>(&mut self, surface: Surface, attack: impl FnOnce(&Self) -> T) -> (T, u64, String) {
        let polite = Polite::start(&self.mesh, &self.other);
        let vitals = Vitals::of(self.daemon(surface));
        surface.process.forget_peak();
        let idle = surface.process.resident();
        let result = attack(self);
        let grown = surface.process.peak().saturating_sub(idle);
        let polite = polite.finish();
        vitals.finish(self.daemon(surface), &[]);
        (result, grown, polite)
    }
}

fn note(row: u8, surface: &str, case: &str, figure: &str) {
    println!("r{row} {case}, {surface}: {figure}");
    record(row, &format!("{case}, {surface}"), Who::Mesh, true, figure);
}

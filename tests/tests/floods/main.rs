//! HTTP/2 peers that flood one connection: with resets, continuations, control frames, compressed fields, tiny and unread data.
//!
//! Invariant: each row is provoked on every surface that speaks HTTP/2 to strangers or members: the inbound port, the outbound
//! port, and the tunnel port with a certificate of the mesh. The connection is ended or held back, it is counted once, little
//! memory is used, and a polite client beside it notices nothing.
//! Non-goal: conformance; `h2spec` has that.

mod bodies;
mod control;
mod headers;
mod resets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mesh_tests::frames::{Connection, GET, Member, code};
use mesh_tests::mesh::INBOUND_PORT;
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Bystander, Front, Group, Mesh, Process, Source, record};

/// Where the app listens.
const APP: u16 = 8000;
const LATE: Duration = Duration::from_secs(30);

/// One mesh for all rows of a file, with its app.
struct Scene {
    mesh: Mesh,
    app: Source,
    member: Member,
    tunnel_fields: Vec<(String, String)>,
}

/// Where a hostile peer speaks HTTP/2.
struct Surface<'scene> {
    name: &'static str,
    scene: &'scene Scene,
    front: &'scene Front,
    is_tunnel: bool,
}

impl Scene {
    fn start(variables: &[(&str, &str)]) -> Self {
        Self::of(Mesh::start_with(
            |_, spec| variables.iter().fold(spec, |spec, (name, value)| spec.env(name, value)),
            |_| {},
        ))
    }

    /// With the app's sidecar in a control group.
    fn start_in(group: &Arc<Group>) -> Self {
        Self::of(Mesh::start_with(
            |name, spec| {
                let group = Arc::clone(group);
                if name == "web" { spec.within(move |command| group.run(command)) } else { spec }
            },
            |_| {},
        ))
    }

    fn of(mesh: Mesh) -> Self {
        let web = mesh.mesh.get("web").host.clone();
        let app = Source::start(&web, APP);
        let member = Member::of(&mesh.mesh, &mesh.mesh.get("outsider").host, "client").expect("a certificate");
        let destination = SocketAddr::from((web.v4, APP)).to_string();
        let tunnel_fields =
            vec![("mesh-destination".to_owned(), destination), ("mesh-origin".to_owned(), "1.1".to_owned())];
        Self { mesh, app, member, tunnel_fields }
    }

    /// All surfaces, the bystander's way first.
    fn surfaces(&self) -> [Surface<'_>; 3] {
        let [inbound, outbound] = &self.mesh.fronts;
        [("inbound", inbound, false), ("outbound", outbound, false), ("tunnel, as a member", inbound, true)]
            .map(|(name, front, is_tunnel)| Surface { name, scene: self, front, is_tunnel })
    }
}

impl Surface<'_> {
    /// A connection that has begun honestly.
    fn dial(&self, settings: &[(u16, u32)]) -> Connection {
        self.try_dial(settings).expect("a connection that begins honestly")
    }

    /// The same where it may be refused.
    fn try_dial(&self, settings: &[(u16, u32)]) -> std::io::Result<Connection> {
        let mut peer = if self.is_tunnel {
            self.scene.member.dial((self.front.back.v4, INBOUND_PORT).into(), "web")?
        } else {
            Connection::dial(&self.front.client, self.front.addr)?
        };
        peer.begin(settings)?;
        Ok(peer)
    }

    /// The fields of a request that this surface forwards, with another path.
    fn fields<'a>(&'a self, path: &'a str) -> Vec<(&'a str, &'a str)> {
        let own = self.scene.tunnel_fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let request = GET.iter().map(|(name, value)| (*name, if *name == ":path" { path } else { *value }));
        request.chain(own.filter(|_| self.is_tunnel)).collect()
    }

    fn abuse(&self, reason: &str) -> f64 {
        self.scene.mesh.metric(self.front, "mesh_http2_abuse_total", &[("reason", reason)])
    }

    fn process(&self) -> Process {
        self.front.proxy
    }
}

/// Runs an attack with a bystander beside it. The KiB by which the process has grown at most, and the attack's own result.
fn beside<T>(surface: &Surface<'_>, attack: impl FnOnce() -> T) -> (T, u64, String) {
    let process = surface.process();
    let bystander = Bystander::start(&surface.front.client, surface.front.addr);
    let (files, threads, idle) = (process.files(), process.threads(), process.resident());
    process.forget_peak();
    let result = attack();
    let grown = process.peak().saturating_sub(idle);
    let polite = bystander.finish();
    until(2 * LATE, || process.files() <= files + 5);
    assert!(process.threads() <= threads, "{}: more threads", surface.name);
    (result, grown, polite)
}

/// Waits until an abuse is counted, and asserts that it is once.
fn counted_once(surface: &Surface<'_>, reason: &str, before: f64, case: &str) {
    until(LATE, || surface.abuse(reason) > before);
    assert_eq!(surface.abuse(reason), before + 1.0, "{case}: connections ended for {reason}");
}

fn note(row: u8, surface: &Surface<'_>, case: &str, figure: &str) {
    println!("r{row} {case}, {}: {figure}", surface.name);
    record(row, &format!("{case}, {}", surface.name), surface.front.who, true, figure);
}

fn of(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}

/// The word of an error code in the metric.
fn word(goaway: Option<u32>) -> &'static str {
    match goaway {
        Some(code::ENHANCE_YOUR_CALM) => "enhance_your_calm",
        Some(code::PROTOCOL_ERROR) => "protocol_error",
        Some(code::FLOW_CONTROL_ERROR) => "flow_control_error",
        Some(code::FRAME_SIZE_ERROR) => "frame_size_error",
        Some(code::COMPRESSION_ERROR) => "compression_error",
        Some(code::STREAM_CLOSED) => "stream_closed",
        _ => "other",
    }
}

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

use mesh_tests::attacks::floods::{Flood, Outcome};
use mesh_tests::attacks::h2spec::{Answers, Target};
use mesh_tests::frames::Member;
use mesh_tests::mesh::INBOUND_PORT;
use mesh_tests::yardstick::{Beside, Front, Group, Mesh, Source, beside, record};

/// Where the app listens.
const APP: u16 = 8000;
const LATE: Duration = Duration::from_secs(30);
/// How many surfaces speak HTTP/2.
const SURFACES: usize = 3;

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
    target: Target<'scene>,
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
    fn surfaces(&self) -> [Surface<'_>; SURFACES] {
        let [inbound, outbound] = &self.mesh.fronts;
        // Not all of the scene can be shared between threads.
        let member = &self.member;
        let tunnel = Target {
            dial: Box::new(|| member.dial((inbound.back.v4, INBOUND_PORT).into(), "web")),
            fields: self.tunnel_fields.clone(),
            answers: Answers::Anything,
        };
        [
            ("inbound", inbound, Target::front(inbound), false),
            ("outbound", outbound, Target::front(outbound), false),
            ("tunnel, as a member", inbound, tunnel, true),
        ]
        .map(|(name, front, target, is_tunnel)| Surface { name, scene: self, front, target, is_tunnel })
    }
}

impl Surface<'_> {
    fn abuse(&self, reason: &str) -> f64 {
        self.scene.mesh.metric(self.front, "mesh_http2_abuse_total", &[("reason", reason)])
    }

    /// Connections that were ended because of what their peers did.
    fn abuses(&self) -> f64 {
        self.scene.mesh.metric(self.front, "mesh_http2_abuse_total", &[])
    }
}

/// Floods a surface, as its row allows.
fn flooded(surface: &Surface<'_>, flood: &Flood<'_>) -> Beside<Outcome> {
    let what = format!("{}, {}", flood.name, surface.name);
    let seen = beside(surface.front, || flood.run(&surface.target).expect("a connection that begins honestly"));
    assert_eq!(flood.fault(&seen), None, "{what}: {seen:#?}");
    seen
}

fn note(row: u8, surface: &Surface<'_>, case: &str, figure: &str) {
    println!("r{row} {case}, {}: {figure}", surface.name);
    record(row, &format!("{case}, {}", surface.name), surface.front.who, true, figure);
}

fn of(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}

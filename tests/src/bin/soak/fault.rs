//! What happens to the mesh while it works.
//!
//! Invariant: each fault is over, and what it broke works again, when [`Fault::happen`] returns; the first replica and the
//! client are never touched.

use std::time::{Duration, Instant};

use mesh_tests::mesh::{Mesh, Pending, Rotation, SOON};
use mesh_tests::netns::{Host, until};

use crate::REPLICAS;
use crate::talk::{Failure, Kind};

/// For how long after its end a fault still explains what breaks: a dead host is noticed that late.
const ECHO: Duration = Duration::from_secs(5);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A back end's programs are killed, and started again.
    AppKilled,
    /// A whole replica, sidecar and all, is killed, and started again.
    ReplicaKilled,
    /// A replica's sidecar is asked to end, and started again.
    SidecarDrained,
    /// A replica is taken out of the manifests and put back in.
    EndpointMoved,
    /// Identity and destination are killed, and started again.
    ControlPlaneKilled,
    /// Destination alone is.
    DestinationKilled,
    /// The trust anchors and the issuer are replaced.
    AnchorsRotated,
}

/// A fault that was.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub(crate) fault: Fault,
    from: Instant,
    to: Instant,
}

impl Fault {
    pub(crate) const ALL: [Self; 7] = [
        Self::AppKilled,
        Self::ReplicaKilled,
        Self::SidecarDrained,
        Self::EndpointMoved,
        Self::ControlPlaneKilled,
        Self::DestinationKilled,
        Self::AnchorsRotated,
    ];

    /// Lets it happen. `onlooker` is a host without a sidecar.
    pub(crate) fn happen(self, mesh: &mut Mesh, onlooker: &Host, random: &mut fastrand::Rng) -> Happened {
        let from = Instant::now();
        let replica = REPLICAS[random.usize(1..REPLICAS.len())];
        match self {
            Self::AppKilled => {
                kill_apps(mesh, replica);
                std::thread::sleep(Duration::from_millis(random.u64(0..2000)));
                start_apps(mesh, replica);
            }
            Self::ReplicaKilled => {
                mesh.get_mut(replica).kill();
                std::thread::sleep(Duration::from_millis(random.u64(0..5000)));
                mesh.get_mut(replica).proxy_mut().restart();
                start_apps(mesh, replica);
                mesh.get(replica).until_proxy_ready();
            }
            Self::SidecarDrained => {
                let _ = mesh.get_mut(replica).proxy_mut().terminate(Duration::from_secs(40));
                mesh.get_mut(replica).proxy_mut().restart();
                mesh.get(replica).until_proxy_ready();
            }
            Self::EndpointMoved => {
                mesh.withdraw(replica);
                std::thread::sleep(Duration::from_millis(random.u64(0..3000)));
                mesh.publish(replica);
            }
            Self::ControlPlaneKilled => {
                mesh.control_mut().kill();
                std::thread::sleep(Duration::from_millis(random.u64(0..5000)));
                mesh.control_mut().restart();
            }
            Self::DestinationKilled => {
                mesh.control_mut().destination().restart();
                mesh.control().until_both_ready();
            }
            Self::AnchorsRotated => rotate(mesh, onlooker),
        }
        Happened { fault: self, from, to: Instant::now() }
    }

    /// Which conversations may break by it. Requests that may be sent twice are none of them: they are sent elsewhere.
    fn breaks(self, kind: Kind) -> bool {
        let streams = matches!(kind, Kind::Grpc | Kind::Tcp | Kind::Upgrade);
        matches!(self, Self::AppKilled | Self::ReplicaKilled) && streams
    }
}

impl Happened {
    /// One that took no time.
    #[cfg(test)]
    pub(crate) fn now(fault: Fault) -> Self {
        Self { fault, from: Instant::now() - ECHO, to: Instant::now() }
    }

    /// How long before `failure` it began, if it did.
    pub(crate) fn before(&self, failure: &Failure) -> Option<(Duration, Fault)> {
        Some((failure.at.checked_duration_since(self.from)?, self.fault))
    }

    /// Whether it explains `failure`. A large body that is cut off is not sent again, nor is what an application may have begun to
    /// do before it died: no policy of this mesh asks for that.
    pub(crate) fn excuses(&self, failure: &Failure) -> bool {
        let during = (self.from..=self.to + ECHO).contains(&failure.at);
        let body_cut = matches!(self.fault, Fault::AppKilled | Fault::ReplicaKilled) && failure.what.contains("body");
        let died_with_it = self.fault == Fault::AppKilled && failure.what.contains("upstream_reset");
        during && (self.fault.breaks(failure.kind) || body_cut || died_with_it)
    }
}

const APPS: usize = 3;

fn kill_apps(mesh: &mut Mesh, replica: &str) {
    (0..APPS).for_each(|app| mesh.get_mut(replica).app_mut(app).kill());
}

fn start_apps(mesh: &mut Mesh, replica: &str) {
    (0..APPS).for_each(|app| mesh.get_mut(replica).app_mut(app).restart());
    (0..APPS).for_each(|app| drop(mesh.get_mut(replica).app_mut(app).wait_for_line("listening", SOON)));
}

fn rotate(mesh: &Mesh, onlooker: &Host) {
    let used = mesh.control().issuer_dir();
    // What the last rotation has left.
    let _ = std::fs::remove_dir_all(used.with_extension("next"));
    let rotation = Rotation::begin(&used);
    let mut pending = Pending::of(mesh);
    rotation.trust_both();
    wait(|| pending.have_new_anchors(mesh));
    deploy(mesh);
    rotation.issue_from_next();
    let mut pending = Pending::of(mesh);
    wait(|| pending.have_issuer(mesh, onlooker, &rotation.next_issuer()));
    let mut pending = Pending::of(mesh);
    rotation.trust_next_only();
    wait(|| pending.have_new_anchors(mesh));
    deploy(mesh);
}

/// Those that start from now on begin with the anchors of now, as an operator sees to.
fn deploy(mesh: &Mesh) {
    let (from, to) = (mesh.control().issuer_dir().join("anchors.pem"), mesh.control().anchors());
    std::fs::copy(&from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

fn wait(mut fact: impl FnMut() -> bool) {
    until(3 * SOON, || {
        let holds = fact();
        if !holds {
            std::thread::sleep(Duration::from_millis(200));
        }
        holds
    });
}

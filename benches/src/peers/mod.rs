//! The contestants: how each is set up for a kind of work, and what its own counters say.
//!
//! Invariant: same ports, same user, same rules, TLS 1.3 with AES-128-GCM and P-256 certificates verified on both sides,
//! metrics on, no access log. Each gets the configuration that its makers would advise for this work.
//! Non-goal: features.

mod envoy;
mod haproxy;
mod mesh;
mod relay;
mod sidecar;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mesh_tests::bins;
use mesh_tests::mesh::Metrics;

use crate::certs;
use crate::rig::{self, Rig};

pub use mesh::{many_services, services};
pub use sidecar::{Pair, Sidecar};

/// A contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Peer {
    /// No sidecar at all.
    Direct,
    /// This mesh, with its control plane.
    Mesh,
    /// This mesh, scheduled as most programs are (`MESH_SCHEDULING=other`), in the rate scenarios.
    MeshOther,
    /// Envoy.
    Envoy,
    /// HAProxy, with HTTP/1.1 between its sidecars where the application speaks that.
    Haproxy,
    /// HAProxy, with HTTP/2 between its sidecars in any case.
    HaproxyH2,
    /// Bytes passed on, in the clear: next to nothing but what the kernel takes, in the rate scenarios.
    Relay,
}

/// What a sidecar understands of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// HTTP, HTTP/1.1 to the application.
    Http1,
    /// HTTP, HTTP/2 in the clear to the application.
    Http2,
    /// Bytes.
    Tcp,
}

/// What sidecars are set up for.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// What they understand.
    pub flavour: Flavour,
    /// Where the application listens.
    pub port: u16,
    /// Worker threads of each.
    pub workers: u16,
    /// Services that they know besides; each has an address of its own, and all the same endpoints.
    pub targets: u16,
}

/// What a sidecar has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// HTTP requests.
    pub requests: f64,
    /// Connections taken.
    pub connections: f64,
}

/// A side of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// With the clients.
    Client,
    /// With the application.
    Server,
}

/// A program and what it is started with.
pub struct Plan {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// The page of its counters.
    metrics: &'static str,
    /// Answers 200 once it is ready.
    ready: &'static str,
    /// What the kernel calls the process once it is the program.
    comm: &'static str,
}

impl Peer {
    /// All, in the order of the table.
    pub const ALL: [Self; 7] =
        [Self::Direct, Self::Mesh, Self::MeshOther, Self::Envoy, Self::Haproxy, Self::HaproxyH2, Self::Relay];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Mesh => "mesh",
            Self::MeshOther => "mesh-other",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::HaproxyH2 => "haproxy-h2",
            Self::Relay => "relay",
        }
    }

    /// Its program; none where nothing is in between.
    ///
    /// # Errors
    /// When it is not installed or not built.
    pub fn program(self) -> anyhow::Result<Option<PathBuf>> {
        Ok(match self {
            Self::Direct => None,
            Self::Mesh | Self::MeshOther => Some(mesh::program()?),
            Self::Envoy => Some(envoy::program()?),
            Self::Haproxy | Self::HaproxyH2 => Some(haproxy::program()?),
            Self::Relay => Some(relay::program()?),
        })
    }

    /// What it says when asked for its version.
    #[must_use]
    pub fn version(self) -> String {
        let said = |flag: &str| {
            let output = std::process::Command::new(self.program().ok()??).arg(flag).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let words = match self {
            Self::Direct | Self::Relay => return "-".to_owned(),
            Self::Haproxy | Self::HaproxyH2 => {
                said("-v").and_then(|text| text.split_whitespace().nth(2).map(str::to_owned))
            }
            Self::Mesh | Self::MeshOther => {
                said("--version").and_then(|text| text.split_whitespace().last().map(str::to_owned))
            }
            // `PROGRAM version: COMMIT/VERSION/..`
            Self::Envoy => {
                said("--version").and_then(|text| text.split("version: ").nth(1)?.split('/').nth(1).map(str::to_owned))
            }
        };
        words.unwrap_or_else(|| "unknown".to_owned())
    }

    fn plan(self, rig: &Rig, side: Side, work: Work, folder: &Path) -> anyhow::Result<Plan> {
        match self {
            Self::Direct => anyhow::bail!("direct has no sidecars"),
            Self::Mesh => mesh::plan(rig, side, work, "auto"),
            Self::MeshOther => mesh::plan(rig, side, work, "other"),
            Self::Envoy => envoy::plan(rig, side, work, folder),
            Self::Haproxy => haproxy::plan(rig, side, work, folder, haproxy::Between::AsTheApplication),
            Self::HaproxyH2 => haproxy::plan(rig, side, work, folder, haproxy::Between::Http2),
            Self::Relay => relay::plan(rig, side, work),
        }
    }

    fn counters(self, side: Side, page: &str) -> Counters {
        let metrics = Metrics::parse(page);
        match self {
            Self::Direct => Counters::default(),
            Self::Mesh | Self::MeshOther => mesh::counters(side, &metrics),
            Self::Envoy => envoy::counters(&metrics),
            Self::Haproxy | Self::HaproxyH2 => haproxy::counters(&metrics),
            Self::Relay => relay::counters(&metrics),
        }
    }
}

/// The virtual environment of the bench's own.
fn venv() -> PathBuf {
    bins::target().unwrap_or_default().join("bench-venv")
}

/// What a peer's configuration needs to know.
struct Scene<'a> {
    side: Side,
    work: Work,
    /// The server's sidecar.
    far: SocketAddr,
    certs: &'a certs::Files,
}

impl<'a> Scene<'a> {
    fn new(rig: &'a Rig, side: Side, work: Work) -> Self {
        Self { side, work, far: rig.far(), certs: &rig.certs }
    }

    /// The services that a client's sidecar knows besides, by the authority of requests to them.
    fn targets(&self) -> impl Iterator<Item = SocketAddr> {
        let count = if self.side == Side::Client { self.work.targets } else { 0 };
        (0..count).map(rig::target)
    }

    /// Their endpoints: more addresses of the server's sidecar.
    fn endpoints(&self) -> impl Iterator<Item = SocketAddr> {
        let port = self.far.port();
        rig::ENDPOINTS.into_iter().map(move |address| (address, port).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn files() -> certs::Files {
        let [root, both, leaf, key] = ["root", "both", "leaf", "key"].map(|name| format!("/certs/{name}.pem").into());
        certs::Files { root, both, leaf, key }
    }

    pub(super) fn scene(side: Side, flavour: Flavour, targets: u16, certs: &certs::Files) -> Scene<'_> {
        let work = Work { flavour, port: 8000, workers: 2, targets };
        Scene { side, work, far: ([10, 78, 0, 2], 4143).into(), certs }
    }

    #[test]
    fn services_beside_are_known_to_clients_alone() {
        let certs = files();
        assert_eq!(scene(Side::Client, Flavour::Http1, 3, &certs).targets().count(), 3);
        assert_eq!(scene(Side::Server, Flavour::Http1, 3, &certs).targets().count(), 0);
    }
}

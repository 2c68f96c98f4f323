//! Identity and destination, as they are shipped, in a network namespace of their own.
//!
//! Invariant: both end with the value; both keep all of their checks, only the limits that stand for one host are raised,
//! for all clients of this bench are on one. Non-goal: sidecars.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mesh_mtls::anchors::Anchors;
use mesh_mtls::certify;
use mesh_mtls::credentials::Credentials;
use mesh_mtls::spiffe::Id;
use mesh_tests::bin;
use mesh_tests::client;
use mesh_tests::mesh::Daemon;
use mesh_tests::netns::{Host, Net, until};
use tempfile::TempDir;

const IDENTITY: u16 = 8080;
const IDENTITY_ADMIN: u16 = 9990;
const DESTINATION: u16 = 8086;
const DESTINATION_ADMIN: u16 = 9996;
const SOON: Duration = Duration::from_secs(60);
/// Above anything that is tried here.
const PLENTY: &str = "1000000";

/// The control plane.
pub struct Plane {
    identity: Daemon,
    destination: Option<Daemon>,
    host: Host,
    dir: TempDir,
    _net: Net,
}

impl Plane {
    /// Starts identity.
    ///
    /// # Errors
    /// There is no place for its files.
    pub fn start() -> anyhow::Result<Self> {
        let net = Net::new();
        let host = net.host("control");
        let dir = TempDir::new().context("a folder for the control plane")?;
        let (root, place) = (dir.path().to_owned(), host.clone());
        fs::write(root.join("tokens"), "").context("tokens")?;
        let identity = Daemon::start("identity", move || {
            let mut command = place.command(bin("mesh-identity"));
            command.arg("--init-dir").arg(root.join("ca")).arg("--tokens").arg(root.join("tokens"));
            command.arg(format!("--listen={}:{IDENTITY}", place.v4));
            command.arg(format!("--admin={}:{IDENTITY_ADMIN}", place.v4));
            command.args(["--source-rate", PLENTY, "--source-burst", PLENTY, "--source-connections", PLENTY]);
            command
        });
        let plane = Self { identity, destination: None, host, dir, _net: net };
        plane.until_ready(IDENTITY_ADMIN);
        Ok(plane)
    }

    /// Starts destination on a folder of manifests; how long that takes, from exec to ready.
    ///
    /// # Errors
    /// There is no token to be had.
    pub fn serve(&mut self, manifests: &Path) -> anyhow::Result<Duration> {
        let (token, _) = self.token("mesh-system", "destination")?;
        let (host, anchors, manifests) = (self.host.clone(), self.anchors(), manifests.to_owned());
        let identity = self.identity_addr().to_string();
        let begun = Instant::now();
        self.destination = Some(Daemon::start("destination", move || {
            let mut command = host.command(bin("mesh-destination"));
            command.arg("--manifests").arg(&manifests).arg("--token-file").arg(&token);
            command.arg("--trust-anchors").arg(&anchors).args(["--identity-addr", &identity]);
            command.arg(format!("--listen={}:{DESTINATION}", host.v4));
            command.arg(format!("--admin={}:{DESTINATION_ADMIN}", host.v4));
            command.args(["--source-connections", PLENTY]);
            command
        }));
        self.until_ready(DESTINATION_ADMIN);
        Ok(begun.elapsed())
    }

    fn until_ready(&self, admin: u16) {
        let addr = SocketAddr::new(self.host.v4.into(), admin);
        self.host.enter(|| until(SOON, || client::request("GET", addr, "/ready").is_ok_and(|(code, _)| code == 200)));
    }

    /// A metric of destination; one that is not there counts as nought.
    ///
    /// # Errors
    /// Its page cannot be read.
    pub fn destination_metric(&self, series: &str) -> anyhow::Result<f64> {
        let addr = SocketAddr::new(self.host.v4.into(), DESTINATION_ADMIN);
        let (_, page) =
            self.host.enter(|| client::request("GET", addr, "/metrics")).context("destination's metrics")?;
        let mut lines = page.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.map_or(Ok(0.0), str::parse)?)
    }

    /// A new token: its file, and itself.
    ///
    /// # Errors
    /// `mesh-identity token add` fails.
    pub fn token(&self, namespace: &str, account: &str) -> anyhow::Result<(PathBuf, String)> {
        let mut command = Command::new(bin("mesh-identity"));
        command.args(["token", "add", "--tokens"]).arg(self.dir.path().join("tokens"));
        command.args(["--id", &format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")]);
        let output = command.output().with_context(|| format!("{command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        let token = String::from_utf8(output.stdout)?.trim_end().to_owned();
        let path = self.dir.path().join(format!("token-{account}"));
        fs::write(&path, &token).with_context(|| path.display().to_string())?;
        Ok((path, token))
    }

    /// Credentials of a proxy that identity keeps fresh: run the future beside whatever uses them.
    ///
    /// # Errors
    /// No token, no anchors.
    pub fn certify(&self, account: &str) -> anyhow::Result<(Credentials, impl Future<Output = ()> + use<>)> {
        let (token, _) = self.token(super::manifests::NAMESPACE, account)?;
        let credentials = Credentials::new(Anchors::from_pem(&fs::read(self.anchors())?)?);
        let settings = certify::Settings::new(self.identity_addr().to_string(), self.identity_id()?, token);
        Ok((credentials.clone(), certify::run(settings, credentials, ())))
    }

    /// A folder that lives as long as this.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where both run.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The roots, as a file.
    #[must_use]
    pub fn anchors(&self) -> PathBuf {
        self.dir.path().join("ca/anchors.pem")
    }

    /// Where identity answers.
    #[must_use]
    pub fn identity_addr(&self) -> SocketAddr {
        (self.host.v4, IDENTITY).into()
    }

    /// Where destination answers.
    #[must_use]
    pub fn destination_addr(&self) -> SocketAddr {
        (self.host.v4, DESTINATION).into()
    }

    /// Who identity is.
    ///
    /// # Errors
    /// None; the name is a good one.
    pub fn identity_id(&self) -> anyhow::Result<Id> {
        Ok(Id::new("cluster.local", "mesh-system", "identity")?)
    }

    /// Who destination is.
    ///
    /// # Errors
    /// None; the name is a good one.
    pub fn destination_id(&self) -> anyhow::Result<Id> {
        Ok(Id::new("cluster.local", "mesh-system", "destination")?)
    }

    /// The process of identity.
    #[must_use]
    pub fn identity(&self) -> &Daemon {
        &self.identity
    }

    /// The process of destination, once it serves.
    ///
    /// # Errors
    /// It does not yet.
    pub fn destination(&self) -> anyhow::Result<&Daemon> {
        self.destination.as_ref().context("destination was not started")
    }
}

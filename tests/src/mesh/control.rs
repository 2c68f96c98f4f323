//! The control plane of a test mesh: identity and destination on one host.
//!
//! Invariant: tokens are made before identity starts, or while it runs; it watches its tokens file.
//! Non-goal: replicas.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use mesh_mtls::certify;
use mesh_mtls::credentials::{Anchors, Credentials};
use mesh_mtls::spiffe::Id;
use nix::unistd::Uid;

use super::{Daemon, Metrics, PROXY_UID, SOON};
use crate::bin;
use crate::client;
use crate::netns::{Host, until};

const IDENTITY: u16 = 8080;
const IDENTITY_ADMIN: u16 = 9990;
const DESTINATION: u16 = 8086;
const DESTINATION_ADMIN: u16 = 9996;

/// Identity, destination, and the files that they share.
pub struct Control {
    host: Host,
    dir: PathBuf,
    identity_args: Vec<String>,
    destination_args: Vec<String>,
    identity: Option<Daemon>,
    destination: Option<Daemon>,
}

impl Control {
    pub(super) fn new(host: Host, dir: &Path) -> Self {
        Self {
            host,
            dir: dir.to_owned(),
            identity_args: Vec::new(),
            destination_args: Vec::new(),
            identity: None,
            destination: None,
        }
    }

    /// More arguments for `mesh-identity`, before the mesh starts.
    pub fn identity_args(&mut self, args: &[&str]) {
        self.identity_args.extend(args.iter().map(|&arg| arg.to_owned()));
    }

    /// More arguments for `mesh-destination`, before the mesh starts.
    pub fn destination_args(&mut self, args: &[&str]) {
        self.destination_args.extend(args.iter().map(|&arg| arg.to_owned()));
    }

    /// Starts both, and waits for both.
    pub(super) fn start(&mut self, manifests: &Path) {
        let token = self.token("mesh-system", "destination", Uid::from_raw(0));
        self.identity = Some(self.start_identity());
        self.until_ready(IDENTITY_ADMIN);
        // Proxies may not look into the issuer's folder.
        let copied = fs::copy(self.issuer_dir().join("anchors.pem"), self.anchors());
        copied.unwrap_or_else(|error| panic!("the trust anchors: {error}"));
        self.destination = Some(self.start_destination(manifests, &token));
        self.until_ready(DESTINATION_ADMIN);
    }

    fn start_identity(&self) -> Daemon {
        let (host, dir, tokens) = (self.host.clone(), self.issuer_dir(), self.tokens());
        let args = self.identity_args.clone();
        Daemon::start("identity", move || {
            let mut command = host.command(bin("mesh-identity"));
            command.arg("--init-dir").arg(&dir).arg("--tokens").arg(&tokens);
            command.arg(format!("--listen={}:{IDENTITY}", host.v4));
            command.arg(format!("--admin={}:{IDENTITY_ADMIN}", host.v4));
            command.args(&args);
            command
        })
    }

    fn start_destination(&self, manifests: &Path, token: &Path) -> Daemon {
        let (host, anchors) = (self.host.clone(), self.anchors());
        let (manifests, token) = (manifests.to_owned(), token.to_owned());
        let (identity, args) = (self.identity_addr().to_string(), self.destination_args.clone());
        Daemon::start("destination", move || {
            let mut command = host.command(bin("mesh-destination"));
            command.arg("--manifests").arg(&manifests).arg("--token-file").arg(&token);
            command.arg("--trust-anchors").arg(&anchors).args(["--identity-addr", &identity]);
            command.arg(format!("--listen={}:{DESTINATION}", host.v4));
            command.arg(format!("--admin={}:{DESTINATION_ADMIN}", host.v4));
            command.args(&args);
            command
        })
    }

    fn until_ready(&self, admin: u16) {
        let addr = SocketAddr::new(self.host.v4.into(), admin);
        self.host.enter(|| until(SOON, || client::request("GET", addr, "/ready").is_ok_and(|(code, _)| code == 200)));
    }

    /// The metrics page of destination, as it is.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn destination_metrics(&self) -> String {
        let addr = SocketAddr::new(self.host.v4.into(), DESTINATION_ADMIN);
        let page = self.host.enter(|| client::request("GET", addr, "/metrics"));
        page.unwrap_or_else(|error| panic!("destination: metrics: {error}")).1
    }

    /// The metrics of identity.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn identity_metrics(&self) -> Metrics {
        let addr = SocketAddr::new(self.host.v4.into(), IDENTITY_ADMIN);
        let page = self.host.enter(|| client::request("GET", addr, "/metrics"));
        Metrics::parse(&page.unwrap_or_else(|error| panic!("identity: metrics: {error}")).1)
    }

    /// Waits until both say that they are ready, as after a restart.
    ///
    /// # Panics
    /// When one does not in time.
    pub fn until_both_ready(&self) {
        self.until_ready(IDENTITY_ADMIN);
        self.until_ready(DESTINATION_ADMIN);
    }

    /// Makes a token file for an identity, readable for `owner` alone.
    ///
    /// # Panics
    /// When `mesh-identity token add` fails.
    #[must_use]
    pub fn token(&self, namespace: &str, service_account: &str, owner: Uid) -> PathBuf {
        let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{service_account}");
        let mut command = Command::new(bin("mesh-identity"));
        command.args(["token", "add", "--tokens"]).arg(self.tokens()).args(["--id", &id]);
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        let mut file = tempfile::Builder::new();
        let file = file.prefix(&format!("token-{service_account}-")).tempfile_in(&self.dir);
        let path = file.and_then(|file| file.into_temp_path().keep().map_err(Into::into));
        let path = path.expect("a file in the mesh's own folder");
        let written = fs::write(&path, &output.stdout);
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let given = nix::unistd::chown(&path, Some(owner), None);
        given.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// A certificate of the mesh for a client of a test's own, who runs on `host`.
    ///
    /// # Panics
    /// When identity does not give it.
    #[must_use]
    pub fn credentials(&self, host: &Host, service_account: &str) -> Credentials {
        let token = self.token("default", service_account, Uid::from_raw(0));
        let anchors = fs::read(self.anchors()).and_then(|pem| Anchors::from_pem(&pem).map_err(std::io::Error::other));
        let credentials = Credentials::new(anchors.unwrap_or_else(|error| panic!("the trust anchors: {error}")));
        let identity = Id::new("cluster.local", "mesh-system", "identity").expect("an identity");
        let settings = certify::Settings::new(self.identity_addr().to_string(), identity, token);
        client::within(host, async {
            let certify = certify::run(settings, credentials.clone(), ());
            let certified = async {
                tokio::select! {
                    () = certify => {}
                    _ = credentials.certified() => {}
                }
            };
            tokio::time::timeout(SOON, Box::pin(certified)).await.expect("a certificate in time");
        });
        credentials
    }

    pub(super) fn proxy_token(&self, namespace: &str, service_account: &str) -> PathBuf {
        self.token(namespace, service_account, Uid::from_raw(PROXY_UID))
    }

    /// The host of both.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
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

    /// Folder of `anchors.pem`, `issuer.pem`, `issuer.key`, which identity watches.
    #[must_use]
    pub fn issuer_dir(&self) -> PathBuf {
        self.dir.join("ca")
    }

    /// The anchors that programs are started with.
    #[must_use]
    pub fn anchors(&self) -> PathBuf {
        self.dir.join("anchors.pem")
    }

    fn tokens(&self) -> PathBuf {
        self.dir.join("tokens")
    }

    /// Ends both without warning.
    pub fn kill(&mut self) {
        [&mut self.identity, &mut self.destination].into_iter().flatten().for_each(Daemon::kill);
    }

    /// Starts both again, and waits for both.
    pub fn restart(&mut self) {
        [&mut self.identity, &mut self.destination].into_iter().flatten().for_each(Daemon::restart);
        self.until_both_ready();
    }

    /// `mesh-identity`.
    ///
    /// # Panics
    /// Before the mesh has started.
    pub fn identity(&mut self) -> &mut Daemon {
        self.identity.as_mut().expect("identity, after Mesh::start")
    }

    /// `mesh-destination`.
    ///
    /// # Panics
    /// Before the mesh has started.
    pub fn destination(&mut self) -> &mut Daemon {
        self.destination.as_mut().expect("destination, after Mesh::start")
    }

    pub(super) fn programs(&self) -> impl Iterator<Item = &Daemon> {
        self.identity.iter().chain(&self.destination)
    }
}

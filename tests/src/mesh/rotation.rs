//! A change of trust anchors in its three steps, by editing the files that identity watches.
//!
//! Invariant: at every moment the issuer in use leads to an anchor in the file; each file is replaced by a rename.
//! Non-goal: waiting until a step has arrived everywhere. Who takes the next one must see to that; [`Pending`] tells.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mesh_identity::init;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{INBOUND_PORT, Mesh};
use crate::client::{tcp, within};
use crate::netns::Host;

/// The way from one CA to another.
pub struct Rotation {
    used: PathBuf,
    next: PathBuf,
}

/// The sidecars that a step has not come to yet.
pub struct Pending(Vec<(String, f64)>);

impl Rotation {
    /// Makes a second root and issuer beside the folder `used`, and changes nothing yet.
    ///
    /// # Panics
    /// When they cannot be made.
    #[must_use]
    pub fn begin(used: &Path) -> Self {
        let next = used.with_extension("next");
        let made = init::ensure(&next, "cluster.local", SystemTime::now());
        made.unwrap_or_else(|error| panic!("the next CA: {error}"));
        Self { used: used.to_owned(), next }
    }

    /// First step: both roots are anchors, the old issuer signs.
    pub fn trust_both(&self) {
        self.replace(init::ANCHORS, &(self.read(&self.used, init::ANCHORS) + &self.read(&self.next, init::ANCHORS)));
    }

    /// Second step: the new issuer signs.
    pub fn issue_from_next(&self) {
        // Between the two a reader finds a key that is not the certificate's, and keeps to what it has.
        self.replace(init::ISSUER_KEY, &self.read(&self.next, init::ISSUER_KEY));
        self.replace(init::ISSUER, &self.read(&self.next, init::ISSUER));
    }

    /// Third step: the old root is no anchor any more.
    pub fn trust_next_only(&self) {
        self.replace(init::ANCHORS, &self.read(&self.next, init::ANCHORS));
    }

    /// The new issuer's certificate as DER.
    ///
    /// # Panics
    /// When its file is not what [`Rotation::begin`] wrote.
    #[must_use]
    pub fn next_issuer(&self) -> Vec<u8> {
        let issuer = CertificateDer::from_pem_file(self.next.join(init::ISSUER));
        issuer.unwrap_or_else(|error| panic!("the next issuer: {error}")).to_vec()
    }

    fn read(&self, dir: &Path, name: &str) -> String {
        let path = dir.join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn replace(&self, name: &str, text: &str) {
        let (hidden, path) = (self.used.join(format!(".{name}.new")), self.used.join(name));
        let written = fs::write(&hidden, text).and_then(|()| fs::rename(&hidden, &path));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl Pending {
    /// All sidecars that run. To be made before the step.
    #[must_use]
    pub fn of(mesh: &Mesh) -> Self {
        let running = mesh.workloads().filter(|workload| workload.proxy().is_some_and(|proxy| proxy.pid().is_some()));
        Self(running.map(|workload| (workload.name.clone(), bundles(mesh, &workload.name))).collect())
    }

    /// How many are left.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether each has taken new anchors since.
    pub fn have_new_anchors(&mut self, mesh: &Mesh) -> bool {
        self.0.retain(|(name, before)| bundles(mesh, name) <= *before);
        self.0.is_empty()
    }

    /// Whether each shows `onlooker` a certificate of this issuer. Each look is a handshake that fails for want of a
    /// certificate: not too many of them.
    pub fn have_issuer(&mut self, mesh: &Mesh, onlooker: &Host, issuer: &[u8]) -> bool {
        self.0.retain(|(name, _)| !presents(mesh, name, onlooker, issuer));
        self.0.is_empty()
    }
}

/// How many times a sidecar has taken anchors from identity.
fn bundles(mesh: &Mesh, name: &str) -> f64 {
    mesh.get(name).metric("mesh_identity_trust_bundle_updates_total", &[])
}

/// Whether a sidecar's inbound port shows a chain with this issuer to whoever asks.
fn presents(mesh: &Mesh, name: &str, onlooker: &Host, issuer: &[u8]) -> bool {
    let addr = mesh.get(name).at(INBOUND_PORT)[0];
    let shown = within(onlooker, async { tcp::tls(addr, "mesh").await.map(|(_, chain)| chain) });
    shown.is_ok_and(|chain| chain.iter().any(|der| der == issuer))
}

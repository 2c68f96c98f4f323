//! A change of trust anchors in its three steps, by editing the files that identity watches.
//!
//! Invariant: at every moment the issuer in use leads to an anchor in the file; each file is replaced by a rename.
//! Non-goal: waiting until a step has arrived everywhere; who takes the next one must see to that.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mesh_identity::init;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The way from one CA to another.
pub struct Rotation {
    used: PathBuf,
    next: PathBuf,
}

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

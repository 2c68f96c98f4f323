//! Certificates for peers that have no control plane: a root, and a leaf for each side, all EC P-256.
//!
//! Invariant: as the mesh's own: the same kind of key, one root, and no intermediate.
//! Non-goal: rotation.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The name in both leaves, and the one that clients ask for.
pub const NAME: &str = "web.bench.local";

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The root's certificate.
    pub root: PathBuf,
    /// A leaf and its key in one file, as HAProxy likes it.
    pub both: PathBuf,
    /// The leaf alone.
    pub leaf: PathBuf,
    /// Its key alone.
    pub key: PathBuf,
}

/// Makes them in `folder`.
///
/// # Errors
/// When they cannot be made or written.
pub fn make(folder: &Path) -> anyhow::Result<Files> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("bench root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_key = KeyPair::generate().context("a key")?;
    let root = params.self_signed(&root_key).context("the root")?;
    let issuer = Issuer::new(params, root_key);
    let key = KeyPair::generate().context("a key")?;
    let mut params = CertificateParams::new([NAME.to_owned()])?;
    params.distinguished_name = named(NAME);
    let leaf = params.signed_by(&key, &issuer).context("a leaf")?;
    let write = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        // The sidecars' user reads them.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok(path)
    };
    Ok(Files {
        root: write("root.pem", &root.pem())?,
        both: write("both.pem", &format!("{}{}", leaf.pem(), key.serialize_pem()))?,
        leaf: write("leaf.pem", &leaf.pem())?,
        key: write("key.pem", &key.serialize_pem())?,
    })
}

/// OpenSSL takes a leaf that is named like its issuer for a root.
fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

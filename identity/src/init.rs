//! A CA for a first start: a root, and an issuer under it, in a folder.
//!
//! Invariant: the folder has all files or none, at every moment at which the process can die. They are written to a
//! hidden folder inside, which one rename declares complete; then they move to their places, and a start that finds
//! some still waiting moves them. Keys are mode 0600 from their first byte on. Non-goal: replacing what is there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use time::OffsetDateTime;

use crate::issuer::hex;

/// The roots' certificates.
pub const ANCHORS: &str = "anchors.pem";
/// The issuer's certificate.
pub const ISSUER: &str = "issuer.pem";
/// The issuer's key.
pub const ISSUER_KEY: &str = "issuer.key";
/// The root's key; needed to make the next issuer, best kept elsewhere.
pub const ROOT_KEY: &str = "root.key";

const NEEDED: [&str; 3] = [ANCHORS, ISSUER, ISSUER_KEY];
const ALL: [&str; 4] = [ROOT_KEY, ANCHORS, ISSUER, ISSUER_KEY];
const PARTIAL: &str = ".init-partial";
const COMPLETE: &str = ".init-complete";

const DAY: Duration = Duration::from_secs(24 * 3600);
const ROOT_LIFE: Duration = DAY.saturating_mul(3650);
const ISSUER_LIFE: Duration = DAY.saturating_mul(365);
/// Clocks of other machines may be behind ours.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something about the file or folder failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process holds the folder.
    #[error("lock the folder: {0}")]
    Lock(Errno),
    /// Some of the files are there and some are not: this is not a first start.
    #[error("{} is not there, but other files of the CA are", .0.display())]
    Incomplete(PathBuf),
    /// Making a key or a certificate failed.
    #[error("make a key or certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// What [`ensure`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A CA was there.
    Present,
    /// There was none, and one has been made.
    Created,
}

/// Makes a CA in `dir`, unless there is one. Two processes that do so at a time agree on one CA.
///
/// # Errors
/// See [`Error`].
pub fn ensure(dir: &Path, trust_domain: &str, now: SystemTime) -> Result<Outcome, Error> {
    // The anchors are for everybody; keys have modes of their own.
    DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(at(dir))?;
    let handle = File::open(dir).map_err(at(dir))?;
    let handle = Flock::lock(handle, FlockArg::LockExclusive).map_err(|(_, errno)| Error::Lock(errno))?;
    let (partial, complete) = (dir.join(PARTIAL), dir.join(COMPLETE));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(at(&partial))?;
    }
    if complete.exists() {
        move_files(&complete, dir)?;
        return Ok(Outcome::Created);
    }
    let missing: Vec<_> = NEEDED.into_iter().filter(|name| !dir.join(name).exists()).collect();
    if missing.is_empty() {
        return Ok(Outcome::Present);
    }
    // A root's key alone is no CA yet, but somebody's all the same.
    if let Some(first) = missing.first().filter(|_| ALL.into_iter().any(|name| dir.join(name).exists())) {
        return Err(Error::Incomplete(dir.join(first)));
    }
    write_files(&partial, trust_domain, now)?;
    fs::rename(&partial, &complete).map_err(at(&partial))?;
    handle.sync_all().map_err(at(dir))?;
    move_files(&complete, dir)?;
    Ok(Outcome::Created)
}

/// Puts complete files into their places, as far as that has not happened.
fn move_files(from: &Path, to: &Path) -> Result<(), Error> {
    for name in ALL {
        match fs::rename(from.join(name), to.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.join(name).exists() => {}
            moved => moved.map_err(at(&to.join(name)))?,
        }
    }
    fs::remove_dir(from).map_err(at(from))?;
    sync(to)
}

fn write_files(dir: &Path, trust_domain: &str, now: SystemTime) -> Result<(), Error> {
    let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let issuer_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let root_params = params(&format!("{trust_domain} mesh root"), ROOT_LIFE, 1, now)?;
    let root = root_params.self_signed(&root_key)?;
    let signer = rcgen::Issuer::from_params(&root_params, &root_key);
    let issuer =
        params(&format!("{trust_domain} mesh issuer"), ISSUER_LIFE, 0, now)?.signed_by(&issuer_key, &signer)?;
    DirBuilder::new().mode(0o700).create(dir).map_err(at(dir))?;
    write(&dir.join(ROOT_KEY), &root_key.serialize_pem(), 0o600)?;
    write(&dir.join(ISSUER_KEY), &issuer_key.serialize_pem(), 0o600)?;
    write(&dir.join(ANCHORS), &root.pem(), 0o644)?;
    write(&dir.join(ISSUER), &issuer.pem(), 0o644)?;
    sync(dir)
}

/// The certificate of a CA that may have `below` CAs in a row under it.
fn params(name: &str, life: Duration, below: u8, now: SystemTime) -> Result<CertificateParams, Error> {
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = rcgen::DistinguishedName::new();
    // A name of its own for each: who meets two CAs of one name, one of them unknown, sees a wrong signature in place of an
    // unknown issuer. RFC 5280 A.1: a common name has 64 characters at most.
    let name: String = name.chars().take(55).collect();
    params.distinguished_name.push(DnType::CommonName, format!("{name} {}", hex(&serial[..4])));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(now + life);
    Ok(params)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(at(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at(path))
}

/// Makes the folder's entries last.
fn sync(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;

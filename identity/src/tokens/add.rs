//! `mesh-identity token add`: makes a token and writes its hash down.
//!
//! Invariant: the token is printed only after its hash is safely on disk; a failed write leaves the file as it was; two
//! commands at a time do not lose each other's line. Non-goal: editing what is there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_mtls::spiffe::Id;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{SCHEME, Table, hash};
use crate::issuer::hex;

/// Lets people and scanners for secrets see what it is.
const PREFIX: &str = "mesh_";
const RANDOM_BYTES: usize = 32;

/// Why no token was added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The file cannot be read or written.
    #[error("tokens file: {0}")]
    Io(#[from] io::Error),
    /// The file cannot be locked.
    #[error("lock the tokens file: {0}")]
    Lock(Errno),
    /// What is there is wrong, so that an addition would not be read.
    #[error("tokens file: {0}")]
    Broken(#[from] super::Error),
    /// The system has no randomness.
    #[error("no random bytes")]
    Random,
}

/// Adds a line for a new token to the file, which is made (mode 0600) if it is not there. Returns the token.
///
/// # Errors
/// See [`AddError`]; the file is as before then.
pub fn add(path: &Path, id: &Id) -> Result<String, AddError> {
    let token = generate()?;
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| AddError::Lock(errno))?;
    let mut before = Vec::new();
    file.read_to_end(&mut before)?;
    Table::parse(&before, id.trust_domain())?;
    let line = format!("{SCHEME}{} {id}\n", hex(&hash(token.as_bytes())));
    if let Err(error) = append(&mut file, &line) {
        file.set_len(before.len() as u64)?;
        return Err(error.into());
    }
    Ok(token)
}

fn append(file: &mut File, line: &str) -> io::Result<()> {
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

fn generate() -> Result<String, AddError> {
    let mut bytes = [0; RANDOM_BYTES];
    rand::fill(&mut bytes).map_err(|_| AddError::Random)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

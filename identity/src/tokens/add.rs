//! `mesh-identity token add`: makes a token and writes its hash down.
//!
//! Invariant: the token is printed only after its hash is safely on disk; at every moment at which the process or the
//! machine can die the file is the old one or the new one; two commands at a time do not lose each other's line.
//! Non-goal: editing what is there.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

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
/// Of a file that is made.
const MODE: u32 = 0o600;

/// Why no token was added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The file cannot be read or written.
    #[error("tokens file {}", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its folder cannot be locked.
    #[error("lock the folder of the tokens file {}", .path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: Errno,
    },
    /// What is there is wrong, so that an addition would not be read.
    #[error("tokens file {}", .path.display())]
    Broken {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        source: super::Error,
    },
    /// The system has no randomness.
    #[error("no random bytes")]
    Random,
}

/// Adds a line for a new token to the file, which is made (mode 0600) if it is not there; else it keeps its owner and
/// mode. Returns the token.
///
/// # Errors
/// See [`AddError`]; the file is as before then.
pub fn add(path: &Path, id: &Id) -> Result<String, AddError> {
    let token = generate()?;
    let at = |source| AddError::Io { path: path.to_owned(), source };
    let file = target(path).map_err(at)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The file itself is replaced, so who waits for a lock on it would come to hold that of a file that is gone.
    let lock = Flock::lock(File::open(folder).map_err(at)?, FlockArg::LockExclusive);
    let lock = lock.map_err(|(_, source)| AddError::Lock { path: path.to_owned(), source })?;
    let mut content = match fs::read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(at)?,
    };
    Table::parse(&content, id.trust_domain()).map_err(|source| AddError::Broken { path: path.to_owned(), source })?;
    content.extend(format!("{SCHEME}{} {id}\n", hex(&hash(token.as_bytes()))).bytes());
    replace(&file, &content).map_err(at)?;
    lock.sync_all().map_err(at)?;
    Ok(token)
}

/// Where the file is, behind symbolic links: what is replaced is the file, not the link.
fn target(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        found => found,
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let next = path.with_file_name(name);
    // Left by a command that died: nobody else can be at work here, because of the lock.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let replaced = write(&next, path, content).and_then(|()| fs::rename(&next, path));
    if replaced.is_err() {
        // The error that is reported is the first one.
        let _ = fs::remove_file(&next);
    }
    replaced
}

/// Writes `next` with the owner and mode of `like`, and to the disk.
fn write(next: &Path, like: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(next)?;
    match fs::metadata(like) {
        Ok(like) => {
            let ours = file.metadata()?;
            if (ours.uid(), ours.gid()) != (like.uid(), like.gid()) {
                fchown(&file, Some(like.uid()), Some(like.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    file.write_all(content)?;
    file.sync_all()
}

fn generate() -> Result<String, AddError> {
    let mut bytes = [0; RANDOM_BYTES];
    rand::fill(&mut bytes).map_err(|_| AddError::Random)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

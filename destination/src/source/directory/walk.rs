//! Finds the manifests below a directory.
//!
//! Invariant: bounded in files and depth, and no directory is visited twice, so that loops of symbolic links end. What
//! cannot be read is told, never taken for empty. Non-goal: what is in the files.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Most manifests that are read.
pub(super) const MAX_FILES: usize = 10_000;
/// Directories within each other.
const MAX_DEPTH: usize = 16;

/// Why a walk found nothing of use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory itself is missing or cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing there says that there is a mesh, not even an empty one: it is not mounted yet, or being replaced.
    #[error("no manifest in {path}; a mesh without objects is a manifest without any, such as an empty file none.yaml",
        path = .path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// To read a part of them would look as if the others had been deleted.
    #[error("more than {MAX_FILES} manifests")]
    TooManyFiles,
}

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What is called like a manifest, in order; it may be anything but a directory.
    pub(super) files: Vec<PathBuf>,
    /// All directories visited, the first included.
    pub(super) directories: Vec<PathBuf>,
    /// Directories that cannot be read, and links that cannot be followed, with the reason.
    pub(super) unreadable: Vec<(PathBuf, io::Error)>,
}

/// All manifests below `root`, or `root` itself when it is a file.
pub(super) fn walk(root: &Path) -> Result<Found, Error> {
    let mut found = Found::default();
    let mut visited = HashSet::new();
    let unreadable = |source| Error::Unreadable { path: root.to_owned(), source };
    if fs::metadata(root).map_err(unreadable)?.is_file() {
        found.files.push(root.to_owned());
        return Ok(found);
    }
    let mut pending = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = pending.pop() {
        match visit(&directory, depth, &mut visited, &mut found) {
            Ok(further) => pending.extend(further.into_iter().map(|path| (path, depth + 1))),
            Err(source) if depth == 0 => return Err(unreadable(source)),
            // It went away meanwhile: what was in it did as well.
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => found.unreadable.push((directory, source)),
        }
        if found.files.len() > MAX_FILES {
            return Err(Error::TooManyFiles);
        }
    }
    found.files.sort();
    Ok(found)
}

/// Notes the files of one directory; gives the directories in it.
fn visit(
    directory: &Path,
    depth: usize,
    visited: &mut HashSet<(u64, u64)>,
    found: &mut Found,
) -> io::Result<Vec<PathBuf>> {
    let metadata = fs::metadata(directory)?;
    if !visited.insert((metadata.dev(), metadata.ino())) {
        return Ok(Vec::new());
    }
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!("deeper than {MAX_DEPTH} directories")));
    }
    let mut further = Vec::new();
    let (mut files, mut lost) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_hidden(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        // Follows symbolic links.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => further.push(path),
            Ok(_) if is_manifest(&path) => files.push(path),
            Ok(_) => {}
            // What it leads to may be gone for good, or not be mounted: that is not known.
            Err(error) if path.is_symlink() && may_matter(&path) => lost.push((path, error)),
            // It went away meanwhile.
            Err(_) => {}
        }
    }
    found.files.append(&mut files);
    found.unreadable.append(&mut lost);
    found.directories.push(directory.to_owned());
    Ok(further)
}

/// Dotfiles: among them the temporary files of editors and the `..data` of Kubernetes' volumes.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Whether what is there could be a manifest or a directory, by its name.
fn may_matter(path: &Path) -> bool {
    is_manifest(path) || path.extension().is_none()
}

/// Whether a file's name is one of a manifest. Backups and lock files of editors have other endings.
pub(super) fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    matches!(extension, Some("yaml" | "yml" | "json"))
}

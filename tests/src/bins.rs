//! Finds the binaries under test: beside the running executable, or one folder up (test binaries live in `deps/`).
//!
//! Invariant: debug tests run debug binaries and release ones release binaries, since both come from one target folder.
//! Non-goal: building them; `make` has done so.

use std::path::PathBuf;

/// The path of a built binary of this workspace.
///
/// # Panics
/// When it has not been built: the message says how to.
pub fn bin(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| panic!("{name} is not built here: run `cargo build --workspace --bins` first"))
}

/// As [`bin`], but says whether it is there.
pub fn find(name: &str) -> Option<PathBuf> {
    let here = std::env::current_exe().ok()?;
    here.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Where the build leaves its output: the folder above `debug` and `release`.
pub fn target() -> Option<PathBuf> {
    let here = std::env::current_exe().ok()?;
    let folder = here.parent()?;
    let profile = if folder.ends_with("deps") { folder.parent()? } else { folder };
    profile.parent().map(PathBuf::from)
}

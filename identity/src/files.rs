//! Watched files.
//!
//! Invariant: a change comes out once, and only when two looks in a row saw the same bytes, so a file that is being
//! written is not taken for a shorter one. Contents decide, not times or inodes: renames, symlink swaps and edits in
//! place are all the same. Non-goal: notifications of the kernel, which miss some of these.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

/// The time between two looks.
pub const INTERVAL: Duration = Duration::from_millis(500);
/// Bytes of a file; longer ones are errors.
const SIZE_LIMIT: u64 = 16 * 1024 * 1024;

type Digest = [u8; SHA256_OUTPUT_LEN];

/// The contents of some files, each as it could be read.
pub type Contents = Vec<io::Result<Vec<u8>>>;

/// Files that change together.
#[derive(Debug)]
pub struct Watched {
    paths: Vec<PathBuf>,
    /// What was handed out last.
    taken: Option<Digest>,
    /// What the last look saw.
    seen: Option<Digest>,
}

impl Watched {
    /// Starts without having seen anything.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, taken: None, seen: None }
    }

    /// The contents now, whatever was seen before.
    pub fn take(&mut self) -> Contents {
        let contents = self.read();
        self.taken = Some(digest(&contents));
        self.seen = self.taken;
        contents
    }

    /// One look: the contents, if they have changed since they were handed out and stand still.
    pub fn look(&mut self) -> Option<Contents> {
        let contents = self.read();
        let digest = Some(digest(&contents));
        let stands_still = self.seen == digest;
        self.seen = digest;
        if !stands_still || self.taken == digest {
            return None;
        }
        self.taken = digest;
        Some(contents)
    }

    fn read(&self) -> Contents {
        self.paths.iter().map(|path| read(path)).collect()
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {SIZE_LIMIT} bytes")));
    }
    Ok(bytes)
}

fn digest(contents: &Contents) -> Digest {
    let mut context = Context::new(&SHA256);
    for content in contents {
        match content {
            Ok(bytes) => {
                context.update(&(bytes.len() as u64).to_be_bytes());
                context.update(bytes);
            }
            // No file has this length.
            Err(error) => {
                context.update(&u64::MAX.to_be_bytes());
                context.update(format!("{:?}", error.kind()).as_bytes());
            }
        }
    }
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn texts(contents: Option<Contents>) -> Option<Vec<String>> {
        let text = |content: io::Result<Vec<u8>>| match content {
            Ok(bytes) => String::from_utf8(bytes).unwrap(),
            Err(error) => format!("{:?}", error.kind()),
        };
        contents.map(|contents| contents.into_iter().map(text).collect())
    }

    #[test]
    fn a_change_comes_out_once_and_when_it_stands_still() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "one").unwrap();
        let mut watched = Watched::new(vec![path.clone()]);
        assert_eq!(texts(Some(watched.take())), Some(vec!["one".to_owned()]));
        assert_eq!(texts(watched.look()), None);
        fs::write(&path, "on").unwrap();
        assert_eq!(texts(watched.look()), None, "may be half-written");
        fs::write(&path, "on the way").unwrap();
        assert_eq!(texts(watched.look()), None, "still moving");
        assert_eq!(texts(watched.look()), Some(vec!["on the way".to_owned()]));
        assert_eq!(texts(watched.look()), None);
    }

    #[test]
    fn symlink_swaps_and_removals_are_changes() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("v1"), "one").unwrap();
        fs::write(at("v2"), "two").unwrap();
        symlink(at("v1"), at("current")).unwrap();
        let mut watched = Watched::new(vec![at("current")]);
        watched.take();
        symlink(at("v2"), at("next")).unwrap();
        fs::rename(at("next"), at("current")).unwrap();
        watched.look();
        assert_eq!(texts(watched.look()), Some(vec!["two".to_owned()]));
        fs::remove_file(at("current")).unwrap();
        watched.look();
        assert_eq!(texts(watched.look()), Some(vec!["NotFound".to_owned()]));
    }
}

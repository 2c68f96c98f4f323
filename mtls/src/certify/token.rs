//! The file with the token that says who we are.
//!
//! Invariant: a read ends in [`READ_TIMEOUT`], whatever the file is or its file system does, and at most one thread
//! hangs on it. Non-goal: judging the token; `identity` does.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

/// As much as `identity` takes. Service account tokens of Kubernetes have 1 to 2 KiB.
const MAX_TOKEN: u64 = 16 * 1024;
/// A network file system whose server is away can hang for ever.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Read again for each request, for tokens rotate.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    patience: Duration,
    /// A read that took too long, and may still.
    late: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, patience: READ_TIMEOUT, late: None }
    }

    /// The token without the white space around it, which editors and shells add.
    pub(super) async fn read(&mut self) -> io::Result<Vec<u8>> {
        let path = self.path.clone();
        let late = self.late.take().filter(|late| !late.is_finished());
        let mut reading = late.unwrap_or_else(|| spawn_blocking(move || read(&path)));
        match timeout(self.patience, &mut reading).await {
            Ok(done) => done.unwrap_or_else(|error| Err(io::Error::other(error))),
            Err(_) => {
                self.late = Some(reading);
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let bad = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    // A FIFO that nobody writes to would keep a plain open waiting.
    let file: File = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return bad("it is no regular file");
    }
    let mut token = Vec::new();
    file.take(MAX_TOKEN + 1).read_to_end(&mut token)?;
    if token.len() as u64 > MAX_TOKEN {
        return bad("it is too long");
    }
    let trimmed = token.trim_ascii();
    if trimmed.is_empty() { bad("it is empty") } else { Ok(trimmed.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_bounded_and_may_not_be_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let mut file = TokenFile::new(path.clone());
        for (content, good) in [("abc", true), (" abc\r\n", true), ("", false), (" \n", false)] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(file.read().await.ok(), good.then(|| b"abc".to_vec()), "{content:?}");
        }
        std::fs::write(&path, "x".repeat(16 * 1024 + 1)).unwrap();
        assert!(file.read().await.is_err());
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("token");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&fifo, folder.path(), Path::new("/dev/zero")] {
            let error = timeout(READ_TIMEOUT / 2, TokenFile::new(path.to_owned()).read()).await.unwrap().unwrap_err();
            assert!(error.to_string().contains("regular file"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_read_that_hangs_is_an_error_and_is_not_begun_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "new").unwrap();
        let (end, ended) = std::sync::mpsc::sync_channel::<()>(0);
        let mut file = TokenFile::new(path);
        file.late = Some(spawn_blocking(move || {
            let _ = ended.recv();
            Ok(b"old".to_vec())
        }));
        file.patience = Duration::from_millis(10);
        assert_eq!(file.read().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(file.late.is_some(), "still hangs");
        file.patience = READ_TIMEOUT;
        drop(end);
        // The token of the read that hung, or a fresh one: both were in the file.
        assert!(matches!(&*file.read().await.unwrap(), b"old" | b"new"));
        assert_eq!(file.read().await.unwrap(), b"new");
    }
}

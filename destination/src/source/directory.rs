//! A directory of manifests as a source: read at once, then followed.
//!
//! Invariant: the index gets each scan's outcome as a whole, and readers see all of it or nothing; whatever becomes of the
//! directory, the last good state stays. Non-goal: manifests that change faster than a scan takes; the newest one counts.

mod notice;
mod scan;
#[cfg(test)]
mod tests;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use notice::Notices;
pub use scan::Report;
use scan::{Change, Scan, Scanner, Writers};
use tokio::task;
use tokio::time::{sleep, timeout};
pub use walk::Error;

use crate::index::Index;
use crate::manifest::Severity;
use crate::metrics::{Reload, Source as Metrics};
use crate::model::Object;

/// At the start: one to find the directories, one more now that they are watched, others for files that are being written.
const FIRST_LOOKS: usize = 10;

/// How long to wait, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A burst of changes is over when nothing has changed for this long...
    pub quiet: Duration,
    /// ... or, if it goes on, it is looked at after this time.
    pub patience: Duration,
    /// Looks without a notice, for what notices miss.
    pub periodic: Duration,
    /// The same, where there are no notices.
    pub periodic_without_notices: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(10),
            patience: Duration::from_millis(100),
            periodic: Duration::from_secs(10),
            periodic_without_notices: Duration::from_secs(1),
        }
    }
}

/// The source. Made by [`Directory::open`].
#[derive(Debug)]
pub struct Directory {
    settings: Settings,
    /// Not there while a scan has it.
    scanner: Option<Scanner>,
    notices: Notices,
    metrics: Metrics,
    /// Said once, until it is over.
    failure: Option<String>,
}

/// What one look at a directory finds, for people.
#[derive(Debug)]
pub struct Look {
    /// Findings, by file.
    pub reports: Vec<Report>,
    /// All objects that can be used.
    pub objects: Vec<Placed>,
    /// Number of files.
    pub files: usize,
}

/// An object and its place.
#[derive(Debug)]
pub struct Placed {
    /// The manifest.
    pub path: PathBuf,
    /// From 1 on.
    pub line: u64,
    /// From 1 on.
    pub column: u64,
    /// The object.
    pub object: Object,
}

/// Looks once, at a directory or a file, without any index.
///
/// # Errors
/// It cannot be read.
pub fn look(path: &Path) -> Result<Look, Error> {
    let mut scanner = Scanner::new(path.to_owned());
    // Nobody is writing: what is there is what is meant.
    let scan = scanner.scan(&Writers::none(), SystemTime::now())?;
    let (files, _) = scanner.counts();
    let objects = scanner.declared();
    let objects = objects.map(|(path, object, line, column)| Placed {
        path: path.to_owned(),
        line,
        column,
        object: object.clone(),
    });
    Ok(Look { objects: objects.collect(), reports: scan.reports, files })
}

impl Directory {
    /// Reads the directory into `index`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// There is no such directory, or it cannot be read. Broken manifests are no error: they are told of and left out.
    pub async fn open(path: &Path, settings: Settings, metrics: Metrics, index: &Mutex<Index>) -> Result<Self, Error> {
        let mut directory = Self {
            settings,
            scanner: Some(Scanner::new(path.to_owned())),
            notices: Notices::new(path.to_owned()),
            metrics,
            failure: None,
        };
        for _ in 0..FIRST_LOOKS {
            match directory.scan(index, Instant::now()).await? {
                Again::Now => {}
                Again::Soon => sleep(scan::SETTLE).await,
                Again::Periodically => break,
            }
        }
        let (_, broken) = directory.scanner.as_ref().map(Scanner::counts).unwrap_or_default();
        if broken > 0 {
            tracing::error!(
                broken,
                "broken manifests have no last good state at the start: what they declare is missing"
            );
        }
        Ok(directory)
    }

    /// Follows the directory. Returns only when the runtime is shut down.
    pub async fn run(mut self, index: &Mutex<Index>) {
        let mut again = Again::Periodically;
        while self.scanner.is_some() {
            let seen = self.wait(again).await;
            again = match self.scan(index, seen).await {
                Ok(again) => again,
                Err(error) => {
                    self.failed(&error);
                    self.notices.follow(&[]);
                    Again::Periodically
                }
            };
        }
    }

    /// Waits until the next scan is due; since when that is known.
    async fn wait(&mut self, again: Again) -> Instant {
        let periodic =
            if self.notices.is_active() { self.settings.periodic } else { self.settings.periodic_without_notices };
        let pause = match again {
            Again::Now => Duration::ZERO,
            Again::Soon => scan::SETTLE,
            Again::Periodically => periodic,
        };
        if timeout(pause, self.notices.changed()).await.is_err() {
            return Instant::now();
        }
        let seen = Instant::now();
        let quiet = async { while timeout(self.settings.quiet, self.notices.changed()).await.is_ok() {} };
        // A burst without end is looked at all the same.
        let _ = timeout(self.settings.patience, quiet).await;
        seen
    }

    async fn scan(&mut self, index: &Mutex<Index>, seen: Instant) -> Result<Again, Error> {
        let Some(mut scanner) = self.scanner.take() else {
            return Ok(Again::Periodically);
        };
        let writers = self.notices.writers();
        let scan = task::spawn_blocking(move || {
            let scan = scanner.scan(&writers, SystemTime::now());
            (scanner, scan)
        });
        let Ok((scanner, scan)) = scan.await else {
            return Ok(Again::Periodically); // the runtime is shut down
        };
        let (files, broken) = scanner.counts();
        self.scanner = Some(scanner);
        let scan = scan?;
        self.failure = None;
        self.metrics.manifests(files - broken.min(files), broken);
        let missed = self.notices.follow(&scan.directories);
        let held = scan.held;
        self.report(&scan.reports);
        self.apply(scan, broken, index, seen);
        Ok(match (missed, held) {
            (true, _) => Again::Now,
            (false, true) => Again::Soon,
            (false, false) => Again::Periodically,
        })
    }

    fn apply(&self, scan: Scan, broken: usize, index: &Mutex<Index>, seen: Instant) {
        if broken == 0 && !scan.held {
            self.metrics.in_sync(SystemTime::now());
        }
        if scan.changes.is_empty() && scan.reports.is_empty() {
            return;
        }
        let result = if broken == 0 { Reload::Applied } else { Reload::Partial };
        self.metrics.reloaded(result);
        let changes = scan.changes.len();
        let begun = Instant::now();
        let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
        for change in scan.changes {
            match change {
                Change::Apply(object) => index.apply((*object).clone()),
                Change::Delete(key) => index.delete(&key),
            }
        }
        let changed = index.publish(seen);
        self.metrics.indexed(begun.elapsed(), |kind| index.count(kind));
        drop(index);
        if changes == 0 {
            return; // the findings were told
        }
        tracing::info!(objects = changes, resources = changed, broken, "manifests applied");
    }

    fn report(&self, reports: &[Report]) {
        for Report { path, finding } in reports {
            let path = path.display();
            if finding.severity == Severity::Error {
                self.metrics.error();
                tracing::error!("{path}:{finding}");
            } else {
                tracing::warn!("{path}:{finding}");
            }
        }
    }

    fn failed(&mut self, error: &Error) {
        self.metrics.reloaded(Reload::Failed);
        let failure = error.to_string();
        if self.failure.as_ref() != Some(&failure) {
            tracing::error!("{failure}; the last good state stays in use");
        }
        self.failure = Some(failure);
    }
}

/// When to look again, if nothing is noticed before.
#[derive(Clone, Copy, Debug)]
enum Again {
    Now,
    Soon,
    Periodically,
}

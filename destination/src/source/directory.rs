//! A directory of manifests as a source: read at once, then followed.
//!
//! Invariant: the index gets each scan's outcome as a whole, and readers see all of it or nothing; whatever becomes of the
//! directory, the last good state stays. At the start there is none: the index is not complete before a scan finds
//! nothing that is broken, missing or half written. Non-goal: manifests that change faster than a scan takes; the newest one
//! counts.

mod notice;
mod scan;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use notice::Notices;
pub use scan::Report;
use scan::{Change, Scan, Scanner, Suspects, Writers};
use tokio::task;
use tokio::time::timeout;
pub use walk::Error;

use crate::index::Index;
use crate::manifest::Severity;
use crate::metrics::{Reload, Source as Metrics};
use crate::model::{Key, Object};

/// Of broken files, in one line of the log.
const NAMED: usize = 3;

/// How long to wait, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A burst of changes is over when nothing has changed for this long...
    pub quiet: Duration,
    /// ... or, if it goes on, it is looked at after this time. Files come and go one by one when somebody moves objects
    /// between them, which must not look as if the objects had gone.
    pub patience: Duration,
    /// The same, as long as known files were replaced and nothing else: each is whole.
    pub patience_with_files: Duration,
    /// Looks without a notice, for what notices miss.
    pub periodic: Duration,
    /// The same, where there are no notices, or as long as something is amiss: of mounts there are none.
    pub periodic_without_notices: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(10),
            patience: Duration::from_millis(100),
            patience_with_files: Duration::from_millis(20),
            periodic: Duration::from_secs(10),
            periodic_without_notices: Duration::from_secs(1),
        }
    }
}

/// The source.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    settings: Settings,
    /// Not there while a scan has it.
    scanner: Option<Scanner>,
    notices: Notices,
    metrics: Metrics,
    stage: Stage,
    /// Said once, until it is over.
    failure: Option<String>,
    /// Routes and policies that the index knows to be rejected.
    rejections: BTreeMap<Key, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There has been no scan that could use everything.
    Loading,
    /// There has, so that there is a last good state of everything.
    Following,
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
/// It cannot be read, or there is no manifest.
pub fn look(path: &Path) -> Result<Look, Error> {
    let mut scanner = Scanner::new(path.to_owned());
    // Nobody is writing: what is there is what is meant.
    let scan = scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now())?;
    if scan.is_empty {
        return Err(Error::Empty { path: path.to_owned() });
    }
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
    /// A directory that need not be there yet. Must be called within a tokio runtime.
    pub fn new(path: &Path, settings: Settings, metrics: Metrics) -> Self {
        Self {
            path: path.to_owned(),
            settings,
            scanner: Some(Scanner::new(path.to_owned())),
            notices: Notices::new(path.to_owned()),
            metrics,
            stage: Stage::Loading,
            failure: None,
            rejections: BTreeMap::new(),
        }
    }

    /// Reads the directory into `index`, and follows it. Once all of it could be used, the index is complete, and `loaded`
    /// is called: until then an object that is not known may stand in what is broken, missing or not mounted. Returns only
    /// when the runtime is shut down.
    pub async fn run(mut self, index: &Mutex<Index>, loaded: impl FnOnce()) {
        let mut loaded = Some(loaded);
        let mut seen = Instant::now();
        while self.scanner.is_some() {
            let again = match self.scan(index, seen).await {
                Ok(again) => again,
                Err(error) => {
                    self.failed(&error);
                    self.notices.follow(&[]);
                    Again::Periodically
                }
            };
            if self.stage == Stage::Following
                && let Some(loaded) = loaded.take()
            {
                loaded();
            }
            seen = self.wait(again).await;
        }
    }

    /// Waits until the next scan is due; since when that is known.
    async fn wait(&mut self, again: Again) -> Instant {
        let periodic = if self.notices.is_active() && self.failure.is_none() {
            self.settings.periodic
        } else {
            self.settings.periodic_without_notices
        };
        let pause = match again {
            Again::Now => Duration::ZERO,
            Again::Soon => scan::SETTLE,
            Again::Periodically => periodic,
        };
        if timeout(pause, self.notices.changed()).await.is_err() {
            return Instant::now();
        }
        let seen = Instant::now();
        let Settings { quiet, patience, patience_with_files, .. } = self.settings;
        while timeout(quiet, self.notices.changed()).await.is_ok() {
            // A burst without end is looked at all the same.
            let patience = if self.notices.are_of_files() { patience_with_files } else { patience };
            if seen.elapsed() + quiet > patience {
                break;
            }
        }
        seen
    }

    async fn scan(&mut self, index: &Mutex<Index>, seen: Instant) -> Result<Again, Error> {
        let Some(mut scanner) = self.scanner.take() else {
            return Ok(Again::Periodically);
        };
        let (suspects, writers) = (self.notices.take(), self.notices.writers());
        let suspects = if self.stage == Stage::Loading { Suspects::Everything } else { suspects };
        let scan = task::spawn_blocking(move || {
            let scan = scanner.scan(&suspects, &writers, SystemTime::now());
            (scanner, scan)
        });
        let Ok((scanner, scan)) = scan.await else {
            return Ok(Again::Periodically); // the runtime is shut down
        };
        let (files, broken) = scanner.counts();
        self.scanner = Some(scanner);
        let scan = scan?;
        let missed = scan.directories.as_ref().is_some_and(|directories| self.notices.follow(directories));
        let again = match (missed, scan.held) {
            (true, _) => Again::Now,
            (false, true) => Again::Soon,
            (false, false) => Again::Periodically,
        };
        if scan.is_empty {
            self.failed(&Error::Empty { path: self.path.clone() });
            return Ok(again);
        }
        self.metrics.manifests(files - broken.min(files), broken);
        self.report(&scan.reports);
        self.apply(scan, broken, index, seen);
        match self.stage {
            Stage::Following => self.failure = None,
            Stage::Loading if broken > 0 => self.hold(broken),
            // What is half written, or was not watched yet, is looked at again at once.
            Stage::Loading if !matches!(again, Again::Periodically) => {}
            Stage::Loading => self.loaded(files, index),
        }
        Ok(again)
    }

    /// Nobody is to be told that what a broken file declares does not exist.
    fn hold(&mut self, broken: usize) {
        let paths = self.scanner.iter().flat_map(Scanner::broken).take(NAMED).map(scan::shown);
        let mut paths = paths.collect::<Vec<_>>().join(", ");
        if broken > NAMED {
            paths.push_str(", ...");
        }
        self.amiss(format!("{broken} broken: {paths}"));
    }

    fn loaded(&mut self, files: usize, index: &Mutex<Index>) {
        (self.stage, self.failure) = (Stage::Following, None);
        index.lock().unwrap_or_else(PoisonError::into_inner).complete();
        let objects = self.scanner.as_ref().map(Scanner::objects).unwrap_or_default();
        if objects == 0 {
            tracing::warn!(manifests = files, "all manifests are in use, and declare nothing: the mesh is empty");
        } else {
            tracing::info!(manifests = files, objects, "all manifests are in use");
        }
    }

    fn apply(&mut self, scan: Scan, broken: usize, index: &Mutex<Index>, seen: Instant) {
        let rejected = self.rejected();
        if broken == 0 && rejected.is_empty() && !scan.held {
            self.metrics.in_sync(SystemTime::now());
        }
        if scan.changes.is_empty() && scan.reports.is_empty() && rejected == self.rejections {
            return;
        }
        let result = if broken == 0 && rejected.is_empty() { Reload::Applied } else { Reload::Partial };
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
        index.reject(rejected.clone());
        let changed = index.publish(seen);
        self.metrics.indexed(begun.elapsed(), |kind| index.count(kind));
        drop(index);
        self.rejections.clone_from(&rejected);
        if changes == 0 {
            return; // the findings were told
        }
        tracing::info!(objects = changes, resources = changed, broken, rejected = rejected.len(), "manifests applied");
    }

    fn rejected(&self) -> BTreeMap<Key, String> {
        let rejected = self.scanner.iter().flat_map(Scanner::rejected);
        rejected.map(|(path, key, why)| (key.clone(), format!("{}: {why}", scan::shown(path)))).collect()
    }

    fn report(&self, reports: &[Report]) {
        for report in reports {
            if report.finding.severity == Severity::Error {
                self.metrics.error();
                tracing::error!("{report}");
            } else {
                tracing::warn!("{report}");
            }
        }
    }

    fn failed(&mut self, error: &Error) {
        self.metrics.lost();
        self.amiss(error.to_string());
    }

    /// Says what is amiss, once.
    fn amiss(&mut self, failure: String) {
        if self.failure.as_ref() != Some(&failure) {
            match self.stage {
                Stage::Loading => tracing::error!("{failure}; no proxy is served until all manifests can be used"),
                Stage::Following => tracing::error!("{failure}; the last good state stays in use"),
            }
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

//! Reads what changed below a directory, and says what that changes.
//!
//! Invariant: a file that is broken, unreadable or still being written keeps its last good objects; a directory that is
//! lost, or has no manifest left, keeps all; only a file that is gone from among others takes its objects along. The last
//! good version of a route or a policy with an error stays alone. Of two declarations of an object the first by path
//! counts. While a file is being written nothing is deleted, for a moment: an object that is gone from one file may be on
//! its way into another. Unchanged files are not read again, and where it is known which files changed, and that
//! suffices, no others are looked at. Non-goal: when to scan (`notice`), and the index.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::walk::{self, Error, walk};
use crate::manifest::{self, Declared, Finding, MAX_BYTES, Severity};
use crate::model::{Key, Object};

/// A file whose writer may not be known is left alone for this long after its last change.
pub(super) const SETTLE: Duration = Duration::from_millis(100);
/// A writer that keeps a file open without writing is no reason to wait for it any longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// An object is not on its way from one file to another for longer.
const MOVE: Duration = Duration::from_secs(1);

/// What a source has to do to the index.
#[derive(Debug)]
pub(super) enum Change {
    Apply(Arc<Object>),
    Delete(Key),
}

/// A finding and its file.
#[derive(Debug)]
pub struct Report {
    /// The manifest.
    pub path: PathBuf,
    /// What is wrong with it.
    pub finding: Finding,
}

/// As compilers print it, on one line whatever the file is called.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", shown(&self.path), self.finding)
    }
}

/// A path without what terminals and line readers take for more than a name.
pub(super) fn shown(path: &Path) -> String {
    let mut shown = String::new();
    for c in path.to_string_lossy().chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// The outcome of a scan.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) changes: Vec<Change>,
    /// What was not found before.
    pub(super) reports: Vec<Report>,
    /// Some files are being written: to be looked at again soon.
    pub(super) held: bool,
    /// There is no manifest at all.
    pub(super) is_empty: bool,
    /// All that were visited; none when only files were looked at.
    pub(super) directories: Option<Vec<PathBuf>>,
}

/// What may have changed since the last scan.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Suspects {
    Everything,
    /// What these files say, and nothing else.
    Files(BTreeSet<PathBuf>),
}

/// Whether somebody would tell us when a writer has finished.
#[derive(Debug)]
pub(super) enum Writers {
    /// Nobody.
    Unknown,
    /// The kernel; these files are open and have been written to.
    Known(BTreeSet<PathBuf>),
}

impl Writers {
    /// For a directory that nobody is working on.
    pub(super) fn none() -> Self {
        Self::Known(BTreeSet::new())
    }
}

/// The state between scans.
#[derive(Debug)]
pub(super) struct Scanner {
    root: PathBuf,
    manifests: BTreeMap<PathBuf, Manifest>,
    current: HashMap<Key, Arc<Object>>,
    clashes: BTreeSet<(PathBuf, u64)>,
    unreadable: BTreeSet<PathBuf>,
    /// Since when files are being written, without a break.
    held_since: Option<SystemTime>,
    /// Objects that are gone and not deleted yet.
    is_moving: bool,
}

/// A file as it was when last read.
#[derive(Debug)]
struct Manifest {
    stamp: Option<Stamp>,
    objects: Vec<Held>,
    /// Routes and policies of it that cannot be used, and why.
    rejected: Vec<(Key, String)>,
    broken: bool,
}

/// An object and its place.
#[derive(Debug)]
struct Held {
    object: Arc<Object>,
    line: u64,
    column: u64,
}

/// Changes whenever a file's content may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What became of an attempt to read a file.
enum Attempt {
    Unchanged,
    BeingWritten,
    Read(Stamp, String),
    Refused(Option<Stamp>, String),
}

impl Scanner {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            manifests: BTreeMap::new(),
            current: HashMap::new(),
            clashes: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            held_since: None,
            is_moving: false,
        }
    }

    /// Looks at what may have changed. After an error, and where there is no manifest at all, nothing has.
    pub(super) fn scan(&mut self, suspects: &Suspects, writers: &Writers, now: SystemTime) -> Result<Scan, Error> {
        match suspects {
            Suspects::Files(files) if !self.is_moving && self.are_plain(files) => {
                Ok(self.scan_files(files, writers, now))
            }
            Suspects::Files(_) | Suspects::Everything => self.scan_everything(writers, now),
        }
    }

    fn scan_everything(&mut self, writers: &Writers, now: SystemTime) -> Result<Scan, Error> {
        let found = walk(&self.root)?;
        if found.files.is_empty() && found.unreadable.is_empty() {
            return Ok(Scan { is_empty: true, directories: Some(found.directories), ..Scan::default() });
        }
        let mut scan = Scan::default();
        self.forget_deleted(&found, &mut scan);
        for path in found.files {
            self.look_at(path, writers, now, &mut scan);
        }
        self.merge(now, &mut scan);
        scan.directories = Some(found.directories);
        Ok(scan)
    }

    /// Whether a look at these files alone tells what changed: all are known, and still files.
    fn are_plain(&self, files: &BTreeSet<PathBuf>) -> bool {
        let is_file = |path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
        files.iter().all(|path| self.manifests.contains_key(path) && is_file(path))
    }

    fn scan_files(&mut self, files: &BTreeSet<PathBuf>, writers: &Writers, now: SystemTime) -> Scan {
        let mut scan = Scan::default();
        let before: HashMap<_, _> = self.objects_of(files).collect();
        // What stays in use of a file without being in it may have to go, so that all are to be seen together.
        let are_rejected = self.rejected().next().is_some();
        for path in files {
            self.look_at(path.clone(), writers, now, &mut scan);
        }
        if scan.held || are_rejected || !self.merge_files(files, &before, &mut scan) {
            self.merge(now, &mut scan);
        }
        scan
    }

    fn objects_of(&self, files: &BTreeSet<PathBuf>) -> impl Iterator<Item = (Key, Arc<Object>)> {
        let manifests = files.iter().filter_map(|path| self.manifests.get(path));
        manifests.flat_map(|manifest| &manifest.objects).map(|held| (held.object.key(), Arc::clone(&held.object)))
    }

    /// Files, and those among them that are broken.
    pub(super) fn counts(&self) -> (usize, usize) {
        let broken = self.manifests.values().filter(|m| m.broken).count();
        (self.manifests.len(), broken + self.unreadable.len())
    }

    /// What is broken, by path.
    pub(super) fn broken(&self) -> impl Iterator<Item = &Path> {
        let manifests = self.manifests.iter().filter(|(_, manifest)| manifest.broken);
        manifests.map(|(path, _)| path.as_path()).chain(self.unreadable.iter().map(PathBuf::as_path))
    }

    /// Routes and policies that cannot be used, by path, with their place and why.
    pub(super) fn rejected(&self) -> impl Iterator<Item = (&Path, &Key, &str)> {
        self.manifests.iter().flat_map(|(path, manifest)| {
            manifest.rejected.iter().map(move |(key, why)| (path.as_path(), key, why.as_str()))
        })
    }

    /// How many objects there are.
    pub(super) fn objects(&self) -> usize {
        self.current.len()
    }

    /// All objects that count, with their places, by path.
    pub(super) fn declared(&self) -> impl Iterator<Item = (&Path, &Object, u64, u64)> {
        self.manifests.iter().flat_map(|(path, manifest)| {
            let objects = manifest.objects.iter();
            objects.map(move |held| (path.as_path(), &*held.object, held.line, held.column))
        })
    }

    fn forget_deleted(&mut self, found: &walk::Found, scan: &mut Scan) {
        let there: BTreeSet<_> = found.files.iter().collect();
        let lost: Vec<_> = found.unreadable.iter().map(|(path, _)| path).collect();
        self.manifests.retain(|path, _| there.contains(path) || lost.iter().any(|lost| path.starts_with(lost)));
        for (path, error) in &found.unreadable {
            if !self.unreadable.contains(path) {
                scan.report(path, why_unreadable(path, error));
            }
        }
        self.unreadable = lost.into_iter().cloned().collect();
    }

    fn look_at(&mut self, path: PathBuf, writers: &Writers, now: SystemTime, scan: &mut Scan) {
        let known = self.manifests.get(&path);
        let stamp = known.and_then(|manifest| manifest.stamp);
        match attempt(&path, stamp, writers, now) {
            Attempt::Unchanged => {}
            Attempt::BeingWritten => scan.held = true,
            Attempt::Read(stamp, text) => self.take(path, stamp, &text, scan),
            Attempt::Refused(stamp, why) => {
                let manifest = self.manifests.entry(path.clone()).or_insert(Manifest {
                    stamp: None,
                    objects: Vec::new(),
                    rejected: Vec::new(),
                    broken: false,
                });
                let is_news = !manifest.broken || manifest.stamp != stamp;
                (manifest.stamp, manifest.broken) = (stamp, true);
                if is_news {
                    scan.report(&path, why);
                }
            }
        }
    }

    fn take(&mut self, path: PathBuf, stamp: Stamp, text: &str, scan: &mut Scan) {
        let parsed = manifest::parse(text);
        let broken = parsed.is_broken();
        if path.to_str().is_none_or(|name| name.contains(char::is_control)) {
            scan.push(&path, (1, 1), Severity::Warning, "the name has bytes that do not print".to_owned());
        }
        scan.reports.extend(parsed.findings.into_iter().map(|finding| Report { path: path.clone(), finding }));
        let (objects, rejected) = if broken {
            let before = self.manifests.remove(&path);
            before.map(|manifest| (manifest.objects, manifest.rejected)).unwrap_or_default()
        } else {
            let before = self.manifests.get(&path).map(|manifest| &manifest.objects[..]).unwrap_or_default();
            let objects = parsed.objects.into_iter().enumerate();
            (objects.map(|(place, declared)| Held::new(declared, before.get(place))).collect(), parsed.rejected)
        };
        let stamp = Some(stamp);
        self.manifests.insert(path, Manifest { stamp, objects, rejected, broken });
    }

    /// How the objects of some files differ from `before`. False, and nothing is done, if that depends on other files: on
    /// which declaration of an object is the first.
    fn merge_files(&mut self, files: &BTreeSet<PathBuf>, before: &HashMap<Key, Arc<Object>>, scan: &mut Scan) -> bool {
        let mut after = HashMap::new();
        for (key, object) in self.objects_of(files) {
            let is_of_others = self.current.contains_key(&key) && !before.contains_key(&key);
            if is_of_others || after.insert(key, object).is_some() {
                return false;
            }
        }
        if !self.clashes.is_empty() || self.rejected().next().is_some() {
            return false;
        }
        for key in before.keys().filter(|key| !after.contains_key(key)) {
            self.current.remove(key);
            scan.changes.push(Change::Delete(key.clone()));
        }
        for (key, object) in after {
            if !before.get(&key).is_some_and(|before| Arc::ptr_eq(before, &object)) {
                self.current.insert(key, Arc::clone(&object));
                scan.changes.push(Change::Apply(object));
            }
        }
        true
    }

    /// Whether an object that is gone may be on its way into a file that is being written.
    fn may_be_moving(&mut self, now: SystemTime, scan: &Scan) -> bool {
        if !scan.held {
            self.held_since = None;
            return false;
        }
        let since = *self.held_since.get_or_insert(now);
        now.duration_since(since).is_ok_and(|held| held < MOVE)
    }

    /// Finds the first declaration of each object, and how that differs from before.
    fn merge(&mut self, now: SystemTime, scan: &mut Scan) {
        let may_be_moving = self.may_be_moving(now, scan);
        let mut merged: HashMap<Key, (&Path, &Held)> = HashMap::with_capacity(self.current.len());
        let mut clashes = BTreeSet::new();
        for (path, manifest) in &self.manifests {
            for held in &manifest.objects {
                let key = held.object.key();
                let Some((first, other)) = merged.get(&key) else {
                    merged.insert(key, (path, held));
                    continue;
                };
                let clash = (path.clone(), held.line);
                if !self.clashes.contains(&clash) {
                    let (first, line) = (shown(first), other.line);
                    let message = format!("{key} is declared in {first}:{line} already");
                    scan.report_at(path, held, message);
                }
                clashes.insert(clash);
            }
        }
        // The last good version of what cannot be used stays, wherever it was declared.
        let rejected: HashSet<&Key> = self.rejected().map(|(_, key, _)| key).collect();
        let kept = self.current.iter().filter(|(key, _)| !merged.contains_key(key) && rejected.contains(key));
        let kept: Vec<_> = kept.map(|(key, object)| (key.clone(), Arc::clone(object))).collect();
        let gone = self.current.iter().filter(|(key, _)| !merged.contains_key(key) && !rejected.contains(key));
        let gone: Vec<_> = gone.map(|(key, object)| (key.clone(), Arc::clone(object))).collect();
        for (key, (_, held)) in &merged {
            let before = self.current.get(key);
            if before.is_none_or(|before| !Arc::ptr_eq(before, &held.object)) {
                scan.changes.push(Change::Apply(Arc::clone(&held.object)));
            }
        }
        let objects = merged.into_iter();
        let current = objects.map(|(key, (_, held))| (key, Arc::clone(&held.object)));
        self.current = current.chain(kept).collect();
        self.is_moving = may_be_moving && !gone.is_empty();
        if self.is_moving {
            self.current.extend(gone);
        } else {
            scan.changes.splice(0..0, gone.into_iter().map(|(key, _)| Change::Delete(key)));
        }
        self.clashes = clashes;
    }
}

impl Held {
    /// What did not change stays the same object, so that nobody has to compare it again.
    fn new(declared: Declared, before: Option<&Self>) -> Self {
        let Declared { object, line, column } = declared;
        let same = before.filter(|before| *before.object == object).map(|before| Arc::clone(&before.object));
        Self { object: same.unwrap_or_else(|| Arc::new(object)), line, column }
    }
}

impl Scan {
    fn report(&mut self, path: &Path, message: String) {
        self.push(path, (1, 1), Severity::Error, message);
    }

    fn report_at(&mut self, path: &Path, held: &Held, message: String) {
        self.push(path, (held.line, held.column), Severity::Error, message);
    }

    fn push(&mut self, path: &Path, (line, column): (u64, u64), severity: Severity, message: String) {
        let finding = Finding { line, column, severity, field: String::new(), message };
        let path = path.to_owned();
        self.reports.push(Report { path, finding });
    }
}

fn attempt(path: &Path, known: Option<Stamp>, writers: &Writers, now: SystemTime) -> Attempt {
    match read(path, known, writers, now) {
        Ok(attempt) => attempt,
        // It went away since it was found: the next look, which is due, will not find it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Attempt::BeingWritten,
        Err(error) => Attempt::Refused(None, why_unreadable(path, &error)),
    }
}

fn why_unreadable(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => "cannot be read: a link that leads nowhere".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

fn read(path: &Path, known: Option<Stamp>, writers: &Writers, now: SystemTime) -> io::Result<Attempt> {
    // Before it is opened, for opening a device may do something.
    let looked_at = fs::metadata(path)?;
    if !looked_at.is_file() {
        // Without its stamp: others may write to it all day long.
        return Ok(Attempt::Refused(None, irregular(looked_at.file_type())));
    }
    // Does not wait for the other end of what has become a FIFO meanwhile.
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    let stamp = Stamp::of(&metadata);
    if known == Some(stamp) {
        return Ok(Attempt::Unchanged);
    }
    if is_being_written(path, &metadata, writers, now) {
        return Ok(Attempt::BeingWritten);
    }
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    if !metadata.is_file() {
        return Ok(Attempt::Refused(None, irregular(metadata.file_type())));
    }
    if metadata.len() > limit {
        return Ok(Attempt::Refused(Some(stamp), format!("longer than {MAX_BYTES} bytes")));
    }
    let bytes = read_all(&file, limit)?;
    if Stamp::of(&file.metadata()?) != stamp {
        return Ok(Attempt::BeingWritten);
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Attempt::Read(stamp, text),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            Attempt::Refused(Some(stamp), format!("byte {at} is not UTF-8"))
        }
    })
}

fn irregular(kind: FileType) -> String {
    let what = match kind {
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "of another kind",
    };
    format!("{what}, no regular file")
}

fn read_all(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_being_written(path: &Path, metadata: &Metadata, writers: &Writers, now: SystemTime) -> bool {
    let Ok(modified) = metadata.modified() else {
        return false;
    };
    // A time to come is a clock's fault, and says nothing.
    let age = now.duration_since(modified).unwrap_or(Duration::MAX);
    match writers {
        // Nobody watches the directories that links lead to.
        Writers::Known(_) if path.is_symlink() => age < SETTLE,
        Writers::Known(writing) => writing.contains(path) && age < PATIENCE,
        Writers::Unknown => age < SETTLE,
    }
}

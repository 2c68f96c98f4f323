//! Notices changes below a directory, through inotify.
//!
//! Invariant: a notice only says where to look again: at files that it names, if nothing else can have changed, or at
//! everything; what it missed (a full queue, a directory behind a link) the next periodic look finds. Watches are those of the directories that the last scan visited. Without inotify (too many
//! instances, a file system that has none) nothing is noticed, and looks are more frequent. Non-goal: what changed there.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::future;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::scan::{Suspects, Writers};
use super::walk::{MAX_FILES, is_manifest};

/// Everything that can change which manifests there are, or what they say.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// What comes and goes.
const ENTRIES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE);

/// What a file says is there as a whole, or may be read.
const COMPLETE: AddWatchFlags =
    AddWatchFlags::IN_MOVED_TO.union(AddWatchFlags::IN_CLOSE_WRITE).union(AddWatchFlags::IN_ATTRIB);

/// What files say.
const CONTENT: AddWatchFlags =
    AddWatchFlags::IN_MODIFY.union(AddWatchFlags::IN_CLOSE_WRITE).union(AddWatchFlags::IN_ATTRIB);

pub(super) struct Notices {
    root: PathBuf,
    kernel: Option<Kernel>,
    /// Files that were written to and not closed since.
    writing: BTreeSet<PathBuf>,
    noticed: Noticed,
}

/// Since the last look.
#[derive(Default)]
struct Noticed {
    files: BTreeSet<PathBuf>,
    more: bool,
}

/// What an event is about.
enum Event {
    Nothing,
    /// What a manifest says.
    Manifest(PathBuf),
    /// Which manifests there are, or it is not known what.
    Anything,
}

struct Kernel {
    inotify: AsyncFd<Owned>,
    watches: HashMap<WatchDescriptor, Watched>,
}

/// Invariant: the descriptor is open, and the same, for as long as this lives; nothing here takes it out.
struct Owned(Inotify);

impl AsRawFd for Owned {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A directory, and the one entry of it that counts, if not all do.
#[derive(Clone, PartialEq, Eq)]
struct Watched {
    path: PathBuf,
    only: Option<OsString>,
}

impl Notices {
    /// Must be called within a tokio runtime.
    pub(super) fn new(root: PathBuf) -> Self {
        let kernel = Kernel::new();
        if let Err(error) = &kernel {
            tracing::warn!(%error, "no inotify: manifests are looked at once a second instead");
        }
        Self { root, kernel: kernel.ok(), writing: BTreeSet::new(), noticed: Noticed::default() }
    }

    pub(super) fn is_active(&self) -> bool {
        self.kernel.is_some()
    }

    /// Waits for a change. Safe to cancel.
    pub(super) async fn changed(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            return future::pending().await;
        };
        loop {
            match kernel.events().await {
                Ok(events) => {
                    let mut relevant = false;
                    for event in &events {
                        let event = note(&mut self.writing, &kernel.watches, event);
                        relevant |= self.noticed.add(event);
                    }
                    if relevant {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "inotify failed: manifests are looked at once a second instead");
                    self.kernel = None;
                    return;
                }
            }
        }
    }

    /// Takes what was noticed since the last call; without a notice, everything is suspect.
    pub(super) fn take(&mut self) -> Suspects {
        let Noticed { files, more } = std::mem::take(&mut self.noticed);
        if more || files.is_empty() { Suspects::Everything } else { Suspects::Files(files) }
    }

    /// Whether only files that are in place were noticed since then.
    pub(super) fn are_of_files(&self) -> bool {
        !self.noticed.more
    }

    /// Who is known to be writing.
    pub(super) fn writers(&self) -> Writers {
        match self.kernel {
            Some(_) => Writers::Known(self.writing.clone()),
            None => Writers::Unknown,
        }
    }

    /// Watches `directories`, and no others. Whether one of them was not watched before, so that a change in it since the
    /// scan may have been missed.
    pub(super) fn follow(&mut self, directories: &[PathBuf]) -> bool {
        let Some(kernel) = &mut self.kernel else {
            return false;
        };
        let directories = directories.iter().map(|path| Watched { path: path.clone(), only: None });
        // The directory itself may be a link that is swapped, or go and come back.
        let parent = self.root.parent().zip(self.root.file_name());
        let parent =
            parent.map(|(parent, name)| Watched { path: or_here(parent).to_owned(), only: Some(name.to_owned()) });
        // A directory that is both (through a link) is watched as what was said last: in full.
        kernel.follow(parent.into_iter().chain(directories))
    }
}

impl Kernel {
    fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        #[allow(deprecated, reason = "the new constructor is unsafe code; what it asks for is `Owned`'s invariant")]
        let inotify = AsyncFd::with_interest(Owned(inotify), Interest::READABLE)?;
        Ok(Self { inotify, watches: HashMap::new() })
    }

    async fn events(&mut self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let read = ready.try_io(|fd| fd.get_ref().0.read_events().map_err(io::Error::from));
            if let Ok(events) = read {
                return events;
            }
        }
    }

    fn follow(&mut self, directories: impl Iterator<Item = Watched>) -> bool {
        let before = std::mem::take(&mut self.watches);
        for watched in directories {
            let Owned(inotify) = self.inotify.get_ref();
            let asked = if watched.only.is_some() { ENTRIES } else { CHANGES };
            match inotify.add_watch(&watched.path, asked | AddWatchFlags::IN_ONLYDIR) {
                Ok(descriptor) => {
                    self.watches.insert(descriptor, watched);
                }
                // Gone again: the parent's watch tells. Anything else: the periodic look is what remains.
                Err(error) => tracing::debug!(path = %watched.path.display(), %error, "cannot be watched"),
            }
        }
        for descriptor in before.keys() {
            if !self.watches.contains_key(descriptor) {
                // Fails when the directory is gone, and its watch with it.
                let _ = self.inotify.get_ref().0.rm_watch(*descriptor);
            }
        }
        // Seen at the end, for a directory that is reached in two ways has one watch.
        self.watches.iter().any(|(descriptor, watched)| before.get(descriptor) != Some(watched))
    }
}

impl Noticed {
    /// Whether the event calls for another look.
    fn add(&mut self, event: Event) -> bool {
        match event {
            Event::Nothing => return false,
            Event::Manifest(path) if self.files.len() < MAX_FILES => {
                self.files.insert(path);
            }
            Event::Manifest(_) | Event::Anything => self.more = true,
        }
        true
    }
}

fn note(writing: &mut BTreeSet<PathBuf>, watches: &HashMap<WatchDescriptor, Watched>, event: &InotifyEvent) -> Event {
    let anything_if = |relevant| if relevant { Event::Anything } else { Event::Nothing };
    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
        writing.clear(); // what was closed may have been lost
        return Event::Anything;
    }
    if event.mask.contains(AddWatchFlags::IN_IGNORED) {
        return Event::Nothing;
    }
    let Some(watched) = watches.get(&event.wd) else {
        return Event::Nothing;
    };
    let Some(name) = &event.name else {
        return anything_if(watched.only.is_none());
    };
    if let Some(only) = &watched.only {
        return anything_if(name == only);
    }
    if name.as_encoded_bytes().starts_with(b".") && !is_of_a_volume(name) {
        return Event::Nothing;
    }
    let path = watched.path.join(name);
    if !is_manifest(&path) {
        // Another file's content is nothing to us; but what comes and goes may be a directory, or a link to one.
        return anything_if(!event.mask.intersects(CONTENT));
    }
    if event.mask.contains(AddWatchFlags::IN_MODIFY) {
        writing.insert(path);
        return Event::Nothing; // the close tells; a writer that never closes is found by the periodic look
    }
    writing.remove(&path);
    if event.mask.intersects(COMPLETE) { Event::Manifest(path) } else { Event::Anything }
}

/// Kubernetes' volumes swap one link, `..data`, through which all their files lead.
fn is_of_a_volume(name: &OsStr) -> bool {
    name == "..data"
}

fn or_here(parent: &Path) -> &Path {
    if parent.as_os_str().is_empty() { Path::new(".") } else { parent }
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notices").field("root", &self.root).field("active", &self.is_active()).finish_non_exhaustive()
    }
}

//! A whole mesh on one machine: control plane, workloads with their sidecars, manifests.
//!
//! Invariant: [`Mesh::start`] returns when every process says that it is ready; all end with the value. When a test fails each
//! one's last words are printed; when it does not, no log of ours may be one that nobody can read at night.
//! Non-goal: knowing what a test is about; it starts, stops, edits and measures.

mod control;
mod daemon;
mod manifest;
mod metrics;
mod rotation;
mod service;
mod watcher;
mod workload;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use control::Control;
pub use daemon::{Daemon, Memory};
pub use manifest::{Folder, Port};
pub use metrics::Metrics;
pub use rotation::{Pending, Rotation};
pub use service::Service;
pub use watcher::{Speaker, Watcher, deaf};
pub use workload::{App, Spec, Workload};

use crate::netns::{Host, Net};
use crate::yardstick::log_is_safe;

/// The user that proxies run as.
pub const PROXY_UID: u32 = 2102;
/// The sidecar's port for other sidecars, and for what is redirected to it from outside.
pub const INBOUND_PORT: u16 = 4143;
/// The sidecar's admin port.
pub const ADMIN_PORT: u16 = 4191;
/// For a program to be ready. Debug builds on a busy machine need some of it.
pub const SOON: Duration = Duration::from_secs(20);
/// Lines of each process that a failed test prints.
const LAST_WORDS: usize = 40;

/// The mesh. Fields are dropped in order: programs first, then their namespaces, then their files.
pub struct Mesh {
    workloads: BTreeMap<String, Workload>,
    control: Control,
    services: u16,
    has_started: bool,
    /// The folder that `mesh-destination` watches.
    pub manifests: Folder,
    net: Net,
    dir: Dir,
}

/// Where the mesh keeps its files.
enum Dir {
    Temporary(tempfile::TempDir),
    Given(PathBuf),
}

impl Mesh {
    /// An empty mesh, with a folder of its own.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "making namespaces is too much for a default")]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("mesh-test-").tempdir().expect("a folder under the temporary one");
        Self::with(Dir::Temporary(dir))
    }

    /// An empty mesh that keeps its files in `dir`, which is the caller's to remove.
    ///
    /// # Panics
    /// Without root, or when `dir` cannot be written.
    #[must_use]
    pub fn in_folder(dir: &Path) -> Self {
        Self::with(Dir::Given(dir.to_owned()))
    }

    fn with(dir: Dir) -> Self {
        // Unprivileged proxies read their token and the anchors there.
        let opened = fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755));
        opened.unwrap_or_else(|error| panic!("{}: {error}", dir.path().display()));
        let net = Net::new();
        let manifests = dir.path().join("manifests");
        fs::create_dir(&manifests).unwrap_or_else(|error| panic!("{}: {error}", manifests.display()));
        let control = Control::new(net.host("control"), dir.path());
        Self {
            workloads: BTreeMap::new(),
            control,
            services: 0,
            has_started: false,
            manifests: Folder::new(manifests),
            net,
            dir,
        }
    }

    /// A host that belongs to the network and to nothing else.
    pub fn host(&self, name: &str) -> Host {
        self.net.host(name)
    }

    /// Describes a workload; [`Spec::add`] adds it.
    pub fn workload(&mut self, name: &str) -> Spec<'_> {
        Spec::new(self, name)
    }

    /// Describes a service whose port `port` leads to port `target` of its workloads; `add` adds it.
    pub fn service(&mut self, name: &str, port: u16, target: u16) -> service::Spec<'_> {
        service::Spec::new(self, name, port, target)
    }

    /// Starts the control plane, then all that was added before, and waits for everybody to be ready.
    ///
    /// # Panics
    /// When somebody is not in time.
    pub fn start(&mut self) {
        self.control.start(self.manifests.path());
        self.has_started = true;
        for workload in self.workloads.values_mut() {
            workload.start(&self.control);
        }
        for workload in self.workloads.values() {
            workload.until_ready();
            workload.until_heard();
        }
    }

    /// A workload.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> &Workload {
        self.workloads.get(name).unwrap_or_else(|| panic!("no workload {name}"))
    }

    /// A workload, to end or restart its programs.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn get_mut(&mut self, name: &str) -> &mut Workload {
        self.workloads.get_mut(name).unwrap_or_else(|| panic!("no workload {name}"))
    }

    /// All workloads by name.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values()
    }

    /// The control plane.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The control plane, to end or restart its programs.
    pub fn control_mut(&mut self) -> &mut Control {
        &mut self.control
    }

    /// Where the mesh keeps its files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Takes a workload's manifest out of the folder; its programs go on.
    pub fn withdraw(&self, name: &str) {
        self.manifests.remove(&format!("workload-{name}"));
    }

    /// Writes a workload's manifest again.
    pub fn publish(&self, name: &str) {
        self.manifests.write(&format!("workload-{name}"), &self.get(name).manifest);
    }

    fn add(&mut self, mut workload: Workload) {
        // Into a running mesh it comes as a pod does: ready first, known then.
        if self.has_started {
            workload.start(&self.control);
            workload.until_ready();
        }
        let name = workload.name.clone();
        self.manifests.write(&format!("workload-{name}"), &workload.manifest);
        self.workloads.insert(name, workload);
    }

    /// All programs, the control plane's first.
    pub fn programs(&self) -> impl Iterator<Item = &Daemon> {
        self.control.programs().chain(self.workloads.values().flat_map(Workload::programs))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return self.programs().for_each(last_words);
        }
        // Whatever was done to them: an operator reads their logs at night.
        let sidecars = self.workloads.values().filter_map(Workload::proxy);
        for daemon in self.control.programs().chain(sidecars) {
            log_is_safe(daemon.name(), &daemon.log(), &[]);
        }
    }
}

impl Dir {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Given(path) => path,
        }
    }
}

fn last_words(daemon: &Daemon) {
    let log = daemon.log();
    let lines: Vec<_> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(LAST_WORDS)..];
    eprintln!("--- {} ({} lines)\n{}", daemon.name(), lines.len(), last.join("\n"));
}

//! A control group with a limit of memory, of whichever version the machine has.
//!
//! Invariant: the group goes with its value, once its processes have ended. Non-goal: other resources.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where control groups are seen.
const MOUNT: &str = "/sys/fs/cgroup";

/// The group.
#[derive(Debug)]
pub struct Group {
    folder: PathBuf,
    is_v2: bool,
}

impl Group {
    /// A group whose processes may have `limit` bytes together, and no swap.
    ///
    /// # Panics
    /// When this machine lets nobody make one: root and a writable mount of the memory controller are needed.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (parent, is_v2) = parent().unwrap_or_else(|error| panic!("no memory control group can be made: {error}"));
        let name = format!("mesh-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let group = Self { folder: parent.join(name), is_v2 };
        let made = fs::create_dir(&group.folder).and_then(|()| group.limit(limit));
        made.unwrap_or_else(|error| panic!("{}: {error}", group.folder.display()));
        group
    }

    fn limit(&self, limit: u64) -> io::Result<()> {
        let (limit_name, swap) = match self.is_v2 {
            true => ("memory.max", ("memory.swap.max", "0".to_owned())),
            false => ("memory.limit_in_bytes", ("memory.memsw.limit_in_bytes", limit.to_string())),
        };
        fs::write(self.folder.join(limit_name), limit.to_string())?;
        // Absent where the kernel does not count swap.
        let _ = fs::write(self.folder.join(swap.0), swap.1);
        Ok(())
    }

    /// `command`, to be run in the group from its first instruction.
    #[must_use]
    pub fn run(&self, command: &Command) -> Command {
        let mut within = Command::new("sh");
        within.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(self.folder.join("cgroup.procs"));
        within.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        within
    }

    /// How many processes of the group the kernel has killed for want of memory.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn kills(&self) -> u64 {
        let file = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        let text = self.read(file);
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        count.unwrap_or_else(|| panic!("{file} has no oom_kill: {text}"))
    }

    /// The most bytes that the group has had.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn peak(&self) -> u64 {
        let file = if self.is_v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        self.read(file).trim().parse().unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    fn read(&self, file: &str) -> String {
        let path = self.folder.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes that were killed leave the group a little later.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Where groups can be made, and whether they are of version 2.
fn parent() -> io::Result<(PathBuf, bool)> {
    let v1 = Path::new(MOUNT).join("memory");
    if v1.join("memory.limit_in_bytes").exists() {
        return Ok((v1, false));
    }
    let v2 = PathBuf::from(MOUNT);
    let controllers = fs::read_to_string(v2.join("cgroup.controllers"))?;
    if !controllers.split_whitespace().any(|controller| controller == "memory") {
        return Err(io::Error::other(format!("the memory controller is not among {controllers:?}")));
    }
    delegate(&v2)?;
    Ok((v2, true))
}

/// Lets groups below `folder` have the memory controller. In a container its processes have to leave the folder for that.
fn delegate(folder: &Path) -> io::Result<()> {
    let control = folder.join("cgroup.subtree_control");
    if fs::read_to_string(&control)?.contains("memory") || fs::write(&control, "+memory").is_ok() {
        return Ok(());
    }
    let leaf = folder.join("mesh-test-others");
    let _ = fs::create_dir(&leaf);
    for process in fs::read_to_string(folder.join("cgroup.procs"))?.lines() {
        // Those of the kernel cannot be moved, and need not be.
        let _ = fs::write(leaf.join("cgroup.procs"), process);
    }
    fs::write(&control, "+memory")
}

//! How near this process is to the end of the memory that its control group may have, so that it can turn work away before
//! the kernel ends it.
//!
//! Invariant: nothing is looked at while nothing happens: who begins something or takes bytes in asks [`look`], and each 32nd
//! question, or each one while memory is short, reads the group's figures. Who holds memory and waits hears of it when it becomes
//! short ([`Holder`]). Without a limit, and where the memory is others' for the most part, it is never short. Source: `memory.current`,
//! `memory.max` and `memory.high` of cgroup v2; their older names of v1.
//! Non-goal: groups above the process's own, which are for others as well.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, OnceLock};
use std::task::Context;
use std::time::Instant;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::memory;

/// How short memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// It is not.
    Calm,
    /// What is new, or has much already, should be turned away.
    High,
    /// Everything should be.
    Critical,
}

/// Of the limit, in percent.
const HIGH: u64 = 70;
const CRITICAL: u64 = 90;
/// Less than this part of the limit in our own hands, and the memory is others'.
const OURS: u64 = 8;
/// Questions between two looks while all is calm.
const EVERY: u32 = 32;
/// Between two attempts to give memory back, milliseconds.
const GIVE_BACK: u64 = 100;
/// v1 says "no limit" with a number of about 2^63.
const UNLIMITED: u64 = 1 << 60;

static GROUP: OnceLock<Option<Group>> = OnceLock::new();
static LEVEL: AtomicU8 = AtomicU8::new(Level::Calm as u8);
/// When memory was given back last, milliseconds from [`START`].
static GAVE_BACK: AtomicU64 = AtomicU64::new(0);
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Rung when memory becomes short, or shorter.
static SHORTER: Notify = Notify::const_new();

thread_local! {
    static ASKED: Cell<u32> = const { Cell::new(0) };
}

/// How short memory is now; to be called when something begins that needs some.
pub fn look() -> Level {
    let Some(group) = GROUP.get_or_init(|| Group::find(Path::new("/sys/fs/cgroup"), "/proc/self/cgroup")) else {
        return Level::Calm;
    };
    let asked = ASKED.replace(ASKED.get().wrapping_add(1));
    let before = LEVEL.load(Relaxed);
    if before == Level::Calm as u8 && !asked.is_multiple_of(EVERY) {
        return Level::Calm;
    }
    let mut now = group.level();
    if now > Level::Calm && may_give_back() {
        // What a burst has left behind counts as used until it is given back.
        memory::give_back_now();
        now = group.level();
    }
    let known = LEVEL.swap(now as u8, Relaxed);
    if now as u8 > known {
        SHORTER.notify_waiters();
    }
    if known != now as u8 {
        let mib = |bytes: Option<u64>| bytes.unwrap_or_default() >> 20;
        let (used, limit) = (mib(group.used()), mib(group.limit()));
        tracing::warn!(level = ?now, used_mib = used, limit_mib = limit, "how short memory is has changed");
    }
    now
}

/// Somebody who holds memory, and waits for others to take what is in it.
#[derive(Debug, Default)]
pub struct Holder(Option<Pin<Box<Notified<'static>>>>);

impl Holder {
    /// How short memory is now. The task is woken when it becomes short, or shorter.
    pub fn look(&mut self, cx: &mut Context<'_>) -> Level {
        let shorter = self.0.get_or_insert_with(|| Box::pin(SHORTER.notified()));
        while shorter.as_mut().poll(cx).is_ready() {
            shorter.set(SHORTER.notified());
        }
        look()
    }
}

fn may_give_back() -> bool {
    let now = u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).max(GIVE_BACK);
    let last = GAVE_BACK.load(Relaxed);
    now >= last + GIVE_BACK && GAVE_BACK.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
}

/// The control group of this process, if it has a limit.
#[derive(Debug)]
struct Group {
    used: File,
    limits: Vec<File>,
    stat: File,
    inactive: &'static str,
}

impl Group {
    /// `mount` is where control groups are seen, `own` names this process's.
    fn find(mount: &Path, own: &str) -> Option<Self> {
        let own = fs::read_to_string(own).ok()?;
        let group = own.lines().find_map(|line| Self::of_line(mount, line))?;
        group.limit().is_some().then_some(group)
    }

    /// A line is `number:controllers:path`; v2 has the number 0 and no controllers.
    fn of_line(mount: &Path, line: &str) -> Option<Self> {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?.trim_start_matches('/'));
        // In a container the mount shows the container's own group, whatever the path says.
        let open = |mount: &Path, used, limits: &[&str], inactive| {
            [mount.join(path), mount.to_owned()].iter().find_map(|folder| Self::open(folder, used, limits, inactive))
        };
        if number == "0" && controllers.is_empty() {
            open(mount, "memory.current", &["memory.max", "memory.high"], "inactive_file ")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            let mount = mount.join("memory");
            open(&mount, "memory.usage_in_bytes", &["memory.limit_in_bytes"], "total_inactive_file ")
        } else {
            None
        }
    }

    fn open(folder: &Path, used: &str, limits: &[&str], inactive: &'static str) -> Option<Self> {
        let open = |name: &str| File::open(folder.join(name)).ok();
        let limits = limits.iter().map(|name| open(name)).collect::<Option<_>>()?;
        Some(Self { used: open(used)?, limits, stat: open("memory.stat")?, inactive })
    }

    fn used(&self) -> Option<u64> {
        number(&self.used)
    }

    fn limit(&self) -> Option<u64> {
        self.limits.iter().filter_map(number).min().filter(|limit| *limit < UNLIMITED)
    }

    fn level(&self) -> Level {
        let (Some(used), Some(limit)) = (self.used(), self.limit()) else { return Level::Calm };
        if level_of(used, limit) == Level::Calm {
            return Level::Calm;
        }
        // Only now what costs more to know: files that the kernel keeps and can let go, and whose memory it is.
        let ours = memory::anonymous().unwrap_or(usize::MAX) as u64;
        if ours < limit / OURS { Level::Calm } else { level_of(used.saturating_sub(self.inactive()), limit) }
    }

    fn inactive(&self) -> u64 {
        let mut stat = vec![0; 8 << 10];
        let read = self.stat.read_at(&mut stat, 0).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat[..read]);
        let value = stat.lines().find_map(|line| line.strip_prefix(self.inactive)?.parse().ok());
        value.unwrap_or_default()
    }
}

fn level_of(used: u64, limit: u64) -> Level {
    let percent = u128::from(used) * 100 / u128::from(limit.max(1));
    match percent {
        percent if percent >= u128::from(CRITICAL) => Level::Critical,
        percent if percent >= u128::from(HIGH) => Level::High,
        _ => Level::Calm,
    }
}

/// The one number in a file; `max` is none.
fn number(file: &File) -> Option<u64> {
    let mut text = [0; 24];
    let read = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..read]).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(files: &[(&str, &str)], own: &str) -> (tempfile::TempDir, Option<Group>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let list = dir.path().join("own");
        fs::write(&list, own).unwrap();
        let group = Group::find(dir.path(), list.to_str().unwrap());
        (dir, group)
    }

    #[test]
    fn levels_are_parts_of_the_limit() {
        for (used, level) in [(0, Level::Calm), (69, Level::Calm), (70, Level::High), (90, Level::Critical)] {
            assert_eq!(level_of(used << 20, 100 << 20), level, "{used} %");
        }
        assert_eq!(level_of(1, 0), Level::Critical);
    }

    #[test]
    fn the_smaller_limit_of_v2_holds() {
        let files = [
            ("a/memory.current", "900\n"),
            ("a/memory.max", "2000\n"),
            ("a/memory.high", "1000\n"),
            ("a/memory.stat", "anon 5\ninactive_file 300\n"),
        ];
        let (_dir, group) = group(&files, "0::/a\n");
        let group = group.unwrap();
        assert_eq!((group.used(), group.limit(), group.inactive()), (Some(900), Some(1000), 300));
        assert_eq!(group.level(), Level::Calm, "600 of 1000 cannot be let go");
    }

    #[test]
    fn a_container_sees_its_group_at_the_mount() {
        let files = [
            ("memory/memory.usage_in_bytes", "950\n"),
            ("memory/memory.limit_in_bytes", "1000\n"),
            ("memory/memory.stat", "total_inactive_file 0\n"),
        ];
        let (_dir, group) = group(&files, "5:cpu:/\n4:memory:/pods/1\n0::/\n");
        assert_eq!(group.unwrap().level(), Level::Critical);
    }

    #[test]
    fn without_a_limit_there_is_nothing_to_look_at() {
        let files = [("memory.current", "9"), ("memory.max", "max\n"), ("memory.high", "max\n"), ("memory.stat", "")];
        assert!(group(&files, "0::/\n").1.is_none());
        let files = [
            ("memory/memory.usage_in_bytes", "950\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/memory.stat", ""),
        ];
        assert!(group(&files, "4:memory:/\n").1.is_none());
        assert!(group(&[], "").1.is_none());
    }
}

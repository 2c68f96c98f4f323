//! Memory that a burst leaves behind goes back to the system.
//!
//! Why: glibc's allocator gives back by itself only what lies at the end of its heap, and one small block that outlives a
//! burst pins all that lies before it: 190 MiB stayed after 9,000 connections of which none was left.
//!
//! And code that a start or a burst has run is not kept in memory for its own sake: what comes next maps what it needs again, at
//! less than a microsecond for 64 KiB. A start runs half of the program once.
//!
//! Invariant: while there is work, what lies idle is looked for every 4 s, and twice more after; it is given back as soon as
//! it is 512 KiB more than what could not be given back the last time. That many connections end at once is work, too, however
//! little of it. A process without work is not woken for it. Non-goal:
//! other C libraries; there nothing is done.

mod code;
mod heap;

use std::cell::Cell;
use std::ffi::c_void;
use std::fs::{self, File};
use std::io::Read as _;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::mman::{MmapAdvise, madvise};
use tokio::runtime::Handle;
use tokio::sync::Notify;

pub use heap::Heap;

/// By then a start is over.
const STARTED: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(4);
/// How often it is looked once more after the work: the connections that it has left open are closed seconds later.
const LAST_LOOKS: u32 = 2;
/// What runs and comes to rest less often than this in [`EVERY`] does no work: it is pings of idle connections, a scrape, and ourselves.
const WORK: usize = 32;
/// Two of them in [`EVERY`] are work; between them the clock is not asked.
const HALF: usize = WORK / 2;
/// Less than this is not worth the page faults when it is wanted again.
const SLACK: usize = 512 << 10;

/// What stays at a heap's end during work: more than a byte stream's chunks of one turn, and it is a part of every peak.
const KEPT_END: usize = 384 << 10;

/// How often runtimes came to rest, and who waits until that was often enough.
static RESTS: AtomicUsize = AtomicUsize::new(0);
static WORKED: Notify = Notify::const_new();
/// When the last half of [`WORK`] was done.
static LAST_HALF: Mutex<Option<Instant>> = Mutex::new(None);

thread_local! {
    /// Most tasks that there were since many ended.
    static MOST_TASKS: Cell<usize> = const { Cell::new(0) };
}

/// To be called whenever a runtime comes to rest, by its own thread.
pub fn at_rest() {
    heap::at_rest();
    let tasks = Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks());
    // A thousand connections may end between two rests.
    let many_ended = MOST_TASKS.with(|most| have_many_ended(most, tasks));
    let before = RESTS.fetch_add(if many_ended { WORK } else { 1 }, Relaxed);
    let half_done = before % HALF == HALF - 1;
    if many_ended || half_done && LAST_HALF.lock().is_ok_and(|mut last| is_soon(&mut last, Instant::now())) {
        WORKED.notify_one();
    }
}

/// Whether a half is done soon after the last one.
fn is_soon(last: &mut Option<Instant>, now: Instant) -> bool {
    last.replace(now).is_some_and(|last| now - last < EVERY)
}

/// Whether of the `most` tasks many have ended, now that there are so many.
fn have_many_ended(most: &Cell<usize>, tasks: usize) -> bool {
    let ended = most.get().saturating_sub(tasks) >= WORK;
    most.set(if ended { tasks } else { most.get().max(tasks) });
    ended
}

/// Lets all threads take memory from one heap, so that what one of them leaves another one uses; by itself glibc gives each a heap of
/// its own. For programs whose threads hardly ever work side by side; to be called first of all, for with a second thread it does
/// nothing.
pub fn share_one_heap() {
    if is_alone() {
        glibc::share_one_heap();
    }
}

/// Whether this is the only thread.
fn is_alone() -> bool {
    fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Keeps what is freed at a heap's end for what comes next, up to 384 KiB; by itself glibc gives it back from 128 KiB on and asks for
/// it again, which may cost a byte stream a tenth of its CPU. Blocks of 128 KiB and more have memory of their own from then on, which goes
/// back with them. With a second thread it does nothing.
pub fn keep_the_end() {
    if is_alone() {
        glibc::keep_at_the_end(KEPT_END);
    }
}

/// Gives back what lies idle now and then; to be spawned once, ends only where nothing can be known or done.
pub async fn upkeep() {
    // Of what is resident but no allocation: stacks, the program's own data, pages that are used in part.
    let mut stuck = SLACK;
    tokio::time::sleep(STARTED).await;
    give_back_code();
    loop {
        WORKED.notified().await;
        let mut looks = LAST_LOOKS;
        while looks > 0 {
            let before = RESTS.load(Relaxed);
            tokio::time::sleep(EVERY).await;
            let working = RESTS.load(Relaxed).wrapping_sub(before) >= WORK;
            looks = if working { LAST_LOOKS } else { looks - 1 };
            let Some(left) = give_back(stuck) else { return };
            stuck = left;
        }
    }
}

/// Gives back what lies idle, if that is more than a little; for when memory is short.
pub(crate) fn give_back_now() {
    give_back(0);
}

/// Gives back what lies idle if it is worth it, with `stuck` bytes known to stay; how many now are.
fn give_back(stuck: usize) -> Option<usize> {
    heap::clear_shelves();
    let idle = idle()?;
    if idle <= stuck + SLACK {
        return Some(stuck.min(idle));
    }
    glibc::give_back();
    give_back_code();
    let left = self::idle()?;
    tracing::debug!(given_back_kib = idle.saturating_sub(left) / 1024, "memory was given back");
    Some(left)
}

/// Takes pages of code and constants out of this process; they stay in the system's page cache for as long as it sees fit.
fn give_back_code() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    code::mappings(&maps).for_each(let_go);
}

#[expect(unsafe_code, reason = "of a file's mapping that nobody has written to, what is let go comes back as it was")]
fn let_go(mapping: Range<usize>) {
    let Some(start) = NonNull::new(std::ptr::with_exposed_provenance_mut::<c_void>(mapping.start)) else { return };
    // Fails where the process has locked its memory: then it stays.
    let _ = unsafe { madvise(start, mapping.len(), MmapAdvise::MADV_DONTNEED) };
}

/// Bytes that are resident and in no allocation.
fn idle() -> Option<usize> {
    Some(anonymous()?.saturating_sub(glibc::in_use()?))
}

/// Resident bytes that no file backs: what is resident, less what is shared with others, of /proc/self/statm.
pub(crate) fn anonymous() -> Option<usize> {
    let (resident, shared) = resident()?;
    Some(resident.saturating_sub(shared))
}

/// Resident bytes, and those of them that a file backs.
fn resident() -> Option<(usize, usize)> {
    // Seven numbers, in one read.
    let mut statm = [0; 160];
    let read = File::open("/proc/self/statm").and_then(|mut file| file.read(&mut statm)).ok()?;
    let mut pages = str::from_utf8(&statm[..read]).ok()?.split(' ').skip(1).map(|word| word.parse::<usize>().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()?? as usize;
    Some((pages.next()?? * page, pages.next()?? * page))
}

#[cfg(target_env = "gnu")]
mod glibc {
    use std::ffi::c_int;

    /// As in malloc.h.
    #[repr(C)]
    struct Mallinfo2 {
        arena: usize,
        ordblks: usize,
        smblks: usize,
        hblks: usize,
        hblkhd: usize,
        usmblks: usize,
        fsmblks: usize,
        uordblks: usize,
        fordblks: usize,
        keepcost: usize,
    }

    #[expect(unsafe_code, reason = "both may be called at any time from any thread, and take and return plain numbers")]
    unsafe extern "C" {
        safe fn malloc_trim(pad: usize) -> c_int;
        safe fn mallinfo2() -> Mallinfo2;
    }

    /// As in malloc.h.
    const M_ARENA_MAX: c_int = -8;
    const M_TRIM_THRESHOLD: c_int = -1;

    #[expect(unsafe_code, reason = "takes and returns plain numbers")]
    unsafe extern "C" {
        /// Not beside another thread.
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }

    #[expect(unsafe_code, reason = "our caller has made sure that there is no other thread")]
    pub(super) fn share_one_heap() {
        // It may refuse; then there are more heaps.
        let _ = unsafe { mallopt(M_ARENA_MAX, 1) };
    }

    #[expect(unsafe_code, reason = "our caller has made sure that there is no other thread")]
    pub(super) fn keep_at_the_end(most: usize) {
        let most = c_int::try_from(most).unwrap_or(c_int::MAX);
        // It may refuse; then more is given back and asked for again.
        let _ = unsafe { mallopt(M_TRIM_THRESHOLD, most) };
    }

    /// Gives all whole pages of free blocks back to the system.
    pub(super) fn give_back() {
        malloc_trim(0);
    }

    /// Bytes in allocations.
    pub(super) fn in_use() -> Option<usize> {
        let info = mallinfo2();
        Some(info.uordblks + info.hblkhd)
    }
}

#[cfg(not(target_env = "gnu"))]
mod glibc {
    pub(super) fn share_one_heap() {}

    pub(super) fn keep_at_the_end(_: usize) {}

    pub(super) fn give_back() {}

    pub(super) fn in_use() -> Option<usize> {
        None
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const MIB: usize = 1 << 20;
    const BLOCK: usize = 1 << 10;

    /// 64 MiB in small blocks, as connections leave them: freed but for one at the end.
    fn burst() -> Vec<u8> {
        let mut blocks: Vec<Vec<u8>> = (0..64 * MIB / BLOCK).map(|_| vec![1; BLOCK]).collect();
        blocks.pop().expect("blocks were made")
    }

    /// Has all code and constants here, as if all of it had run; how much that is.
    fn run_all() -> usize {
        let maps = fs::read_to_string("/proc/self/maps").expect("/proc");
        let memory = File::open("/proc/self/mem").expect("/proc");
        let read = |mapping: Range<usize>| {
            let mut bytes = vec![0; mapping.len()];
            memory.read_exact_at(&mut bytes, mapping.start as u64).expect("its own memory");
            bytes.len()
        };
        code::mappings(&maps).map(read).sum()
    }

    #[test]
    fn many_tasks_that_end_are_noticed_once_however_they_come_and_go() {
        let most = Cell::new(0);
        let noticed = |tasks: &[usize]| tasks.iter().filter(|tasks| have_many_ended(&most, **tasks)).count();
        assert_eq!(noticed(&[5, 9_000, 9_000, 8_980]), 0);
        assert_eq!(noticed(&[5, 5, 6, 5]), 1);
        assert_eq!(noticed(&[20, 10, 30, 10, 5]), 0);
        assert_eq!(noticed(&[100, 90, 80, 69, 68]), 1);
    }

    #[test]
    fn pings_and_scrapes_are_no_work_however_long_they_go_on() {
        let (mut last, start) = (None, Instant::now());
        let mut soon = |after: u32| is_soon(&mut last, start + after * EVERY / 4);
        assert!([0, 4, 8, 20].iter().all(|after| !soon(*after)));
        assert!(soon(23));
        assert!(!soon(27));
    }

    // One test, since all parts measure the whole process.
    #[tokio::test(start_paused = true)]
    async fn what_a_burst_leaves_is_given_back_and_what_is_in_use_is_not_idle() {
        let (idle_before, held) = (idle().expect("/proc"), vec![1_u8; 32 * MIB]);
        let after = idle().expect("/proc");
        assert!(after < idle_before + 8 * MIB, "{after} idle with {} in use, {idle_before} before", held.len());
        drop(held);

        let before = anonymous().expect("/proc");
        let last = burst();
        let pinned = anonymous().expect("/proc");
        assert!(pinned > before + 48 * MIB, "{pinned} after a burst that began at {before}: nothing to give back");
        let upkeep = tokio::spawn(upkeep());
        tokio::time::sleep(100 * EVERY).await;
        let unasked = anonymous().expect("/proc");
        assert!(unasked > before + 48 * MIB, "{unasked} of {pinned} without work: woken for nothing");
        (0..WORK).for_each(|_| at_rest());
        tokio::time::sleep(2 * EVERY).await;
        upkeep.abort();
        let left = anonymous().expect("/proc");
        assert!(left < before + 8 * MIB, "{left} are left of {pinned}, {before} at first");
        drop(last);

        let code = run_all();
        let (_, before) = resident().expect("/proc");
        assert!(before >= code, "{before} bytes of files are here, {code} were read");
        give_back_code();
        let (_, after) = resident().expect("/proc");
        assert!(after < before / 2 && run_all() == code, "{after} bytes of files are left of {before}");
    }
}

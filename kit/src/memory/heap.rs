//! The heap for programs that start a task for each request.
//!
//! Small blocks that a thread frees lie on its shelf, for what it allocates next: a request takes a dozen, of the same few sizes each
//! time, and glibc keeps no more than seven of a size, up to 1 KiB, at hand. A task's block begins at a multiple of 128, so that no two of them
//! share what CPUs pass between them. glibc cuts such a block out of a larger one, and gives both ends back at once: one took 1,200
//! instructions. Here it is an ordinary block with room to begin later.
//!
//! Invariants: every small block is as large as any of its class, so that each of them fits where one is wanted. A shelf holds at most
//! [`MOST_KEPT`], and is emptied when told to; a thread that does not come to rest, and so may end, has nothing on it.
//! What lies before a block that begins later says by how much.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What any block begins at a multiple of: room for two words (malloc(3)).
const ANY: usize = 16;
/// The smallest block of glibc's, in bytes; others are larger by multiples of [`ANY`].
const SMALLEST: usize = 24;
/// Classes of small blocks: up to 4 KiB, and a little.
const CLASSES: usize = 256;
/// Bytes on a shelf: what some 500 requests take.
const MOST_KEPT: usize = 512 << 10;

/// The system's heap behind a shelf for each thread.
#[derive(Debug)]
pub struct Heap;

/// Free small blocks of one thread.
struct Shelf {
    /// Whether its thread comes to rest now and then.
    open: Cell<bool>,
    /// How often it has heard that it shall be emptied.
    told: Cell<usize>,
    /// Bytes of all blocks.
    kept: Cell<usize>,
    /// By class, the block that was freed last; its first word leads to the one before.
    last: [Cell<*mut u8>; CLASSES],
}

/// How often all shelves were told to be emptied.
static TOLD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHELF: Shelf = const {
        Shelf {
            open: Cell::new(false),
            told: Cell::new(0),
            kept: Cell::new(0),
            last: [const { Cell::new(ptr::null_mut()) }; CLASSES],
        }
    };
}

/// To be called by a thread that comes to rest: from then on it has a shelf.
pub(super) fn at_rest() {
    SHELF.with(|shelf| {
        let told = TOLD.load(Relaxed);
        if shelf.told.replace(told) != told {
            shelf.clear();
        }
        shelf.open.set(true);
    });
}

/// Empties this thread's shelf, and each other one when its thread comes to rest.
pub(super) fn clear_shelves() {
    TOLD.fetch_add(1, Relaxed);
    at_rest();
}

/// The class of blocks of `size` bytes; [`CLASSES`] or more if they are not small.
const fn class_of(size: usize) -> usize {
    size.saturating_sub(SMALLEST - ANY + 1) / ANY
}

/// A block that has room for any of its class.
#[expect(unsafe_code, reason = "16 is a power of two, and a small block's size far from the largest there is")]
const fn small(class: usize) -> Layout {
    unsafe { Layout::from_size_align_unchecked(SMALLEST + class * ANY, ANY) }
}

#[expect(unsafe_code, reason = "to allocate is; what lies on a shelf is in nobody else's hands")]
impl Shelf {
    /// The block that was freed last of those of `class`; null if there is none.
    #[inline]
    fn take(&self, class: usize) -> *mut u8 {
        let last = &self.last[class];
        let block = last.get();
        if !block.is_null() {
            last.set(unsafe { block.cast::<*mut u8>().read() });
            self.kept.set(self.kept.get() - small(class).size());
        }
        block
    }

    /// Whether there was room for `block`.
    ///
    /// # Safety
    /// It is a free block of `class`.
    #[inline]
    unsafe fn put(&self, block: *mut u8, class: usize) -> bool {
        let kept = self.kept.get() + small(class).size();
        let fits = self.open.get() && kept <= MOST_KEPT;
        if fits {
            let last = &self.last[class];
            unsafe { block.cast::<*mut u8>().write(last.get()) };
            last.set(block);
            self.kept.set(kept);
        }
        fits
    }

    fn clear(&self) {
        for class in 0..CLASSES {
            let mut block = self.take(class);
            while !block.is_null() {
                unsafe { System.dealloc(block, small(class)) };
                block = self.take(class);
            }
        }
    }
}

/// Bytes of an ordinary block in which there is room for one of `layout`: neither is more than half of the address space.
const fn around(layout: Layout) -> usize {
    layout.size() + layout.align()
}

/// A block of `size` bytes, aligned as any block is; null if there is none.
///
/// # Safety
/// `size` is not 0.
#[inline(never)]
#[expect(unsafe_code, reason = "to allocate is")]
unsafe fn ordinary(size: usize) -> *mut u8 {
    let class = class_of(size);
    if class >= CLASSES {
        return Layout::from_size_align(size, ANY).map_or(ptr::null_mut(), |large| unsafe { System.alloc(large) });
    }
    let block = SHELF.with(|shelf| shelf.take(class));
    if block.is_null() { unsafe { System.alloc(small(class)) } } else { block }
}

/// Frees what [`ordinary`] has allocated.
///
/// # Safety
/// `block` is such a block, of that `size`.
#[inline(never)]
#[expect(unsafe_code, reason = "to allocate is; the layout is the one that was allocated")]
unsafe fn free_ordinary(block: *mut u8, size: usize) {
    let class = class_of(size);
    if class >= CLASSES {
        unsafe { System.dealloc(block, Layout::from_size_align_unchecked(size, ANY)) };
    } else if !SHELF.with(|shelf| unsafe { shelf.put(block, class) }) {
        unsafe { System.dealloc(block, small(class)) };
    }
}

#[expect(unsafe_code, reason = "to allocate is; blocks of usual alignment are the system's own, or as large")]
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ANY {
            return unsafe { ordinary(layout.size()) };
        }
        let block = unsafe { ordinary(around(layout)) };
        if block.is_null() {
            return block;
        }
        // From 16 to the alignment, in steps of 16, for that is what the block itself is aligned to.
        let later = layout.align() - block.addr() % layout.align();
        unsafe {
            let start = block.add(later);
            start.cast::<usize>().sub(1).write(later);
            start
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if layout.align() <= ANY {
            return unsafe { free_ordinary(start, layout.size()) };
        }
        unsafe {
            let later = start.cast::<usize>().sub(1).read();
            free_ordinary(start.sub(later), around(layout));
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ANY && class_of(layout.size()) >= CLASSES {
            return unsafe { System.alloc_zeroed(layout) };
        }
        let start = unsafe { self.alloc(layout) };
        if !start.is_null() {
            unsafe { start.write_bytes(0, layout.size()) };
        }
        start
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= ANY && class_of(layout.size().min(size)) >= CLASSES {
            return unsafe { System.realloc(start, layout, size) };
        }
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return ptr::null_mut() };
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            unsafe {
                ptr::copy_nonoverlapping(start, moved, layout.size().min(size));
                self.dealloc(start, layout);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "to allocate is")]
    fn blocks_begin_where_they_shall_and_keep_their_bytes() {
        at_rest();
        let mut blocks = Vec::new();
        for align in (0..13).map(|power| 1 << power) {
            for size in [1, 15, 128, 1000, 100_000] {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                let start = unsafe { Heap.alloc(layout) };
                assert!(!start.is_null() && start.addr() % align == 0, "{layout:?} at {start:?}");
                let bytes = unsafe { std::slice::from_raw_parts_mut(start, size) };
                let mark = u8::try_from(blocks.len()).expect("few");
                bytes.fill(mark);
                blocks.push((start, layout, mark));
            }
        }
        for (mut start, mut layout, mark) in blocks {
            for size in [layout.size() * 3, layout.size().div_ceil(2)] {
                start = unsafe { Heap.realloc(start, layout, size) };
                assert!(!start.is_null() && start.addr() % layout.align() == 0, "{layout:?} moved to {start:?}");
                let bytes = unsafe { std::slice::from_raw_parts(start, layout.size().min(size)) };
                assert!(bytes.iter().all(|byte| *byte == mark), "{layout:?} has lost bytes");
                layout = Layout::from_size_align(size, layout.align()).expect("a layout");
            }
            unsafe { Heap.dealloc(start, layout) };
        }
    }

    #[test]
    #[expect(unsafe_code, reason = "to allocate is")]
    fn zeroed_blocks_are_zeroed_whatever_was_there() {
        at_rest();
        for layout in [16, 128].map(|align| Layout::from_size_align(1000, align).expect("a layout")) {
            for _ in 0..8 {
                let start = unsafe { Heap.alloc_zeroed(layout) };
                let bytes = unsafe { std::slice::from_raw_parts_mut(start, layout.size()) };
                assert!(bytes.iter().all(|byte| *byte == 0), "{layout:?}");
                bytes.fill(1);
                unsafe { Heap.dealloc(start, layout) };
            }
        }
    }

    fn kept() -> usize {
        SHELF.with(|shelf| shelf.kept.get())
    }

    /// Where `count` blocks of `size` bytes were, free by now.
    #[expect(unsafe_code, reason = "to allocate is")]
    fn freed(size: usize, count: usize) -> Vec<usize> {
        let layout = Layout::from_size_align(size, 8).expect("a layout");
        let blocks: Vec<_> = (0..count).map(|_| unsafe { Heap.alloc(layout) }).collect();
        blocks.iter().for_each(|block| unsafe { Heap.dealloc(*block, layout) });
        blocks.iter().map(|block| block.addr()).collect()
    }

    #[test]
    fn a_thread_that_comes_to_rest_uses_blocks_again() {
        freed(100, 8);
        assert_eq!(kept(), 0, "this thread has not come to rest, and may end");
        at_rest();
        let mut before = freed(100, 8);
        assert_eq!(kept(), 8 * 104);
        let mut again = freed(90, 8);
        assert_eq!(kept(), 8 * 104);
        before.sort_unstable();
        again.sort_unstable();
        assert_eq!(before, again, "of the same class");
        freed(200, 1);
        assert_eq!(kept(), 8 * 104 + 200);
        freed(5000, 8);
        assert_eq!(kept(), 8 * 104 + 200, "large blocks are none of a shelf's");
        clear_shelves();
        assert_eq!(kept(), 0);
    }

    #[test]
    fn a_shelf_has_an_end() {
        at_rest();
        freed(1000, 2 * MOST_KEPT / 1000);
        assert!((MOST_KEPT - 1000..=MOST_KEPT).contains(&kept()), "{}", kept());
        freed(1000, 1);
        freed(4000, 1);
        assert!(kept() <= MOST_KEPT, "{}", kept());
    }

    #[test]
    fn a_shelf_is_emptied_when_its_thread_rests_after_it_was_told_so_elsewhere() {
        at_rest();
        freed(1000, 8);
        std::thread::spawn(clear_shelves).join().expect("no panic");
        assert_ne!(kept(), 0, "it is this thread's own");
        at_rest();
        assert_eq!(kept(), 0);
    }

    #[test]
    fn any_size_has_a_class_that_has_room_for_it() {
        assert_eq!(class_of(0), 0);
        for size in 1..=small(CLASSES - 1).size() {
            let class = class_of(size);
            assert!(class < CLASSES && small(class).size() >= size, "{size}");
            assert!(class == 0 || small(class - 1).size() < size, "{size} has room in a smaller one");
        }
        assert_eq!(class_of(small(CLASSES - 1).size() + 1), CLASSES);
    }

    #[test]
    #[expect(unsafe_code, reason = "to allocate is")]
    fn a_block_that_cannot_be_is_refused() {
        let most = Layout::from_size_align(isize::MAX as usize - 127, 128).expect("a layout");
        assert!(unsafe { Heap.alloc(most) }.is_null());
    }
}

//! The heap for programs that start a task for each request.
//!
//! A task's block begins at a multiple of 128, so that no two of them share what CPUs pass between them. glibc cuts such a block out of a
//! larger one, gives both ends back at once, and keeps none of this at hand for the next task, as it does with other small
//! blocks: one took 1,200 instructions. Here it is an ordinary block with room to begin later.
//!
//! Invariant: what lies before a block that begins later says by how much.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

/// What any block begins at a multiple of: room for two words (malloc(3)).
const ANY: usize = 16;

/// The system's heap, but for blocks that are aligned to more than it aligns all of them to.
#[derive(Debug)]
pub struct Heap;

/// The ordinary block in which there is room for one of `layout`; `None` where it would be larger than a block can be.
fn around(layout: Layout) -> Option<Layout> {
    Layout::from_size_align(layout.size().checked_add(layout.align())?, ANY).ok()
}

#[expect(unsafe_code, reason = "to allocate is; blocks of usual alignment are the system's own")]
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ANY {
            return unsafe { System.alloc(layout) };
        }
        let Some(around) = around(layout) else { return ptr::null_mut() };
        let block = unsafe { System.alloc(around) };
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
            return unsafe { System.dealloc(start, layout) };
        }
        // It was allocated, so there is one.
        let Some(around) = around(layout) else { return };
        unsafe {
            let later = start.cast::<usize>().sub(1).read();
            System.dealloc(start.sub(later), around);
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ANY {
            return unsafe { System.alloc_zeroed(layout) };
        }
        let start = unsafe { self.alloc(layout) };
        if !start.is_null() {
            unsafe { start.write_bytes(0, layout.size()) };
        }
        start
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= ANY {
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

    #[test]
    #[expect(unsafe_code, reason = "to allocate is")]
    fn a_block_that_cannot_be_is_refused() {
        let most = Layout::from_size_align(isize::MAX as usize - 127, 128).expect("a layout");
        assert!(around(most).is_none() && unsafe { Heap.alloc(most) }.is_null());
    }
}

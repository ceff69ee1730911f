//! The allocator of this program: the system's, and on request a count of the bytes that are held.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};

/// Counts only once it is told to, so that the rows that measure time pay one load an allocation.
struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

static COUNTING: AtomicBool = AtomicBool::new(false);
static HELD: AtomicIsize = AtomicIsize::new(0);

/// Begins to count. What was allocated before and is freed later counts as negative, so compare two moments.
pub(crate) fn count() {
    COUNTING.store(true, Relaxed);
}

/// Bytes allocated and not freed since [`count`]: those asked for, without what the allocator keeps around them.
pub(crate) fn held() -> isize {
    HELD.load(Relaxed)
}

fn note(change: isize) {
    if COUNTING.load(Relaxed) {
        HELD.fetch_add(change, Relaxed);
    }
}

/// A layout's size as a difference; no allocation exceeds `isize::MAX`.
fn size(layout: Layout) -> isize {
    layout.size().cast_signed()
}

// SAFETY: every call goes to the system's allocator with the caller's own arguments, which keeps its contract; the
// count beside it touches two atomics and allocates nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(size(layout));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same for both.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(size(layout));
        // SAFETY: as above, for `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-size(layout));
        // SAFETY: the pointer came from `System` through this allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(new_size.cast_signed() - size(layout));
        // SAFETY: the pointer came from `System` through this allocator, with this layout.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

//! The allocator of a program that counts what it asks for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, and a count of what it was asked by each thread.
struct Counting;

thread_local! {
    /// How often memory has been asked for.
    pub static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes that have been allocated and not freed, with what glibc adds to it: a word before it, in steps of 16 bytes.
    pub static BYTES: Cell<i64> = const { Cell::new(0) };
}

fn count(new_bytes: usize, old_bytes: usize) {
    let with_header =
        |bytes: usize| if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) as i64 };
    // A thread that ends may free its locals before it has stopped allocating.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + u64::from(new_bytes > 0)));
    let _ = BYTES.try_with(|bytes| bytes.set(bytes.get() + with_header(new_bytes) - with_header(old_bytes)));
}

// SAFETY: hands everything on to the system's allocator as it came, which keeps the promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

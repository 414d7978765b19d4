// SPDX-License-Identifier: Apache-2.0
//! Owns: the heap of this library, over anonymous mappings of its own. Callers: everything in it that allocates, and `cnames` for
//! the C code linked into it; the at-fork handlers for the two calls around a fork. It is there before `main`.
//!
//! Law 17: never the C library's heap. The program may be inside `malloc`, with its lock held, when it comes to us, and what the
//! C library hands out may be memory that we page.
//! Lock order: the heap's lock is the last; nothing is called under it but the kernel. Signals are blocked while it is held: a
//! handler of the program's may come to us too.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use dlmalloc::Dlmalloc;
use tmem_sys::signals::Blocked;
use tmem_sys::syscall::call;
use tmem_sys::{Lock, Mapping, PAGE_SIZE};

/// What is taken from the kernel at least at once. Only what is touched counts.
const GRANULE: usize = 1 << 20;

/// Where the heap's memory comes from.
struct Pages;

// SAFETY: what is handed out is a mapping that nobody else has, zero-filled, until it is given back whole or from its end.
unsafe impl dlmalloc::Allocator for Pages {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let len = size.next_multiple_of(PAGE_SIZE);
        Mapping::new(len).map_or((ptr::null_mut(), 0, 0), |mapping| (mapping.into_raw() as *mut u8, len, 0))
    }

    fn remap(&self, at: *mut u8, old: usize, new: usize, can_move: bool) -> *mut u8 {
        let flags = if can_move { libc::MREMAP_MAYMOVE as usize } else { 0 };
        // SAFETY: the heap owns the range and knows no other address in it than through the one that is returned.
        let moved = unsafe { call(libc::SYS_mremap, [at as usize, old, new, flags]) };
        moved.map_or(ptr::null_mut(), |there| there as *mut u8)
    }

    fn free_part(&self, at: *mut u8, old: usize, new: usize) -> bool {
        // SAFETY: the heap uses nothing past `new` any more.
        unsafe { call(libc::SYS_munmap, [at as usize + new, old - new]) }.is_ok()
    }

    fn free(&self, at: *mut u8, size: usize) -> bool {
        // SAFETY: the heap uses nothing there any more.
        unsafe { call(libc::SYS_munmap, [at as usize, size]) }.is_ok()
    }

    fn can_release_part(&self, _flags: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE_SIZE
    }
}

/// A heap of its own; one is the whole library's.
pub struct Heap(Lock<Dlmalloc<Pages>>);

impl Heap {
    pub const fn new() -> Heap {
        let mut blocks = Dlmalloc::new_with_allocator(Pages);
        assert!(blocks.set_granularity(GRANULE), "a power of two");
        Heap(Lock::new(blocks))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Dlmalloc<Pages>) -> T) -> T {
        let _blocked = Blocked::new();
        f(&mut self.0.lock())
    }

    /// Before a fork, as the last of all handlers, with signals blocked: what another thread has begun is ended, and nobody
    /// allocates until [`Heap::resume`].
    pub fn pause(&self) {
        self.0.lock().keep_across_fork();
    }

    /// After a fork, in the parent and in the child, as the first of all handlers.
    pub fn resume(&self) {
        drop(self.0.reclaim());
    }

    /// A block of at least `size` bytes at a multiple of `align`, a power of two; null where there is no room.
    pub fn block(&self, size: usize, align: usize) -> *mut u8 {
        // SAFETY: any size may be asked for.
        self.with(|blocks| unsafe { blocks.c_memalign(align, size) })
    }

    /// Changes the size of a block, which moves to a multiple of 16; null where there is no room, and then it is as it was.
    ///
    /// # Safety
    /// `block` is a live one of this heap's that nobody uses meanwhile.
    pub unsafe fn resized(&self, block: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: passed on to the caller.
        self.with(|blocks| unsafe { blocks.c_realloc(block, size) })
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// As [`Heap::resized`]; the block is gone afterwards.
    pub unsafe fn release(&self, block: *mut u8) {
        // SAFETY: passed on to the caller.
        self.with(|blocks| unsafe { blocks.c_free(block) });
    }
}

impl Default for Heap {
    fn default() -> Heap {
        Heap::new()
    }
}

// SAFETY: the blocks are dlmalloc's, which keeps this contract; the lock lets one thread at a time to it.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: a layout's alignment is a power of two.
        self.with(|blocks| unsafe { blocks.malloc(layout.size(), layout.align()) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        self.with(|blocks| unsafe { blocks.calloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about block and layout is passed on.
        self.with(|blocks| unsafe { blocks.free(block, layout.size(), layout.align()) });
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        self.with(|blocks| unsafe { blocks.realloc(block, layout.size(), layout.align(), size) })
    }
}

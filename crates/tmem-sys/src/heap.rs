// SPDX-License-Identifier: Apache-2.0
//! Owns: the C library's heap and plain copies between blocks, for doors that stand in for an allocator and hand small
//! blocks on. Callers: such doors, never the path of a page.

use libc::c_void;

/// A block of the C library's, or null. `zeroed` as `calloc` gives it.
pub fn allocate(bytes: usize, zeroed: bool) -> *mut c_void {
    // SAFETY: the C library's allocator takes any size.
    unsafe { if zeroed { libc::calloc(1, bytes) } else { libc::malloc(bytes) } }
}

/// Changes the size of a block; null when there is no room, and then the block is as it was.
///
/// # Safety
/// `block` is a live block of the C library's that nobody uses meanwhile.
pub unsafe fn resize(block: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: passed on to the caller.
    unsafe { libc::realloc(block, bytes) }
}

/// # Safety
/// As [`resize`]; the block is gone afterwards. Null is no block.
pub unsafe fn release(block: *mut c_void) {
    // SAFETY: passed on to the caller.
    unsafe { libc::free(block) }
}

/// Bytes that a block has room for, at least as many as were asked for.
///
/// # Safety
/// `block` is a live block of the C library's.
pub unsafe fn room(block: *mut c_void) -> usize {
    // SAFETY: passed on to the caller.
    unsafe { libc::malloc_usable_size(block) }
}

/// Copies between two blocks that do not overlap; either may be paged, so no lock may be held.
///
/// # Safety
/// Both have at least `bytes`, and nobody writes to them meanwhile.
pub unsafe fn copy(from: *const c_void, to: *mut c_void, bytes: usize) {
    // SAFETY: passed on to the caller.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast::<u8>(), bytes) }
}

/// Fills a block with zeros; it may be paged, so no lock may be held.
///
/// # Safety
/// As [`copy`], for the one block.
pub unsafe fn clear(block: *mut c_void, bytes: usize) {
    // SAFETY: passed on to the caller.
    unsafe { std::ptr::write_bytes(block.cast::<u8>(), 0, bytes) }
}

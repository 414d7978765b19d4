// SPDX-License-Identifier: Apache-2.0
//! Owns: the C library's names of the heap, as this library alone sees them: the linker binds to these what C code (zstd's trainer
//! of dictionaries) and the standard library in it call. Callers: those. No locks but the heap's.
//!
//! Law 17: as `heap`. The names are hidden: the program's own `malloc` stays the program's. A block that libc itself made and its
//! caller is to free (`realpath`) is not ours: it is left alone, since to free it would be to enter the program's heap.

use crate::HEAP;
use core::arch::global_asm;
use core::ffi::c_void;
use core::ptr;
use tmem_sys::syscall::die;

// Not `#[no_mangle]`: such names are exported, and the program's calls would come here.
global_asm!(
    ".macro tmem_heap_name name, to",
    ".pushsection .text.tmem_heap_\\name,\"ax\",@progbits",
    ".p2align 4",
    ".globl \\name",
    ".hidden \\name",
    ".type \\name,@function",
    "\\name:",
    "jmp \\to",
    ".size \\name, . - \\name",
    ".popsection",
    ".endm",
    "tmem_heap_name malloc, {malloc}",
    "tmem_heap_name calloc, {calloc}",
    "tmem_heap_name realloc, {realloc}",
    "tmem_heap_name free, {free}",
    "tmem_heap_name aligned_alloc, {aligned}",
    "tmem_heap_name memalign, {aligned}",
    "tmem_heap_name posix_memalign, {posix}",
    ".purgem tmem_heap_name",
    malloc = sym allocate,
    calloc = sym allocate_zeroed,
    realloc = sym reallocate,
    free = sym release,
    aligned = sym allocate_aligned,
    posix = sym allocate_aligned_into,
);

/// What stands before each block: by its address in it, no chunk of another heap is taken for ours.
#[derive(Clone, Copy)]
#[repr(C)]
struct Head {
    /// Bytes from the block of the heap's to the one that is used.
    pad: usize,
    mark: usize,
}

const HEAD: usize = size_of::<Head>();
const MARK: usize = 0x7d3e_9e4b_52c1_a6d7;

/// The head of a block.
///
/// # Safety
/// The block's caller has the 16 bytes before it readable, as the blocks of any heap in this process have.
unsafe fn head(block: *mut u8) -> Option<Head> {
    // SAFETY: the caller's promise; blocks are aligned to 16 bytes.
    let head = unsafe { block.sub(HEAD).cast::<Head>().read() };
    (head.mark == MARK ^ block as usize).then_some(head)
}

/// Makes `base` a block `pad` bytes further on; null stays null.
///
/// # Safety
/// `base` is a block of the heap's with more than `pad` bytes, `pad` at least a head's.
unsafe fn begun(base: *mut u8, pad: usize) -> *mut u8 {
    if base.is_null() {
        return base;
    }
    // SAFETY: the head lies before the block, inside what was allocated.
    unsafe {
        let block = base.add(pad);
        block.sub(HEAD).cast::<Head>().write(Head { pad, mark: MARK ^ block as usize });
        block
    }
}

extern "C" fn allocate(size: usize) -> *mut u8 {
    allocate_aligned(HEAD, size)
}

extern "C" fn allocate_aligned(align: usize, size: usize) -> *mut u8 {
    let pad = align.max(HEAD);
    match size.checked_add(pad) {
        // SAFETY: the heap gives as much as was asked for, or null.
        Some(all) if pad.is_power_of_two() => unsafe { begun(HEAP.block(all, pad), pad) },
        _ => ptr::null_mut(),
    }
}

extern "C" fn allocate_zeroed(count: usize, size: usize) -> *mut u8 {
    let Some(bytes) = count.checked_mul(size) else { return ptr::null_mut() };
    let block = allocate(bytes);
    if !block.is_null() {
        // SAFETY: the block has as many bytes.
        unsafe { block.write_bytes(0, bytes) };
    }
    block
}

/// `posix_memalign`: 0 or an error number.
extern "C" fn allocate_aligned_into(into: *mut *mut c_void, align: usize, size: usize) -> i32 {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<usize>()) {
        return libc::EINVAL;
    }
    let block = allocate_aligned(align, size);
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller gave a place for one pointer, as the name it called says.
    unsafe { into.write(block.cast()) };
    0
}

extern "C" fn reallocate(block: *mut u8, size: usize) -> *mut u8 {
    if block.is_null() {
        return allocate(size);
    }
    // SAFETY: whoever calls this name gives a live block of a heap.
    let Some(head) = (unsafe { head(block) }) else {
        die("a block of the program's heap came to the pager's to be resized")
    };
    match size.checked_add(head.pad) {
        // SAFETY: the block is ours, and the head says where it begins; what was before stays at the same distance.
        Some(all) => unsafe { begun(HEAP.resized(block.sub(head.pad), all), head.pad) },
        None => ptr::null_mut(),
    }
}

extern "C" fn release(block: *mut u8) {
    if block.is_null() {
        return;
    }
    // SAFETY: as in `reallocate`. The mark goes, so that a second release is seen as none of ours.
    unsafe {
        if let Some(head) = head(block) {
            block.sub(HEAD).cast::<Head>().write(Head { pad: 0, mark: 0 });
            HEAP.release(block.sub(head.pad));
        }
    }
}

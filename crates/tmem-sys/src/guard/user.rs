// SPDX-License-Identifier: Apache-2.0
//! Reads and writes the program's memory the way the kernel does: a bad pointer is an answer, not a crash.
//! Called by all parts of the guard that look into structures a call points to. No locks.

use super::hold::Holds;
use crate::syscall;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicI32, Ordering};

/// Plain data that any bytes are a value of.
///
/// # Safety
/// No padding whose content matters, no invalid bit patterns, no references.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: integers.
unsafe impl Plain for usize {}
// SAFETY: arrays of plain data.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

static PID: AtomicI32 = AtomicI32::new(0);
static DIRECT: AtomicI32 = AtomicI32::new(0);

/// Notes who this process is (again after a fork), and whether it may read itself by `process_vm_readv`.
pub(super) fn note_process() {
    PID.store(syscall::getpid(), Ordering::Relaxed);
    let (probe, mut into) = (7u64, 0u64);
    let copied =
        copy(libc::SYS_process_vm_readv, &raw const probe as usize, &raw mut into as usize, size_of::<u64>());
    DIRECT.store(i32::from(!copied), Ordering::Relaxed);
}

/// The process that was armed.
pub(super) fn pid() -> i32 {
    PID.load(Ordering::Relaxed)
}

/// Whether the caller is another process than the one that was armed: it borrows this memory.
pub(super) fn is_borrower() -> bool {
    syscall::getpid() != pid()
}

/// Whether a process number is the caller's, or that of the process whose memory it borrows.
pub(super) fn is_own(process: i32) -> bool {
    process == pid() || process == syscall::getpid()
}

/// Fills `into` from `addr`, which must be present and held. False where the kernel would answer EFAULT.
pub(super) fn fetch(addr: usize, into: &mut [u8]) -> bool {
    let local = into.as_mut_ptr();
    if copy(libc::SYS_process_vm_readv, addr, local as usize, into.len()) {
        return true;
    }
    if DIRECT.load(Ordering::Relaxed) == 0 || addr < 4096 {
        return false;
    }
    // SAFETY: as in `read`.
    unsafe { core::ptr::copy_nonoverlapping(addr as *const u8, local, into.len()) };
    true
}

/// The value at `addr`, or None where the kernel would answer EFAULT.
pub(super) fn read<T: Plain>(addr: usize) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let mut holds = Holds::new();
    if !holds.range(addr, size_of::<T>(), false) {
        return None;
    }
    if copy(libc::SYS_process_vm_readv, addr, value.as_mut_ptr() as usize, size_of::<T>()) {
        // SAFETY: all bytes were copied in, and any bytes are a value of a plain type.
        return Some(unsafe { value.assume_init() });
    }
    if DIRECT.load(Ordering::Relaxed) == 0 || addr < 4096 {
        return None;
    }
    // SAFETY: a sandbox denies the safe way, so the program's pointer is trusted as the program itself would trust it.
    Some(unsafe { core::ptr::read_unaligned(addr as *const T) })
}

/// Stores `value` at `addr`; false where the kernel would answer EFAULT.
pub(super) fn write<T: Plain>(addr: usize, value: T) -> bool {
    let mut local = MaybeUninit::new(value);
    let mut holds = Holds::new();
    if !holds.range(addr, size_of::<T>(), true) {
        return false;
    }
    if copy(libc::SYS_process_vm_writev, addr, local.as_mut_ptr() as usize, size_of::<T>()) {
        return true;
    }
    if DIRECT.load(Ordering::Relaxed) == 0 || addr < 4096 {
        return false;
    }
    // SAFETY: as in `read`.
    unsafe { core::ptr::write_unaligned(addr as *mut T, value) };
    true
}

/// Copies between `addr` and `local`, which the caller has for itself; the call tells the direction.
fn copy(call: libc::c_long, addr: usize, local: usize, len: usize) -> bool {
    let (here, there) = ([local, len], [addr, len]);
    let copied = |process: i32| {
        let args = [process as usize, here.as_ptr() as usize, 1, there.as_ptr() as usize, 1, 0];
        // SAFETY: `here` is memory of the caller's own, exclusively borrowed; the kernel checks `addr` as it does for any call.
        unsafe { syscall::raw6(call as usize, args) }
    };
    let mut answer = copied(pid());
    if answer == -(libc::ESRCH as isize) {
        // A borrower in a new space of process numbers does not see the process that was armed; the memory is its own as well.
        answer = copied(syscall::getpid());
    }
    answer == len as isize
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: which signals a thread of the program may block. Where faults or guarded calls come as signals, a thread that blocks
//! those before memory is paged could neither be guarded nor touch what is out: it would be killed. So they are never blocked
//! from the first instruction on. Callers: `hooks` (`pthread_sigmask`, which `sigprocmask` calls too), `start`. No locks.

use crate::door;
use core::ffi::c_int;
use tmem_sys::Errno;
use tmem_sys::signals::{Blocked, OURS, bit, restore_mask, set_mask};
use tmem_sys::syscall::call;

/// What the C library keeps for itself: it lets nobody block these.
const RESERVED: u64 = bit(32) | bit(33);
const BYTES: usize = 8;

/// `pthread_sigmask`.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// `set` and `old` are null or point to masks, as the C library takes them.
pub unsafe fn change(how: c_int, set: *const u64, old: *mut u64) -> Result<(), Errno> {
    let mut was = 0u64;
    // SAFETY: the caller's promise.
    let asked = if set.is_null() { 0 } else { unsafe { set.read() } };
    let wanted = asked & !RESERVED;
    let takes = how != libc::SIG_UNBLOCK && wanted & OURS != 0 && ours_are_needed();
    let wanted = if takes { wanted & !OURS } else { wanted };
    let new = if set.is_null() { core::ptr::null() } else { &raw const wanted };
    let args = [how as usize, new as usize, &raw mut was as usize, BYTES];
    // SAFETY: both masks are live, or null.
    unsafe { call(libc::SYS_rt_sigprocmask, args)? };
    if !old.is_null() {
        // It may be paged: no call of the kernel's sees it.
        // SAFETY: the caller's promise.
        unsafe { old.write(was) };
    }
    Ok(())
}

/// Whoever started the program may have left it with signals blocked.
pub fn begin() {
    let mask = set_mask(0, libc::SIG_BLOCK);
    if mask & OURS != 0 && ours_are_needed() {
        restore_mask(mask & !OURS);
    }
}

/// Whether faults or guarded calls come as signals here. Asked with signals blocked: the first answer is computed by one thread, and others wait for it.
fn ours_are_needed() -> bool {
    let _blocked = Blocked::new();
    door::needs_signals()
}

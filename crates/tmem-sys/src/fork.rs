// SPDX-License-Identifier: Apache-2.0
//! Owns: the at-fork registration with the C library. Callers: the pager's `fork` module, the store's
//! `host`. Each part of the process has handlers of its own; one may wait for a lock whose holder waits for another
//! part's only if that part registered before it.

use crate::errno::Errno;
use crate::lock::Lock;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Parts of the process that have handlers of their own.
const MOST: usize = 8;

/// Has the three functions called around every `fork` that the C library makes, for the rest of the process. The same
/// three are registered once, however often they are given. Those registered last are called first before the fork,
/// and last after it. `vfork`, `posix_spawn`, `_Fork` and raw `clone` call none of them.
///
/// # Errors
/// `ENOMEM`.
pub fn register(
    prepare: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
) -> Result<(), Errno> {
    static DONE: Lock<[usize; MOST]> = Lock::new([0; MOST]);
    let this = prepare as *const () as usize;
    let mut done = DONE.lock();
    if done.contains(&this) {
        return Ok(());
    }
    let place = done.iter_mut().find(|known| **known == 0).ok_or(Errno::ENOMEM)?;
    // SAFETY: the three are plain functions of this library, which is never unloaded while handlers remain
    // (the C library drops them with the object that registered them).
    let code = unsafe { libc::pthread_atfork(Some(cast(prepare)), Some(cast(parent)), Some(cast(child))) };
    if code != 0 {
        return Err(Errno(code));
    }
    *place = this;
    Ok(())
}

fn cast(f: extern "C" fn()) -> unsafe extern "C" fn() {
    f
}

/// A pipe by whose end-of-file a parent knows that a child, and all that the child forked, are gone: the read end
/// for the parent, the write end for the child to keep.
///
/// # Errors
/// `EMFILE` and the like.
pub fn life_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut fds = [0i32; 2];
    let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as usize;
    // SAFETY: the kernel writes two descriptors into a live array, which then have no other owner.
    unsafe {
        crate::syscall::call(libc::SYS_pipe2, [fds.as_mut_ptr() as usize, flags])?;
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// Whether the write end of a [`life_pipe`] is still held somewhere.
pub fn pipe_is_open(read_end: &OwnedFd) -> bool {
    let mut byte = 0u8;
    // SAFETY: one byte into a live variable.
    let got = unsafe {
        crate::syscall::call(libc::SYS_read, [read_end.as_raw_fd() as usize, &raw mut byte as usize, 1])
    };
    got != Ok(0)
}

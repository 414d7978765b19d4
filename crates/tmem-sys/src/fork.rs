// SPDX-License-Identifier: Apache-2.0
//! Owns: the handlers around a fork: their registration with the C library, or, where a door stands in for `_Fork`, the fork itself.
//! Callers: the pager's `fork` module, the store's `host`, the doors. Each part of the process has handlers of its own; one may
//! wait for a lock whose holder waits for another part's only if that part registered before it.

use crate::errno::Errno;
use crate::kept;
use crate::lock::Lock;
use crate::syscall::call;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Parts of the process that have handlers of their own.
const MOST: usize = 8;

#[derive(Clone, Copy)]
struct Handlers {
    prepare: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
}

static ALL: Lock<[Option<Handlers>; MOST]> = Lock::new([None; MOST]);
/// The C library knows none of them: they are called by [`fork`].
static OURS: AtomicBool = AtomicBool::new(false);

/// Has the three functions called around every `fork` that the C library makes, for the rest of the process. The same
/// three are registered once, however often they are given. Those registered last are called first before the fork,
/// and last after it. `vfork`, `posix_spawn` and raw `clone` call none of them, nor does `_Fork` where it is the C library's.
///
/// # Errors
/// `ENOMEM`.
pub fn register(
    prepare: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
) -> Result<(), Errno> {
    let mut all = ALL.lock();
    if all.iter().flatten().any(|known| known.prepare as usize == prepare as usize) {
        return Ok(());
    }
    let place = all.iter_mut().find(|known| known.is_none()).ok_or(Errno::ENOMEM)?;
    if !OURS.load(Ordering::Relaxed) {
        // SAFETY: the three are plain functions of this library, which is never unloaded while handlers remain
        // (the C library drops them with the object that registered them).
        let code =
            unsafe { libc::pthread_atfork(Some(cast(prepare)), Some(cast(parent)), Some(cast(child))) };
        if code != 0 {
            return Err(Errno(code));
        }
    }
    *place = Some(Handlers { prepare, parent, child });
    Ok(())
}

/// Before any of them is registered: whether they can be left to [`fork`], as they are from then on.
pub fn take_over() -> bool {
    let can = tid_address().is_ok();
    OURS.store(can, Ordering::Relaxed);
    can
}

/// What the C library's `_Fork` does, with the handlers around it. `fork` comes here with the locks of `malloc` held: a thread
/// that holds one of those may need a page, and gets it as long as none of our own locks is held by one that waits for it.
///
/// # Errors
/// The kernel's.
pub fn fork() -> Result<i32, Errno> {
    let all = *ALL.lock();
    let (tid, robust) = (tid_address()?, robust_list());
    all.iter().rev().flatten().for_each(|of| (of.prepare)());
    let flags = libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    // SAFETY: the child is a copy of the process; the kernel writes this thread's number where the C library has it.
    let made = unsafe { call(libc::SYS_clone, [flags as usize, 0, 0, tid, 0]) };
    if made == Ok(0) {
        renew_robust_list(robust);
        all.iter().flatten().for_each(|of| (of.child)());
    } else {
        all.iter().flatten().for_each(|of| (of.parent)());
    }
    made.map(|pid| pid as i32)
}

/// Where the C library has this thread's number.
fn tid_address() -> Result<usize, Errno> {
    const GET_TID_ADDRESS: usize = 40;
    let mut at = 0usize;
    // SAFETY: the kernel writes one word into a live variable.
    unsafe { call(libc::SYS_prctl, [GET_TID_ADDRESS, &raw mut at as usize, 0, 0, 0])? };
    if at == 0 { Err(Errno::EINVAL) } else { Ok(at) }
}

/// The head of this thread's list of robust mutexes, as it told the kernel; 0 for none.
fn robust_list() -> usize {
    let (mut head, mut len) = (0usize, 0usize);
    // SAFETY: the kernel writes a word into each live variable.
    let got = unsafe { call(libc::SYS_get_robust_list, [0, &raw mut head as usize, &raw mut len as usize]) };
    if got.is_ok() && len == ROBUST_WORDS * size_of::<usize>() { head } else { 0 }
}

const ROBUST_WORDS: usize = 3;

/// In a child, which holds none of its parent's mutexes. The C library keeps the list's end in the word before its head.
fn renew_robust_list(head: usize) {
    if head == 0 {
        return;
    }
    // SAFETY: the C library's own list of this thread, which is the only one.
    unsafe {
        (head as *mut usize).write(head);
        (head as *mut usize).sub(1).write(head);
        let _ = call(libc::SYS_set_robust_list, [head, ROBUST_WORDS * size_of::<usize>()]);
    }
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
        let [read, write] = fds.map(kept::raised);
        Ok((OwnedFd::from_raw_fd(read), OwnedFd::from_raw_fd(write)))
    }
}

/// A pipe by which a child tells its parent that it has what it needs of memory that both have: the read end for the parent.
///
/// # Errors
/// `EMFILE` and the like.
pub fn done_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut fds = [0i32; 2];
    // SAFETY: as in `life_pipe`.
    unsafe {
        call(libc::SYS_pipe2, [fds.as_mut_ptr() as usize, libc::O_CLOEXEC as usize])?;
        let [read, write] = fds.map(kept::raised);
        Ok((OwnedFd::from_raw_fd(read), OwnedFd::from_raw_fd(write)))
    }
}

/// In the child.
pub fn tell_done(write_end: &OwnedFd) {
    let byte = 1u8;
    // SAFETY: one live byte.
    let _ = unsafe { call(libc::SYS_write, [write_end.as_raw_fd() as usize, &raw const byte as usize, 1]) };
}

/// In the parent, which has closed the write end: waits until the child is done, or gone.
pub fn wait_done(read_end: &OwnedFd) {
    let mut byte = 0u8;
    let args = [read_end.as_raw_fd() as usize, &raw mut byte as usize, 1];
    // SAFETY: one byte into a live variable.
    while unsafe { call(libc::SYS_read, args) } == Err(Errno::EINTR) {}
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

// SPDX-License-Identifier: Apache-2.0
//! Owns: what is called around `fork`: registered with the C library, or called by a `fork` of our own that stands in for the C
//! library's `_Fork`. Callers: the pager's `fork` module, the store's `host`, the preload door. Each part of the process has
//! handlers of its own; one may wait for a lock whose holder waits for another part's only if that part registered before it.
//!
//! Where the C library's heap is paged its own handlers come too early and too late: `fork` takes the locks of `malloc` between
//! them, which lie in paged memory, and whose holders wait for ours; the child touches the heap before they come. `_Fork` is
//! what `fork` calls with all that done.

use crate::errno::Errno;
use crate::lock::Lock;
use crate::syscall::{call, die};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Parts of the process that have handlers of their own.
const MOST: usize = 8;

/// Whether [`fork`] stands in for the C library's `_Fork`.
static OURS: AtomicBool = AtomicBool::new(false);
/// What is called around [`fork`], in the order of registration: before, in the parent, in the child.
static AROUND: [[AtomicUsize; 3]; MOST] = [const { [const { AtomicUsize::new(0) }; 3] }; MOST];

/// From here on whoever registers is called by [`fork`], and not by the C library. Before anybody has registered.
pub fn take_over() {
    OURS.store(true, Ordering::Relaxed);
}

/// Has the three functions called around every `fork` that the C library makes, for the rest of the process. The same
/// three are registered once, however often they are given. Those registered last are called first before the fork,
/// and last after it. `vfork`, `posix_spawn` and raw `clone` call none of them, `_Fork` only where it is ours.
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
    let index = done.iter().position(|known| *known == 0).ok_or(Errno::ENOMEM)?;
    if OURS.load(Ordering::Relaxed) {
        let all = [prepare, parent, child];
        AROUND[index]
            .iter()
            .zip(all)
            .for_each(|(at, f)| at.store(f as *const () as usize, Ordering::Relaxed));
        done[index] = this;
        return Ok(());
    }
    // SAFETY: the three are plain functions of this library, which is never unloaded while handlers remain
    // (the C library drops them with the object that registered them).
    let code = unsafe { libc::pthread_atfork(Some(cast(prepare)), Some(cast(parent)), Some(cast(child))) };
    if code != 0 {
        return Err(Errno(code));
    }
    done[index] = this;
    Ok(())
}

fn cast(f: extern "C" fn()) -> unsafe extern "C" fn() {
    f
}

/// The C library's `_Fork`, with what was registered around it: the child's number, 0 in the child.
///
/// # Errors
/// The kernel's; the parent's handlers were called then.
pub fn fork() -> Result<i32, Errno> {
    const PREPARE: usize = 0;
    const PARENT: usize = 1;
    const CHILD: usize = 2;
    let thread = Thread::this();
    AROUND.iter().rev().for_each(|part| run(&part[PREPARE]));
    let flags = libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    // SAFETY: a copy of the process goes on from here on a copy of the stack; the address is the thread's own for its number.
    let answer = unsafe { call(libc::SYS_clone, [flags as usize, 0, 0, thread.number_at, 0]) };
    if answer == Ok(0) {
        thread.forget_robust_mutexes();
        AROUND.iter().for_each(|part| run(&part[CHILD]));
    } else {
        AROUND.iter().for_each(|part| run(&part[PARENT]));
    }
    answer.map(|pid| pid as i32)
}

fn run(handler: &AtomicUsize) {
    let at = handler.load(Ordering::Relaxed);
    if at != 0 {
        // SAFETY: only `register` stores there, and only such functions.
        unsafe { core::mem::transmute::<usize, extern "C" fn()>(at)() }
    }
}

/// What the C library has the kernel know of a thread.
struct Thread {
    /// Where its number is.
    number_at: usize,
    /// Its list of robust mutexes, and how long the list's head is.
    robust: usize,
    robust_len: usize,
}

impl Thread {
    fn this() -> Thread {
        const PR_GET_TID_ADDRESS: usize = 40;
        let mut thread = Thread { number_at: 0, robust: 0, robust_len: 0 };
        // SAFETY: the kernel writes one word each into live variables.
        let known = unsafe {
            call(libc::SYS_prctl, [PR_GET_TID_ADDRESS, &raw mut thread.number_at as usize, 0, 0, 0]).and_then(
                |_| {
                    let (head, len) = (&raw mut thread.robust, &raw mut thread.robust_len);
                    call(libc::SYS_get_robust_list, [0, head as usize, len as usize])
                },
            )
        };
        if known.is_err() || thread.number_at == 0 {
            die("the kernel does not tell what a fork must set anew (CONFIG_CHECKPOINT_RESTORE is missing)");
        }
        thread
    }

    /// In the child: the mutexes are the parent's.
    fn forget_robust_mutexes(&self) {
        if self.robust == 0 {
            return;
        }
        // SAFETY: the GNU C library's own list: its end points to the head, and so does the word before, the list's other end.
        unsafe {
            let head = self.robust as *mut usize;
            head.write(self.robust);
            head.sub(1).write(self.robust);
            let _ = call(libc::SYS_set_robust_list, [self.robust, self.robust_len]);
        }
    }
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

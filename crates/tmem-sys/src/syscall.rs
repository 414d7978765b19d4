// SPDX-License-Identifier: Apache-2.0
//! Owns: every system call of the lower floors. Callers: the rest of this crate.
//! Law: no call leaves the stub's address range, because the guard dispatches all others.

use crate::errno::Errno;
use crate::stub;
use std::ops::Range;

/// One system call with up to six arguments; the kernel's answer, errors as small negatives.
///
/// # Safety
/// The arguments must be valid for call `nr`: the kernel reads and writes through them.
#[inline]
pub unsafe fn raw6(nr: usize, a: [usize; 6]) -> isize {
    // SAFETY: the stub only executes `syscall`; the caller vouches for the arguments.
    unsafe { stub::tmem_syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]) }
}

/// As [`raw6`], with the answer split.
///
/// # Safety
/// As [`raw6`].
#[inline]
pub unsafe fn call<const N: usize>(nr: libc::c_long, args: [usize; N]) -> Result<usize, Errno> {
    let mut a = [0usize; 6];
    a[..N].copy_from_slice(&args);
    // SAFETY: passed on to the caller.
    Errno::split(unsafe { raw6(nr as usize, a) })
}

/// The code addresses from which system calls are not dispatched.
pub fn range() -> Range<usize> {
    stub::range()
}

pub fn gettid() -> i32 {
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_gettid, []) }.unwrap_or(0) as i32
}

pub fn getpid() -> i32 {
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_getpid, []) }.unwrap_or(0) as i32
}

pub fn sched_yield() {
    // SAFETY: no pointers.
    let _ = unsafe { call(libc::SYS_sched_yield, []) };
}

/// Lets another thread go on that is to end what this one waits for: by a yield at first, then by sleeping for a moment, since a
/// yield never gives way to a thread of lower priority.
pub fn give_way(turns: u32) {
    const YIELDS: u32 = 32;
    if turns < YIELDS {
        return sched_yield();
    }
    let time = [0u64, 50_000];
    // SAFETY: one live `timespec`; the rest is not asked for.
    let _ = unsafe { call(libc::SYS_nanosleep, [time.as_ptr() as usize, 0]) };
}

pub fn close(fd: i32) {
    // SAFETY: no pointers; the caller owns `fd`.
    let _ = unsafe { call(libc::SYS_close, [fd as usize]) };
}

/// Writes all of `text` to standard error as far as it goes; errors are dropped, there is nowhere to tell them.
pub fn write_stderr(text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        // SAFETY: the pointer and length are those of a live slice.
        match unsafe { call(libc::SYS_write, [2, rest.as_ptr() as usize, rest.len()]) } {
            Ok(n) if n > 0 => rest = &rest[n.min(rest.len())..],
            Err(Errno::EINTR) => {}
            _ => return,
        }
    }
}

/// Whether a line to standard error is taken at once: of a pipe the kernel says so from 4096 free bytes on.
pub fn stderr_has_room() -> bool {
    let mut ask = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one live `pollfd`, no waiting.
    let answer = unsafe { call(libc::SYS_poll, [&raw mut ask as usize, 1, 0]) };
    answer == Ok(1) && ask.revents & libc::POLLOUT != 0
}

/// Ends the process after a report on standard error. For what law 12 and law 17 call "stops with a report":
/// the alternative would be wrong bytes. `abort` is raised by signal so that the exit status and core say so.
pub fn die(report: &str) -> ! {
    write_stderr("tmem: fatal: ");
    write_stderr(report);
    write_stderr("\n");
    let pid = getpid() as usize;
    // SAFETY: no pointers but a zeroed action that outlives the call; the process ends here either way.
    unsafe {
        let action = [0usize; 4];
        let _ = call(libc::SYS_rt_sigaction, [libc::SIGABRT as usize, action.as_ptr() as usize, 0, 8]);
        let unblock = 1u64 << (libc::SIGABRT - 1);
        let _ =
            call(libc::SYS_rt_sigprocmask, [libc::SIG_UNBLOCK as usize, &raw const unblock as usize, 0, 8]);
        let _ = call(libc::SYS_tgkill, [pid, gettid() as usize, libc::SIGABRT as usize]);
        loop {
            let _ = call(libc::SYS_exit_group, [134]);
        }
    }
}

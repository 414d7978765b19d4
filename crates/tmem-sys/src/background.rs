// SPDX-License-Identifier: Apache-2.0
//! Owns: the one thread of the process that works when nobody else wants the processor. Callers: the pager's background work. No locks.
//! Law 16: it hands the kernel no memory but its own, so that the guard need not cover it. A forked child has none until it is
//! started there.

use crate::errno::Errno;
use crate::guard;
use crate::own;
use crate::signals;
use crate::syscall::{call, getpid, gettid, sched_yield};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

/// The process that has the thread; another's number in a forked child.
static OWNER: AtomicI32 = AtomicI32::new(0);
static TID: AtomicI32 = AtomicI32::new(0);

/// How the thread is made: it uses the heap, so that a door says which of the two its heap is for.
pub type Maker = fn(work: fn()) -> Result<(), Errno>;

/// A thread that the C library knows, for doors whose heap is the C library's. Never from within its `malloc`.
///
/// # Errors
/// The kernel's.
pub fn known_to_libc(work: fn()) -> Result<(), Errno> {
    // New threads inherit the mask: this one takes none of the program's signals.
    let _blocked = signals::Blocked::new();
    let thread = std::thread::Builder::new().name("tmem-background".into()).stack_size(STACK);
    thread.spawn(work).map(drop).map_err(|e| Errno(e.raw_os_error().unwrap_or(libc::EAGAIN)))
}

/// A thread that the C library knows nothing of, from anywhere, for doors whose heap, that of the C code in them included, is
/// their own.
///
/// # Errors
/// The kernel's.
pub fn unknown_to_libc(work: fn()) -> Result<(), Errno> {
    own::spawn(c"tmem-background", STACK, work).map(drop)
}

/// The trainer of dictionaries and the packers have their tables elsewhere.
const STACK: usize = 256 << 10;

static WORK: OnceLock<fn()> = OnceLock::new();

/// Starts the thread, unless the process has it. `work` does not end, and is the same for the whole process.
///
/// # Errors
/// The kernel's, when a thread cannot be made.
pub fn start(make: Maker, work: fn()) -> Result<(), Errno> {
    let pid = getpid();
    let owner = OWNER.load(Ordering::Acquire);
    if owner == pid || OWNER.compare_exchange(owner, pid, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return Ok(());
    }
    TID.store(0, Ordering::Release);
    let _ = WORK.set(work);
    if let Err(e) = make(run) {
        OWNER.store(0, Ordering::Release);
        return Err(e);
    }
    while TID.load(Ordering::Acquire) == 0 {
        sched_yield();
    }
    Ok(())
}

fn run() {
    guard::exempt(gettid());
    TID.store(gettid(), Ordering::Release);
    if let Some(work) = WORK.get() {
        work();
    }
}

/// The thread's number, 0 where this process has none.
pub(crate) fn tid() -> i32 {
    if is_running() { TID.load(Ordering::Acquire) } else { 0 }
}

/// Whether this process has the thread.
pub fn is_running() -> bool {
    OWNER.load(Ordering::Acquire) == getpid()
}

/// Whether the calling thread may become less important and then as important as before: without privilege there is no way
/// back. It may be a little less important afterwards.
#[must_use]
pub fn may_change_importance() -> bool {
    let nice = |value: i32| {
        // SAFETY: no pointers; this thread alone.
        unsafe { call(libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, 0, value as usize]) }
    };
    let now = nice_value();
    // What is least important already has its way back tried first.
    let beside = if now < LEAST_IMPORTANT { now + 1 } else { now - 1 };
    nice(beside).is_ok() && nice(now).is_ok()
}

const LEAST_IMPORTANT: i32 = 19;

/// The calling thread's, from -20 to 19.
fn nice_value() -> i32 {
    // SAFETY: no pointers.
    let answer = unsafe { call(libc::SYS_getpriority, [libc::PRIO_PROCESS as usize, 0]) };
    // The kernel counts from the other end, so that no answer is negative.
    answer.map_or(0, |value| 20 - value as i32)
}

/// Lets the calling thread run only where no other wants to, or like any other: as it must while it holds a lock that others
/// wait for. Only for a thread that [`may_change_importance`].
pub fn run_when_idle(on: bool) {
    let (policy, priority) = (if on { libc::SCHED_IDLE } else { libc::SCHED_OTHER }, 0u32);
    // SAFETY: `priority` is a live `sched_param`.
    let _ = unsafe { call(libc::SYS_sched_setscheduler, [0, policy as usize, &raw const priority as usize]) };
}

/// Sleeps.
pub fn pause(ms: u64) {
    let time = [ms / 1000, ms % 1000 * 1_000_000];
    // SAFETY: a live `timespec`; no remainder is asked for.
    let _ = unsafe { call(libc::SYS_nanosleep, [time.as_ptr() as usize, 0]) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_as_important_afterwards_as_it_was() {
        for nice in [0, 7, LEAST_IMPORTANT] {
            let thread = std::thread::spawn(move || {
                // SAFETY: no pointers; this thread alone.
                let set =
                    unsafe { call(libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, 0, nice as usize]) };
                let may = set.is_ok() && may_change_importance();
                (may, nice_value())
            });
            let (may, after) = thread.join().unwrap();
            assert!(!may || after == nice, "from {nice} to {after}");
            assert!(after >= nice, "from {nice} to {after}: more important than before");
        }
    }
}

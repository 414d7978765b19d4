// SPDX-License-Identifier: Apache-2.0
//! Owns: the one thread of the process that works when nobody else wants the processor. Callers: the pager's background work. No locks.
//! Law 16: it hands the kernel no memory but its own, so that the guard need not cover it. A forked child has none until it is
//! started there.

use crate::errno::Errno;
use crate::guard;
use crate::signals;
use crate::syscall::{call, getpid, gettid, sched_yield};
use std::sync::atomic::{AtomicI32, Ordering};

/// The process that has the thread; another's number in a forked child.
static OWNER: AtomicI32 = AtomicI32::new(0);
static TID: AtomicI32 = AtomicI32::new(0);

/// Starts the thread, unless the process has it. `work` does not end.
///
/// # Errors
/// The kernel's, when a thread cannot be made.
pub fn start(work: fn()) -> Result<(), Errno> {
    let pid = getpid();
    let owner = OWNER.load(Ordering::Acquire);
    if owner == pid || OWNER.compare_exchange(owner, pid, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return Ok(());
    }
    TID.store(0, Ordering::Release);
    // New threads inherit the mask: this one takes none of the program's signals.
    let blocked = signals::Blocked::new();
    let thread = std::thread::Builder::new().name("tmem-background".into()).stack_size(256 << 10);
    let spawned = thread.spawn(move || {
        guard::exempt(gettid());
        TID.store(gettid(), Ordering::Release);
        work();
    });
    drop(blocked);
    if let Err(e) = spawned {
        OWNER.store(0, Ordering::Release);
        return Err(Errno(e.raw_os_error().unwrap_or(libc::EAGAIN)));
    }
    while TID.load(Ordering::Acquire) == 0 {
        sched_yield();
    }
    Ok(())
}

/// Whether this process has the thread.
pub fn is_running() -> bool {
    OWNER.load(Ordering::Acquire) == getpid()
}

/// Whether the calling thread may become less important and then as important as before: without privilege there is no way
/// back. It may be a little less important afterwards.
#[must_use]
pub fn may_change_importance() -> bool {
    let nice = |value: usize| {
        // SAFETY: no pointers; this thread alone.
        unsafe { call(libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, 0, value]) }
    };
    nice(1).is_ok() && nice(0).is_ok()
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

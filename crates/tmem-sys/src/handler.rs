// SPDX-License-Identifier: Apache-2.0
//! Owns: the thread of the thread entry that reads faults and has them served. Caller: `entry`. Calls: the fault function.
//! No lock of ours is held here. Law 17: a handler that cannot go on takes the process with it.
//!
//! One handler, on the processor of whoever faults (`follow`), is what won: a descriptor wakes every thread that reads it, so
//! that each fault would disturb all processors with a handler. Two handlers for two threads on two processors were slower than
//! one for both. The fault function may still run in several threads at once.

use crate::entry::{self, Served};
use crate::errno::Errno;
use crate::follow::{self, Follow};
use crate::own;
use crate::page::PAGE_SIZE;
use crate::syscall::{die, getpid, gettid, sched_yield};
use crate::thread::ThreadKey;
use crate::uffd::{Uffd, abi};
use crate::waker::{self, Waking};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Messages taken at once: threads that wait meanwhile need no read of their own.
const MESSAGES: usize = 16;

/// How long a waker on trial may take: longer than waking across processors does.
const WATCH_NS: u64 = 150_000;

static TID: AtomicI32 = AtomicI32::new(0);
static WAKES: AtomicU64 = AtomicU64::new(0);

/// The handler's thread, 0 when there is none.
pub fn tid() -> i32 {
    TID.load(Ordering::Acquire)
}

/// How the handler fared in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// It followed a thread to another processor.
    pub moves: u64,
    /// The kernel did not let it.
    pub unpinned: u64,
    /// It woke a thread itself, because the waker would have been late or there is none.
    pub wakes: u64,
}

pub fn counts() -> Counts {
    let (moves, unpinned) = follow::counts();
    Counts { moves, unpinned, wakes: WAKES.load(Ordering::Relaxed) }
}

/// In a forked child the thread does not exist.
pub fn reset_after_fork() {
    TID.store(0, Ordering::Release);
    waker::reset_after_fork();
}

/// Starts the handler, and the waker beside it.
///
/// # Errors
/// The kernel's, when a thread cannot be made.
pub fn start(uffd: &'static Uffd) -> Result<(), Errno> {
    waker::start(uffd)?;
    own::spawn(c"tmem-pager", 256 << 10, move || run(uffd))?;
    while tid() == 0 {
        sched_yield();
    }
    Ok(())
}

fn run(uffd: &Uffd) {
    let pid = getpid();
    let mut follow = Follow::new();
    let mut waking = Waking::new();
    let mut messages = [abi::Msg::default(); MESSAGES];
    TID.store(gettid(), Ordering::Release);
    loop {
        if waking.is_watched() && !uffd.wait(WATCH_NS) && waking.is_watched() {
            waking.take_over(uffd);
        }
        match uffd.read(&mut messages) {
            Ok(n) => messages[..n].iter().for_each(|m| serve(uffd, m, &mut follow, &mut waking)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) if entry::owner() != pid => return,
            Err(_) => die("the pager's fault descriptor failed; paged memory cannot be served any more"),
        }
    }
}

fn serve(uffd: &Uffd, message: &abi::Msg, follow: &mut Follow, waking: &mut Waking) {
    if message.event != abi::EVENT_PAGEFAULT {
        return;
    }
    let (addr, tid) = (message.address as usize, message.ptid as i32);
    if entry::fault(addr, ThreadKey::of(tid)) == Served::NotOurs {
        die("a thread touched an address inside an arena that belongs to no live array (use after free)");
    }
    // Before the wake: a waker left behind would call the thread away from where the handler has just gone.
    follow.note(tid, waking.is_resting());
    // Transfers wake nobody, so that this is the only time: whoever waits for the page has a message of its own.
    let page = addr & !(PAGE_SIZE - 1);
    let posted = if follow.wants_waker() {
        waking.post(page)
    } else {
        waking.pass();
        false
    };
    if !posted {
        WAKES.fetch_add(1, Ordering::Relaxed);
        uffd.wake(page, PAGE_SIZE);
    }
}

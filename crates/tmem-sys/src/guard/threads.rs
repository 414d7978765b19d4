// SPDX-License-Identifier: Apache-2.0
//! Who is under the guard: a fixed table of thread numbers, and the way strangers get into it. A thread only ever arms itself; one
//! that runs already is asked to by SIGSYS, which also gets it out of a call it is waiting in.
//!
//! Called by the guard's doors (arm, coverage) and by `trap` for what threads report. The table is lock-free; the arming lock
//! keeps two threads from asking at once and is never taken in the handler.

use super::frame::Frame;
use super::procfs::{self, Task};
use super::uncovered::{Uncovered, Why};
use super::{PR_SET_SYSCALL_USER_DISPATCH, is_armed, mask};
use crate::lock::RawLock;
use crate::signals::{self, Blocked, OURS};
use crate::syscall::{call, getpid, gettid};
use crate::{stub, time};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;

/// Threads of libraries that block every signal, so that they cannot be asked, and hand the kernel no memory but their own:
/// those of jemalloc, which Arrow brings along, only give its free pages back.
const KEEP_TO_THEMSELVES: [&[u8]; 1] = [b"jemalloc_bg_thd"];

/// Naps that a thread has to answer before it is looked at more closely.
const PATIENCE: u32 = 20;

/// How much longer a thread has that could run and was not let.
const TURN_NS: u64 = 2_000_000_000;

/// Threads that can be kept track of.
const CAPACITY: usize = 4096;

const PR_SYS_DISPATCH_OFF: usize = 0;
const PR_SYS_DISPATCH_ON: usize = 1;

/// A place whose thread has gone; the search goes on past it.
const GONE: u32 = u32::MAX;

/// A set of thread numbers.
struct Set {
    places: [AtomicU32; CAPACITY],
    count: AtomicUsize,
}

impl Set {
    const fn new() -> Set {
        Set { places: [const { AtomicU32::new(0) }; CAPACITY], count: AtomicUsize::new(0) }
    }

    fn find(&self, tid: u32) -> Option<&AtomicU32> {
        for i in 0..CAPACITY {
            let place = &self.places[(tid as usize + i) % CAPACITY];
            match place.load(Ordering::Acquire) {
                0 => return None,
                t if t == tid => return Some(place),
                _ => {}
            }
        }
        None
    }

    /// False when the table is full. Only one thread at a time adds a given number.
    fn add(&self, tid: u32) -> bool {
        if self.find(tid).is_some() {
            return true;
        }
        for i in 0..CAPACITY {
            let place = &self.places[(tid as usize + i) % CAPACITY];
            let now = place.load(Ordering::Relaxed);
            let free = now == 0 || now == GONE;
            if free && place.compare_exchange(now, tid, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                self.count.fetch_add(1, Ordering::AcqRel);
                return true;
            }
        }
        false
    }

    fn remove(&self, tid: u32) {
        if let Some(place) = self.find(tid)
            && place.compare_exchange(tid, GONE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn clear(&self) {
        for place in &self.places {
            place.store(0, Ordering::Relaxed);
        }
        self.count.store(0, Ordering::Release);
    }
}

static COVERED: Set = Set::new();
/// The pager's own threads.
static EXEMPT: Set = Set::new();
/// Whom the thread that arms has sent a signal.
static ASKED: Set = Set::new();
static ARMING: RawLock = RawLock::new();

pub(super) fn clear() {
    COVERED.clear();
}

/// In a forked child there is one thread, and nobody holds the arming lock.
pub(super) fn reset_after_fork() {
    COVERED.clear();
    EXEMPT.clear();
    ASKED.clear();
    ARMING.unlock();
}

fn set_dispatch(mode: usize) -> Result<(), crate::Errno> {
    let range = stub::range();
    let (start, len) = if mode == PR_SYS_DISPATCH_ON { (range.start, range.len()) } else { (0, 0) };
    // SAFETY: no pointers that are followed: the selector is null.
    unsafe { call(libc::SYS_prctl, [PR_SET_SYSCALL_USER_DISPATCH, mode, start, len, 0]) }.map(drop)
}

/// Arms the calling thread.
pub(super) fn arm_current() -> Result<(), Uncovered> {
    signals::set_mask(OURS, libc::SIG_UNBLOCK);
    set_dispatch(PR_SYS_DISPATCH_ON).map_err(|e| Uncovered::process(Why::Refused(e.0)))?;
    mask::keep_alt_stack(mask::alt_stack());
    if COVERED.add(gettid() as u32) { Ok(()) } else { Err(Uncovered::process(Why::TooManyThreads(CAPACITY))) }
}

/// The calling thread leaves the guard.
pub(super) fn leave() {
    let _ = set_dispatch(PR_SYS_DISPATCH_OFF);
    remove(gettid());
}

pub(super) fn exempt(tid: i32) {
    EXEMPT.add(tid as u32);
    COVERED.remove(tid as u32);
    if tid == gettid() {
        let _ = set_dispatch(PR_SYS_DISPATCH_OFF);
    }
}

/// The thread has ended or is about to.
pub(super) fn remove(tid: i32) {
    COVERED.remove(tid as u32);
    EXEMPT.remove(tid as u32);
}

fn is_known(tid: i32) -> bool {
    COVERED.find(tid as u32).is_some() || EXEMPT.find(tid as u32).is_some()
}

/// A thread was asked to arm itself: here it does, on its way out of whatever it was doing.
pub(super) fn answer(frame: &mut Frame) {
    if is_armed() && !is_known(gettid()) && set_dispatch(PR_SYS_DISPATCH_ON).is_ok() {
        frame.set_mask(frame.mask() & !OURS);
        mask::keep_alt_stack(frame.alt_stack());
        COVERED.add(gettid() as u32);
    }
}

/// What a question of ours carries, and no signal that the program sends itself.
pub(super) fn question() -> u64 {
    core::ptr::from_ref(&ASKED) as u64
}

/// A new thread, armed by its landing place, reports. A process that only shares our memory is guarded but not counted.
pub(super) fn hello() -> isize {
    if getpid() == super::user::pid() {
        COVERED.add(gettid() as u32);
    }
    0
}

/// Whether there are as many threads as covered ones.
pub(super) fn count_matches() -> Result<bool, Uncovered> {
    let known = COVERED.count.load(Ordering::Acquire) + EXEMPT.count.load(Ordering::Acquire);
    Ok(procfs::thread_count()? == known)
}

/// Arms every thread that is not yet covered and waits for it to report.
pub(super) fn cover(timeout: Duration) -> Result<(), Uncovered> {
    let _blocked = Blocked::new();
    ARMING.lock();
    ASKED.clear();
    let covered = cover_locked(time::now_ns().saturating_add(timeout.as_nanos() as u64));
    ARMING.unlock();
    covered
}

fn cover_locked(mut deadline: u64) -> Result<(), Uncovered> {
    let mut naps = 0u32;
    let mut waits_for_processor = false;
    loop {
        let mut stranger = None;
        procfs::each_task(|tid| {
            if !is_known(tid) && ask(tid) {
                stranger = Some(tid);
            }
        })?;
        let Some(tid) = stranger else { return Ok(()) };
        naps += 1;
        // Not sooner: a thread is asked as soon as it is seen, because one that is about to end must not be asked late.
        if naps.is_multiple_of(PATIENCE) && procfs::task(tid).is_some_and(|t| keeps_to_itself(&t)) {
            EXEMPT.add(tid as u32);
            continue;
        }
        if time::now_ns() >= deadline {
            if waits_for_processor || procfs::task(tid).is_none_or(|t| t.state != b'R') {
                return Err(explain(tid));
            }
            // It only waits for its turn, on a machine that is busy with others.
            waits_for_processor = true;
            deadline += TURN_NS;
        }
        let nap = [0u64, 100_000];
        // SAFETY: a live `timespec`; no remainder is asked for.
        let _ = unsafe { call(libc::SYS_nanosleep, [nap.as_ptr() as usize, 0]) };
    }
}

/// Sends a thread the signal, once; false if it has gone. A leader that ended before its process stays as a zombie and is none.
fn ask(tid: i32) -> bool {
    if ASKED.find(tid as u32).is_some() {
        return !procfs::task(tid).is_none_or(|t| t.is_dead());
    }
    ASKED.add(tid as u32);
    let mut info = [0u32; 32];
    (info[0], info[2], info[4]) = (libc::SIGSYS as u32, libc::SI_QUEUE as u32, getpid() as u32);
    (info[6], info[7]) = (question() as u32, (question() >> 32) as u32);
    let args = [getpid() as usize, tid as usize, libc::SIGSYS as usize, info.as_ptr() as usize];
    // SAFETY: `info` is a live `siginfo_t` of the kernel's size: number, code, sender and value are set.
    let sent = unsafe { call(libc::SYS_rt_tgsigqueueinfo, args) };
    sent.map_or_else(|e| e.0 != libc::ESRCH, |_| true)
}

fn keeps_to_itself(task: &Task) -> bool {
    let blocks = task.blocked & signals::bit(libc::SIGSYS) != 0;
    blocks
        && KEEP_TO_THEMSELVES
            .iter()
            .any(|name| task.comm.strip_prefix(*name).is_some_and(|rest| rest[0] == 0))
}

/// Why a thread did not report.
fn explain(tid: i32) -> Uncovered {
    let task = procfs::task(tid).unwrap_or(Task { comm: [0; 16], state: b'?', blocked: 0 });
    let why = if task.comm.starts_with(b"iou-") {
        Why::KernelWorker
    } else if task.blocked & signals::bit(libc::SIGSYS) != 0 {
        Why::BlocksSigsys
    } else if COVERED.count.load(Ordering::Relaxed) >= CAPACITY {
        Why::TooManyThreads(CAPACITY)
    } else {
        Why::NoAnswer(task.state as char)
    };
    Uncovered { tid, comm: task.comm, why }
}

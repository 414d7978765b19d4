// SPDX-License-Identifier: Apache-2.0
//! The pages that the kernel uses of a thread's between its calls: the alternate signal stack, where it writes frames, and the
//! places that `set_robust_list`, `rseq` and `set_tid_address` name. Held from the call that names them until another takes its
//! place or the thread has ended. Called by `trap`, `mask` and `threads`.
//!
//! Lock-free: an entry is one thread's, which alone changes it; only its end may come from elsewhere (`disarm`, a fork, the thread
//! that waited for a borrower), and whoever takes the owner out of an entry releases it.

use super::hooks;
use crate::Errno;
use crate::syscall::{call, getpid, gettid};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a held place is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    AltStack = 1,
    RobustList,
    Rseq,
    ClearTid,
}

/// As many threads as can be kept track of, should each have one in paged memory.
const ENTRIES: usize = 4096;
const FREE: u64 = 0;
/// The thread has made its last call.
const LEFT: u64 = 1 << 8;
/// No thread's: an entry is being filled in.
const BUSY: u64 = u64::MAX;

pub(super) struct Entry {
    /// The thread in the upper half, the kind in the lower.
    owner: AtomicU64,
    token: AtomicU64,
}

static TABLE: [Entry; ENTRIES] =
    [const { Entry { owner: AtomicU64::new(FREE), token: AtomicU64::new(0) } }; ENTRIES];
/// No entry at or above this was ever in use.
static HIGH: AtomicU32 = AtomicU32::new(0);

fn owner_of(tid: i32, kind: Kind) -> u64 {
    u64::from(tid as u32) << 32 | u64::from(kind as u32)
}

fn used() -> &'static [Entry] {
    &TABLE[..(HIGH.load(Ordering::Acquire) as usize).min(ENTRIES)]
}

/// A range that is held and not yet anybody's. Released when dropped.
pub(super) struct Kept(Option<&'static Entry>);

impl Kept {
    /// Holds a range, if any of it is paged. None: it cannot be held whole, or no entry is left.
    pub(super) fn new(addr: usize, len: usize) -> Option<Kept> {
        let Some(hooks) = hooks().filter(|h| len > 0 && (h.owns)(addr, len.min(usize::MAX - addr))) else {
            return Some(Kept(None));
        };
        end_left();
        let entry = claim()?;
        let held = (hooks.hold)(addr, len, true);
        entry.token.store(held.token, Ordering::Relaxed);
        let kept = Kept(Some(entry));
        (held.held_len >= len).then_some(kept)
    }

    /// Makes it the calling thread's in place of what it had of that kind.
    pub(super) fn stand(mut self, kind: Kind) {
        let owner = owner_of(gettid(), kind);
        end_where(|o| o == owner);
        if let Some(entry) = self.0.take() {
            entry.owner.store(owner, Ordering::Release);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(entry) = self.0 {
            let token = entry.token.load(Ordering::Relaxed);
            entry.owner.store(FREE, Ordering::Release);
            if let Some(hooks) = hooks() {
                (hooks.release)(token);
            }
        }
    }
}

fn claim() -> Option<&'static Entry> {
    let free = |e: &Entry| e.owner.compare_exchange(FREE, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let index = TABLE.iter().position(free)?;
    HIGH.fetch_max(index as u32 + 1, Ordering::AcqRel);
    Some(&TABLE[index])
}

fn end_where(dead: impl Fn(u64) -> bool) {
    for entry in used() {
        let owner = entry.owner.load(Ordering::Acquire);
        if owner == FREE || owner == BUSY || !dead(owner) {
            continue;
        }
        let token = entry.token.load(Ordering::Relaxed);
        let taken = entry.owner.compare_exchange(owner, FREE, Ordering::AcqRel, Ordering::Relaxed);
        if let (Ok(_), Some(hooks)) = (taken, hooks()) {
            (hooks.release)(token);
        }
    }
}

/// The thread is about to end: the kernel still uses what it has. It is released when another thread comes this way.
pub(super) fn leave(tid: i32) {
    end_left();
    for entry in used() {
        let owner = entry.owner.load(Ordering::Acquire);
        if owner >> 32 == u64::from(tid as u32) && owner & LEFT == 0 && owner != BUSY {
            entry.owner.store(owner | LEFT, Ordering::Release);
        }
    }
}

/// Releases what threads have left that have ended meanwhile.
fn end_left() {
    let process = getpid() as usize;
    // SAFETY: no pointers, and no signal is sent.
    let gone =
        |tid: u64| unsafe { call(libc::SYS_tgkill, [process, tid as usize, 0]) } == Err(Errno(libc::ESRCH));
    end_where(|owner| owner & LEFT != 0 && gone(owner >> 32));
}

/// A process that borrowed this memory has gone.
pub(super) fn end_borrower(tid: i32) {
    end_where(|owner| owner >> 32 == u64::from(tid as u32));
}

/// Nobody is guarded any more, or the threads are another process's.
pub(super) fn end_all() {
    end_where(|_| true);
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the threads of this process's connections, and what becomes of a connection around a fork. Callers: `client`; the C library
//! or the door's own fork. Locks: `TURN` while descriptors are on their way from the socket to a mailbox, then the mailbox's; each
//! connection's own, a leaf.
//!
//! Law 15: a child holds no lease of its parent's. Its copies of the descriptors are closed before it goes on, and it has a thread
//! of its own, which connects when a store of the child's first wants room. That thread is made without the heap and uses none.

use crate::client::{Shared, When};
use crate::session;
use crate::shared::Desk;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use tmem_sys::link::close_copy;
use tmem_sys::signals::{self, Blocked};
use tmem_sys::syscall::{gettid, sched_yield};
use tmem_sys::{Errno, Lock, fork, guard, own};

/// Connections of a process.
const MOST: usize = 128;
const STACK: usize = 256 << 10;

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
/// Its thread is being made.
const STARTING: u32 = 2;
const RUNNING: u32 = 3;

struct Slot {
    phase: AtomicU32,
    /// Connects only when something is wanted.
    waits: AtomicBool,
    shared: Lock<Option<Arc<Shared>>>,
}

static SLOTS: [Slot; MOST] =
    [const { Slot { phase: AtomicU32::new(FREE), waits: AtomicBool::new(false), shared: Lock::new(None) } };
        MOST];

/// Held while descriptors have no owner yet that a fork would know of.
pub(crate) static TURN: Lock<()> = Lock::new(());
static MASK: AtomicU64 = AtomicU64::new(0);

/// Does `work` while no fork does.
pub(crate) fn in_turn<R>(work: impl FnOnce() -> R) -> R {
    let _blocked = Blocked::new();
    let _turn = TURN.lock();
    work()
}

/// Sees to it that a connection has its thread.
pub(crate) fn start(shared: &Arc<Shared>) -> Result<(), Errno> {
    fork::register(prepare, parent, child)?;
    if SLOTS.iter().any(|slot| slot.phase.load(Ordering::Acquire) >= CLAIMED && slot.is_of(shared)) {
        return Ok(());
    }
    let claim = |slot: &&Slot| {
        slot.phase.compare_exchange(FREE, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    let slot = SLOTS.iter().find(claim).ok_or(Errno::ENOSPC)?;
    let before = slot.with(|place| place.replace(Arc::clone(shared)));
    // Who had it before: its thread has ended, perhaps where nothing may be dropped.
    drop(before);
    slot.waits.store(shared.config.when == When::Wanted, Ordering::Release);
    slot.phase.store(STARTING, Ordering::Release);
    let make = shared.config.maker;
    if let Err(e) = make(run) {
        slot.phase.store(FREE, Ordering::Release);
        return Err(e);
    }
    // Guarded calls could not be begun while there is a thread that nobody knows.
    while slot.phase.load(Ordering::Acquire) == STARTING {
        sched_yield();
    }
    Ok(())
}

impl Slot {
    fn with<R>(&self, work: impl FnOnce(&mut Option<Arc<Shared>>) -> R) -> R {
        let _blocked = Blocked::new();
        work(&mut self.shared.lock())
    }

    fn is_of(&self, shared: &Arc<Shared>) -> bool {
        self.with(|place| place.as_ref().is_some_and(|one| Arc::ptr_eq(one, shared)))
    }
}

/// The work of each thread: that of the first connection which has none.
fn run() {
    let begin = |slot: &&Slot| {
        let (from, to) = (STARTING, CLAIMED);
        slot.phase.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    let Some(slot) = SLOTS.iter().find(begin) else { return };
    let tid = gettid();
    guard::exempt(tid);
    own::set_name(c"tmem-guest");
    slot.phase.store(RUNNING, Ordering::Release);
    // Not the last reference: the slot keeps its own.
    if let Some(shared) = slot.with(|place| place.clone()) {
        session::run(&shared, slot.waits.load(Ordering::Acquire));
    }
    guard::forget(tid);
    slot.phase.store(FREE, Ordering::Release);
}

extern "C" fn prepare() {
    let mask = signals::block_all();
    TURN.lock().keep_across_fork();
    MASK.store(mask, Ordering::Relaxed);
    for slot in &SLOTS {
        let place = slot.shared.lock();
        if let Some(shared) = &*place {
            shared.inside.lock().keep_across_fork();
        }
        place.keep_across_fork();
    }
}

extern "C" fn parent() {
    for slot in &SLOTS {
        let place = slot.shared.reclaim();
        if let Some(shared) = &*place {
            drop(shared.inside.reclaim());
        }
    }
    finish();
}

extern "C" fn child() {
    for slot in &SLOTS {
        let place = slot.shared.reclaim();
        if let Some(shared) = &*place {
            close_copy(shared.link.swap(-1, Ordering::AcqRel));
            close_copy(shared.bell.swap(-1, Ordering::AcqRel));
            shared.inside.reclaim().desk = Desk::default();
            shared.forget_host();
        }
    }
    finish();
    for slot in SLOTS.iter().filter(|slot| slot.phase.load(Ordering::Acquire) != FREE) {
        slot.waits.store(true, Ordering::Release);
        slot.phase.store(STARTING, Ordering::Release);
        if own::spawn(c"tmem-guest", STACK, run).is_err() {
            slot.phase.store(FREE, Ordering::Release);
            continue;
        }
        while slot.phase.load(Ordering::Acquire) == STARTING {
            sched_yield();
        }
    }
}

fn finish() {
    let mask = MASK.load(Ordering::Relaxed);
    drop(TURN.reclaim());
    signals::restore_mask(mask);
}

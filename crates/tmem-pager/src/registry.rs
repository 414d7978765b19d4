// SPDX-License-Identifier: Apache-2.0
//! Owns: the process's pagers, found by address from a signal handler. Called by: both fault entries, the guard.
//! Calls: `serve`. Locks, in order: a slot's extents, then its state; never two slots' at once, except by
//! the fork handlers, in slot order. Law 17: no allocation here, and a fault taken while the same thread holds the
//! lock ends the process instead of hanging it.

use crate::extents::Extents;
use crate::serve::serve;
use crate::state::State;
use crate::transit::Worker;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tmem_sys::entry::Served;
use tmem_sys::signals::Blocked;
use tmem_sys::syscall::{die, give_way};
use tmem_sys::{Errno, Lock, LockGuard, PAGE_SIZE, ThreadKey};

/// Pagers a process can have at once.
pub const MAX_PAGERS: usize = 64;

/// Threads that can work on pages of one pager at once without its lock; others do under it.
const WORKERS: usize = 8;

/// How long another thread is given to come to the lock: some ten microseconds.
const SLEEP_SPINS: u32 = 300;

pub struct Slot {
    /// Arena of the pager, 0 when the slot is empty. Written only while no array of it lives.
    base: AtomicUsize,
    len: AtomicUsize,
    ram: AtomicUsize,
    /// The key of the thread that holds `state`.
    holder: AtomicU64,
    pub closed: AtomicBool,
    /// Whether paging has begun; a forked child inherits it.
    paged: AtomicBool,
    /// Whether the background thread works on its store.
    kept: AtomicBool,
    /// Whoever holds the lock moves many pages out: a thread that runs meanwhile is interrupted for each.
    moves_many: AtomicBool,
    /// Threads that wait for all pages to be at rest.
    rest_wanted: AtomicUsize,
    workers: [Lock<Option<Worker>>; WORKERS],
    pub extents: Lock<Extents>,
    state: Lock<Option<State>>,
}

/// A worker, locked; always there.
pub type WorkerGuard<'a> = LockGuard<'a, Option<Worker>>;

impl Slot {
    const fn new() -> Slot {
        Slot {
            base: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            ram: AtomicUsize::new(0),
            holder: AtomicU64::new(ThreadKey::NONE.bits()),
            closed: AtomicBool::new(false),
            paged: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            moves_many: AtomicBool::new(false),
            rest_wanted: AtomicUsize::new(0),
            workers: [const { Lock::new(None) }; WORKERS],
            extents: Lock::new(Extents::new()),
            state: Lock::new(None),
        }
    }

    pub fn contains(&self, addr: usize) -> bool {
        let base = self.base.load(Ordering::Acquire);
        base != 0 && addr.wrapping_sub(base) < self.len.load(Ordering::Relaxed)
    }

    pub fn base(&self) -> usize {
        self.base.load(Ordering::Acquire)
    }

    pub fn arena_bytes(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub fn ram_pages(&self) -> usize {
        self.ram.load(Ordering::Relaxed) / PAGE_SIZE
    }

    pub fn ram_bytes(&self) -> usize {
        self.ram.load(Ordering::Relaxed)
    }

    pub fn set_ram(&self, bytes: usize) {
        self.ram.store(bytes, Ordering::Relaxed);
    }

    pub fn is_paged(&self) -> bool {
        self.paged.load(Ordering::Relaxed)
    }

    pub fn note_paged(&self) {
        self.paged.store(true, Ordering::Relaxed);
    }

    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    pub fn set_kept(&self, kept: bool) {
        self.kept.store(kept, Ordering::Relaxed);
    }

    /// Whether a pager is in the slot.
    pub fn is_used(&self) -> bool {
        self.base.load(Ordering::Acquire) != 0
    }

    fn overlaps(&self, addr: usize, len: usize) -> bool {
        let base = self.base.load(Ordering::Acquire);
        base != 0 && addr < base + self.len.load(Ordering::Relaxed) && addr.saturating_add(len) > base
    }

    /// The state, with signals blocked: a handler's fault on this thread must not meet the lock held. No page is in transit.
    pub fn lock(&self) -> Held<'_> {
        let blocked = Blocked::new();
        let guard = self.at_rest(|| self.enter());
        Held { guard, slot: self, _blocked: Some(blocked) }
    }

    /// As [`Slot::lock`], in a handler: other threads may have pages in transit.
    pub fn lock_in_handler(&self) -> Held<'_> {
        Held { guard: self.enter(), slot: self, _blocked: None }
    }

    /// Takes the lock again until no page is in transit. No new page sets out meanwhile.
    fn at_rest<'a>(&self, lock: impl Fn() -> LockGuard<'a, Option<State>>) -> LockGuard<'a, Option<State>> {
        let mut guard = lock();
        if guard.as_ref().is_none_or(|state| state.in_flight == 0) {
            return guard;
        }
        self.rest_wanted.fetch_add(1, Ordering::Relaxed);
        let mut turns = 0;
        while guard.as_ref().is_some_and(|state| state.in_flight > 0) {
            self.holder.store(ThreadKey::NONE.bits(), Ordering::Relaxed);
            drop(guard);
            give_way(turns);
            turns += 1;
            guard = lock();
        }
        self.rest_wanted.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// Does with the lock held what moves many pages. Other threads of the pager's wait for the lock asleep: the kernel then
    /// has no processor to interrupt, which costs twenty microseconds for each run of pages on a virtual machine.
    pub fn while_others_sleep(&self, state: &mut State, work: impl FnOnce(&mut State)) {
        self.moves_many.store(true, Ordering::Relaxed);
        // They come to their next fault soon, or not at all.
        let mut left = SLEEP_SPINS;
        while left > 0 && !self.state.has_sleeper() {
            std::hint::spin_loop();
            left -= 1;
        }
        work(state);
        self.moves_many.store(false, Ordering::Relaxed);
    }

    /// In a forked child: the parent's threads that waited are not here.
    pub fn forget_waiters(&self) {
        self.rest_wanted.store(0, Ordering::Relaxed);
    }

    /// Whether somebody waits for all pages to be at rest.
    pub fn rest_wanted(&self) -> bool {
        self.rest_wanted.load(Ordering::Relaxed) > 0
    }

    /// What a thread needs to work on a page without the lock; `None` when as many threads as can are at it. Taken and left
    /// under the lock, or while a page is in transit, so that a fork finds all of them free.
    pub fn worker(&self) -> Option<WorkerGuard<'_>> {
        self.workers.iter().find_map(|worker| worker.try_lock().filter(|w| w.is_some()))
    }

    fn enter(&self) -> LockGuard<'_, Option<State>> {
        let me = ThreadKey::current().bits();
        if self.holder.load(Ordering::Relaxed) == me {
            die("paged memory was touched while the pager's lock was held (law 17)");
        }
        let guard = self.state.lock_asleep_if(&self.moves_many);
        self.holder.store(me, Ordering::Relaxed);
        guard
    }

    /// Puts a new pager into an empty slot.
    pub fn fill(&self, state: State, workers: [Worker; WORKERS]) {
        let (base, len) = (state.frames.arena_addr(), state.frames.arena_pages() * PAGE_SIZE);
        self.ram.store(state.ram, Ordering::Relaxed);
        self.extents.lock().reset(state.frames.arena_pages());
        *self.lock() = Some(state);
        self.workers.iter().zip(workers).for_each(|(place, worker)| *place.lock() = Some(worker));
        self.closed.store(false, Ordering::Release);
        self.paged.store(false, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.base.store(base, Ordering::Release);
    }

    /// Takes the pager out; its memory goes with the value.
    pub fn empty(&self) {
        self.base.store(0, Ordering::Release);
        let state = self.lock().take();
        self.workers.iter().for_each(|place| *place.lock() = None);
        drop(state);
    }

    /// The state without the checks of [`Slot::lock`]: for the handler before a fork, which has blocked signals.
    pub fn lock_at_rest(&self) -> LockGuard<'_, Option<State>> {
        self.at_rest(|| self.state.lock())
    }

    /// The state that the handler before a fork left locked.
    pub fn reclaim(&self) -> LockGuard<'_, Option<State>> {
        self.state.reclaim()
    }
}

/// A pager's state, locked.
pub struct Held<'a> {
    guard: LockGuard<'a, Option<State>>,
    slot: &'a Slot,
    _blocked: Option<Blocked>,
}

impl std::ops::Deref for Held<'_> {
    type Target = Option<State>;
    fn deref(&self) -> &Option<State> {
        &self.guard
    }
}

impl std::ops::DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Option<State> {
        &mut self.guard
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.slot.holder.store(ThreadKey::NONE.bits(), Ordering::Relaxed);
    }
}

static SLOTS: [Slot; MAX_PAGERS] = [const { Slot::new() }; MAX_PAGERS];
static CLAIMED: [AtomicBool; MAX_PAGERS] = [const { AtomicBool::new(false) }; MAX_PAGERS];
/// Slots from the first on that were ever claimed: a fork need not touch the pages that the others are in.
static EVER: Lock<usize> = Lock::new(0);

pub fn slot(index: usize) -> &'static Slot {
    &SLOTS[index]
}

/// Every slot.
pub fn slots() -> impl DoubleEndedIterator<Item = &'static Slot> {
    SLOTS.iter()
}

/// The workers of a new pager.
///
/// # Errors
/// `ENOMEM`.
pub fn workers(state: &State) -> Result<[Worker; WORKERS], Errno> {
    let mut made = Vec::with_capacity(WORKERS);
    for _ in 0..WORKERS {
        made.push(Worker::new(state.secret.clone(), state.dictionaries.clone())?);
    }
    made.try_into().map_err(|_| Errno::ENOMEM)
}

/// An unused slot for a new pager.
pub fn claim() -> Option<usize> {
    let mut ever = EVER.lock();
    let index = (0..MAX_PAGERS).find(|&i| !CLAIMED[i].swap(true, Ordering::AcqRel))?;
    *ever = (*ever).max(index + 1);
    Some(index)
}

/// For the handler before a fork, which blocks signals: no slot is claimed from here on. The slots that have been, in the order
/// in which the handlers lock them.
pub fn hold_claims() -> &'static [Slot] {
    let ever = EVER.lock();
    let slots = &SLOTS[..*ever];
    ever.keep_across_fork();
    slots
}

/// After the fork, or instead of it.
pub fn let_claims() {
    drop(EVER.reclaim());
}

/// The slot is empty and may be claimed again.
pub fn release(index: usize) {
    CLAIMED[index].store(false, Ordering::Release);
}

/// The slot whose arena has the address.
pub fn find(addr: usize) -> Option<usize> {
    SLOTS.iter().position(|s| s.contains(addr))
}

/// Whether any byte of a range is in an arena: for the guard, on every system call.
pub fn owns(addr: usize, len: usize) -> bool {
    SLOTS.iter().any(|s| s.overlaps(addr, len))
}

/// Whether an address is in an arena.
pub fn owns_addr(addr: usize) -> bool {
    find(addr).is_some()
}

/// Where both entries arrive.
pub fn on_fault(addr: usize, who: ThreadKey) -> Served {
    let Some(index) = find(addr) else { return Served::NotOurs };
    serve(&SLOTS[index], addr, who)
}

/// The slot whose arena overlaps a range.
pub fn find_overlap(addr: usize, len: usize) -> Option<usize> {
    SLOTS.iter().position(|s| s.overlaps(addr, len))
}

/// Bytes that one system call may hold: an eighth of the smallest budget, at least 64 pages.
pub fn hold_limit() -> usize {
    let budgets = SLOTS.iter().filter(|s| s.is_used()).map(|s| s.ram.load(Ordering::Relaxed));
    (budgets.min().unwrap_or(usize::MAX) / 8).clamp(64 * PAGE_SIZE, 64 << 20)
}

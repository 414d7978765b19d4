// SPDX-License-Identifier: Apache-2.0
//! Owns: the passage from plain memory to paged memory, which the allocation that passes the budget makes.
//! Callers: `verbs::allocate`. Locks: its own (one arming at a time), then the pager's. Below the budget nothing of
//! this has happened and a page costs what plain memory costs.

use crate::background;
use crate::bulk::next_kept;
use crate::chance;
use crate::error::PagerError;
use crate::notices::Notice;
use crate::page::{Event, PageState};
use crate::registry;
use crate::state::State;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tmem_sys::caps::Caps;
use tmem_sys::entry::{self, Entry};
use tmem_sys::guard::{self, HoldResult, Hooks};
use tmem_sys::page::HUGE_SIZE;
use tmem_sys::uffd::Reach;
use tmem_sys::{Errno, Lock, LockGuard, PAGE_SIZE};

/// What the program asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Auto,
    Only(Entry),
}

/// How long other threads have to come under the guard.
const GUARD_TIMEOUT: Duration = Duration::from_secs(2);
/// The same once they did not: a program that goes on allocating is not to wait so long each time.
const GUARD_TIMEOUT_AGAIN: Duration = Duration::from_millis(100);

const HUGE_PAGES: usize = HUGE_SIZE / PAGE_SIZE;

static ARMING: Lock<()> = Lock::new(());

/// The entry that will be used, or why none can.
///
/// # Errors
/// `Unsupported`, with the remedy.
pub fn choose(choice: Choice) -> Result<Entry, PagerError> {
    let caps = Caps::probe();
    let usable = |e| caps.refusal(e).map_or(Ok(e), |why| Err(PagerError::Unsupported(why)));
    match choice {
        Choice::Only(entry) => usable(entry),
        // The signal entry is the fastest by far; the thread entry serves where it cannot be had.
        Choice::Auto => usable(Entry::Signal).or_else(|why| usable(Entry::Thread).map_err(|_| why)),
    }
}

/// Starts an entry and, where it needs one, the guard. Whether it is guarded.
fn start(entry: Entry) -> Result<bool, PagerError> {
    entry::set_hooks(registry::on_fault, registry::owns_addr);
    // What the probe found when the Memory was made may have been taken away since, by a seccomp filter for one.
    let refused = |e| {
        Caps::probe()
            .refusal(entry)
            .map_or(PagerError::Kernel("opening userfaultfd", e), PagerError::Unsupported)
    };
    let reach = entry::start(entry).map_err(refused)?;
    if reach == Reach::Kernel {
        return Ok(false);
    }
    entry::own_threads().for_each(guard::exempt);
    static UNCOVERED: AtomicBool = AtomicBool::new(false);
    let timeout = if UNCOVERED.load(Ordering::Relaxed) { GUARD_TIMEOUT_AGAIN } else { GUARD_TIMEOUT };
    let armed = guard::arm(&HOOKS, timeout);
    UNCOVERED.store(armed.is_err(), Ordering::Relaxed);
    armed.map_err(|u| PagerError::Unsupported(u.to_string()))?;
    Ok(true)
}

/// The right to begin paging, which one thread has at a time.
pub type Turn = LockGuard<'static, ()>;

/// The right to begin paging, once nobody else has it. Taken with the extents of a pager held, so that a fork can wait for it.
pub fn turn() -> Turn {
    ARMING.lock()
}

/// As [`turn`]; `None` while another thread has it.
pub fn try_turn() -> Option<Turn> {
    ARMING.try_lock()
}

/// Makes an entry ready; with `Auto`, the thread entry where threads cannot be guarded and the kernel allows it.
///
/// # Errors
/// `Unsupported`, with the thread or object that stands in the way and the remedy.
pub fn prepare(_turn: &Turn, choice: Choice, planned: Entry) -> Result<(Entry, bool), PagerError> {
    match (start(planned), choice) {
        (Ok(guarded), _) => Ok((planned, guarded)),
        (Err(why), Choice::Auto) if planned == Entry::Signal && Caps::probe().uffd_full.is_ok() => {
            start(Entry::Thread).map(|guarded| (Entry::Thread, guarded)).map_err(|_| why)
        }
        (Err(why), _) => Err(why),
    }
}

impl State {
    /// Registers the arena and learns which of its pages have frames.
    ///
    /// # Errors
    /// The kernel's; then everything is as before.
    pub fn arm(&mut self, entry: Entry, guarded: bool) -> Result<(), PagerError> {
        let State { frames, states, huge, .. } = self;
        let pages = frames.arena_pages();
        frames
            .register(entry.uffd(), &|from| next_kept(states, huge, from, pages))
            .map_err(|e| PagerError::Kernel("registering paged memory", e))?;
        self.drop_strays()?;
        self.find_frames(0..self.top).map_err(|e| PagerError::Kernel("reading /proc/self/pagemap", e))?;
        self.huge.mark_used(self.top);
        self.entry = Some(entry);
        self.ahead.enough = chance::enough(entry);
        self.guarded = guarded;
        self.frontswap.set_clock(background::clock());
        self.bring_kept();
        Ok(())
    }

    /// Notes which fresh pages have frames.
    ///
    /// # Errors
    /// The kernel's.
    pub fn find_frames(&mut self, pages: Range<usize>) -> Result<(), Errno> {
        let State { frames, states, huge, .. } = self;
        let mut from = pages.start;
        while let Some(run) = huge.used_run(from, pages.end) {
            from = run.end;
            frames.scan_present(run, |page| {
                if states.is(page, PageState::Fresh) {
                    states.change(page, Event::Touch);
                }
            })?;
        }
        Ok(())
    }

    /// A system call that waits since before the arming (`recv` above all) has its pages held but, where they were
    /// never written, not there: the kernel would find them missing (law 16).
    fn bring_kept(&mut self) {
        if self.held + self.pinned == 0 {
            return;
        }
        let mut next = 0;
        while let Some(page) = self.huge.next_used(next, self.top) {
            next = page + 1;
            if self.meta[page].holds != 0 || self.meta[page].pins != 0 {
                self.ensure(page, 1);
            }
        }
    }

    /// A huge page reaches past the array that was touched. Frames that belong to no extent would be in the way of
    /// the next one, and uncounted.
    fn drop_strays(&mut self) -> Result<(), PagerError> {
        if self.frames.is_guarded() {
            // No huge page reaches beyond what may be touched.
            return Ok(());
        }
        let end = self.reach.next_multiple_of(HUGE_PAGES).min(self.frames.arena_pages());
        let mut from = 0;
        while let Some(first) = self.states.find(PageState::Free, from, end) {
            let n = (first..end).take_while(|&p| self.states.is(p, PageState::Free)).count();
            self.frames.drop_pages(first, n).map_err(|e| PagerError::Kernel("giving memory back", e))?;
            from = first + n;
        }
        Ok(())
    }
}

static HOOKS: Hooks = Hooks { owns: registry::owns, hold, release, limit, notice };

/// Pages of one hold fit the count of a token.
const COUNT_BITS: u32 = 24;
const PAGE_BITS: u32 = 32;

fn hold(addr: usize, len: usize, _write: bool) -> HoldResult {
    let Some(index) = first_owner(addr, len) else { return HoldResult { held_len: len, token: 0 } };
    let mut held = registry::slot(index).lock();
    let Some(state) = held.as_mut() else { return HoldResult { held_len: len, token: 0 } };
    let base = state.frames.arena_addr();
    let end = (addr + len.max(1)).min(base + state.frames.arena_pages() * PAGE_SIZE);
    let first = addr.saturating_sub(base) / PAGE_SIZE;
    let last = (end - 1 - base) / PAGE_SIZE;
    let want = (last - first + 1).min((1 << COUNT_BITS) - 1);
    let got = state.hold(first, want);
    let held_len =
        if got == last - first + 1 { len } else { (base + (first + got) * PAGE_SIZE).saturating_sub(addr) };
    let token = if got == 0 {
        0
    } else {
        (index as u64 + 1) << (COUNT_BITS + PAGE_BITS) | (first as u64) << COUNT_BITS | got as u64
    };
    HoldResult { held_len: held_len.min(len), token }
}

fn first_owner(addr: usize, len: usize) -> Option<usize> {
    registry::find(addr).or_else(|| {
        // A range that begins before an arena: rare, but the arena's part must be held too.
        (registry::owns(addr, len)).then(|| registry::find_overlap(addr, len)).flatten()
    })
}

fn release(token: u64) {
    let Some(index) = (token >> (COUNT_BITS + PAGE_BITS)).checked_sub(1) else { return };
    let first = (token >> COUNT_BITS) as u32 as usize;
    let count = (token & ((1 << COUNT_BITS) - 1)) as usize;
    if let Some(state) = registry::slot(index as usize).lock().as_mut() {
        state.release_hold(first, count);
    }
}

/// The smallest budget's share of every pager that has one: a call does not say beforehand whose memory it uses.
fn limit() -> usize {
    registry::hold_limit()
}

fn notice(text: &'static str) {
    for slot in registry::slots().filter(|s| s.is_used()) {
        if let Some(state) = slot.lock().as_mut() {
            state.notices.tell_more(Notice::Refused, text);
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: what happens around `fork` (law 15). Called by: the C library, in the forking thread.
//! Locks: the right to begin paging for a moment, then the claim of slots, every claimed slot's extents, every claimed slot's
//! state, in slot order, held across the fork so that the child finds them quiet. The child opens its own descriptor over the same ranges and pages for itself from then on.

use crate::arm;
use crate::bulk::next_kept;
use crate::error::PagerError;
use crate::registry::{self, Slot};
use crate::state::{COPY, State};
use crate::stats::Stat;
use std::os::fd::{IntoRawFd, OwnedFd};
use tmem_store::PageStore;
use tmem_sys::syscall::die;
use tmem_sys::{Errno, Lock, LockGuard, entry, fork, guard, signals};

/// What `prepare` leaves for the other two.
struct Across {
    mask: u64,
    slots: &'static [Slot],
    pipe: Option<(OwnedFd, OwnedFd)>,
    /// By which the child tells that it has copied leased memory.
    copied: Option<(OwnedFd, OwnedFd)>,
    generations: [Option<u32>; registry::MAX_PAGERS],
}

static ACROSS: Lock<Across> = Lock::new(Across {
    mask: 0,
    slots: &[],
    pipe: None,
    copied: None,
    generations: [None; registry::MAX_PAGERS],
});

/// Registers the handlers, once a process.
///
/// # Errors
/// `ENOMEM`.
pub fn register() -> Result<(), PagerError> {
    // Before ours, so that theirs come later before a fork: who holds a pager's lock may wait for a host's.
    tmem_store::host::register_fork().map_err(|e| PagerError::Kernel("registering fork handlers", e))?;
    fork::register(prepare, parent, child).map_err(|e| PagerError::Kernel("registering fork handlers", e))
}

/// Blocks signals and takes every slot's extents, while no thread begins paging; the mask, and the slots. Who begins takes the
/// right to with extents held, and may let go of those meanwhile.
fn hold_extents() -> (u64, &'static [Slot]) {
    loop {
        drop(arm::turn());
        let mask = signals::block_all();
        let slots = registry::hold_claims();
        slots.iter().for_each(|slot| slot.extents.lock().keep_across_fork());
        if arm::try_turn().is_some() {
            return (mask, slots);
        }
        slots.iter().for_each(|slot| drop(slot.extents.reclaim()));
        registry::let_claims();
        signals::restore_mask(mask);
    }
}

extern "C" fn prepare() {
    let (mask, slots) = hold_extents();
    let mut across = ACROSS.lock();
    (across.mask, across.slots) = (mask, slots);
    let (mut swaps, mut leases) = (false, false);
    for (i, slot) in slots.iter().enumerate() {
        let mut state = slot.lock_at_rest();
        across.generations[i] = state.as_mut().and_then(State::before_fork);
        swaps |= across.generations[i].is_some();
        leases |= state.as_mut().is_some_and(State::leases_before_fork);
        state.keep_across_fork();
    }
    // Without a pipe the parent takes the child to live for ever: slots stay occupied, nothing is lost.
    across.pipe = if swaps { fork::life_pipe().ok() } else { None };
    // Without this one the child does not inherit leased memory, and stops by name.
    across.copied = if leases { fork::done_pipe().ok() } else { None };
    if across.copied.is_some() {
        each_leasing(slots, |store| store.set_leases_inherited(true));
    }
    across.keep_across_fork();
}

/// Does something with each leasing store, whose pagers' locks are held across the fork.
fn each_leasing(slots: &[Slot], act: impl Fn(&mut PageStore) -> Result<(), Errno>) {
    for slot in slots {
        let mut state = slot.reclaim();
        if let Some(store) = state.as_mut().and_then(|state| state.frontswap.leasing())
            && act(store).is_err()
        {
            die("a forked child cannot have the stored pages that lie in leased memory (law 15)");
        }
        state.keep_across_fork();
    }
}

extern "C" fn parent() {
    let mut across = ACROSS.reclaim();
    if let Some((read, write)) = across.copied.take() {
        // Nothing in leased memory changes until the child has its copy, or is gone.
        drop(write);
        fork::wait_done(&read);
        each_leasing(across.slots, |store| store.set_leases_inherited(false));
    }
    let alive = across.pipe.take().map(|(read, _write)| read);
    for (i, slot) in across.slots.iter().enumerate() {
        if let Some(state) = slot.reclaim().as_mut() {
            state.after_fork_in_parent(across.generations[i].take(), alive.as_ref());
        }
    }
    finish(across);
}

extern "C" fn child() {
    own_leased_memory();
    if entry::restart_after_fork().is_err() {
        die(
            "a forked child cannot open its own userfaultfd, so its paged memory could not be served (law 15)",
        );
    }
    let mut across = ACROSS.reclaim();
    if let Some((_read, write)) = across.pipe.take() {
        // Held until this process ends: its end tells the parent that nobody reads the shared slots any more.
        tmem_sys::kept::own(write.into_raw_fd());
    }
    for slot in across.slots {
        slot.forget_waiters();
        if let Some(state) = slot.reclaim().as_mut() {
            if state.after_fork_in_child().is_err() {
                die("a forked child cannot register its paged memory, so it could not be served (law 15)");
            }
            // It is no host's guest: its budget is its own.
            slot.set_ram(state.set_balloon(None));
            state.is_heir = state.frontswap.leasing().is_some_and(|store| store.has_own_windows());
        }
    }
    if guard::arm_after_fork().is_err() {
        die("a forked child cannot guard its system calls (law 16)");
    }
    entry::own_threads().for_each(guard::exempt);
    finish(across);
}

/// Before anything else in the child: the parent waits for it.
fn own_leased_memory() {
    let mut across = ACROSS.reclaim();
    each_leasing(across.slots, PageStore::own_leased_memory);
    if let Some((_read, write)) = across.copied.take() {
        fork::tell_done(&write);
    }
    across.keep_across_fork();
}

fn finish(across: LockGuard<'_, Across>) {
    across.slots.iter().for_each(|slot| drop(slot.extents.reclaim()));
    registry::let_claims();
    let mask = across.mask;
    drop(across);
    signals::restore_mask(mask);
}

impl State {
    /// Everything that lies outside the arena goes back in: a child inherits the arena and not the staging area.
    fn before_fork(&mut self) -> Option<u32> {
        // What finds no place there goes back to the arena as well.
        let _ = self.settle_refused();
        while let Some(slot) = self.slots.pop_oldest() {
            if let Some(page) = self.slots.owner(slot) {
                self.put_back(page, crate::slots::GROUP);
            }
        }
        if self.set_inherited(true).is_err() {
            die("the kernel refuses to let a fork inherit paged memory (law 15)");
        }
        self.stats.add(Stat::Forks, 1);
        self.swap.fork_prepare()
    }

    /// Whether the child has to copy leased memory.
    fn leases_before_fork(&mut self) -> bool {
        self.frontswap.leasing().is_some_and(PageStore::before_fork)
    }

    fn set_inherited(&self, yes: bool) -> Result<(), Errno> {
        let pages = self.frames.arena_pages();
        self.frames.set_inherited(yes, &|from| next_kept(&self.states, &self.huge, from, pages))
    }

    fn after_fork_in_parent(&mut self, generation: Option<u32>, alive: Option<&OwnedFd>) {
        if self.set_inherited(false).is_err() {
            die("the kernel refuses to end the inheritance of paged memory (law 15)");
        }
        if let Some(store) = self.frontswap.leasing() {
            store.after_fork_in_parent();
        }
        if let Some(generation) = generation {
            self.swap.fork_parent(generation, alive.and_then(|fd| fd.try_clone().ok()));
        }
    }

    fn after_fork_in_child(&mut self) -> Result<(), PagerError> {
        let renew = |e| PagerError::Kernel("renewing paged memory after a fork", e);
        self.stats.0.renew_after_fork().map_err(renew)?;
        let State { frames, states, huge, .. } = self;
        let pages = frames.arena_pages();
        frames.renew_after_fork(&|from| next_kept(states, huge, from, pages)).map_err(renew)?;
        self.slots.reset();
        self.swap.fork_child();
        self.frontswap.after_fork_in_child();
        if self.frontswap.is_cut_off() {
            self.forget_copies_out_of_reach();
        }
        self.drop_foreign_holds();
        self.unlock_all();
        Ok(())
    }

    /// A page that is here and whose copy only the parent can reach must not leave as unchanged: it would never come back.
    fn forget_copies_out_of_reach(&mut self) {
        let mut next = 0;
        while let Some(page) = self.huge.next_used(next, self.top) {
            next = page + 1;
            if self.meta[page].flags & COPY != 0 && self.frontswap.is_out_of_reach(page) {
                self.forget_copies(page);
            }
        }
    }

    /// System calls of the parent's other threads are not under way here.
    fn drop_foreign_holds(&mut self) {
        if self.held > 0 {
            let mut from = 0;
            while let Some(pages) = self.huge.next_marked(from) {
                from = pages.end;
                self.meta[pages].iter_mut().for_each(|meta| meta.holds = 0);
            }
            self.held = 0;
        }
    }
}

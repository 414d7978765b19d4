// SPDX-License-Identifier: Apache-2.0
//! Owns: what whoever holds leased memory does with it in a page store: takes it in, says what there is, empties extents to give
//! them back, and becomes a store without leases in a forked child. Callers: the pager's `tenancy` and `fork`, owners of stores
//! of their own. Locks: the store's, for one bounded step each. Law 5: no page is lost to a host that wants its memory back.

use crate::class::CHUNK;
use crate::guests::GuestId;
use crate::lease::{Extent, Mailbox};
use crate::leased::Draining;
use crate::pool::{PageStore, PoolId};
use crate::slab::Slab;
use std::sync::Arc;
use tmem_sys::Errno;

/// An extent that is being emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vacating(Draining, usize);

/// What a step came to.
#[derive(Debug)]
pub enum Vacated {
    /// There is more to move.
    More,
    /// The rest has no other place. What leaves the store makes one.
    Stuck,
    /// It is empty and unmapped.
    Done(Extent),
    /// The kernel does not unmap it, or it went otherwise.
    Kept,
}

impl PageStore {
    /// Has the store take extents from this mailbox, and ask there for more. False for a store that was made without
    /// `lease_reserve`.
    pub fn set_mailbox(&mut self, mailbox: Option<Arc<Mailbox>>) -> bool {
        self.slab.set_mailbox(mailbox)
    }

    pub fn mailbox(&self) -> Option<&Arc<Mailbox>> {
        self.slab.mailbox()
    }

    /// Whether extents wait to be taken.
    #[inline]
    pub fn has_leases_waiting(&self) -> bool {
        self.slab.mailbox().is_some_and(|mailbox| mailbox.waiting() > 0)
    }

    /// From now on a pool keeps pages that do not shrink in leased memory, and only there: that is beyond the budget of whoever
    /// has the store, so they cost it nothing.
    pub fn keep_raw_on_lease(&mut self, pool: PoolId) {
        if let Ok(slot) = self.live_slot(pool) {
            self.pools[slot].raw_on_lease = true;
        }
    }

    /// Whether leased memory has room for a page in any form; where it has none, some is asked for.
    pub fn has_lease_room(&mut self) -> bool {
        self.may_lease() && self.slab.has_lease_room()
    }

    /// How long a page may wait for an extent that is under way: longer where it has no other place to go.
    pub fn set_patience(&mut self, has_other_place: bool) {
        self.slab.set_patience(has_other_place);
    }

    /// Whether the store may ask for leased memory.
    pub fn may_lease(&self) -> bool {
        self.slab.windows.is_some()
    }

    /// Whether there is memory that was the parent's on lease, and is this forked process's own.
    pub fn has_own_windows(&self) -> bool {
        self.slab.has_own_windows()
    }

    /// Bytes of leased memory that is mapped.
    pub fn leased_bytes(&self) -> usize {
        self.slab.leased_bytes()
    }

    /// Bytes of an extent, as far as is known.
    pub fn extent_bytes(&self) -> usize {
        self.slab.extent_bytes()
    }

    /// Maps an extent; it comes back where the store has no place for it.
    ///
    /// # Errors
    /// The extent.
    pub fn add_extent(&mut self, extent: Extent) -> Result<(), Extent> {
        self.slab.add_extent(extent)
    }

    /// Every extent that is mapped and the host's: id and descriptor, after the first `skipped` of them.
    pub fn extents_from(&self, skipped: usize) -> impl Iterator<Item = (u64, i32)> {
        self.slab.held_extents().skip(skipped).map(|extent| (extent.id, extent.fd.raw()))
    }

    /// An extent has another id now. Whether it is here.
    pub fn renumber_extent(&mut self, old: u64, new: u64) -> bool {
        self.slab.renumber(old, new)
    }

    /// Bytes of extents that could be given back with every page kept in the others.
    pub fn surplus_bytes(&self) -> usize {
        let largest = self.slab.extents().map(|extent| extent.bytes).max();
        let extent = largest.unwrap_or(1);
        (self.slab.chunks.leased.idle * CHUNK / extent * extent).min(self.slab.leased_bytes())
    }

    /// Begins to empty the emptiest extent.
    pub fn begin_vacating(&mut self) -> Option<Vacating> {
        self.slab.begin_giving().map(|Draining(first)| Vacating(Draining(first), first))
    }

    /// Begins to empty an extent that the host does not know any more; it is not filled again.
    pub fn begin_losing(&mut self, id: u64) -> Option<Vacating> {
        self.slab.begin_losing(id).map(|Draining(first)| Vacating(Draining(first), first))
    }

    /// Goes on with an extent that was lost and had no other place for all its pages.
    pub fn go_on_losing(&self) -> Option<Vacating> {
        self.slab.lost().map(|Draining(first)| Vacating(Draining(first), first))
    }

    /// Moves up to so many pages out of an extent, and unmaps it when it is empty.
    pub fn vacate(&mut self, vacating: &mut Vacating, pages: usize) -> Vacated {
        let Vacating(window, from) = vacating;
        // Pages that do not shrink have no place but in leased memory, unless a pool keeps them anywhere.
        let raw = self.pools.iter().any(|pool| pool.live && pool.config.raw);
        for _ in 0..pages {
            let Some(loc) = self.slab.next_draining(*window, *from) else {
                return self.slab.close_window(*window).map_or(Vacated::Kept, Vacated::Done);
            };
            *from = loc.chunk();
            if !self.move_slot_by(loc, |slab, loc, len| slab.leave_window(loc, len, raw)) {
                return Vacated::Stuck;
            }
            self.moved += 1;
        }
        Vacated::More
    }

    /// The extent stays, and is filled again.
    pub fn end_vacating(&mut self, Vacating(window, _): Vacating) {
        self.slab.end_giving(window);
    }

    /// The host has cut an extent off. It goes where it is empty; a page in it is lost, and whoever asks for it is told.
    pub fn cut_off(&mut self, id: u64) {
        self.slab.cut_off(id);
    }

    /// Where the private part of the store is larger than it may be: moves up to so many pages to leased memory that is idle.
    /// How many.
    pub fn relieve(&mut self, pages: usize) -> usize {
        let mut moved = 0;
        while moved < pages
            && let Some(chunk) = self.slab.choose_relieved(self.relieved)
        {
            self.relieved = chunk + 1;
            let all = self.empty_chunk_by(chunk, Slab::leave_for_lease);
            moved += all.unwrap_or(0);
            if all.is_none() {
                break;
            }
        }
        self.slab.set_capacity(self.slab.capacity_bytes());
        self.moved += moved as u64;
        moved
    }

    /// Freezes or thaws all pools, and packs pages or does not. A pool that may not pack keeps pages as they are.
    pub fn set_manner(&mut self, frozen: bool, compress: bool) {
        self.set_guest_frozen(GuestId::FIRST, frozen);
        for pool in self.pools.iter_mut().filter(|pool| pool.live) {
            pool.config.pack = compress;
            pool.config.raw = pool.keeps_raw || !compress;
        }
    }

    /// Whether pages of a pool are packed.
    pub(crate) fn packs(&self, pool: PoolId) -> bool {
        self.live_slot(pool).is_ok_and(|slot| self.pools[slot].config.pack)
    }

    /// Of `most` stored pages that were picked at random, how many there were, and how many of these were stored at or after the
    /// tick `since`.
    pub fn sample_active(&self, most: usize, since: u32, random: &mut dyn FnMut() -> u64) -> (usize, usize) {
        self.order
            .sample_dates(most, random)
            .fold((0, 0), |(all, active), date| (all + 1, active + usize::from(date >= since)))
    }

    /// Before a fork, in the forking thread: whether the child has to copy leased memory.
    pub fn before_fork(&mut self) -> bool {
        self.slab.before_fork()
    }

    /// Before a fork: has the child inherit leased memory, to copy it. After it, in the parent: no other child does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_leases_inherited(&mut self, yes: bool) -> Result<(), Errno> {
        self.slab.set_inherited(yes)
    }

    pub fn after_fork_in_parent(&mut self) {
        self.slab.after_fork_in_parent();
    }

    /// In a forked child: leased memory becomes its own, and it has no leases.
    ///
    /// # Errors
    /// `ENOMEM`; `EFAULT` where leased memory was not inherited.
    pub fn own_leased_memory(&mut self) -> Result<(), Errno> {
        self.slab.after_fork_in_child()
    }
}

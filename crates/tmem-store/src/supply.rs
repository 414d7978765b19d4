// SPDX-License-Identifier: Apache-2.0
//! Owns: what goes on between the shards of a host when one of them has no room: the steps of a put, and limits and
//! caps that change. Callers: `host`, `batch`. Locks: one shard's at a time: whoever needs another's lets its own go first.
//! Nobody waits for all of a compaction: each step of it is a hold of its own.
//! Law 13: the limit holds over all shards, by grants from the board. Law 11: who gives is decided over all shards.

use crate::board::MOST_SHARDS;
use crate::codec::Coded;
use crate::guests::{GuestError, GuestId, GuestLimits};
use crate::host::Host;
use crate::ops::Outcome;
use crate::place::Step;
use crate::pool::StoreError;
use crate::room::{Effort, Need};
use crate::shard::{Guard, Handle};
use tmem_sys::Page;

/// Pages that another shard gives up at once. Its memory comes free by whole chunks only.
const GIVEN_UP_AT_ONCE: u64 = 32;

impl Host {
    /// Puts a page into its shard, whose lock is held, as it is again afterwards.
    pub(crate) fn put_in<'a>(
        &'a self,
        mut store: Guard<'a>,
        handle: Handle,
        page: &Page,
        coded: &Coded<'_>,
        effort: &mut Effort,
    ) -> Result<(Guard<'a>, Outcome), StoreError> {
        let at = self.at(handle);
        loop {
            match store.put_step(handle, page, coded, effort)? {
                Step::Done(outcome) => {
                    self.facts.set_seeks(handle.pool, at, store.seeks(handle.pool.slot()));
                    return Ok((store, outcome));
                }
                Step::Shortly => {
                    drop(store);
                    self.shards.give_way(at);
                }
                Step::Elsewhere(need) => {
                    drop(store);
                    effort.last = !self.supply(at, need, effort);
                }
            }
            store = self.shards.lock(at);
        }
    }

    /// Has the other shards give something to one; false when they have nothing.
    #[cold]
    fn supply(&self, to: usize, need: Need, effort: &mut Effort) -> bool {
        let guest = match need {
            Need::BelowCap(guest) => return self.evict_oldest_of(guest),
            Need::Memory(guest) => guest,
        };
        if !std::mem::replace(&mut effort.asked, true) {
            let others = (0..self.shards.count()).filter(|at| *at != to);
            let given: usize = others.map(|at| self.shards.lock(at).surrender()).sum();
            if given > 0 {
                return true;
            }
        }
        let Some(guest) = guest else { return false };
        let Some((_, at)) = self.board.oldest(guest) else { return false };
        self.shards.lock(at).give_up(guest, GIVEN_UP_AT_ONCE, effort)
    }

    /// Frees what left all shards, in steps.
    pub(crate) fn empty(&self) {
        for at in 0..self.shards.count() {
            while self.shards.lock(at).empty_some() {
                self.shards.give_way(at);
            }
        }
    }

    /// All shards, none of which has anything left that is no handle's: places of pools and guests that are gone can be
    /// given to others.
    pub(crate) fn lock_all_empty(&self) -> [Option<Guard<'_>>; MOST_SHARDS] {
        loop {
            let shards = self.shards.lock_all();
            if !shards.iter().flatten().any(|store| store.has_leaving()) {
                return shards;
            }
            drop(shards);
            self.empty();
        }
    }

    /// Forgets the oldest ephemeral page of a guest, whichever shard has it.
    fn evict_oldest_of(&self, guest: GuestId) -> bool {
        // Whoever takes the page first has made room, too: then the next oldest is looked for.
        while let Some((_, at)) = self.board.oldest(guest) {
            if self.shards.lock(at).evict_oldest(guest) {
                return true;
            }
        }
        false
    }

    /// As [`Host::set_limit`], and gives back what tables took for pages that are gone; bytes that are taken still.
    pub fn shrink_to(&self, bytes: usize) -> usize {
        self.set_limit(bytes);
        let mut taken = self.coders.footprint();
        self.in_all(|store| {
            store.surrender();
            taken += store.footprint();
        });
        taken
    }

    /// Sets how many bytes may be taken for everything, within the reserve: chunks, index, order of age, tables, codecs.
    /// Ephemeral pages go until it fits; persistent ones stay, and puts are refused until flushes have made up for it.
    pub fn set_limit(&self, bytes: usize) {
        self.empty();
        self.board.set_limit(bytes.min(self.reserve_bytes));
        let over = || self.board.is_overdrawn();
        (0..self.shards.count()).take_while(|_| over()).for_each(|at| {
            self.shards.lock(at).surrender();
        });
        let mut effort = Effort::default();
        while over() {
            let guest = self.shards.lock(0).guests.who_gives();
            let Some((guest, (_, at))) = guest.and_then(|g| Some((g, self.board.oldest(g)?))) else { break };
            self.shards.lock(at).give_up(guest, 1, &mut effort);
        }
        (0..self.shards.count()).take_while(|_| over()).for_each(|at| self.gather(at));
    }

    /// Moves a shard's pages together, and takes what that frees.
    fn gather(&self, at: usize) {
        loop {
            let mut store = self.shards.lock(at);
            store.gather_some();
            if !store.gathering {
                store.surrender();
                return;
            }
        }
    }

    /// Sets what `change` makes of a guest's limits; the guest is made where there is none. Under a lower cap its oldest
    /// ephemeral pages go at once; persistent ones stay.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn set_guest(
        &self,
        guest: &str,
        change: impl FnOnce(GuestLimits) -> GuestLimits,
    ) -> Result<(), GuestError> {
        let (id, limits) = {
            let mut shards = self.lock_all_empty();
            let mut id = GuestId::FIRST;
            for store in shards.iter_mut().flatten() {
                id = store.guests.find_or_make(guest)?;
            }
            let charge = shards.iter().flatten().map(|store| store.guests.get(id).held.charge).sum();
            let first = shards[0].as_ref().map(|store| store.guests.get(id).limits);
            let limits = change(first.unwrap_or_default());
            self.board.set_capped(id, charge);
            shards.iter_mut().flatten().for_each(|store| store.guests.set(id, limits));
            (id, limits)
        };
        let cap = limits.cap.unwrap_or(u64::MAX);
        while limits.cap.is_some() && self.board.capped(id) > cap && self.evict_oldest_of(id) {}
        Ok(())
    }
}

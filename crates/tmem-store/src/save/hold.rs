// SPDX-License-Identifier: Apache-2.0
//! Owns: freezing of pools, and the hold of a save on one: while it lasts the pool takes nothing, and what leaves it is
//! noted. Callers: `pool` notes, `host` freezes, `saver` holds. Locks: the store's.
//! Law: what is held can only shrink, so what a saver copied and nobody noted since is what the pool has.
//!
//! The notes are the saver's memory, with room for as many pages as the pool has: more cannot leave it.

use crate::guests::GuestId;
use crate::host::Host;
use crate::object::{MAX_POOLS, ObjectId};
use crate::pool::{PageStore, Pool};
use crate::{PoolId, StoreError};
use tmem_sys::Table;

tmem_sys::pod! {
    /// What left a pool while it was saved: a page, or with 1 in `whole` an object.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Gone {
        pub object: [u64; 3],
        pub index: u64,
        pub whole: u64,
    }
}

/// The notes of one save, in the order in which things left.
pub(crate) struct Notes {
    table: Table<Gone>,
    len: usize,
}

impl Notes {
    pub fn new(table: Table<Gone>) -> Notes {
        Notes { table, len: 0 }
    }

    pub fn all(&self) -> &[Gone] {
        &self.table[..self.len]
    }
}

struct Hold {
    /// Tells the saves of a pool apart, also those of processes that forked.
    number: u64,
    /// From the time on when the saver has begun to copy.
    notes: Option<Notes>,
}

/// The pools that are being saved.
pub(crate) struct Saves {
    holds: [Option<Hold>; MAX_POOLS],
    begun: u64,
}

impl Default for Saves {
    fn default() -> Saves {
        Saves { holds: [const { None }; MAX_POOLS], begun: 0 }
    }
}

impl Saves {
    #[inline]
    pub fn note_page(&mut self, slot: usize, object: ObjectId, index: u64) {
        if self.is_held(slot) {
            self.note(slot, Gone { object: object.0, index, whole: 0 });
        }
    }

    /// To be told only of objects that had pages: so many notes there is room for.
    #[inline]
    pub fn note_object(&mut self, slot: usize, object: ObjectId) {
        if self.is_held(slot) {
            self.note(slot, Gone { object: object.0, index: 0, whole: 1 });
        }
    }

    /// Ends the hold on a pool, if there is one.
    pub fn end(&mut self, slot: usize) {
        self.holds[slot] = None;
    }

    #[cold]
    fn note(&mut self, slot: usize, gone: Gone) {
        if let Some(Hold { notes: Some(notes), .. }) = &mut self.holds[slot] {
            // Always there: each note is of pages that the pool had when the table was made.
            if let Some(place) = notes.table.get_mut(notes.len) {
                *place = gone;
                notes.len += 1;
            }
        }
    }

    pub fn is_held(&self, slot: usize) -> bool {
        self.holds[slot].is_some()
    }

    fn holds(&self, slot: usize, number: u64) -> bool {
        self.holds[slot].as_ref().is_some_and(|hold| hold.number == number)
    }
}

/// What a saver is told of a shard when it begins to hold a pool.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub number: u64,
    pub pages: u64,
    pub pack: bool,
    pub raw: bool,
}

impl Host {
    /// Begins to hold a pool in all shards, each of which has the same holds; `None` where it is held already.
    pub(crate) fn hold_pool(&self, pool: PoolId) -> Result<Option<Vec<Held>>, StoreError> {
        let mut held = Vec::with_capacity(self.shards.count());
        let mut hold = |store: &mut PageStore| {
            let begun = store.hold(pool)?;
            self.show_frozen(store);
            held.extend(begun);
            Ok(())
        };
        let mut done = Ok(());
        self.in_all(|store| done = done.and_then(|()| hold(store)));
        done?;
        Ok((held.len() == self.shards.count()).then_some(held))
    }

    /// From now on notes what leaves a held pool, in each shard for itself. `None` where the hold is over.
    pub(crate) fn set_notes(&self, pool: PoolId, number: u64, notes: Vec<Notes>) -> Option<()> {
        let mut notes = notes.into_iter();
        let mut all = Some(());
        self.in_all(|store| all = all.and_then(|()| store.set_notes(pool, number, notes.next()).map(drop)));
        all
    }

    /// Ends a hold, if it still is one.
    pub(crate) fn end_hold(&self, pool: PoolId, number: u64) {
        self.in_all(|store| {
            store.end_hold(pool, number);
            self.show_frozen(store);
        });
    }
}

impl PageStore {
    /// Refuses puts from now on; gets and flushes go on. A put still forgets what its handle held.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn freeze(&mut self, pool: PoolId) -> Result<(), StoreError> {
        self.set_frozen(pool, true)
    }

    /// Accepts puts again, unless the pool is being saved: then from the end of that on.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn thaw(&mut self, pool: PoolId) -> Result<(), StoreError> {
        self.set_frozen(pool, false)
    }

    fn set_frozen(&mut self, pool: PoolId, frozen: bool) -> Result<(), StoreError> {
        let slot = self.live_slot(pool)?;
        self.pools[slot].frozen = frozen;
        self.settle_frozen(slot);
        Ok(())
    }

    /// Freezes or thaws all pools of a guest; how many.
    pub(crate) fn set_guest_frozen(&mut self, guest: GuestId, frozen: bool) -> usize {
        let mut pools = 0;
        for slot in 0..MAX_POOLS {
            if self.pools[slot].live && self.pools[slot].guest == guest {
                self.pools[slot].frozen = frozen;
                self.settle_frozen(slot);
                pools += 1;
            }
        }
        pools
    }

    fn settle_frozen(&mut self, slot: usize) {
        self.pools[slot].stats.frozen = self.pools[slot].frozen || self.saves.is_held(slot);
    }

    /// Begins to hold a pool; `None` where it is held already.
    pub(crate) fn hold(&mut self, pool: PoolId) -> Result<Option<Held>, StoreError> {
        let slot = self.live_slot(pool)?;
        if self.saves.is_held(slot) {
            return Ok(None);
        }
        self.saves.begun += 1;
        let number = self.saves.begun;
        self.saves.holds[slot] = Some(Hold { number, notes: None });
        self.settle_frozen(slot);
        let Pool { config, stats, .. } = self.pools[slot];
        Ok(Some(Held { number, pages: stats.pages, pack: config.pack, raw: config.raw }))
    }

    /// From now on notes what leaves a held pool; hands back what was there for that before. `None` where the hold is over.
    pub(crate) fn set_notes(
        &mut self,
        pool: PoolId,
        number: u64,
        notes: Option<Notes>,
    ) -> Option<Option<Notes>> {
        let slot = self.held_slot(pool, number)?;
        let hold = self.saves.holds[slot].as_mut()?;
        Some(std::mem::replace(&mut hold.notes, notes))
    }

    /// Ends a hold, if it still is one.
    pub(crate) fn end_hold(&mut self, pool: PoolId, number: u64) {
        if let Some(slot) = self.held_slot(pool, number) {
            self.saves.end(slot);
            self.settle_frozen(slot);
        }
    }

    /// The pool's place, while the hold on it lasts.
    pub(crate) fn held_slot(&self, pool: PoolId, number: u64) -> Option<usize> {
        self.live_slot(pool).ok().filter(|slot| self.saves.holds(*slot, number))
    }

    /// In a forked child, where no saver goes on.
    pub(crate) fn forget_saves(&mut self) {
        for slot in 0..MAX_POOLS {
            if self.saves.is_held(slot) {
                self.saves.end(slot);
                self.settle_frozen(slot);
            }
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: what happens to objects and pools as a whole: flushes, and pools whose objects are one thing each, so that the
//! oldest page takes its object with it. Callers: `host`, `cache`; `room` on eviction. Locks: the store's.
//! Law 6: what is left of an object that lost a page is of no use, so nothing is left.

use crate::guests::GuestId;
use crate::held::release;
use crate::object::ObjectId;
use crate::ops::Loaded;
use crate::pool::{PageStore, PoolId, StoreError};
use tmem_sys::Page;

impl PageStore {
    /// Forgets every page of an object; how many there were.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn flush_object(&mut self, pool: PoolId, object: ObjectId) -> Result<u64, StoreError> {
        let slot = self.live_slot(pool)?;
        let flushed = self.remove_object(slot, object);
        self.count_flushed(slot, flushed);
        if flushed > 0 {
            self.saves.note_object(slot, object);
        }
        Ok(flushed)
    }

    /// Forgets every page of a pool, which goes on; how many there were.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn flush_pool(&mut self, pool: PoolId) -> Result<u64, StoreError> {
        let slot = self.live_slot(pool)?;
        Ok(self.flush_slot(slot))
    }

    pub(crate) fn flush_slot(&mut self, slot: usize) -> u64 {
        let flushed = self.pools[slot].stats.pages;
        let PageStore { objects, slab, held, ages, order, guests, pools, dedup, .. } = self;
        let shares = &mut dedup.shares;
        objects.remove_pool(slot as u32, &mut |e| {
            release(slab, held, ages, order, guests, shares, &mut pools[slot], e)
        });
        self.settle_all();
        self.count_flushed(slot, flushed);
        flushed
    }

    /// Takes an object out of a pool; how many pages it had.
    fn remove_object(&mut self, slot: usize, object: ObjectId) -> u64 {
        let before = self.pools[slot].stats.pages;
        let PageStore { objects, slab, held, ages, order, guests, pools, dedup, .. } = self;
        let shares = &mut dedup.shares;
        objects.remove_object(slot as u32, object, &mut |e| {
            release(slab, held, ages, order, guests, shares, &mut pools[slot], e)
        });
        self.settle_all();
        before - self.pools[slot].stats.pages
    }

    /// From now on an eviction that takes a page of this pool takes the page's object.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn keep_whole(&mut self, pool: PoolId) -> Result<(), StoreError> {
        let slot = self.live_slot(pool)?;
        self.pools[slot].whole = true;
        Ok(())
    }

    /// Copies a page out as if nobody had: it gets no younger, stays, and is not counted.
    ///
    /// # Errors
    /// As [`PageStore::get`].
    pub fn peek(
        &mut self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        into: &mut Page,
    ) -> Result<Loaded, StoreError> {
        let slot = self.live_slot(pool)?;
        self.read(self.objects.get(slot as u32, object, index), into).map_err(StoreError::Corrupt)
    }

    /// Makes an ephemeral page young; nothing happens where there is none.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn touch(&mut self, pool: PoolId, object: ObjectId, index: u64) -> Result<(), StoreError> {
        let slot = self.live_slot(pool)?;
        let record = self.objects.get(slot as u32, object, index).record();
        if self.ages.is_live(record) {
            self.ages.touch(record);
        }
        Ok(())
    }

    /// The object of the oldest page of a pool's guest, where it is one of that pool's.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn oldest_object(&self, pool: PoolId) -> Result<Option<ObjectId>, StoreError> {
        let guest: GuestId = self.pools[self.live_slot(pool)?].guest;
        Ok(self.ages.oldest_of(guest).and_then(|(_, record)| self.objects.id_of(record.object)))
    }

    /// The first object of a pool with a number above `after`, and its number. 0 is before all.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn next_object(&self, pool: PoolId, after: u32) -> Result<Option<(u32, ObjectId)>, StoreError> {
        let slot = self.live_slot(pool)? as u32;
        let next = self.objects.next_of(slot, after);
        Ok(next.and_then(|number| Some((number, self.objects.id_of(number)?))))
    }

    /// Objects that a pool lost to make room.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn evicted_objects(&self, pool: PoolId) -> Result<u64, StoreError> {
        Ok(self.pools[self.live_slot(pool)?].evicted_objects)
    }

    /// After a page of an object was evicted: the others go, too.
    pub(crate) fn evict_rest(&mut self, pool: u32, object: Option<ObjectId>) {
        let (slot, Some(object)) = (pool as usize, object) else { return };
        if !self.pools[slot].whole {
            return;
        }
        let guest = self.pools[slot].guest;
        let gone = self.remove_object(slot, object);
        self.pools[slot].evicted_objects += 1;
        self.pools[slot].stats.traffic.evicted += gone;
        self.traffic.evicted += gone;
        self.guests.get_mut(guest).evicted += gone;
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the page store: pools of pages by handle (pool, object, index); put, get, flush, freeze.
//! Callers: `backend` for the pager, `host` for users' pools. Locks: the caller's, one around the whole store.
//! Laws 1 to 7 and 11 (exact accounting). Law 3 is kept here, outermost: a put first forgets what the handle held,
//! then asks anything that may refuse.

use crate::age::Ages;
use crate::board::Seat;
use crate::codec::{self, Codec, Coded};
pub use crate::config::{Dedup, PoolConfig, PoolId, PoolKind, StoreConfig, StoreError};
use crate::dedup::{Duplicates, Sampler};
use crate::entry::{Entry, Form};
use crate::guests::{GuestId, Guests};
use crate::object::{MAX_POOLS, ObjectId, Objects};
use crate::ops::{Corrupt, Loaded, Outcome, Reason};
use crate::order::Order;
use crate::room::UNLIMITED;
use crate::save::Saves;
use crate::slab::Slab;
use crate::stats::{Holdings, PoolStats, StoreStats, Traffic};
use tmem_sys::page::fetch;
use tmem_sys::{Errno, PAGE_SIZE, Page};

#[derive(Clone, Copy)]
pub(crate) struct Pool {
    pub live: bool,
    /// How many pools had this slot before; part of the id.
    generation: u32,
    pub config: PoolConfig,
    /// It was made to keep pages that do not shrink.
    pub keeps_raw: bool,
    /// It keeps them in leased memory, where there is such.
    pub raw_on_lease: bool,
    pub kind: PoolKind,
    pub guest: GuestId,
    /// An object loses all its pages or none to eviction; `whole`.
    pub whole: bool,
    /// Objects that it lost so.
    pub evicted_objects: u64,
    /// Frozen by whoever asked for it; it is also frozen while it is saved, and `stats` has both.
    pub frozen: bool,
    pub stats: PoolStats,
    pub sampler: Sampler,
}

const NO_POOL: Pool = Pool {
    live: false,
    generation: 0,
    config: PoolConfig { pack: true, raw: false, dedup: Dedup::Off },
    keeps_raw: false,
    raw_on_lease: false,
    kind: PoolKind::Persistent,
    guest: GuestId::FIRST,
    whole: false,
    evicted_objects: 0,
    frozen: false,
    stats: PoolStats::NONE,
    sampler: Sampler::NEW,
};

pub struct PageStore {
    pub(crate) pools: [Pool; MAX_POOLS],
    pub(crate) objects: Objects,
    pub(crate) codec: Codec,
    /// Whoever takes packed pages out has this store's dictionaries too.
    pub(crate) shares: bool,
    pub(crate) slab: Slab,
    pub(crate) ages: Ages,
    pub(crate) order: Order,
    pub(crate) guests: Guests,
    pub(crate) dedup: Duplicates,
    /// Bytes that may be taken for everything, of a shard its grant; `room` keeps it.
    pub(crate) limit: usize,
    /// Bytes of the codec; only what decodes where its host packs outside.
    pub(crate) codec_bytes: usize,
    pub(crate) held: Holdings,
    pub(crate) traffic: Traffic,
    pub(crate) moved: u64,
    pub(crate) compact_from: u32,
    /// Where the search for a private chunk to be emptied into leased memory goes on.
    pub(crate) relieved: usize,
    /// Sparse chunks are being emptied, in steps.
    pub(crate) gathering: bool,
    pub(crate) saves: Saves,
}

impl PageStore {
    /// A store of persistent pools.
    ///
    /// # Errors
    /// `ENOMEM` when the address space cannot hold the reserves.
    pub fn new(config: StoreConfig) -> Result<PageStore, Errno> {
        PageStore::with_ephemeral(config, 0)
    }

    /// A store that also keeps up to `max_ephemeral` pages in order of age.
    ///
    /// # Errors
    /// As [`PageStore::new`].
    pub fn with_ephemeral(config: StoreConfig, max_ephemeral: usize) -> Result<PageStore, Errno> {
        PageStore::at_board(config, max_ephemeral, Seat::alone())
    }

    /// As `with_ephemeral`, a shard of a host.
    pub(crate) fn at_board(
        config: StoreConfig,
        max_ephemeral: usize,
        seat: Seat,
    ) -> Result<PageStore, Errno> {
        // Eight times the leaves of a dense index: room for objects that are small or have holes.
        let leaves = (config.max_pages as usize).div_ceil(8).saturating_add(64);
        Ok(PageStore {
            pools: [NO_POOL; MAX_POOLS],
            objects: Objects::new(config.max_objects, leaves)?,
            codec: Codec::new()?,
            shares: false,
            slab: Slab::with_leases(config.capacity_bytes, config.reserve_bytes, config.lease_reserve)?,
            ages: Ages::new(max_ephemeral, seat.clone())?,
            order: Order::new(if config.ordered { config.max_pages as usize } else { 0 })?,
            guests: Guests::new(seat),
            dedup: Duplicates::new(config.max_pages as usize)?,
            limit: UNLIMITED,
            codec_bytes: Codec::FOOTPRINT,
            held: Holdings::default(),
            traffic: Traffic::default(),
            moved: 0,
            compact_from: 0,
            relieved: 0,
            gathering: false,
            saves: Saves::default(),
        })
    }

    /// Makes a persistent pool of the first guest.
    ///
    /// # Errors
    /// [`StoreError::TooManyPools`].
    pub fn new_pool(&mut self, config: PoolConfig) -> Result<PoolId, StoreError> {
        self.new_pool_of(GuestId::FIRST, PoolKind::Persistent, config)
    }

    /// Makes a pool of a guest.
    ///
    /// # Errors
    /// [`StoreError::TooManyPools`]; [`StoreError::NoEphemeralPools`] where the store was not made for them.
    pub fn new_pool_of(
        &mut self,
        guest: GuestId,
        kind: PoolKind,
        config: PoolConfig,
    ) -> Result<PoolId, StoreError> {
        if kind.is_ephemeral() && !self.ages.in_use() {
            return Err(StoreError::NoEphemeralPools);
        }
        let slot = self.pools.iter().position(|p| !p.live).ok_or(StoreError::TooManyPools)?;
        let generation = self.pools[slot].generation;
        self.pools[slot] =
            Pool { live: true, generation, config, keeps_raw: config.raw, kind, guest, ..NO_POOL };
        self.guests.get_mut(guest).pools += 1;
        self.dedup.count_pool(&self.pools[slot], u64::wrapping_add);
        Ok(PoolId(generation * MAX_POOLS as u32 + slot as u32))
    }

    /// Offers a page. Whatever the answer, what the handle held before is gone.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    #[inline]
    pub fn put(
        &mut self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        page: &Page,
    ) -> Result<Outcome, StoreError> {
        // On its way while the index is asked.
        fetch(page);
        let slot = self.live_slot(pool)?;
        self.forget_old(slot, object, index);
        let placed = self.place(slot, object, index, page);
        Ok(self.count_put(slot, placed))
    }

    /// As [`PageStore::put`], with the form that a codec made of the page elsewhere.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn put_coded(
        &mut self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        page: &Page,
        coded: &Coded<'_>,
    ) -> Result<Outcome, StoreError> {
        let slot = self.live_slot(pool)?;
        self.forget_old(slot, object, index);
        let placed = self.place_coded(slot, object, index, page, coded);
        Ok(self.count_put(slot, placed))
    }

    /// Law 3, outermost: what the handle held goes first.
    #[inline]
    pub(crate) fn forget_old(&mut self, slot: usize, object: ObjectId, index: u64) {
        let old = self.objects.remove(slot as u32, object, index);
        if !old.is_empty() {
            self.pools[slot].stats.traffic.duplicates += 1;
            self.traffic.duplicates += 1;
            self.release(slot, old);
            self.saves.note_page(slot, object, index);
        }
    }

    #[inline]
    pub(crate) fn count_put(&mut self, slot: usize, placed: Result<(), Reason>) -> Outcome {
        let outcome = placed.map_or_else(Outcome::Refused, |()| Outcome::Stored);
        self.pools[slot].stats.traffic.count_put(outcome);
        self.traffic.count_put(outcome);
        outcome
    }

    /// Copies a page out. A persistent one stays as it is, an exclusive one is gone, any other is young again (law 6).
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`]; [`StoreError::Corrupt`] when a stored page is lost, and `into` is garbage.
    #[inline]
    pub fn get(
        &mut self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        into: &mut Page,
    ) -> Result<Loaded, StoreError> {
        let slot = self.live_slot(pool)?;
        let entry = self.objects.get(slot as u32, object, index);
        let loaded = self.read(entry, into).map_err(StoreError::Corrupt)?;
        if !entry.is_empty() && self.pools[slot].kind.is_ephemeral() {
            self.age(slot, object, index, entry)?;
        }
        self.count_get(slot, loaded == Loaded::Loaded);
        Ok(loaded)
    }

    #[inline]
    pub(crate) fn count_get(&mut self, slot: usize, hit: bool) {
        for traffic in [&mut self.traffic, &mut self.pools[slot].stats.traffic] {
            traffic.gets += 1;
            traffic.hits += u64::from(hit);
        }
    }

    /// Whether a page is stored, without reading it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn contains(&self, pool: PoolId, object: ObjectId, index: u64) -> Result<bool, StoreError> {
        let slot = self.live_slot(pool)?;
        Ok(!self.objects.get(slot as u32, object, index).is_empty())
    }

    /// Forgets a page; true if there was one. Flushing what is not there succeeds.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn flush_page(&mut self, pool: PoolId, object: ObjectId, index: u64) -> Result<bool, StoreError> {
        let slot = self.live_slot(pool)?;
        let entry = self.objects.remove(slot as u32, object, index);
        let was_there = !entry.is_empty();
        if was_there {
            self.release(slot, entry);
            self.count_flushed(slot, 1);
            self.saves.note_page(slot, object, index);
        }
        Ok(was_there)
    }

    /// Forgets a pool and every page in it; how many there were.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn destroy(&mut self, pool: PoolId) -> Result<u64, StoreError> {
        let slot = self.live_slot(pool)?;
        let before = self.pools[slot].stats.pages;
        self.end_pool(slot);
        self.flush_slot(slot);
        Ok(before)
    }

    pub(crate) fn end_pool(&mut self, slot: usize) {
        self.dedup.count_pool(&self.pools[slot], u64::wrapping_sub);
        self.pools[slot].live = false;
        self.saves.end(slot);
        self.guests.get_mut(self.pools[slot].guest).pools -= 1;
        self.pools[slot].generation = (self.pools[slot].generation + 1) % (u32::MAX / MAX_POOLS as u32);
    }

    /// Changes how many bytes of chunks may be mapped. Below what is mapped, puts that need data are refused until
    /// flushes have made room; no page is dropped.
    pub fn set_capacity(&mut self, bytes: usize) {
        self.slab.set_capacity(bytes);
    }

    /// Bytes of chunks that are mapped now.
    #[inline]
    pub fn mapped_bytes(&self) -> usize {
        self.slab.mapped_bytes()
    }

    /// Bytes of chunks that may be mapped.
    pub fn capacity_bytes(&self) -> usize {
        self.slab.capacity_bytes()
    }

    /// Gives back all memory that holds no page.
    pub fn trim(&mut self) {
        self.slab.trim();
    }

    /// Bytes of memory taken for everything.
    #[inline]
    pub fn footprint(&self) -> usize {
        let codec = self.codec_bytes + self.codec.dictionaries().footprint();
        self.slab.footprint() + self.index_bytes() + self.dedup.touched_bytes() + codec
    }

    /// Bytes of objects, trees and the order of age.
    #[inline]
    fn index_bytes(&self) -> usize {
        self.objects.touched_bytes() + self.ages.touched_bytes() + self.order.touched_bytes()
    }

    pub fn stats(&self) -> StoreStats {
        StoreStats {
            held: self.held,
            traffic: self.traffic,
            slot_bytes: self.slab.slot_bytes() as u64,
            mapped_bytes: self.slab.mapped_bytes() as u64,
            leased_bytes: self.slab.leased_bytes() as u64,
            leased_used: self.slab.leased_slot_bytes() as u64,
            index_bytes: self.index_bytes() as u64,
            footprint_bytes: self.footprint() as u64,
            capacity_bytes: self.slab.capacity_bytes() as u64,
            objects: self.objects.live() as u64,
            moved: self.moved,
            dedup: self.dedup.stats(),
        }
    }

    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn pool_stats(&self, pool: PoolId) -> Result<PoolStats, StoreError> {
        let pool = &self.pools[self.live_slot(pool)?];
        Ok(PoolStats { dedup_all: pool.sampler.is_all(pool.config.dedup), ..pool.stats })
    }

    #[inline]
    pub(crate) fn live_slot(&self, pool: PoolId) -> Result<usize, StoreError> {
        let slot = pool.slot();
        let known = &self.pools[slot];
        let same = known.live && known.generation == pool.0 / MAX_POOLS as u32;
        if same { Ok(slot) } else { Err(StoreError::NoSuchPool) }
    }

    /// What a get does to an ephemeral page that it has copied out: first the copy, then the end.
    pub(crate) fn age(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        entry: Entry,
    ) -> Result<(), StoreError> {
        if !self.ages.is_live(entry.record()) {
            return Err(StoreError::Corrupt(Corrupt::Misplaced));
        }
        match self.pools[slot].kind {
            PoolKind::NonExclusive => self.ages.touch(entry.record()),
            PoolKind::Exclusive => {
                let gone = self.objects.remove(slot as u32, object, index);
                self.release(slot, gone);
            }
            PoolKind::Persistent => return Err(StoreError::Corrupt(Corrupt::Misplaced)),
        }
        Ok(())
    }

    pub(crate) fn read(&mut self, entry: Entry, into: &mut Page) -> Result<Loaded, Corrupt> {
        match self.dedup.shares.plain(entry).form() {
            Form::Empty => return Ok(Loaded::Absent),
            Form::Same(word) => codec::fill(word, into),
            Form::Packed(loc, len) => {
                let packed = self.slab.read(loc, len).ok_or(Corrupt::Misplaced)?;
                if !self.codec.decode(packed, into) {
                    return Err(Corrupt::Undecodable);
                }
            }
            Form::Raw(loc) => {
                into.copy_from_slice(self.slab.read(loc, PAGE_SIZE).ok_or(Corrupt::Misplaced)?);
            }
            Form::Shared(_) | Form::Broken(_) => return Err(Corrupt::Misplaced),
        }
        Ok(Loaded::Loaded)
    }

    pub(crate) fn count_flushed(&mut self, slot: usize, pages: u64) {
        self.traffic.flushed += pages;
        self.pools[slot].stats.traffic.flushed += pages;
    }
}

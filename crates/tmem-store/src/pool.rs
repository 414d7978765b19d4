// SPDX-License-Identifier: Apache-2.0
//! Owns: the page store: persistent pools of pages by handle (pool, object, index); put, get, flush, freeze.
//! Callers: `backend` for the pager, `shared` for users' pools. Locks: the caller's, one around the whole store.
//! Laws 1 to 5, 7 and 11 (exact accounting). Law 3 is kept here, outermost: a put first forgets what the handle held,
//! then asks anything that may refuse.

use crate::class::{CHUNK, LARGEST_PACKED};
use crate::codec::{self, Codec, Coded};
use crate::entry::{Entry, Form};
use crate::object::{MAX_POOLS, ObjectId, Objects};
use crate::ops::{Corrupt, Loaded, Outcome, Reason};
use crate::slab::Slab;
use crate::stats::{Holdings, PoolStats, StoreStats, Traffic};
use std::fmt;
use tmem_sys::{Errno, PAGE_SIZE, Page};

/// How large a store may become. Reserves cost address space, not memory.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Bytes of slab chunks that may be mapped now.
    pub capacity_bytes: usize,
    /// The most that `set_capacity` can ever allow, in bytes.
    pub reserve_bytes: usize,
    /// Pages that the index must hold when they lie densely in their objects.
    pub max_pages: u64,
    pub max_objects: usize,
}

impl StoreConfig {
    /// A store for one paged memory: few objects, dense pages.
    pub fn for_pages(max_pages: u64, capacity_bytes: usize) -> StoreConfig {
        let whole = (max_pages as usize).saturating_mul(PAGE_SIZE).saturating_add(CHUNK * 64);
        StoreConfig {
            capacity_bytes,
            reserve_bytes: whole.max(capacity_bytes),
            max_pages,
            max_objects: 1 << 16,
        }
    }
}

/// What a pool does with pages.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Pack pages that shrink to 7/8 or less.
    pub pack: bool,
    /// Keep pages that do not shrink as they are, instead of refusing them.
    pub raw: bool,
}

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig { pack: true, raw: false }
    }
}

/// A live pool. The id of a destroyed pool is never valid again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(u32);

impl PoolId {
    fn slot(self) -> usize {
        self.0 as usize % MAX_POOLS
    }
}

/// A wrong call, or a lost page. Refusals are not errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    NoSuchPool,
    TooManyPools,
    Corrupt(Corrupt),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::NoSuchPool => f.write_str("no such pool: it was destroyed"),
            StoreError::TooManyPools => write!(f, "{MAX_POOLS} pools exist; destroy one first"),
            StoreError::Corrupt(c) => c.fmt(f),
        }
    }
}

impl std::error::Error for StoreError {}

#[derive(Clone, Copy, Default)]
pub(crate) struct Pool {
    pub live: bool,
    /// How many pools had this slot before; part of the id.
    generation: u32,
    config: PoolConfig,
    pub stats: PoolStats,
}

pub struct PageStore {
    pub(crate) pools: [Pool; MAX_POOLS],
    pub(crate) objects: Objects,
    codec: Codec,
    pub(crate) slab: Slab,
    pub(crate) held: Holdings,
    traffic: Traffic,
    pub(crate) moved: u64,
    pub(crate) compact_from: u32,
}

impl PageStore {
    /// # Errors
    /// `ENOMEM` when the address space cannot hold the reserves.
    pub fn new(config: StoreConfig) -> Result<PageStore, Errno> {
        // Eight times the leaves of a dense index: room for objects that are small or have holes.
        let leaves = (config.max_pages as usize).div_ceil(8).saturating_add(64);
        Ok(PageStore {
            pools: [Pool::default(); MAX_POOLS],
            objects: Objects::new(config.max_objects, leaves)?,
            codec: Codec::new()?,
            slab: Slab::new(config.capacity_bytes, config.reserve_bytes)?,
            held: Holdings::default(),
            traffic: Traffic::default(),
            moved: 0,
            compact_from: 0,
        })
    }

    /// Makes a persistent pool.
    ///
    /// # Errors
    /// [`StoreError::TooManyPools`].
    pub fn new_pool(&mut self, config: PoolConfig) -> Result<PoolId, StoreError> {
        let slot = self.pools.iter().position(|p| !p.live).ok_or(StoreError::TooManyPools)?;
        let generation = self.pools[slot].generation;
        self.pools[slot] = Pool { live: true, generation, config, stats: PoolStats::default() };
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
        let slot = self.live_slot(pool)?;
        let old = self.objects.remove(slot as u32, object, index);
        if !old.is_empty() {
            self.pools[slot].stats.traffic.duplicates += 1;
            self.traffic.duplicates += 1;
            self.release(slot, old);
        }
        let outcome = match self.place(slot, object, index, page) {
            Ok(()) => Outcome::Stored,
            Err(reason) => Outcome::Refused(reason),
        };
        self.pools[slot].stats.traffic.count_put(outcome);
        self.traffic.count_put(outcome);
        Ok(outcome)
    }

    /// Copies a page out; it stays stored.
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
        let hit = u64::from(loaded == Loaded::Loaded);
        for traffic in [&mut self.traffic, &mut self.pools[slot].stats.traffic] {
            traffic.gets += 1;
            traffic.hits += hit;
        }
        Ok(loaded)
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
        }
        Ok(was_there)
    }

    /// Forgets every page of an object; how many there were.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn flush_object(&mut self, pool: PoolId, object: ObjectId) -> Result<u64, StoreError> {
        let slot = self.live_slot(pool)?;
        let before = self.pools[slot].stats.pages;
        let PageStore { objects, slab, held, pools, .. } = self;
        objects.remove_object(slot as u32, object, &mut |e| release(slab, held, &mut pools[slot], e));
        let flushed = before - self.pools[slot].stats.pages;
        self.count_flushed(slot, flushed);
        Ok(flushed)
    }

    /// Forgets a pool and every page in it; how many there were.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn destroy(&mut self, pool: PoolId) -> Result<u64, StoreError> {
        let slot = self.live_slot(pool)?;
        let before = self.pools[slot].stats.pages;
        let PageStore { objects, slab, held, pools, .. } = self;
        objects.remove_pool(slot as u32, &mut |e| release(slab, held, &mut pools[slot], e));
        self.count_flushed(slot, before);
        self.pools[slot].live = false;
        self.pools[slot].generation = (self.pools[slot].generation + 1) % (u32::MAX / MAX_POOLS as u32);
        Ok(before)
    }

    /// Refuses puts from now on; gets and flushes go on. A put still forgets what its handle held.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn freeze(&mut self, pool: PoolId) -> Result<(), StoreError> {
        let slot = self.live_slot(pool)?;
        self.pools[slot].stats.frozen = true;
        Ok(())
    }

    /// Accepts puts again.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn thaw(&mut self, pool: PoolId) -> Result<(), StoreError> {
        let slot = self.live_slot(pool)?;
        self.pools[slot].stats.frozen = false;
        Ok(())
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
        self.slab.footprint() + self.objects.touched_bytes() + Codec::FOOTPRINT
    }

    pub fn stats(&self) -> StoreStats {
        StoreStats {
            held: self.held,
            traffic: self.traffic,
            slot_bytes: self.slab.slot_bytes() as u64,
            mapped_bytes: self.slab.mapped_bytes() as u64,
            index_bytes: self.objects.touched_bytes() as u64,
            footprint_bytes: self.footprint() as u64,
            capacity_bytes: self.slab.capacity_bytes() as u64,
            objects: self.objects.live() as u64,
            moved: self.moved,
        }
    }

    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn pool_stats(&self, pool: PoolId) -> Result<PoolStats, StoreError> {
        Ok(self.pools[self.live_slot(pool)?].stats)
    }

    #[inline]
    fn live_slot(&self, pool: PoolId) -> Result<usize, StoreError> {
        let slot = pool.slot();
        let known = &self.pools[slot];
        let same = known.live && known.generation == pool.0 / MAX_POOLS as u32;
        if same { Ok(slot) } else { Err(StoreError::NoSuchPool) }
    }

    /// Stores a page under a handle that holds none.
    fn place(&mut self, slot: usize, object: ObjectId, index: u64, page: &Page) -> Result<(), Reason> {
        let pool = &mut self.pools[slot];
        if pool.stats.frozen {
            return Err(Reason::Frozen);
        }
        let entry = match self.codec.encode(page, pool.config.pack) {
            Coded::Same(word) => Entry::same(word),
            Coded::Packed(bytes) => {
                Entry::packed(self.slab.store(bytes).ok_or(Reason::StoreFull)?, bytes.len())
            }
            Coded::Incompressible if pool.config.raw => {
                Entry::raw(self.slab.store(page).ok_or(Reason::StoreFull)?)
            }
            Coded::Incompressible => return Err(Reason::Incompressible),
        };
        pool.stats.pages += 1;
        count(&mut self.held, entry, u64::wrapping_add);
        let placed = self.objects.insert(slot as u32, object, index, entry);
        if placed.is_err() {
            self.release(slot, entry);
        }
        placed
    }

    fn read(&self, entry: Entry, into: &mut Page) -> Result<Loaded, Corrupt> {
        match entry.form() {
            Form::Empty => return Ok(Loaded::Absent),
            Form::Same(word) => codec::fill(word, into),
            Form::Packed(loc, len) => {
                let packed = self.slab.read(loc, len).ok_or(Corrupt::Misplaced)?;
                if !codec::decode(packed, into) {
                    return Err(Corrupt::Undecodable);
                }
            }
            Form::Raw(loc) => {
                into.copy_from_slice(self.slab.read(loc, PAGE_SIZE).ok_or(Corrupt::Misplaced)?);
            }
            Form::Broken(_) => return Err(Corrupt::Misplaced),
        }
        Ok(Loaded::Loaded)
    }

    fn release(&mut self, slot: usize, entry: Entry) {
        release(&mut self.slab, &mut self.held, &mut self.pools[slot], entry);
    }

    fn count_flushed(&mut self, slot: usize, pages: u64) {
        self.traffic.flushed += pages;
        self.pools[slot].stats.traffic.flushed += pages;
    }
}

/// Frees what an entry held and takes it off the counts. The entry is out of the index already.
fn release(slab: &mut Slab, held: &mut Holdings, pool: &mut Pool, entry: Entry) {
    pool.stats.pages -= 1;
    count(held, entry, u64::wrapping_sub);
    match entry.form() {
        Form::Packed(loc, _) | Form::Raw(loc) => slab.free(loc),
        Form::Empty | Form::Same(_) | Form::Broken(_) => {}
    }
}

/// Adds an entry to the counts of what is held, or takes it off.
pub(crate) fn count(held: &mut Holdings, entry: Entry, op: fn(u64, u64) -> u64) {
    let (kind, bytes) = match entry.form() {
        Form::Same(_) => (&mut held.same_pages, 0),
        Form::Packed(_, len) => (&mut held.packed_pages, len.min(LARGEST_PACKED)),
        Form::Raw(_) => (&mut held.raw_pages, PAGE_SIZE),
        Form::Empty | Form::Broken(_) => return,
    };
    *kind = op(*kind, 1);
    held.data_bytes = op(held.data_bytes, bytes as u64);
}

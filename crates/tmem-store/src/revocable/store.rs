// SPDX-License-Identifier: Apache-2.0
//! Owns: pools of ephemeral pages in revocable extents: what becomes of a page that is put, got, flushed, or cut off with its
//! extent. Callers: `owner`, which packs and unpacks outside. Locks: the owner's, one around the whole. Laws 1 to 4, 6, 7 and 11.
//! Law 3 is kept here: a put first forgets what the handle held.

use super::log::{Home, Log, MOST_EXTENTS};
use super::pages::{Known, Pages};
use crate::codec::Coded;
use crate::lease::{Extent, Mailbox};
use crate::object::{MAX_POOLS, ObjectId};
use crate::ops::{Outcome, Reason};
use crate::outside::Taken;
use crate::pool::{PoolId, StoreError};
use crate::stats::{PoolStats, Traffic};
use std::sync::Arc;
use tmem_sys::hash::PageHash;
use tmem_sys::{Errno, PAGE_SIZE, Page, time};

/// How large a store may become.
#[derive(Clone, Copy, Debug)]
pub struct RevocableConfig {
    /// Pages that its index can hold; costs address space, not memory.
    pub max_pages: usize,
    /// Bytes of extents that it asks for at most.
    pub max_bytes: usize,
}

/// What a store holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RevocableStats {
    pub traffic: Traffic,
    pub pages: u64,
    /// Of these, pages that take no data.
    pub same_pages: u64,
    /// Bytes of what was made of the others.
    pub data_bytes: u64,
    pub extents: u64,
    /// Bytes of extents.
    pub leased_bytes: u64,
    /// Private memory: index, extents' records, codecs.
    pub footprint_bytes: u64,
    /// Extents that were cut off while they held pages, or were being written.
    pub revoked: u64,
    /// Pages that went with them.
    pub revoked_pages: u64,
    /// Pages whose bytes were not those that were stored: misses.
    pub damaged: u64,
}

#[derive(Clone, Copy)]
pub(super) struct Pool {
    live: bool,
    generation: u32,
    exclusive: bool,
    pack: bool,
    raw: bool,
    frozen: bool,
    pub(super) stats: PoolStats,
}

const NO_POOL: Pool = Pool {
    live: false,
    generation: 0,
    exclusive: true,
    pack: true,
    raw: true,
    frozen: false,
    stats: PoolStats::NONE,
};

/// A page written since then is active.
const ACTIVE_MS: u64 = 30_000;
const SAMPLE: u64 = 100;

/// How a put went.
pub(super) enum Put {
    Done(Outcome),
    /// An extent may come soon: worth a wait, outside the lock.
    Wait,
}

pub(super) struct Store {
    pub(super) pools: [Pool; MAX_POOLS],
    pub(super) pages: Pages,
    pub(super) log: Log,
    pub(super) mailbox: Arc<Mailbox>,
    hash: PageHash,
    pub(super) max_extents: usize,
    pub(super) max_bytes: usize,
    /// The host's switches, over those of each pool.
    frozen: bool,
    compress: bool,
    pub(super) stats: RevocableStats,
}

impl Store {
    /// # Errors
    /// `ENOMEM` when the address space cannot hold the reserves.
    pub fn new(config: RevocableConfig, mailbox: Arc<Mailbox>) -> Result<Store, Errno> {
        Ok(Store {
            pools: [NO_POOL; MAX_POOLS],
            pages: Pages::new(config.max_pages)?,
            log: Log::new(),
            mailbox,
            hash: PageHash::new()?,
            max_extents: MOST_EXTENTS,
            max_bytes: config.max_bytes,
            frozen: false,
            compress: true,
            stats: RevocableStats::default(),
        })
    }

    pub fn new_pool(&mut self, exclusive: bool, pack: bool, raw: bool) -> Result<PoolId, StoreError> {
        let slot = self.pools.iter().position(|p| !p.live).ok_or(StoreError::TooManyPools)?;
        let generation = self.pools[slot].generation;
        self.pools[slot] = Pool { live: true, generation, exclusive, pack, raw, ..NO_POOL };
        if self.log.held() == 0 {
            // So that the first put need not wait, nor be refused.
            self.mailbox.want(1);
        }
        Ok(PoolId(generation * MAX_POOLS as u32 + slot as u32))
    }

    fn slot(&self, pool: PoolId) -> Result<usize, StoreError> {
        let slot = pool.slot();
        let known = &self.pools[slot];
        let same = known.live && known.generation == pool.0 / MAX_POOLS as u32;
        if same { Ok(slot) } else { Err(StoreError::NoSuchPool) }
    }

    /// Whether the pool's pages are to be packed.
    pub fn packs(&self, pool: PoolId) -> Result<bool, StoreError> {
        Ok(self.pools[self.slot(pool)?].pack && self.compress)
    }

    /// Offers a page, with what a codec made of it. With `wait` the answer may be that a wait is worth it; the handle holds
    /// nothing then, and the same is to be asked again.
    pub fn put(
        &mut self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        page: &Page,
        coded: &Coded<'_>,
        wait: bool,
    ) -> Result<Put, StoreError> {
        let slot = self.slot(pool)?;
        if let Some(old) = self.pages.remove(slot as u32, object, index) {
            self.count_off(slot, old);
            self.pools[slot].stats.traffic.duplicates += 1;
            self.stats.traffic.duplicates += 1;
        }
        let placed = match self.place(slot, page, coded, wait) {
            Ok(Some(known)) => self.note(slot, object, index, known),
            Ok(None) => return Ok(Put::Wait),
            Err(reason) => Err(reason),
        };
        let outcome = placed.map_or_else(Outcome::Refused, |()| Outcome::Stored);
        self.pools[slot].stats.traffic.count_put(outcome);
        self.stats.traffic.count_put(outcome);
        Ok(Put::Done(outcome))
    }

    fn place(
        &mut self,
        slot: usize,
        page: &Page,
        coded: &Coded<'_>,
        wait: bool,
    ) -> Result<Option<Known>, Reason> {
        if self.pools[slot].frozen || self.frozen {
            return Err(Reason::Frozen);
        }
        let bytes: &[u8] = match coded {
            Coded::Same(word) => return Ok(Some(Known::Same(*word))),
            Coded::Packed(bytes) => bytes,
            Coded::Incompressible if self.pools[slot].raw => page,
            Coded::Incompressible => return Err(Reason::Incompressible),
        };
        let spot = self.append(bytes, wait)?;
        Ok(spot.map(|spot| Known::At { spot, len: bytes.len(), sum: self.hash.hash_bytes(bytes) }))
    }

    pub(super) fn count_on(&mut self, slot: usize, known: Known) {
        self.pools[slot].stats.pages += 1;
        if let Some((home, len)) = known.place() {
            self.log.count(home, len);
        }
    }

    pub(super) fn count_off(&mut self, slot: usize, known: Known) {
        self.pools[slot].stats.pages -= 1;
        if let Some((home, len)) = known.place() {
            self.log.discount(home, len);
        }
    }

    /// An extent is gone: its pages are forgotten, and it is let go of.
    pub(super) fn cut_off(&mut self, home: Home) {
        self.forget_all_in(home, false);
        self.stats.revoked += u64::from(self.log.remove(home).is_some());
    }

    /// Copies a page out as it is stored. `into` has room for a page.
    pub fn take(
        &mut self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        into: &mut [u8],
    ) -> Result<Taken, StoreError> {
        let slot = self.slot(pool)?;
        let taken = match self.pages.find(slot as u32, object, index) {
            None => Taken::Absent,
            Some((number, known)) => {
                let taken = self.read(known, into);
                if taken == Taken::Absent || self.pools[slot].exclusive {
                    self.drop_page(slot, object, index);
                } else {
                    self.renew(slot, number, known, into);
                }
                taken
            }
        };
        for traffic in [&mut self.stats.traffic, &mut self.pools[slot].stats.traffic] {
            traffic.gets += 1;
            traffic.hits += u64::from(taken != Taken::Absent);
        }
        Ok(taken)
    }

    /// Reads what is stored, and compares it with what was written.
    fn read(&mut self, known: Known, into: &mut [u8]) -> Taken {
        let (spot, len, sum) = match known {
            Known::Same(word) => return Taken::Same(word),
            Known::At { spot, len, sum } => (spot, len, sum),
        };
        let Some(into) = into.get_mut(..len) else { return Taken::Absent };
        if !self.log.read(spot, into) {
            self.cut_off(spot.home);
            return Taken::Absent;
        }
        if self.hash.hash_bytes(into) != sum {
            self.stats.damaged += 1;
            return Taken::Absent;
        }
        if len == PAGE_SIZE { Taken::Raw } else { Taken::Packed(len) }
    }

    /// A page that was got from one of the older extents is written anew, so that it outlives them.
    fn renew(&mut self, slot: usize, number: u32, known: Known, stored: &[u8]) {
        let Known::At { spot, len, sum } = known else { return };
        if !self.log.is_old(spot.home) {
            return;
        }
        // Written where there is room without a wait and without forgetting others.
        let Ok(spot) = self.log.append(&stored[..len], time::now_ns() / 1_000_000) else { return };
        self.count_off(slot, known);
        let known = Known::At { spot, len, sum };
        self.pages.relocate(number, known);
        self.count_on(slot, known);
    }

    fn drop_page(&mut self, slot: usize, object: ObjectId, index: u64) -> bool {
        let known = self.pages.remove(slot as u32, object, index);
        if let Some(known) = known {
            self.count_off(slot, known);
        }
        known.is_some()
    }

    pub fn contains(&self, pool: PoolId, object: ObjectId, index: u64) -> Result<bool, StoreError> {
        Ok(self.pages.find(self.slot(pool)? as u32, object, index).is_some())
    }

    pub fn flush_page(&mut self, pool: PoolId, object: ObjectId, index: u64) -> Result<bool, StoreError> {
        let slot = self.slot(pool)?;
        let was_there = self.drop_page(slot, object, index);
        self.count_flushed(slot, u64::from(was_there));
        Ok(was_there)
    }

    pub fn flush_object(&mut self, pool: PoolId, object: ObjectId) -> Result<u64, StoreError> {
        let slot = self.slot(pool)?;
        Ok(self.flush_by(slot, |pages, each| pages.remove_object(slot as u32, object, each)))
    }

    /// Ends a pool; how many pages it held.
    pub fn destroy(&mut self, pool: PoolId) -> Result<u64, StoreError> {
        let slot = self.slot(pool)?;
        let flushed = self.flush_by(slot, |pages, each| pages.remove_pool(slot as u32, each));
        self.pools[slot].live = false;
        self.pools[slot].generation = (self.pools[slot].generation + 1) % (u32::MAX / MAX_POOLS as u32);
        self.pages.reset_if_empty();
        Ok(flushed)
    }

    fn flush_by(&mut self, slot: usize, remove: impl FnOnce(&mut Pages, &mut dyn FnMut(Known))) -> u64 {
        let (log, mut flushed) = (&mut self.log, 0);
        remove(&mut self.pages, &mut |known| {
            flushed += 1;
            if let Some((home, len)) = known.place() {
                log.discount(home, len);
            }
        });
        self.pools[slot].stats.pages -= flushed;
        self.count_flushed(slot, flushed);
        flushed
    }

    fn count_flushed(&mut self, slot: usize, pages: u64) {
        self.stats.traffic.flushed += pages;
        self.pools[slot].stats.traffic.flushed += pages;
    }

    pub fn set_pool_frozen(&mut self, pool: PoolId, frozen: bool) -> Result<(), StoreError> {
        let slot = self.slot(pool)?;
        self.pools[slot].frozen = frozen;
        Ok(())
    }

    pub fn pool_stats(&self, pool: PoolId) -> Result<PoolStats, StoreError> {
        let pool = &self.pools[self.slot(pool)?];
        Ok(PoolStats { frozen: pool.frozen || self.frozen, ..pool.stats })
    }

    pub fn stats(&self) -> RevocableStats {
        RevocableStats {
            pages: self.pages.live() as u64,
            same_pages: (self.pages.live() - self.log.pages()) as u64,
            data_bytes: self.log.bytes() as u64,
            extents: self.log.held() as u64,
            leased_bytes: self.log.leased() as u64,
            footprint_bytes: self.footprint() as u64,
            ..self.stats
        }
    }

    pub fn footprint(&self) -> usize {
        self.pages.footprint() + self.log.footprint()
    }

    /// Pages looked at, as many as a sample has, and those of them in extents that were written lately.
    pub fn activity(&self) -> (u64, u64) {
        let all = self.log.pages() as u64;
        let since = (time::now_ns() / 1_000_000).saturating_sub(ACTIVE_MS);
        let lately = self.log.pages_since(since) as u64;
        let sampled = all.min(SAMPLE);
        (sampled, (lately * sampled).checked_div(all).unwrap_or(0))
    }

    // What the host may ask.

    pub fn set(&mut self, frozen: bool, compress: bool) {
        (self.frozen, self.compress) = (frozen, compress);
    }

    /// The host cut extents off.
    pub fn revoked(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(home) = self.log.find(*id) {
                self.cut_off(home);
            }
        }
    }

    /// Lets go of extents without a page, up to so many bytes.
    pub fn give(&mut self, bytes: usize, give: &mut dyn FnMut(u64)) {
        let mut given = 0;
        while given < bytes
            && let Some(extent) = self.log.spare().and_then(|home| self.log.remove(home))
        {
            given += extent.bytes;
            let id = extent.id;
            drop(extent);
            give(id);
        }
    }

    pub fn spare_bytes(&self) -> usize {
        self.log.spare_bytes()
    }

    pub fn each_extent(&self, each: &mut dyn FnMut(&Extent)) {
        self.log.each(each);
    }

    pub fn renumber(&mut self, old: u64, new: u64) {
        self.log.renumber(old, new);
    }

    /// In a forked child: the extents are its parent's, and so are their pages.
    pub fn abandon(&mut self) {
        for (slot, pool) in self.pools.iter_mut().enumerate() {
            self.pages.remove_pool(slot as u32, |_| ());
            pool.stats.pages = 0;
        }
        self.log.clear();
        self.pages.reset_if_empty();
    }

    pub fn check(&self) -> Vec<String> {
        let counts: Vec<u64> = self.pools.iter().map(|pool| pool.stats.pages).collect();
        super::walk::check(&self.pages, &self.log, &counts)
    }
}

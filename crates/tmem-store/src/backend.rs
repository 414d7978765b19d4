// SPDX-License-Identifier: Apache-2.0
//! Owns: the backend in this process: a page store and its private persistent pool. Callers: the frontswap hook.
//! An area is an object, a page its index. Locks: the pager's. Laws 1 to 4, by way of the pool.

use crate::codec::{Coded, Dictionaries, same_filled};
use crate::cold::ColdBatch;
use crate::object::ObjectId;
use crate::ops::{BackendOps, Copied, Corrupt, Loaded, Oldest, Outcome, Reason, Soon};
use crate::order::Place;
use crate::page_bytes;
use crate::pool::{PageStore, PoolConfig, PoolId, StoreConfig, StoreError};
use crate::stats::{Refusals, StoreStats};
use std::sync::Arc;
use tmem_sys::{Errno, Page, Table};

/// Areas are numbered below this.
pub const MAX_AREAS: usize = 1 << 16;

pub struct LocalBackend {
    store: PageStore,
    pool: PoolId,
    /// Pages of each area, 0 for none.
    areas: Table<u64>,
    /// Areas from here on were never initialised.
    fresh_area: usize,
    /// What was refused before the store was asked.
    refused: Refusals,
    /// Pages still to be refused unseen.
    full_for: u32,
}

fn object_of(area: u32) -> ObjectId {
    ObjectId([u64::from(area), 0, 0])
}

/// Pages refused unseen after the store was full: to pack each of them only to find no room costs more than all the rest.
/// Whatever makes room ends it.
const FULL_FOR: u32 = 32;
/// Pages moved at most when the store is full: one chunk comes free for each few puts.
const COMPACTED_AT_ONCE: usize = 64;

impl LocalBackend {
    /// `raw`: keep pages that do not shrink as they are, instead of refusing them.
    ///
    /// # Errors
    /// `ENOMEM` when the address space cannot hold the reserves.
    pub fn new(config: StoreConfig, pool: PoolConfig) -> Result<LocalBackend, Errno> {
        LocalBackend::of(PageStore::new(config)?, pool)
    }

    /// As [`LocalBackend::new`], with dictionaries that whoever takes packed pages out has too. They count in the footprint:
    /// one backend shares them.
    ///
    /// # Errors
    /// As [`LocalBackend::new`].
    pub fn sharing(
        config: StoreConfig,
        pool: PoolConfig,
        dictionaries: Arc<Dictionaries>,
    ) -> Result<LocalBackend, Errno> {
        LocalBackend::of(PageStore::sharing(config, dictionaries)?, pool)
    }

    fn of(mut store: PageStore, pool: PoolConfig) -> Result<LocalBackend, Errno> {
        // A new store has room for a pool; the error type of a full one has no errno of its own.
        let pool = store.new_pool(pool).map_err(|_| Errno::ENOMEM)?;
        store.keep_raw_on_lease(pool);
        Ok(LocalBackend {
            store,
            pool,
            areas: Table::new(MAX_AREAS)?,
            fresh_area: 0,
            refused: Refusals::default(),
            full_for: 0,
        })
    }

    /// Forgets a page; whether there was one.
    fn flush(&mut self, area: u32, page: u64) -> bool {
        let found = self.store.flush_page(self.pool, object_of(area), page);
        debug_assert!(found.is_ok());
        let found = found.unwrap_or(false);
        if found {
            self.full_for = 0;
        }
        found
    }

    /// Gives back all memory that holds no page.
    pub fn trim(&mut self) {
        self.store.trim();
    }

    /// As [`PageStore::compact`].
    pub fn compact(&mut self, pages: usize) -> usize {
        self.store.compact(pages)
    }

    pub fn set_frozen(&mut self, frozen: bool) {
        // The pool lives as long as the backend.
        let done = if frozen { self.store.freeze(self.pool) } else { self.store.thaw(self.pool) };
        debug_assert!(done.is_ok());
    }

    /// Whether a page is stored, without reading it.
    pub fn contains(&self, area: u32, page: u64) -> bool {
        self.store.contains(self.pool, object_of(area), page).unwrap_or(false)
    }

    /// The store's statistics, with the refusals made before the store was asked.
    pub fn stats(&self) -> StoreStats {
        let mut stats = self.store.stats();
        for (reason, n) in self.refused.iter() {
            stats.traffic.puts += n;
            stats.traffic.refused.add(reason, n);
        }
        stats.footprint_bytes = self.footprint() as u64;
        stats
    }

    /// Stores a page, unless the store is known to be full.
    #[inline]
    fn store_unless(
        &mut self,
        area: u32,
        page: u64,
        data: &Page,
        full: impl Fn(&LocalBackend) -> bool,
        put: impl Fn(&mut PageStore, PoolId) -> Result<Outcome, StoreError>,
    ) -> Outcome {
        if let Some(reason) = self.refusal(area, page) {
            // Law 3 holds around this refusal too: an area may have been initialised smaller.
            self.invalidate_page(area, page);
            self.refused.count(reason);
            return Outcome::Refused(reason);
        }
        // Law 3: what was stored before goes first; where that made room, the page is looked at after all.
        if full(self) && !self.flush(area, page) {
            // What is stored already needs no room.
            if self.store.put_twin(self.pool, object_of(area), page, data) {
                return Outcome::Stored;
            }
            self.full_for -= 1;
            self.refused.count(Reason::StoreFull);
            return Outcome::Refused(Reason::StoreFull);
        }
        let none = Outcome::Refused(Reason::NoArea);
        let mut outcome = put(&mut self.store, self.pool).unwrap_or(none);
        if outcome == Outcome::Refused(Reason::StoreFull) && self.store.compact(COMPACTED_AT_ONCE) > 0 {
            outcome = put(&mut self.store, self.pool).unwrap_or(none);
        }
        if outcome == Outcome::Refused(Reason::StoreFull) {
            self.full_for = FULL_FOR;
        }
        outcome
    }

    /// Why a handle cannot be stored to, if it cannot.
    fn refusal(&self, area: u32, page: u64) -> Option<Reason> {
        match self.areas.get(area as usize) {
            None | Some(0) => Some(Reason::NoArea),
            Some(pages) if page >= *pages => Some(Reason::OutOfRange),
            Some(_) => None,
        }
    }
}

impl BackendOps for LocalBackend {
    fn init(&mut self, area: u32, pages: u64) {
        if let Some(known) = self.areas.get_mut(area as usize) {
            *known = pages;
            self.fresh_area = self.fresh_area.max(area as usize + 1);
        }
    }

    #[inline]
    fn store(&mut self, area: u32, page: u64, data: &Page) -> Outcome {
        let full = |this: &Self| this.is_full() && same_filled(data).is_none();
        self.store_unless(area, page, data, full, |store, pool| store.put(pool, object_of(area), page, data))
    }

    fn store_coded(&mut self, area: u32, page: u64, data: &Page, coded: &Coded<'_>) -> Outcome {
        // Nothing to be spared by refusing it unseen: it is packed.
        self.store_unless(
            area,
            page,
            data,
            |_| false,
            |store, pool| store.put_coded(pool, object_of(area), page, data, coded),
        )
    }

    fn copy_packed(&mut self, area: u32, page: u64, into: &mut Page) -> Result<Option<Copied>, Corrupt> {
        match self.store.copy_packed(self.pool, object_of(area), page, into) {
            Ok(copied) => Ok(copied),
            Err(StoreError::Corrupt(corrupt)) => Err(corrupt),
            Err(_) => Err(Corrupt::Misplaced),
        }
    }

    #[inline]
    fn load(&mut self, area: u32, page: u64, into: &mut Page) -> Result<Loaded, Corrupt> {
        match self.store.get(self.pool, object_of(area), page, into) {
            Ok(loaded) => Ok(loaded),
            Err(StoreError::Corrupt(corrupt)) => Err(corrupt),
            Err(_) => Err(Corrupt::Misplaced),
        }
    }

    #[inline]
    fn expect(&self, area: u32, page: u64, soon: Soon) {
        self.store.expect(self.pool, object_of(area), page, soon);
    }

    fn oldest(&self, after: u32) -> Option<Oldest<'_>> {
        self.store.oldest(Place(after)).map(|(place, (_, object, index), blob)| Oldest {
            after: place.0,
            area: object.0[0] as u32,
            page: index,
            blob,
        })
    }

    fn touch(&mut self, area: u32, page: u64) {
        self.store.renew(self.pool, object_of(area), page);
    }

    fn set_clock(&mut self, now: u32) {
        self.store.set_clock(now);
    }

    fn take_cold(&mut self, before: u32, batch: &mut ColdBatch) -> bool {
        self.store.take_cold(before, batch)
    }

    fn sample(&self, step: u32, most: usize, batch: &mut ColdBatch) -> u32 {
        self.store.sample(step, most, batch)
    }

    fn settle_cold(&mut self, batch: &ColdBatch, n: usize, tighter: Option<&[u8]>) -> bool {
        let saved = self.store.settle_cold(batch, n, tighter);
        if saved {
            self.full_for = 0;
        }
        saved
    }

    fn is_cold(&self, area: u32, page: u64) -> bool {
        self.store.is_cold(self.pool, object_of(area), page)
    }

    fn has_cold(&mut self, before: u32) -> bool {
        self.store.packs(self.pool) && self.store.has_cold(before)
    }

    fn tidy(&mut self, wholly: bool) -> bool {
        // One chunk: a fault may wait for the end of it.
        let moved = (wholly || self.store.is_sparse()) && self.store.compact(1) > 0;
        if moved {
            self.full_for = 0;
        } else if wholly {
            self.store.trim();
        }
        moved
    }

    fn invalidate_page(&mut self, area: u32, page: u64) {
        self.flush(area, page);
    }

    fn invalidate_area(&mut self, area: u32) {
        let done = self.store.flush_object(self.pool, object_of(area));
        debug_assert!(done.is_ok());
        self.full_for = 0;
        if let Some(pages) = self.areas.get_mut(area as usize) {
            *pages = 0;
        }
    }

    fn set_capacity(&mut self, bytes: usize) {
        let tables = self.footprint() - self.store.mapped_bytes();
        let before = self.store.capacity_bytes();
        self.store.set_capacity(bytes.saturating_sub(tables));
        if self.store.capacity_bytes() > before {
            self.full_for = 0;
        }
    }

    fn footprint(&self) -> usize {
        self.store.footprint() + page_bytes(self.fresh_area * size_of::<u64>())
    }

    fn is_full(&self) -> bool {
        self.full_for > 0 && !self.store.has_leases_waiting()
    }

    fn has_lease_room(&mut self) -> bool {
        self.store.has_lease_room()
    }

    fn leasing(&mut self) -> Option<&mut PageStore> {
        self.full_for = 0;
        Some(&mut self.store).filter(|store| store.may_lease())
    }

    fn store_stats(&self) -> Option<StoreStats> {
        Some(self.stats())
    }

    fn check(&self) -> Vec<String> {
        self.store.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Dedup;
    use tmem_sys::PAGE_SIZE;

    #[test]
    fn a_full_store_takes_pages_that_it_has_already() {
        let pool = PoolConfig { raw: true, dedup: Dedup::On, ..PoolConfig::default() };
        let mut b = LocalBackend::new(StoreConfig::for_pages(10_000, 1 << 18), pool).unwrap();
        b.init(0, 10_000);
        let mut page = [0; PAGE_SIZE];
        let mut noise = |n: u64| {
            let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            page.iter_mut().for_each(|byte| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                *byte = x as u8;
            });
            page
        };
        let full = (0..1000).find(|&n| !b.store(0, n, &noise(n)).is_stored()).unwrap();
        assert!(b.is_full());
        for n in 0..1000 {
            let expected = if n % 2 == 0 { Outcome::Stored } else { Outcome::Refused(Reason::StoreFull) };
            let page = noise(if n % 2 == 0 { n % full } else { 5000 + n });
            assert_eq!(b.store(0, 1000 + n, &page), expected, "page {n}, {full}, {:?}", b.stats().dedup);
        }
        let mut into = [0; PAGE_SIZE];
        for n in (0..1000).step_by(2) {
            assert_eq!(b.load(0, 1000 + n, &mut into), Ok(Loaded::Loaded));
            assert!(into == noise(n % full));
        }
        assert!(b.check().is_empty());
    }

    #[test]
    fn an_invalidated_area_refuses_until_it_is_initialised_again() {
        let mut b = LocalBackend::new(StoreConfig::for_pages(100, 1 << 20), PoolConfig::default()).unwrap();
        let (page, mut into) = ([7; PAGE_SIZE], [0; PAGE_SIZE]);
        assert_eq!(b.store(3, 0, &page), Outcome::Refused(Reason::NoArea));
        b.init(3, 10);
        assert_eq!(b.store(3, 9, &page), Outcome::Stored);
        assert_eq!(b.store(3, 10, &page), Outcome::Refused(Reason::OutOfRange));
        assert_eq!(b.store(u32::MAX, 0, &page), Outcome::Refused(Reason::NoArea));
        assert_eq!(b.load(3, 9, &mut into), Ok(Loaded::Loaded));
        assert_eq!(into, page);
        b.init(3, 5);
        assert_eq!(b.store(3, 9, &page), Outcome::Refused(Reason::OutOfRange));
        assert_eq!(b.load(3, 9, &mut into), Ok(Loaded::Absent), "law 3 around a shrunken area");
        b.invalidate_area(3);
        assert_eq!(b.store(3, 0, &page), Outcome::Refused(Reason::NoArea));
        assert_eq!(b.stats().traffic.refused.get(Reason::NoArea), 3);
        assert_eq!(b.stats().traffic.refused.total() + 1, b.stats().traffic.puts);
        b.init(3, 10);
        assert_eq!(b.store(3, 0, &page), Outcome::Stored);
        assert!(b.check().is_empty());
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: how the pages of a whole object or pool leave a host: at once for everybody who asks for them, and then leaf by leaf out
//! of memory, so that nobody waits for all of a large one. Callers: `supply`, and `room` where memory is short. Locks: the
//! store's, for one step. Law 4: what was flushed misses from then on. Law 11: pages are charged until their memory is free.

use crate::held::release;
use crate::object::ObjectId;
use crate::pool::{PageStore, PoolId, StoreError};

/// Leaves of the index emptied in one step: 512 pages.
const EMPTIED_AT_ONCE: usize = 8;

impl PageStore {
    /// As [`PageStore::flush_object`], but the pages are in memory until [`PageStore::empty_some`] was there.
    ///
    /// # Errors
    /// As [`PageStore::flush_object`].
    pub(crate) fn detach_object(&mut self, pool: PoolId, object: ObjectId) -> Result<u64, StoreError> {
        let slot = self.live_slot(pool)?;
        let pages = self.objects.detach_object(slot as u32, object);
        self.count_flushed(slot, pages);
        if pages > 0 {
            self.saves.note_object(slot, object);
        }
        Ok(pages)
    }

    /// As [`PageStore::destroy`], but the pages are in memory until [`PageStore::empty_some`] was there. Until then the
    /// pool's place must not be given to another.
    ///
    /// # Errors
    /// As [`PageStore::destroy`].
    pub(crate) fn detach_pool(&mut self, pool: PoolId) -> Result<u64, StoreError> {
        let slot = self.live_slot(pool)?;
        let pages = self.objects.detach_pool(slot as u32);
        self.count_flushed(slot, pages);
        self.end_pool(slot);
        Ok(pages)
    }

    pub(crate) fn has_leaving(&self) -> bool {
        self.objects.has_leaving()
    }

    /// Frees some of what left. Whether there is more.
    pub(crate) fn empty_some(&mut self) -> bool {
        for _ in 0..EMPTIED_AT_ONCE {
            let PageStore { objects, slab, held, ages, order, guests, pools, dedup, .. } = self;
            let shares = &mut dedup.shares;
            objects.drain_leaving(&mut |pool, e| {
                release(slab, held, ages, order, guests, shares, &mut pools[pool as usize], e);
            });
            self.settle_all();
        }
        self.has_leaving()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Loaded, Outcome, PoolConfig, StoreConfig};
    use tmem_sys::{PAGE_SIZE, Page};

    const OBJECT: ObjectId = ObjectId([1, 2, 3]);

    fn page(n: u64) -> Page {
        std::array::from_fn(|i| (i as u64 / 16 * (n % 100 + 1)) as u8)
    }

    #[test]
    fn what_left_is_missed_at_once_and_charged_until_its_memory_is_free() {
        let mut store = PageStore::new(StoreConfig::for_pages(1 << 14, 8 << 20)).unwrap();
        let pools = [0, 1].map(|_| store.new_pool(PoolConfig::default()).unwrap());
        let indexes = || (0..2000).chain([1 << 40, u64::MAX]);
        for pool in pools {
            indexes().for_each(|n| assert_eq!(store.put(pool, OBJECT, n, &page(n)), Ok(Outcome::Stored)));
        }
        let mut into = [0; PAGE_SIZE];
        assert_eq!(store.detach_object(pools[0], OBJECT), Ok(2002));
        assert!(indexes().all(|n| store.get(pools[0], OBJECT, n, &mut into) == Ok(Loaded::Absent)));
        assert_eq!(
            store.put(pools[0], OBJECT, 5, &page(7)),
            Ok(Outcome::Stored),
            "another object of that id"
        );
        assert_eq!((store.stats().held.pages(), store.check()), (4005, vec![]));
        let mut steps = 1;
        while store.empty_some() {
            steps += 1;
            assert_eq!(store.check(), Vec::<String>::new());
        }
        assert!(steps > 3 && store.stats().held.pages() == 2003, "{steps} steps");
        assert_eq!(store.get(pools[0], OBJECT, 5, &mut into), Ok(Loaded::Loaded));
        assert!(into == page(7));
        assert_eq!(store.detach_pool(pools[1]), Ok(2002));
        assert_eq!(store.get(pools[1], OBJECT, 5, &mut into), Err(StoreError::NoSuchPool));
        while store.empty_some() {
            assert_eq!(store.check(), Vec::<String>::new());
        }
        assert_eq!((store.stats().held.pages(), store.check()), (1, vec![]));
    }
}

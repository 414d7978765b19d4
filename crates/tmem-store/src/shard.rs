// SPDX-License-Identifier: Apache-2.0
//! Owns: the shards of a host: page stores of one kind, each with a lock, and which of them has a handle's page. Callers: `host`,
//! `batch`, `supply`. Locks: one a shard; no thread holds two, but who asks for all of them takes them in order.

use crate::board::{Board, MOST_SHARDS, Seat};
use crate::object::ObjectId;
use crate::pool::{PageStore, PoolId, StoreConfig};
use crate::sync::{AtomicU32, Lock, LockGuard, Ordering, locked};
use std::sync::Arc;
use tmem_sys::Errno;
use tmem_sys::syscall::sched_yield;

/// Pages that follow one another and are in one shard: a leaf of the index.
const TOGETHER: u32 = 6;
/// A shard more for each so many bytes of the first limit: each keeps some room free.
const SHARD_BYTES: usize = 16 << 20;
/// How often a batch offers the processor to those who wait for a lock, between two runs.
const YIELDS: usize = 64;
/// A leaf of the index, the least that memory is taken by in steps, so that many are all the leaves a limit can have.
const LEAF_BYTES: usize = 1 << 10;
/// An object's record and the least index that it can have.
const OBJECT_BYTES: usize = 128;

/// Whose page.
#[derive(Clone, Copy)]
pub(crate) struct Handle {
    pub pool: PoolId,
    pub object: ObjectId,
    pub index: u64,
}

/// Whether two pages of an object are in one shard because they are near.
pub(crate) fn are_together(one: u64, other: u64) -> bool {
    one >> TOGETHER == other >> TOGETHER
}

/// Apart from its neighbours in the processors' caches.
#[repr(align(128))]
struct Shard {
    store: Lock<PageStore>,
    /// Threads that wait for the lock.
    waiting: AtomicU32,
}

pub(crate) type Guard<'a> = LockGuard<'a, PageStore>;

pub(crate) struct Shards {
    all: Vec<Shard>,
    secret: u64,
}

impl Shards {
    /// As many as are of use for such a limit; fewer where the address space does not hold them. Each reserves for all pages there can
    /// be: which of them get how many is not known before.
    pub fn new(limit: usize, reserve: usize) -> Result<(Shards, Arc<Board>), Errno> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let useful = (4 * processors).min(limit / SHARD_BYTES).clamp(1, MOST_SHARDS);
        let mut count = 1 << useful.ilog2();
        loop {
            match Shards::with(count, reserve, 0, false) {
                Err(_) if count > 1 => count /= 2,
                made => return made,
            }
        }
    }

    /// So many shards, which pack pages themselves or are given them packed. One may take memory on lease.
    ///
    /// # Errors
    /// `ENOMEM` when the address space cannot hold the reserves.
    pub fn with(
        count: usize,
        reserve: usize,
        lease_reserve: usize,
        packs: bool,
    ) -> Result<(Shards, Arc<Board>), Errno> {
        let leaves = (reserve + lease_reserve) / LEAF_BYTES;
        let config = StoreConfig {
            capacity_bytes: 0,
            reserve_bytes: reserve,
            lease_reserve,
            max_pages: leaves as u64 * 8,
            max_objects: (reserve + lease_reserve) / OBJECT_BYTES,
            ordered: false,
        };
        let board = Arc::new(Board::new(count));
        let mut secret = [0; 8];
        tmem_sys::random::random_bytes(&mut secret)?;
        let shard = |shard| {
            let seat = Seat { board: Arc::clone(&board), shard };
            let mut store = PageStore::at_board(config, leaves * 8, seat)?;
            store.join_host(packs);
            Ok(Shard { store: locked(store), waiting: AtomicU32::new(0) })
        };
        let all = (0..count).map(shard).collect::<Result<_, Errno>>()?;
        // A model of threads takes the same way whenever it is run.
        let secret = if cfg!(loom) { !0 / 5 * 3 } else { u64::from_ne_bytes(secret) | 1 };
        Ok((Shards { all, secret }, board))
    }

    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The shard of a handle. Nobody can aim at one of them.
    #[inline]
    pub fn of(&self, handle: Handle) -> usize {
        if self.all.len() == 1 {
            return 0;
        }
        let [a, b, c] = handle.object.0;
        let words = [a, b, c, handle.pool.slot() as u64, handle.index >> TOGETHER];
        let mixed = words.iter().fold(self.secret, |mixed, word| {
            let wide = u128::from(mixed ^ word) * u128::from(self.secret);
            wide as u64 ^ (wide >> 64) as u64
        });
        (mixed >> 32) as usize % self.all.len()
    }

    #[inline]
    pub fn lock(&self, at: usize) -> Guard<'_> {
        let shard = &self.all[at];
        shard.store.try_lock().unwrap_or_else(|| {
            shard.waiting.fetch_add(1, Ordering::Relaxed);
            let store = shard.store.lock();
            shard.waiting.fetch_sub(1, Ordering::Relaxed);
            store
        })
    }

    /// All of them, in order. In place: this is on the way of a flush, which uses no heap.
    pub fn lock_all(&self) -> [Option<Guard<'_>>; MOST_SHARDS] {
        std::array::from_fn(|at| (at < self.all.len()).then(|| self.lock(at)))
    }

    /// Between two holds of a lock: lets those get on who wait. The lock alone would often be taken again before they
    /// wake.
    pub fn give_way(&self, at: usize) {
        for _ in 0..YIELDS {
            if self.all[at].waiting.load(Ordering::Relaxed) == 0 {
                return;
            }
            sched_yield();
        }
    }

    /// Before a fork: no thread works in any shard.
    pub fn hold(&self) {
        self.all.iter().for_each(|shard| shard.store.lock().keep_across_fork());
    }

    /// Between the two: does something with each store, whose lock stays held.
    pub fn each_held(&self, act: &mut impl FnMut(&mut PageStore)) {
        for shard in &self.all {
            let mut store = shard.store.reclaim();
            act(&mut store);
            store.keep_across_fork();
        }
    }

    /// After a fork, in both processes.
    pub fn let_go(&self) {
        self.all.iter().for_each(|shard| drop(shard.store.reclaim()));
    }

    /// In a forked child: who waited in the parent does not wait here.
    pub fn forget_waiting(&self) {
        self.all.iter().for_each(|shard| shard.waiting.store(0, Ordering::Relaxed));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn pages_that_follow_one_another_are_together_and_all_shards_get_some() {
        let (shards, _) = Shards::with(4, 1 << 20, 0, false).unwrap();
        let of =
            |index, object| shards.of(Handle { pool: PoolId(0), object: ObjectId([object, 0, 0]), index });
        assert!((0..64).all(|index| of(index, 1) == of(0, 1)));
        let mut found = [[0; 4]; 2];
        (0..1000).for_each(|n| {
            found[0][of(n * 64, 1)] += 1;
            found[1][of(0, n)] += 1;
        });
        assert!(found.iter().flatten().all(|n| (150..350).contains(n)), "{found:?}");
    }

    #[test]
    fn a_small_host_is_one_shard() {
        assert_eq!(Shards::new(SHARD_BYTES - 1, 1 << 30).unwrap().0.count(), 1);
        assert!(Shards::new(64 * SHARD_BYTES, 1 << 30).unwrap().0.count() > 1);
    }
}

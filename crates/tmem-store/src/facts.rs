// SPDX-License-Identifier: Apache-2.0
//! Owns: what a put must know of its pool before it takes a shard's lock: whether to pack, whether the pool is frozen, in
//! which shard it is, and whether there is a twin to be looked for first. Callers: `host`. Locks: written under the shards',
//! read without. Law: all but the home are hints: the pool itself is asked again under the lock, and has the last word.
//! A home is settled before anybody knows the pool.

use crate::board::MOST_SHARDS;
use crate::object::MAX_POOLS;
use crate::pool::PoolId;
use crate::sync::{AtomicU8, Ordering};

const PACKS: u8 = 1;
const FROZEN: u8 = 2;

struct Fact {
    bits: AtomicU8,
    /// 0, or 1 more than the shard that all the pool's pages are in.
    home: AtomicU8,
    /// A bit for each shard in which all pages of the pool are looked up.
    seeks: AtomicU8,
}

pub(crate) struct Facts([Fact; MAX_POOLS]);

const _: () = assert!(MOST_SHARDS <= u8::BITS as usize);

impl Facts {
    pub fn new() -> Facts {
        let fact = |_| Fact { bits: AtomicU8::new(PACKS), home: AtomicU8::new(0), seeks: AtomicU8::new(0) };
        Facts(std::array::from_fn(fact))
    }

    /// A new pool, with the shard it is to be in, if it is to be in one.
    pub fn set(&self, pool: PoolId, packs: bool, home: Option<usize>) {
        let fact = &self.0[pool.slot()];
        fact.bits.store(if packs { PACKS } else { 0 }, Ordering::Relaxed);
        fact.home.store(home.map_or(0, |shard| shard as u8 + 1), Ordering::Relaxed);
        fact.seeks.store(0, Ordering::Relaxed);
    }

    #[inline]
    pub fn home(&self, pool: PoolId) -> Option<usize> {
        (self.0[pool.slot()].home.load(Ordering::Relaxed) as usize).checked_sub(1)
    }

    /// Whether all pages of a pool are looked up in a shard now.
    pub fn set_seeks(&self, pool: PoolId, shard: usize, seeks: bool) {
        if self.seeks(pool, shard) != seeks {
            let bit = 1 << shard;
            if seeks {
                self.0[pool.slot()].seeks.fetch_or(bit, Ordering::Relaxed);
            } else {
                self.0[pool.slot()].seeks.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }

    #[inline]
    pub fn seeks(&self, pool: PoolId, shard: usize) -> bool {
        self.0[pool.slot()].seeks.load(Ordering::Relaxed) & (1 << shard) != 0
    }

    /// The pool in a slot was frozen, or thawed.
    pub fn set_frozen(&self, slot: usize, frozen: bool) {
        if frozen == (self.0[slot].bits.load(Ordering::Relaxed) & FROZEN != 0) {
            return;
        }
        if frozen {
            self.0[slot].bits.fetch_or(FROZEN, Ordering::Relaxed);
        } else {
            self.0[slot].bits.fetch_and(!FROZEN, Ordering::Relaxed);
        }
    }

    #[inline]
    pub fn packs(&self, pool: PoolId) -> bool {
        self.0[pool.slot()].bits.load(Ordering::Relaxed) & PACKS != 0
    }

    #[inline]
    pub fn is_frozen(&self, pool: PoolId) -> bool {
        self.0[pool.slot()].bits.load(Ordering::Relaxed) & FROZEN != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::pool::{PoolConfig, PoolKind};
    use crate::{Host, HostConfig, Loaded, ObjectId, Outcome, Reason};
    use tmem_sys::PAGE_SIZE;

    #[test]
    fn a_put_that_is_refused_for_a_frozen_pool_packs_nothing() {
        let host = Host::new(HostConfig { limit_bytes: 1 << 20, reserve_bytes: 1 << 20 }).unwrap();
        let pool = host.new_pool("default", PoolKind::Persistent, PoolConfig::default()).unwrap();
        let (object, page) = (ObjectId([1, 2, 3]), std::array::from_fn(|i| (i / 8) as u8));
        let before = host.stats().footprint_bytes;
        host.set_frozen(pool, true).unwrap();
        let mut codes = [77; 2];
        assert_eq!(host.put(pool, object, 0, &page), Ok(Outcome::Refused(Reason::Frozen)));
        host.put_many(pool, object, &[0, 1], &[page; 2], &mut codes).unwrap();
        assert_eq!(codes, [Outcome::Refused(Reason::Frozen).code(); 2]);
        assert_eq!(host.stats().footprint_bytes, before, "no codec was used");
        host.set_guest_frozen("default", false).unwrap();
        assert_eq!(host.put(pool, object, 0, &page), Ok(Outcome::Stored));
        assert!(host.stats().footprint_bytes > before, "a codec is counted");
        let mut into = [0; PAGE_SIZE];
        assert_eq!(host.get(pool, object, 0, &mut into), Ok(Loaded::Loaded));
        assert!(into == page);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: what a put must know of its pool before it takes the store's lock: whether to pack, and whether the pool is
//! frozen. Callers: `host`. Locks: written under the store's, read without. Law: these are hints: the pool itself is
//! asked again under the lock, and has the last word.

use crate::object::MAX_POOLS;
use crate::pool::PoolId;
use crate::sync::{AtomicU8, Ordering};

const PACKS: u8 = 1;
const FROZEN: u8 = 2;

pub(crate) struct Facts([AtomicU8; MAX_POOLS]);

impl Facts {
    pub fn new() -> Facts {
        Facts(std::array::from_fn(|_| AtomicU8::new(PACKS)))
    }

    /// A new pool.
    pub fn set(&self, pool: PoolId, packs: bool, frozen: bool) {
        let bits = if packs { PACKS } else { 0 } | if frozen { FROZEN } else { 0 };
        self.0[pool.slot()].store(bits, Ordering::Relaxed);
    }

    /// The pool in a slot was frozen, or thawed.
    pub fn set_frozen(&self, slot: usize, frozen: bool) {
        if frozen {
            self.0[slot].fetch_or(FROZEN, Ordering::Relaxed);
        } else {
            self.0[slot].fetch_and(!FROZEN, Ordering::Relaxed);
        }
    }

    #[inline]
    pub fn packs(&self, pool: PoolId) -> bool {
        self.0[pool.slot()].load(Ordering::Relaxed) & PACKS != 0
    }

    #[inline]
    pub fn is_frozen(&self, pool: PoolId) -> bool {
        self.0[pool.slot()].load(Ordering::Relaxed) & FROZEN != 0
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

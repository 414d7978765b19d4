// SPDX-License-Identifier: Apache-2.0
//! Owns: a store of revocable pages as several threads use it: packing and unpacking outside its lock, waiting for an extent outside
//! it too, what the host's connection asks, and forks. Callers: the doors, the connection's thread. Locks: a codec's, then the
//! store's; around a fork those of all (`fork`). Law 8: operations on a handle happen in some order, whole. Law 15: a forked child
//! has no extents, and no pages.

use super::fork::{self, Across};
use super::store::{Put, RevocableConfig, RevocableStats, Store};
use crate::coders::{Coder, Coders};
use crate::lease::{Holder, Kind, Mailbox, Report};
use crate::object::ObjectId;
use crate::ops::{Loaded, Outcome, Reason};
use crate::outside::Taken;
use crate::pool::{PoolId, StoreError};
use crate::stats::PoolStats;
use crate::sync::{Lock, LockGuard, locked};
use std::sync::Arc;
use tmem_sys::{Errno, Page};

/// The longest wait of a put for an extent that is under way.
const WAIT_MS: u64 = 20;

/// Ephemeral pages in memory on lease.
pub struct Revocable {
    store: Lock<Store>,
    coders: Coders,
    mailbox: Arc<Mailbox>,
}

impl Revocable {
    /// A store without an extent, which asks for them through its mailbox.
    ///
    /// # Errors
    /// `ENOMEM` when the address space cannot hold the reserves.
    pub fn new(config: RevocableConfig) -> Result<Arc<Revocable>, Errno> {
        let mailbox = Mailbox::new(Kind::Ephemeral)?;
        let store = locked(Store::new(config, Arc::clone(&mailbox))?);
        let made = Arc::new(Revocable { store, coders: Coders::new()?, mailbox });
        let known = Arc::downgrade(&made);
        fork::join(known)?;
        Ok(made)
    }

    /// Where its extents come from.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    fn coder(&self) -> LockGuard<'_, Coder> {
        let mut coder = self.coders.take();
        if coder.is_first_use() {
            self.coders.count_one();
        }
        coder
    }

    /// Makes a pool. A get from an exclusive one takes the page away.
    ///
    /// # Errors
    /// [`StoreError::TooManyPools`].
    pub fn new_pool(&self, exclusive: bool, pack: bool, raw: bool) -> Result<PoolId, StoreError> {
        self.store.lock().new_pool(exclusive, pack, raw)
    }

    /// Offers a page. Whatever the answer, what the handle held before is gone.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn put(
        &self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        page: &Page,
    ) -> Result<Outcome, StoreError> {
        let mut coder = self.coder();
        let packs = self.store.lock().packs(pool)?;
        let coded = coder.encode(page, packs);
        let mut wait = true;
        loop {
            if let Put::Done(outcome) = self.store.lock().put(pool, object, index, page, &coded, wait)? {
                return Ok(outcome);
            }
            wait = false;
            if let Some(extent) = self.mailbox.take(WAIT_MS) {
                self.store.lock().adopt(extent);
            }
        }
    }

    /// Copies a page out. An exclusive pool's is gone then, any other's is young again. `into` is untouched by a miss.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn get(
        &self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        into: &mut Page,
    ) -> Result<Loaded, StoreError> {
        let mut coder = self.coder();
        let (room, at) = coder.room();
        let taken = self.store.lock().take(pool, object, index, room)?;
        if taken == Taken::Absent {
            return Ok(Loaded::Absent);
        }
        // The bytes are those that were stored: they decode, or this process's memory was overwritten.
        let hit = coder.unpack(taken, at, into).map_err(StoreError::Corrupt)?;
        Ok(if hit { Loaded::Loaded } else { Loaded::Absent })
    }

    /// Whether a page is there as far as is known, without reading it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn contains(&self, pool: PoolId, object: ObjectId, index: u64) -> Result<bool, StoreError> {
        self.store.lock().contains(pool, object, index)
    }

    /// Forgets a page; whether there was one.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn flush_page(&self, pool: PoolId, object: ObjectId, index: u64) -> Result<bool, StoreError> {
        self.store.lock().flush_page(pool, object, index)
    }

    /// Forgets all pages of an object; how many.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn flush_object(&self, pool: PoolId, object: ObjectId) -> Result<u64, StoreError> {
        self.store.lock().flush_object(pool, object)
    }

    /// Refuses puts from now on, or takes them again.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn set_frozen(&self, pool: PoolId, frozen: bool) -> Result<(), StoreError> {
        self.store.lock().set_pool_frozen(pool, frozen)
    }

    /// Ends a pool; how many pages it held.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn destroy(&self, pool: PoolId) -> Result<u64, StoreError> {
        self.store.lock().destroy(pool)
    }

    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn pool_stats(&self, pool: PoolId) -> Result<PoolStats, StoreError> {
        self.store.lock().pool_stats(pool)
    }

    pub fn stats(&self) -> RevocableStats {
        let mut stats = self.store.lock().stats();
        stats.footprint_bytes += self.coders.footprint() as u64;
        stats
    }

    /// Describes each broken law of the store's structures.
    pub fn check(&self) -> Vec<String> {
        self.store.lock().check()
    }
}

impl Holder for Revocable {
    fn held(&self, each: &mut dyn FnMut(u64, i32, Kind)) {
        self.store.lock().each_extent(&mut |extent| each(extent.id, extent.fd.raw(), Kind::Ephemeral));
    }

    fn renumber(&self, old: u64, new: u64) {
        self.store.lock().renumber(old, new);
    }

    fn lose(&self, id: u64) {
        self.store.lock().revoked(&[id]);
    }

    /// Extents without a page only: the host takes the others back when it likes.
    fn give(&self, bytes: usize, give: &mut dyn FnMut(u64)) {
        self.store.lock().give(bytes, give);
    }

    fn surplus(&self) -> usize {
        self.store.lock().spare_bytes()
    }

    fn revoked(&self, ids: &[u64]) {
        self.store.lock().revoked(ids);
    }

    fn set(&self, frozen: bool, compress: bool) {
        self.store.lock().set(frozen, compress);
    }

    /// What it takes of its own is its index alone, and goes with the pages.
    fn balloon(&self, _ram: usize) -> usize {
        self.stats().footprint_bytes as usize
    }

    fn report(&self) -> Report {
        let (stats, (sampled, active)) = (self.stats(), self.store.lock().activity());
        let extent_bytes = stats.leased_bytes.checked_div(stats.extents).unwrap_or(0);
        Report {
            store_bytes: stats.footprint_bytes,
            leased_used: stats.data_bytes,
            stored_pages: stats.pages,
            loads: stats.traffic.hits,
            stores: stats.traffic.stored,
            refused_full: stats.traffic.refused.get(Reason::StoreFull),
            want_bytes: u64::from(self.mailbox.wanted()) * extent_bytes,
            sampled,
            active,
            ..Report::default()
        }
    }
}

impl Across for Revocable {
    fn hold(&self) {
        self.coders.hold();
        self.store.lock().keep_across_fork();
        self.mailbox.before_fork();
    }

    fn let_go_in_parent(&self) {
        self.mailbox.after_fork_in_parent();
        drop(self.store.reclaim());
        self.coders.let_go();
    }

    fn let_go_in_child(&self) {
        self.mailbox.after_fork_in_child();
        self.store.reclaim().abandon();
        self.coders.let_go();
    }
}

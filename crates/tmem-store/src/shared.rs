// SPDX-License-Identifier: Apache-2.0
//! Owns: a page store that several threads use. Callers: users' pools (the pager has its own lock and does not come
//! here). Locks: the store's, alone, for one operation. Law 8: operations on a handle happen in some order, whole.

use crate::object::ObjectId;
use crate::ops::{Loaded, Outcome};
use crate::pool::{PageStore, PoolConfig, PoolId, StoreError};
use crate::stats::{PoolStats, StoreStats};
use tmem_sys::{Lock, LockGuard, Page};

/// [`PageStore`]'s verbs, each under the lock. Errors are the store's.
pub struct SharedStore(Lock<PageStore>);

impl SharedStore {
    pub const fn new(store: PageStore) -> SharedStore {
        SharedStore(Lock::new(store))
    }

    /// The store itself, for what has no verb here. No other thread gets on meanwhile.
    pub fn lock(&self) -> LockGuard<'_, PageStore> {
        self.0.lock()
    }

    /// # Errors
    /// As [`PageStore::new_pool`].
    pub fn new_pool(&self, config: PoolConfig) -> Result<PoolId, StoreError> {
        self.lock().new_pool(config)
    }

    /// # Errors
    /// As [`PageStore::put`].
    pub fn put(
        &self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        page: &Page,
    ) -> Result<Outcome, StoreError> {
        self.lock().put(pool, object, index, page)
    }

    /// # Errors
    /// As [`PageStore::get`].
    pub fn get(
        &self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        into: &mut Page,
    ) -> Result<Loaded, StoreError> {
        self.lock().get(pool, object, index, into)
    }

    /// # Errors
    /// As [`PageStore::flush_page`].
    pub fn flush_page(&self, pool: PoolId, object: ObjectId, index: u64) -> Result<bool, StoreError> {
        self.lock().flush_page(pool, object, index)
    }

    /// # Errors
    /// As [`PageStore::flush_object`].
    pub fn flush_object(&self, pool: PoolId, object: ObjectId) -> Result<u64, StoreError> {
        self.lock().flush_object(pool, object)
    }

    /// # Errors
    /// As [`PageStore::destroy`].
    pub fn destroy(&self, pool: PoolId) -> Result<u64, StoreError> {
        self.lock().destroy(pool)
    }

    /// # Errors
    /// As [`PageStore::freeze`].
    pub fn freeze(&self, pool: PoolId) -> Result<(), StoreError> {
        self.lock().freeze(pool)
    }

    /// # Errors
    /// As [`PageStore::thaw`].
    pub fn thaw(&self, pool: PoolId) -> Result<(), StoreError> {
        self.lock().thaw(pool)
    }

    pub fn stats(&self) -> StoreStats {
        self.lock().stats()
    }

    /// # Errors
    /// As [`PageStore::pool_stats`].
    pub fn pool_stats(&self, pool: PoolId) -> Result<PoolStats, StoreError> {
        self.lock().pool_stats(pool)
    }

    pub fn check(&self) -> Vec<String> {
        self.lock().check()
    }
}

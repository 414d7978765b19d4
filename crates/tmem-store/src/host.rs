// SPDX-License-Identifier: Apache-2.0
//! Owns: the embedded host: a page store that several threads and forks use, with guests, one limit for everything,
//! and batches. Callers: users' pools (the pager has its own store and lock, and does not come here). Locks: one
//! host's, for one operation or one run of a batch; around a fork, every host's. No host's lock is held while
//! another's or a pager's is taken (the other way round it may be: see the pager's `lodgers`), or while memory of the
//! caller's that may be paged is touched: callers copy such pages first (law 17).
//! Law 8: operations on a handle happen in some order, whole. Law 15: a forked child finds every host whole, as a
//! copy of its own.

use crate::guests::{GuestError, GuestLimits, GuestStats};
use crate::object::ObjectId;
use crate::ops::{Loaded, Outcome};
use crate::pool::{PageStore, PoolConfig, PoolId, PoolKind, StoreConfig, StoreError};
use crate::stats::{PoolStats, StoreStats};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use tmem_sys::syscall::sched_yield;
use tmem_sys::{Errno, Lock, LockGuard, Page, fork};

/// Pages of a batch that are done under one hold of the lock.
pub const RUN: usize = 64;
/// How often a batch offers the processor to those who wait for the lock, between two runs.
const YIELDS: usize = 64;
/// A leaf of the index, so that many are all the leaves a limit can have.
const LEAF_BYTES: usize = 1 << 10;
/// An object's record and the least index that it can have.
const OBJECT_BYTES: usize = 128;

/// How large a host is.
#[derive(Clone, Copy, Debug)]
pub struct HostConfig {
    /// Bytes that may be taken for everything.
    pub limit_bytes: usize,
    /// The most that `set_limit` can ever allow, in bytes. Costs address space, not memory.
    pub reserve_bytes: usize,
}

/// A store that is shared by threads, and by guests.
pub struct Host {
    store: Lock<PageStore>,
    /// Threads that wait for the lock.
    waiting: AtomicU32,
    reserve_bytes: usize,
}

/// Registers the handlers around a fork, once a process. A part whose lock is held while a host's is taken registers its own
/// after these: the last registered come first before a fork.
///
/// # Errors
/// `ENOMEM`.
pub fn register_fork() -> Result<(), Errno> {
    fork::register(prepare, release, child)
}

/// Every host that may still be alive.
static HOSTS: Lock<Vec<Weak<Host>>> = Lock::new(Vec::new());
/// Hosts whose locks are held across the fork that is under way.
static HELD: Lock<Vec<Arc<Host>>> = Lock::new(Vec::new());

impl Host {
    /// # Errors
    /// `ENOMEM` when the address space cannot hold the reserves.
    pub fn new(config: HostConfig) -> Result<Arc<Host>, Errno> {
        let reserve_bytes = config.reserve_bytes.max(config.limit_bytes);
        let leaves = reserve_bytes / LEAF_BYTES;
        let store = StoreConfig {
            capacity_bytes: 0,
            reserve_bytes,
            max_pages: leaves as u64 * 8,
            max_objects: reserve_bytes / OBJECT_BYTES,
            ordered: false,
        };
        let mut store = PageStore::with_ephemeral(store, leaves * 8)?;
        store.set_limit(config.limit_bytes);
        register_fork()?;
        let host = Arc::new(Host { store: Lock::new(store), waiting: AtomicU32::new(0), reserve_bytes });
        let mut hosts = HOSTS.lock();
        hosts.retain(|known| known.strong_count() > 0);
        hosts.push(Arc::downgrade(&host));
        Ok(host)
    }

    /// The store itself, for what has no verb here. No other thread gets on meanwhile.
    pub fn lock(&self) -> LockGuard<'_, PageStore> {
        self.store.try_lock().unwrap_or_else(|| {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let guard = self.store.lock();
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            guard
        })
    }

    /// Between two runs of a batch: lets those get on who wait. The lock alone would often be taken again before they
    /// wake.
    pub(crate) fn give_way(&self) {
        for _ in 0..YIELDS {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                return;
            }
            sched_yield();
        }
    }

    /// Makes a pool of the guest of that name.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn new_pool(&self, guest: &str, kind: PoolKind, config: PoolConfig) -> Result<PoolId, HostError> {
        let mut store = self.lock();
        let guest = store.guests.find_or_make(guest).map_err(HostError::Guest)?;
        store.new_pool_of(guest, kind, config).map_err(HostError::Store)
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

    /// Offers a page for each index, and writes the code of each outcome. The three are of one length.
    ///
    /// # Errors
    /// As [`PageStore::put`]; codes of pages that were not offered any more stay as they are.
    pub fn put_many(
        &self,
        pool: PoolId,
        object: ObjectId,
        indexes: &[u64],
        pages: &[Page],
        codes: &mut [u8],
    ) -> Result<(), StoreError> {
        let runs = indexes.chunks(RUN).zip(pages.chunks(RUN)).zip(codes.chunks_mut(RUN));
        for (n, ((indexes, pages), codes)) in runs.enumerate() {
            if n > 0 {
                self.give_way();
            }
            // The caller's small arrays may be paged, too: under the lock only these copies are touched.
            let (mut at, mut made) = ([0; RUN], [0; RUN]);
            at[..indexes.len()].copy_from_slice(indexes);
            let mut store = self.lock();
            for ((index, page), code) in at.iter().zip(pages).zip(&mut made) {
                *code = store.put(pool, object, *index, page)?.code();
            }
            drop(store);
            codes.copy_from_slice(&made[..codes.len()]);
        }
        Ok(())
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

    /// Copies out the page of each index that is stored, and writes for each whether it was, as 0 or 1. The three are
    /// of one length.
    ///
    /// # Errors
    /// As [`PageStore::get`]; answers for pages that were not asked for any more stay as they are.
    pub fn get_many(
        &self,
        pool: PoolId,
        object: ObjectId,
        indexes: &[u64],
        into: &mut [Page],
        found: &mut [u8],
    ) -> Result<(), StoreError> {
        let runs = indexes.chunks(RUN).zip(into.chunks_mut(RUN)).zip(found.chunks_mut(RUN));
        for (n, ((indexes, into), found)) in runs.enumerate() {
            if n > 0 {
                self.give_way();
            }
            let (mut at, mut there) = ([0; RUN], [0; RUN]);
            at[..indexes.len()].copy_from_slice(indexes);
            let mut store = self.lock();
            for ((index, page), hit) in at.iter().zip(into).zip(&mut there) {
                *hit = u8::from(store.get(pool, object, *index, page)? == Loaded::Loaded);
            }
            drop(store);
            found.copy_from_slice(&there[..found.len()]);
        }
        Ok(())
    }

    /// # Errors
    /// As [`PageStore::contains`].
    pub fn contains(&self, pool: PoolId, object: ObjectId, index: u64) -> Result<bool, StoreError> {
        self.lock().contains(pool, object, index)
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

    /// Freezes or thaws a pool.
    ///
    /// # Errors
    /// As [`PageStore::freeze`].
    pub fn set_frozen(&self, pool: PoolId, frozen: bool) -> Result<(), StoreError> {
        let mut store = self.lock();
        if frozen { store.freeze(pool) } else { store.thaw(pool) }
    }

    /// Freezes or thaws all pools that a guest has now; how many. `None` where there is no such guest.
    pub fn set_guest_frozen(&self, guest: &str, frozen: bool) -> Option<usize> {
        let mut store = self.lock();
        let guest = store.guests.find(guest)?;
        Some(store.set_guest_frozen(guest, frozen))
    }

    /// Sets what `change` makes of a guest's limits; the guest is made where there is none.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn set_guest(
        &self,
        guest: &str,
        change: impl FnOnce(GuestLimits) -> GuestLimits,
    ) -> Result<(), GuestError> {
        let mut store = self.lock();
        let id = store.guests.find_or_make(guest)?;
        let limits = change(store.guests.get(id).limits);
        store.set_guest(id, limits);
        Ok(())
    }

    /// Every guest with its name.
    pub fn guests(&self) -> Vec<(String, GuestStats)> {
        // Copied out first: the heap is the caller's business, and not for under the lock.
        let copies: [Option<_>; crate::guests::MAX_GUESTS] = {
            let store = self.lock();
            let mut guests = store.guests.iter().map(|(_, guest)| *guest);
            std::array::from_fn(|_| guests.next())
        };
        let named = copies.iter().flatten();
        named.map(|g| (String::from_utf8_lossy(g.name()).into_owned(), g.stats())).collect()
    }

    /// As [`PageStore::set_limit`], within the reserve.
    pub fn set_limit(&self, bytes: usize) {
        self.lock().set_limit(bytes.min(self.reserve_bytes));
    }

    /// As [`Host::set_limit`], and gives back what tables took for pages that are gone; bytes that are taken still.
    pub fn shrink_to(&self, bytes: usize) -> usize {
        let mut store = self.lock();
        store.set_limit(bytes.min(self.reserve_bytes));
        store.reset_if_empty();
        store.footprint()
    }

    /// Bytes that may be taken for everything.
    pub fn limit(&self) -> usize {
        self.lock().limit()
    }

    pub fn reserve_bytes(&self) -> usize {
        self.reserve_bytes
    }

    pub fn freeable(&self) -> u64 {
        self.lock().freeable()
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

/// Why a pool could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    Guest(GuestError),
    Store(StoreError),
}

impl std::fmt::Display for HostError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HostError::Guest(e) => e.fmt(f),
            HostError::Store(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for HostError {}

/// Before a fork, in the forking thread: waits until no thread works in any host.
extern "C" fn prepare() {
    let (hosts, mut held) = (HOSTS.lock(), HELD.lock());
    held.extend(hosts.iter().filter_map(Weak::upgrade));
    held.iter().for_each(|host| host.store.lock().keep_across_fork());
    held.keep_across_fork();
    hosts.keep_across_fork();
}

/// In the child: who waited in the parent does not wait here, and who saved a pool does not go on.
extern "C" fn child() {
    release();
    let hosts = HOSTS.lock();
    for host in hosts.iter().filter_map(Weak::upgrade) {
        host.waiting.store(0, Ordering::Relaxed);
        host.lock().forget_saves();
    }
}

/// In the parent, and in the child: all hosts are free again.
extern "C" fn release() {
    let (mut held, hosts) = (HELD.reclaim(), HOSTS.reclaim());
    let ours = std::mem::take(&mut *held);
    ours.iter().for_each(|host| drop(host.store.reclaim()));
    drop((held, hosts));
}

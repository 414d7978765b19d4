// SPDX-License-Identifier: Apache-2.0
//! Owns: the embedded host: a page store that several threads and forks use, with guests, one limit for everything,
//! and batches. Callers: users' pools (the pager has its own store and lock, and does not come here). Locks: one
//! host's, for one operation or one run of a batch; around a fork, every host's. No host's lock is held while
//! another's or a pager's is taken, or while memory of the caller's that may be paged is touched: callers copy such
//! pages first (law 17).
//! Law 8: operations on a handle happen in some order, whole. Law 15: a forked child finds every host whole, as a
//! copy of its own.

use crate::coders::Coders;
use crate::facts::Facts;
use crate::guests::{GuestError, GuestLimits, GuestStats};
use crate::object::ObjectId;
use crate::ops::{Loaded, Outcome};
use crate::pool::{PageStore, PoolConfig, PoolId, PoolKind, StoreConfig, StoreError};
use crate::stats::{PoolStats, StoreStats};
use crate::sync::{AtomicU32, Lock, LockGuard, Ordering};
use std::sync::{Arc, Weak};
use tmem_sys::syscall::sched_yield;
use tmem_sys::{Errno, Page, fork};

/// Pages of a batch that are done under one hold of the lock.
pub const RUN: usize = 64;
/// How often a batch offers the processor to those who wait for the lock, between two runs.
const YIELDS: usize = 64;
/// A leaf of the index, the least that memory is taken by in steps, so that many are all the leaves a limit can have.
const LEAF_BYTES: usize = 1 << 10;

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
    pub(crate) coders: Coders,
    pub(crate) facts: Facts,
    /// Threads that wait for the lock.
    waiting: AtomicU32,
    reserve_bytes: usize,
}

/// Every host that may still be alive.
static HOSTS: tmem_sys::Lock<Vec<Weak<Host>>> = tmem_sys::Lock::new(Vec::new());
/// Hosts whose locks are held across the fork that is under way.
static HELD: tmem_sys::Lock<Vec<Arc<Host>>> = tmem_sys::Lock::new(Vec::new());

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
            max_objects: leaves,
        };
        let mut store = PageStore::with_ephemeral(store, leaves * 8)?;
        store.set_limit(config.limit_bytes);
        fork::register(prepare, release, child)?;
        let host = Arc::new(Host {
            store: Lock::new(store),
            coders: Coders::new()?,
            facts: Facts::new(),
            waiting: AtomicU32::new(0),
            reserve_bytes,
        });
        let mut hosts = HOSTS.lock();
        hosts.retain(|known| known.strong_count() > 0);
        hosts.push(Arc::downgrade(&host));
        Ok(host)
    }

    pub(crate) fn lock(&self) -> LockGuard<'_, PageStore> {
        let mut store = self.store.try_lock().unwrap_or_else(|| {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let guard = self.store.lock();
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            guard
        });
        store.beside = self.coders.beside();
        store
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
        let pool = store.new_pool_of(guest, kind, config).map_err(HostError::Store)?;
        self.facts.set(pool, config.pack, false);
        Ok(pool)
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
        // Refused without packing, unless the pool is thawed meanwhile.
        if self.facts.is_frozen(pool)
            && let Some(refused) = self.lock().put_frozen(pool, object, index)?
        {
            return Ok(refused);
        }
        let mut coder = self.coders.take();
        let coded = coder.encode(page, self.facts.packs(pool));
        self.lock().put_coded(pool, object, index, page, &coded)
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
        let mut coder = self.coders.take();
        let (room, at) = coder.room();
        let taken = self.lock().take(pool, object, index, room)?;
        let hit = coder.unpack(taken, at, into).map_err(StoreError::Corrupt)?;
        Ok(if hit { Loaded::Loaded } else { Loaded::Absent })
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
        if frozen {
            store.freeze(pool)?
        } else {
            store.thaw(pool)?
        }
        self.facts.set_frozen(pool.slot(), frozen);
        Ok(())
    }

    /// Freezes or thaws all pools that a guest has now; how many. `None` where there is no such guest.
    pub fn set_guest_frozen(&self, guest: &str, frozen: bool) -> Option<usize> {
        let mut store = self.lock();
        let guest = store.guests.find(guest)?;
        let pools = store.pools.iter_mut().enumerate().filter(|(_, p)| p.live && p.guest == guest);
        let set = pools.map(|(slot, pool)| {
            pool.stats.frozen = frozen;
            self.facts.set_frozen(slot, frozen);
        });
        Some(set.count())
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

    /// Waits until no thread works in this host, and keeps it so. As a put takes them: codecs, then the store.
    fn hold(&self) {
        self.coders.hold();
        self.store.lock().keep_across_fork();
    }

    /// Lets threads in again.
    fn let_go(&self) {
        drop(self.store.reclaim());
        self.coders.let_go();
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
    held.iter().for_each(|host| host.hold());
    held.keep_across_fork();
    hosts.keep_across_fork();
}

/// In the child: who waited in the parent does not wait here.
extern "C" fn child() {
    release();
    let hosts = HOSTS.lock();
    hosts.iter().filter_map(Weak::upgrade).for_each(|host| host.waiting.store(0, Ordering::Relaxed));
}

/// In the parent, and in the child: all hosts are free again.
extern "C" fn release() {
    let (mut held, hosts) = (HELD.reclaim(), HOSTS.reclaim());
    let ours = std::mem::take(&mut *held);
    ours.iter().for_each(|host| host.let_go());
    drop((held, hosts));
}

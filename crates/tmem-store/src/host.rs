// SPDX-License-Identifier: Apache-2.0
//! Owns: the embedded host: page stores that several threads and forks use as one, with guests, one limit for
//! everything, and batches. Callers: users' pools (the pager has its own store and lock, and does not come here). Locks: a
//! codec's, then one shard's, or all of them in order; around a fork, every host's, in the same order. Pages are packed
//! and unpacked under a codec's lock alone. No host's lock is held while another's or a pager's is taken, or while
//! memory of the caller's that may be paged is touched: callers copy such pages first (law 17).
//! Law 8: operations on a handle happen in some order, whole; so do those on all pages of an object or a pool. Law 15: a
//! forked child finds every host whole, as a copy of its own.

use crate::board::Board;
use crate::coders::{Coder, Coders};
use crate::facts::Facts;
use crate::guests::{GuestError, GuestStats, MAX_GUESTS};
use crate::object::ObjectId;
use crate::ops::{Loaded, Outcome};
use crate::pool::{PageStore, PoolConfig, PoolId, PoolKind, StoreError};
use crate::shard::{Guard, Handle, Shards};
use crate::stats::{PoolStats, StoreStats};
use crate::sync::LockGuard;
use std::sync::{Arc, Weak};
use tmem_sys::{Errno, Page, fork};

/// Pages of a batch between which others are let in.
pub const RUN: usize = 64;

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
    pub(crate) shards: Shards,
    pub(crate) board: Arc<Board>,
    coders: Coders,
    pub(crate) facts: Facts,
    pub(crate) reserve_bytes: usize,
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
        Host::of(Shards::new(config.limit_bytes, reserve_bytes)?, config.limit_bytes, reserve_bytes)
    }

    /// A host of so many shards, whatever the limit; for tests.
    ///
    /// # Errors
    /// As [`Host::new`].
    #[doc(hidden)]
    pub fn with_shards(config: HostConfig, shards: usize) -> Result<Arc<Host>, Errno> {
        let reserve_bytes = config.reserve_bytes.max(config.limit_bytes);
        Host::of(Shards::with(shards, reserve_bytes)?, config.limit_bytes, reserve_bytes)
    }

    fn of(made: (Shards, Arc<Board>), limit: usize, reserve_bytes: usize) -> Result<Arc<Host>, Errno> {
        let (shards, board) = made;
        board.set_limit(limit);
        fork::register(prepare, release, child)?;
        let host = Host { shards, board, coders: Coders::new()?, facts: Facts::new(), reserve_bytes };
        let host = Arc::new(host);
        let mut hosts = HOSTS.lock();
        hosts.retain(|known| known.strong_count() > 0);
        hosts.push(Arc::downgrade(&host));
        Ok(host)
    }

    /// A codec; its memory counts from its first use on.
    pub(crate) fn coder(&self) -> LockGuard<'_, Coder> {
        let mut coder = self.coders.take();
        if coder.is_first_use() {
            self.coders.count_one();
            self.board.overdraw(Coder::FOOTPRINT);
        }
        coder
    }

    fn shard_of(&self, handle: Handle) -> Guard<'_> {
        self.shards.lock(self.shards.of(handle))
    }

    /// Does something in all shards at once; what the last one answered.
    fn in_all<R>(&self, mut act: impl FnMut(&mut PageStore) -> R) -> Option<R> {
        let mut shards = self.shards.lock_all();
        shards.iter_mut().flatten().map(|store| act(store)).last()
    }

    /// As `in_all`, for what is counted: the sum, unless one fails.
    fn sum(&self, mut act: impl FnMut(&mut PageStore) -> Result<u64, StoreError>) -> Result<u64, StoreError> {
        let mut shards = self.shards.lock_all();
        shards.iter_mut().flatten().map(|store| act(store)).sum()
    }

    /// Makes a pool of the guest of that name.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn new_pool(&self, guest: &str, kind: PoolKind, config: PoolConfig) -> Result<PoolId, HostError> {
        // The same guests and pools in all shards, made in the same order, have the same numbers in all of them.
        let mut shards = self.lock_all_empty();
        let mut made = PoolId(0);
        for store in shards.iter_mut().flatten() {
            let guest = store.guests.find_or_make(guest).map_err(HostError::Guest)?;
            made = store.new_pool_of(guest, kind, config).map_err(HostError::Store)?;
        }
        self.facts.set(made, config.pack, false);
        Ok(made)
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
        let handle = Handle { pool, object, index };
        // Refused without packing, unless the pool is thawed meanwhile.
        if self.facts.is_frozen(pool)
            && let Some(refused) = self.shard_of(handle).put_frozen(pool, object, index)?
        {
            return Ok(refused);
        }
        let mut coder = self.coder();
        let coded = coder.encode(page, self.facts.packs(pool));
        self.put_in(self.shard_of(handle), handle, page, &coded).map(|(_, outcome)| outcome)
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
        let mut coder = self.coder();
        let (room, at) = coder.room();
        let taken = self.shard_of(Handle { pool, object, index }).take(pool, object, index, room)?;
        let hit = coder.unpack(taken, at, into).map_err(StoreError::Corrupt)?;
        Ok(if hit { Loaded::Loaded } else { Loaded::Absent })
    }

    /// # Errors
    /// As [`PageStore::contains`].
    pub fn contains(&self, pool: PoolId, object: ObjectId, index: u64) -> Result<bool, StoreError> {
        self.shard_of(Handle { pool, object, index }).contains(pool, object, index)
    }

    /// # Errors
    /// As [`PageStore::flush_page`].
    pub fn flush_page(&self, pool: PoolId, object: ObjectId, index: u64) -> Result<bool, StoreError> {
        self.shard_of(Handle { pool, object, index }).flush_page(pool, object, index)
    }

    /// # Errors
    /// As [`PageStore::flush_object`].
    pub fn flush_object(&self, pool: PoolId, object: ObjectId) -> Result<u64, StoreError> {
        let flushed = self.sum(|store| store.detach_object(pool, object));
        self.empty();
        flushed
    }

    /// # Errors
    /// As [`PageStore::destroy`].
    pub fn destroy(&self, pool: PoolId) -> Result<u64, StoreError> {
        let flushed = self.sum(|store| store.detach_pool(pool));
        self.empty();
        flushed
    }

    /// Freezes or thaws a pool.
    ///
    /// # Errors
    /// As [`PageStore::freeze`].
    pub fn set_frozen(&self, pool: PoolId, frozen: bool) -> Result<(), StoreError> {
        let set = |store: &mut PageStore| {
            if frozen {
                store.freeze(pool)?
            } else {
                store.thaw(pool)?
            }
            self.facts.set_frozen(pool.slot(), frozen);
            Ok(())
        };
        self.in_all(set).unwrap_or(Ok(()))
    }

    /// Freezes or thaws all pools that a guest has now; how many. `None` where there is no such guest.
    pub fn set_guest_frozen(&self, guest: &str, frozen: bool) -> Option<usize> {
        let set = |store: &mut PageStore| {
            let guest = store.guests.find(guest)?;
            let pools = store.pools.iter_mut().enumerate().filter(|(_, p)| p.live && p.guest == guest);
            let set = pools.map(|(slot, pool)| {
                pool.stats.frozen = frozen;
                self.facts.set_frozen(slot, frozen);
            });
            Some(set.count())
        };
        self.in_all(set).flatten()
    }

    /// Every guest with its name.
    pub fn guests(&self) -> Vec<(String, GuestStats)> {
        // Copied out first: the heap is the caller's business, and not for under the lock.
        let mut copies: [Option<_>; MAX_GUESTS] = [None; MAX_GUESTS];
        self.in_all(|store| {
            for (id, guest) in store.guests.iter() {
                match &mut copies[id.slot()] {
                    Some(sum) => guest.join_to(sum),
                    empty => *empty = Some(*guest),
                }
            }
        });
        let named = copies.iter().flatten();
        named.map(|g| (String::from_utf8_lossy(g.name()).into_owned(), g.stats())).collect()
    }

    /// Bytes that may be taken for everything.
    pub fn limit(&self) -> usize {
        self.board.limit()
    }

    pub fn reserve_bytes(&self) -> usize {
        self.reserve_bytes
    }

    /// Bytes that eviction could free.
    pub fn freeable(&self) -> u64 {
        let mut sum = 0;
        self.in_all(|store| sum += store.freeable());
        sum
    }

    pub fn stats(&self) -> StoreStats {
        let mut sum = StoreStats { footprint_bytes: self.coders.footprint() as u64, ..StoreStats::default() };
        self.in_all(|store| sum.join(&store.stats()));
        sum
    }

    /// # Errors
    /// As [`PageStore::pool_stats`].
    pub fn pool_stats(&self, pool: PoolId) -> Result<PoolStats, StoreError> {
        let mut sum = PoolStats::default();
        let add = |store: &mut PageStore| store.pool_stats(pool).map(|stats| sum.join(&stats));
        self.in_all(add).unwrap_or(Ok(()))?;
        Ok(sum)
    }

    /// Describes each broken law of the shards and of what they share. Everything waits meanwhile.
    pub fn check(&self) -> Vec<String> {
        let _quiet = self.coders.lock_all();
        crate::check::check_host(&self.shards.lock_all(), &self.board, self.coders.footprint())
    }

    /// Waits until no thread works in this host, and keeps it so. As a put takes them: codecs, then shards.
    pub(crate) fn hold(&self) {
        self.coders.hold();
        self.shards.hold();
    }

    /// Lets threads in again.
    pub(crate) fn let_go(&self) {
        self.shards.let_go();
        self.coders.let_go();
    }
}

/// What a model of threads asks beside what users do.
#[cfg(loom)]
impl Host {
    /// As a fork in the calling thread: the handlers before it, and those after it.
    pub fn around_fork(&self, at_fork: impl FnOnce()) {
        self.hold();
        at_fork();
        self.let_go();
    }

    pub fn shard_number(&self, pool: PoolId, object: ObjectId, index: u64) -> usize {
        self.shards.of(Handle { pool, object, index })
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
    hosts.iter().filter_map(Weak::upgrade).for_each(|host| host.shards.forget_waiting());
}

/// In the parent, and in the child: all hosts are free again.
extern "C" fn release() {
    let (mut held, hosts) = (HELD.reclaim(), HOSTS.reclaim());
    let ours = std::mem::take(&mut *held);
    ours.iter().for_each(|host| host.let_go());
    drop((held, hosts));
}

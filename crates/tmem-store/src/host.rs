// SPDX-License-Identifier: Apache-2.0
//! Owns: the embedded host: page stores that several threads and forks use as one, with guests, one limit for
//! everything, and batches. Callers: users' pools (the pager has its own store and lock, and does not come here). Locks: a
//! codec's, then one shard's, or all of them in order; around a fork, every host's, in the same order. Pages are packed
//! and unpacked under a codec's lock alone. No host's lock is held while another's or a pager's is taken (the other way
//! round it may be: see the pager's `lodgers`), or while memory of the caller's that may be paged is touched: callers
//! copy such pages first (law 17).
//! Twins are found within a shard. So the pools of a guest that deduplicate are in one, whichever is its, and others in all.
//! Law 8: operations on a handle happen in some order, whole; so do those on all pages of an object or a pool. Law 15: a
//! forked child finds every host whole, as a copy of its own.

use crate::board::Board;
use crate::coders::{Coder, Coders};
use crate::facts::Facts;
use crate::guests::{GuestError, GuestStats, MAX_GUESTS};
use crate::leasing;
use crate::object::ObjectId;
use crate::ops::{Loaded, Outcome};
use crate::pool::{Dedup, PageStore, PoolConfig, PoolId, PoolKind, StoreError};
use crate::room::Effort;
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
    pub(crate) coders: Coders,
    pub(crate) facts: Facts,
    pub(crate) reserve_bytes: usize,
}

/// Registers the handlers around a fork, once a process. A part whose lock is held while a host's is taken registers its own
/// after these: the last registered come first before a fork.
///
/// # Errors
/// `ENOMEM`.
pub fn register_fork() -> Result<(), Errno> {
    fork::register(prepare, parent, child)
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
        let made = Shards::new(config.limit_bytes, reserve_bytes)?;
        Host::of(made, Coders::new()?, config.limit_bytes, reserve_bytes)
    }

    /// A host of so many shards, whatever the limit; for tests.
    ///
    /// # Errors
    /// As [`Host::new`].
    #[doc(hidden)]
    pub fn with_shards(config: HostConfig, shards: usize) -> Result<Arc<Host>, Errno> {
        let reserve_bytes = config.reserve_bytes.max(config.limit_bytes);
        let made = Shards::with(shards, reserve_bytes, 0, false)?;
        Host::of(made, Coders::new()?, config.limit_bytes, reserve_bytes)
    }

    /// A host of one store, for who locks it for more than one operation: it packs and unpacks there.
    ///
    /// # Errors
    /// As [`Host::new`].
    pub fn of_one(config: HostConfig) -> Result<Arc<Host>, Errno> {
        let reserve_bytes = config.reserve_bytes.max(config.limit_bytes);
        let made = Shards::with(1, reserve_bytes, 0, true)?;
        Host::of(made, Coders::with(1)?, config.limit_bytes, reserve_bytes)
    }

    /// A host of one store that may take memory on lease.
    pub(crate) fn of_one_with(config: HostConfig, lease_reserve: usize) -> Result<Arc<Host>, Errno> {
        let reserve_bytes = config.reserve_bytes.max(config.limit_bytes);
        let made = Shards::with(1, reserve_bytes, lease_reserve, false)?;
        Host::of(made, Coders::new()?, config.limit_bytes, reserve_bytes)
    }

    fn of(
        (shards, board): (Shards, Arc<Board>),
        coders: Coders,
        limit: usize,
        reserve_bytes: usize,
    ) -> Result<Arc<Host>, Errno> {
        board.set_limit(limit);
        board.overdraw(coders.footprint());
        register_fork()?;
        let host = Arc::new(Host { shards, board, coders, facts: Facts::new(), reserve_bytes });
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
            self.board.overdraw(Coder::FOOTPRINT - Coder::IDLE);
        }
        coder
    }

    /// The store of a host that has one, for what has no verb here. No other thread gets on meanwhile.
    pub fn lock(&self) -> LockGuard<'_, PageStore> {
        debug_assert!(self.shards.count() == 1, "a part of the pages is elsewhere");
        self.shards.lock(0)
    }

    /// The number of the shard that a handle's page is in, if it is stored.
    #[inline]
    pub(crate) fn at(&self, handle: Handle) -> usize {
        self.facts.home(handle.pool).unwrap_or_else(|| self.shards.of(handle))
    }

    fn shard_of(&self, handle: Handle) -> Guard<'_> {
        self.shards.lock(self.at(handle))
    }

    /// Does something in all shards at once; what the last one answered.
    pub(crate) fn in_all<R>(&self, mut act: impl FnMut(&mut PageStore) -> R) -> Option<R> {
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
        let (mut made, mut home) = (PoolId(0), None);
        for store in shards.iter_mut().flatten() {
            let guest = store.guests.find_or_make(guest).map_err(HostError::Guest)?;
            made = store.new_pool_of(guest, kind, config).map_err(HostError::Store)?;
            home = (config.dedup != Dedup::Off).then(|| guest.slot() % self.shards.count());
        }
        self.facts.set(made, config.pack, home);
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
        let mut effort = Effort::default();
        if self.facts.seeks(pool, self.at(handle))
            && let Some(shared) = self.shard_of(handle).put_shared(handle, page, &mut effort)?
        {
            return Ok(shared);
        }
        let mut coder = self.coder();
        let coded = coder.encode(page, self.facts.packs(pool));
        self.put_in(self.shard_of(handle), handle, page, &coded, &mut effort).map(|(_, outcome)| outcome)
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
            self.show_frozen(store);
            Ok(())
        };
        self.in_all(set).unwrap_or(Ok(()))
    }

    /// Notes which pools are frozen now, one way or another.
    pub(crate) fn show_frozen(&self, store: &PageStore) {
        let pools = store.pools.iter().enumerate().filter(|(_, pool)| pool.live);
        pools.for_each(|(slot, pool)| self.facts.set_frozen(slot, pool.stats.frozen));
    }

    /// Freezes or thaws all pools that a guest has now; how many. `None` where there is no such guest.
    pub fn set_guest_frozen(&self, guest: &str, frozen: bool) -> Option<usize> {
        let set = |store: &mut PageStore| {
            let guest = store.guests.find(guest)?;
            let set = store.set_guest_frozen(guest, frozen);
            self.show_frozen(store);
            Some(set)
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
        let mut seeking = 0u64;
        self.in_all(|store| {
            sum.join(&store.stats());
            seeking |= store.seeking();
        });
        sum.dedup.pools_all = seeking.count_ones().into();
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
    leasing::before_fork(&held);
    held.keep_across_fork();
    hosts.keep_across_fork();
}

/// In the child: who waited in the parent does not wait here, and who saved a pool does not go on.
extern "C" fn child() {
    release(leasing::after_fork_in_child);
    let hosts = HOSTS.lock();
    for host in hosts.iter().filter_map(Weak::upgrade) {
        host.shards.forget_waiting();
        host.in_all(|store| {
            store.forget_saves();
            host.show_frozen(store);
        });
    }
}

extern "C" fn parent() {
    release(leasing::after_fork_in_parent);
}

/// In the parent, and in the child: all hosts are free again.
fn release(leases: fn(&[Arc<Host>])) {
    let (mut held, hosts) = (HELD.reclaim(), HOSTS.reclaim());
    let ours = std::mem::take(&mut *held);
    leases(&ours);
    ours.iter().for_each(|host| host.let_go());
    drop((held, hosts));
}

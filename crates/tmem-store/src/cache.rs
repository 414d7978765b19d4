// SPDX-License-Identifier: Apache-2.0
//! Owns: entries of any length, found by key, over one ephemeral pool of a host of its own: an entry is an object, its
//! id a keyed hash of its key, its key and value lie on its pages, and nothing is kept beside them. Callers: the
//! bindings. Locks: the host's, for up to RUN pages at a time, with signals blocked where a pager may ask for room: its
//! fault handlers then wait for this lock, and must not meet it held in their own thread. No caller's memory is touched
//! under it, and no heap is used (law 17).
//! Laws 3, 6 and 8: a put first forgets the entry; keys are compared whole; a get gives what one put stored, or nothing.
//!
//! A long entry is put and got in several holds of the lock. Whoever works on it looks at the number on its first page
//! each time: when that is another, or gone, so is what he worked on. Until the last page is put the entry is marked as
//! unfinished, and is nobody's.

use crate::host::{Host, HostConfig, HostError};
use crate::object::ObjectId;
use crate::ops::{Corrupt, Loaded, Outcome, Reason};
use crate::pool::{PageStore, PoolConfig, PoolId, PoolKind, StoreError};
use crate::shape::{HEAD, copy_overlap};
use crate::sync::LockGuard;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tmem_sys::hash::PageHash;
use tmem_sys::page::pages_for;
use tmem_sys::signals::Blocked;
use tmem_sys::{Errno, PAGE_SIZE, Page};

pub use crate::shape::Head;

/// Pages of an entry that are put or got under one hold of the lock.
const RUN: usize = 16;
/// What one entry may take of the index and by rounding, beside its bytes.
const BESIDE: usize = 96 << 10;

/// A cache of entries.
pub struct Cache {
    host: Arc<Host>,
    pool: PoolId,
    most_bytes: usize,
    lodges: bool,
    hash: PageHash,
    numbers: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    stored: AtomicU64,
    refused: AtomicU64,
}

/// One reading of a cache's counters. Sizes are bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    pub entries: u64,
    pub pages: u64,
    /// All that is taken: pages, tables.
    pub footprint: u64,
    /// What may be taken now.
    pub limit: u64,
    pub hits: u64,
    pub misses: u64,
    pub stored: u64,
    /// Puts whose entry found no place; what the key had before is gone.
    pub refused: u64,
    /// Entries forgotten to make room.
    pub evicted: u64,
}

/// Why a cache could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheError {
    Reserve(Errno),
    Host(HostError),
}

/// The store, locked.
struct Held<'a> {
    store: LockGuard<'a, PageStore>,
    // Dropped after the lock.
    _blocked: Option<Blocked>,
}

impl Cache {
    /// A cache that may take `limit_bytes` now and up to `most_bytes` later. `lodges` says that somebody else sets the
    /// limit in between, who may hold a pager's lock.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn new(limit_bytes: usize, most_bytes: usize, lodges: bool) -> Result<Cache, CacheError> {
        let host = Host::of_one(HostConfig { limit_bytes, reserve_bytes: most_bytes })
            .map_err(CacheError::Reserve)?;
        let config = PoolConfig { pack: true, raw: true, dedup: crate::Dedup::Off };
        let pool = host.new_pool("default", PoolKind::NonExclusive, config).map_err(CacheError::Host)?;
        host.lock().keep_whole(pool).map_err(|e| CacheError::Host(HostError::Store(e)))?;
        let hash = PageHash::new().map_err(CacheError::Reserve)?;
        let [numbers, hits, misses, stored, refused] = [const { AtomicU64::new(0) }; 5];
        Ok(Cache { host, pool, most_bytes, lodges, hash, numbers, hits, misses, stored, refused })
    }

    /// The id under which a key's entry lies. Two keys may have one: the key is compared, too.
    pub fn id_of(&self, key: &[u8]) -> ObjectId {
        let [one, two] = self.hash.hash_bytes(key);
        ObjectId([one, two, key.len() as u64])
    }

    /// Whose limit it is.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn hold(&self) -> Held<'_> {
        let blocked = self.lodges.then(Blocked::new);
        Held { store: self.host.lock(), _blocked: blocked }
    }

    /// Bytes by which the limit is short of room for an entry of that many bytes without an eviction, as far as it may grow.
    pub fn shortage(&self, bytes: usize) -> usize {
        let store = &self.hold().store;
        store.short_of(bytes.saturating_add(BESIDE)).min(self.most_bytes.saturating_sub(store.limit()))
    }

    /// Puts an entry in the place of what the key had.
    ///
    /// # Errors
    /// As [`PageStore::put`].
    pub fn put(&self, id: ObjectId, key: &[u8], value: &[u8]) -> Result<Outcome, StoreError> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let mut head = Head { number, value_len: value.len(), key_len: key.len(), whole: true };
        let outcome = if head.pages() <= 1 {
            let mut page = [0; PAGE_SIZE];
            head.lay(key, value, 0, &mut page);
            let mut held = self.hold();
            held.store.flush_object(self.pool, id)?;
            held.store.put(self.pool, id, 0, &page)?
        } else {
            head.whole = false;
            self.put_long(id, head, key, value)?
        };
        let count = if outcome.is_stored() { &self.stored } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(outcome)
    }

    /// Refuses a put that is not to be tried: what the id had before is gone.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn refuse(&self, id: ObjectId) -> Result<(), StoreError> {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.hold().store.flush_object(self.pool, id).map(drop)
    }

    fn put_long(&self, id: ObjectId, head: Head, key: &[u8], value: &[u8]) -> Result<Outcome, StoreError> {
        let mut run = [[0; PAGE_SIZE]; RUN];
        for first in (0..head.pages()).step_by(RUN) {
            let n = RUN.min(head.pages() - first);
            run[..n].iter_mut().enumerate().for_each(|(i, page)| head.lay(key, value, first + i, page));
            let mut held = self.hold();
            if first == 0 {
                held.store.flush_object(self.pool, id)?;
            } else if let Some(other) = self.other_than(&mut held.store, id, head.number)? {
                return Ok(other);
            }
            for (i, page) in run[..n].iter().enumerate() {
                let outcome = held.store.put(self.pool, id, (first + i) as u64, page)?;
                // Its own first page may have been the oldest there was, and gave its room.
                if !outcome.is_stored() || !held.store.contains(self.pool, id, 0)? {
                    held.store.flush_object(self.pool, id)?;
                    return Ok(if outcome.is_stored() {
                        Outcome::Refused(Reason::StoreFull)
                    } else {
                        outcome
                    });
                }
            }
        }
        Head { whole: true, ..head }.lay(key, value, 0, &mut run[0]);
        let mut held = self.hold();
        if let Some(other) = self.other_than(&mut held.store, id, head.number)? {
            return Ok(other);
        }
        let outcome = held.store.put(self.pool, id, 0, &run[0])?;
        if !outcome.is_stored() || !held.store.contains(self.pool, id, 1)? {
            held.store.flush_object(self.pool, id)?;
            return Ok(Outcome::Refused(Reason::StoreFull));
        }
        Ok(outcome)
    }

    /// What became of an entry that is no longer there as its putter left it: another put came after it, or it had to go.
    fn other_than(
        &self,
        store: &mut PageStore,
        id: ObjectId,
        number: u64,
    ) -> Result<Option<Outcome>, StoreError> {
        let mut page = [0; PAGE_SIZE];
        Ok(match self.head_of(store, id, &mut page)? {
            Some(head) if head.number == number => None,
            Some(_) => Some(Outcome::Stored),
            None => Some(Outcome::Refused(Reason::StoreFull)),
        })
    }

    /// The head of what is under an id, whose first page it leaves in `page`.
    fn head_of(
        &self,
        store: &mut PageStore,
        id: ObjectId,
        page: &mut Page,
    ) -> Result<Option<Head>, StoreError> {
        match store.peek(self.pool, id, 0, page)? {
            Loaded::Loaded => Head::parse(page).map(Some).ok_or(StoreError::Corrupt(Corrupt::Undecodable)),
            _ => Ok(None),
        }
    }

    /// The entry of a key, and its first page. With `young` it counts as a hit or a miss, and the page gets young.
    ///
    /// # Errors
    /// As [`PageStore::get`].
    pub fn find(
        &self,
        id: ObjectId,
        key: &[u8],
        page: &mut Page,
        young: bool,
    ) -> Result<Option<Head>, StoreError> {
        let head = {
            let mut held = self.hold();
            let head = self
                .head_of(&mut held.store, id, page)?
                .filter(|head| head.whole && head.key_len == key.len());
            if young && head.is_some() {
                held.store.touch(self.pool, id, 0)?;
            }
            head
        };
        let found = match head {
            Some(head) if self.has_key(id, &head, key, page)? => Some(head),
            _ => None,
        };
        if young {
            let count = if found.is_some() { &self.hits } else { &self.misses };
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(found)
    }

    fn has_key(&self, id: ObjectId, head: &Head, key: &[u8], page: &Page) -> Result<bool, StoreError> {
        let (here, rest) = key.split_at(key.len().min(PAGE_SIZE - HEAD));
        if page[HEAD..HEAD + here.len()] != *here {
            return Ok(false);
        }
        let mut other = vec![0; rest.len()];
        Ok(self.read(id, head, HEAD + here.len(), &mut other, false)? && other == rest)
    }

    /// Copies the value of an entry that was found: what of it is on `page`, the first, and the rest. False when the entry
    /// has changed or gone meanwhile.
    ///
    /// # Errors
    /// As [`PageStore::get`].
    pub fn copy_value(
        &self,
        id: ObjectId,
        head: &Head,
        page: &Page,
        into: &mut [u8],
        young: bool,
    ) -> Result<bool, StoreError> {
        let from = head.value().start;
        copy_overlap(page, 0, into, from);
        let here = PAGE_SIZE.saturating_sub(from).min(into.len());
        self.read(id, head, from + here, &mut into[here..], young)
    }

    /// Copies an entry's bytes from `from` on; false when it has changed or gone meanwhile.
    fn read(
        &self,
        id: ObjectId,
        head: &Head,
        from: usize,
        into: &mut [u8],
        young: bool,
    ) -> Result<bool, StoreError> {
        if into.is_empty() {
            return Ok(true);
        }
        let (first, end) = (from / PAGE_SIZE, pages_for(from + into.len()));
        let mut run = [[0; PAGE_SIZE]; RUN];
        for at in (first..end).step_by(RUN) {
            let n = RUN.min(end - at);
            {
                let mut held = self.hold();
                if self.other_than(&mut held.store, id, head.number)?.is_some() {
                    return Ok(false);
                }
                for (i, page) in run[..n].iter_mut().enumerate() {
                    let index = (at + i) as u64;
                    let loaded = held.store.peek(self.pool, id, index, page)?;
                    if loaded != Loaded::Loaded {
                        return Err(StoreError::Corrupt(Corrupt::Misplaced));
                    }
                    if young {
                        held.store.touch(self.pool, id, index)?;
                    }
                }
            }
            run[..n]
                .iter()
                .enumerate()
                .for_each(|(i, page)| copy_overlap(page, (at + i) * PAGE_SIZE, into, from));
        }
        Ok(true)
    }

    /// A hit whose value went before it was read is a miss.
    pub fn count_lost(&self) {
        self.hits.fetch_sub(1, Ordering::Relaxed);
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets an entry that was found; false when it has changed or gone meanwhile.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn forget(&self, id: ObjectId, head: &Head) -> Result<bool, StoreError> {
        let mut held = self.hold();
        let gone = self.other_than(&mut held.store, id, head.number)?.is_some();
        if !gone {
            held.store.flush_object(self.pool, id)?;
        }
        Ok(!gone)
    }

    /// Forgets the entry of a key; whether there was one.
    ///
    /// # Errors
    /// As [`Cache::find`].
    pub fn remove(&self, id: ObjectId, key: &[u8]) -> Result<bool, StoreError> {
        let mut page = [0; PAGE_SIZE];
        match self.find(id, key, &mut page, false)? {
            Some(head) => self.forget(id, &head),
            None => Ok(false),
        }
    }

    /// Forgets every entry.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn clear(&self) -> Result<(), StoreError> {
        self.hold().store.flush_pool(self.pool).map(drop)
    }

    /// The key of the entry that was put or got longest ago, and its id.
    ///
    /// # Errors
    /// As [`Cache::find`].
    pub fn oldest(&self) -> Result<Option<(ObjectId, Vec<u8>)>, StoreError> {
        loop {
            let mut page = [0; PAGE_SIZE];
            let found = {
                let mut held = self.hold();
                let Some(id) = held.store.oldest_object(self.pool)? else { return Ok(None) };
                let head = self.head_of(&mut held.store, id, &mut page)?.filter(|head| head.whole);
                if head.is_none() {
                    // Unfinished, and nothing was younger: in a forked child there is nobody to finish it.
                    held.store.flush_object(self.pool, id)?;
                }
                head.map(|head| (id, head))
            };
            if let Some((id, head)) = found
                && let Some(key) = self.key_of(id, &head, &page)?
            {
                return Ok(Some((id, key)));
            }
        }
    }

    /// The next entry's key in no particular order, of those that were put before `newest` ended; and where to go on. Begin
    /// at 0.
    ///
    /// # Errors
    /// As [`Cache::find`].
    pub fn next_key(&self, mut after: u32, newest: u64) -> Result<Option<(u32, Vec<u8>)>, StoreError> {
        loop {
            let mut page = [0; PAGE_SIZE];
            let (id, head) = {
                let mut held = self.hold();
                let Some((at, id)) = held.store.next_object(self.pool, after)? else { return Ok(None) };
                after = at;
                (id, self.head_of(&mut held.store, id, &mut page)?)
            };
            if let Some(head) = head.filter(|head| head.whole && head.number <= newest)
                && let Some(key) = self.key_of(id, &head, &page)?
            {
                return Ok(Some((after, key)));
            }
        }
    }

    /// The number of the newest put.
    pub fn newest(&self) -> u64 {
        self.numbers.load(Ordering::Relaxed)
    }

    fn key_of(&self, id: ObjectId, head: &Head, page: &Page) -> Result<Option<Vec<u8>>, StoreError> {
        let mut key = vec![0; head.key_len];
        copy_overlap(page, 0, &mut key, HEAD);
        let here = key.len().min(PAGE_SIZE - HEAD);
        let all = self.read(id, head, HEAD + here, &mut key[here..], false)?;
        Ok(all.then_some(key))
    }

    /// # Errors
    /// [`StoreError::NoSuchPool`].
    pub fn stats(&self) -> Result<CacheStats, StoreError> {
        let (store, limit, evicted) = {
            let held = self.hold();
            (held.store.stats(), held.store.limit(), held.store.evicted_objects(self.pool)?)
        };
        let [hits, misses, stored, refused] =
            [&self.hits, &self.misses, &self.stored, &self.refused].map(|n| n.load(Ordering::Relaxed));
        Ok(CacheStats {
            entries: store.objects,
            pages: store.held.pages(),
            footprint: store.footprint_bytes + self.host.coders.footprint() as u64,
            limit: limit as u64,
            hits,
            misses,
            stored,
            refused,
            evicted,
        })
    }

    pub fn check(&self) -> Vec<String> {
        self.hold().store.check()
    }
}

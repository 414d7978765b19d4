// SPDX-License-Identifier: Apache-2.0
//! Owns: the search for a page's twin, a stored page with the same bytes, on every put of a pool that deduplicates; and how
//! many pages that is done for. Callers: `place`. Locks: the store's.
//! Law 10: a twin is of the same guest, or it is not even read; every byte is compared before anything is shared. Law 3: a
//! put over a shared page leaves its share and changes no other page: nothing stored is ever written to.
//!
//! A page is hashed (128 bits, keyed), and 32 bits of the hash, which tell guests apart too, are the tag under which
//! `candidates` may know a twin. Most heaps have next to no twins, and a hash for nothing costs a tenth of a put. So a
//! pool that is left to decide samples: it looks up one page in 32, chosen by a few words of it, so that all twins are
//! looked up or none. When some of those had a twin, all pages are looked up, until few enough have one; and those stored
//! before become candidates, a few with each put (`backfill`).

use crate::candidates::{Candidates, STEPS};
use crate::codec::same_filled;
use crate::config::Dedup;
use crate::entry::{Entry, EntryId, EntryPlace, Form};
use crate::object::ObjectId;
use crate::ops::{Outcome, Reason};
use crate::pool::{PageStore, Pool, PoolId, StoreError};
use crate::room::Effort;
use crate::shard::Handle;
use crate::shared::{Circle, Shares};
use crate::stats::DedupStats;
use tmem_sys::hash::PageHash;
use tmem_sys::random::random_bytes;
use tmem_sys::time::{calibrate, ns_from_ticks, ticks};
use tmem_sys::{Errno, PAGE_SIZE, Page, Table};

/// One page in so many is a sample.
const SAMPLED: u32 = 32;
/// Pages that are looked up before it is asked whether that pays: so many samples, or as many pages as those stand for.
const SAMPLES: u32 = 128;
/// Twins among the samples from which on all pages are looked up: one in 16. To look a page up in vain costs a quarter of a
/// put; only when nearly half of all have a twin do puts become quicker. But in a full store every page that is shared is a
/// page that stays in memory.
const WORTH: u32 = 8;
/// Twins among all pages below which it is back to samples: one in 32. Half of what it takes to begin, so that a share of
/// twins that is near either does not switch to and fro.
const WORTHLESS: u32 = SAMPLES * SAMPLED / 32;
/// Words of a page that choose the samples.
const WORDS: usize = 8;

/// Whether a pool's pages are looked up, and what came of the last ones.
#[derive(Clone, Copy)]
pub(crate) struct Sampler {
    all: bool,
    looked_up: u32,
    found: u32,
}

impl Sampler {
    pub const NEW: Sampler = Sampler { all: false, looked_up: 0, found: 0 };

    /// Whether all pages of the pool are looked up.
    #[inline]
    pub fn is_all(&self, dedup: Dedup) -> bool {
        dedup == Dedup::On || self.all
    }

    /// Takes note of a page that was looked up. By how many pools more or less all pages are looked up now.
    fn tell(&mut self, found: bool) -> i64 {
        self.looked_up += 1;
        self.found += u32::from(found);
        let was = self.all;
        let ends = self.looked_up >= if was { SAMPLES * SAMPLED } else { SAMPLES };
        if was && ends {
            self.all = self.found >= WORTHLESS;
        } else if !was {
            self.all = self.found >= WORTH;
        }
        if ends || self.all != was {
            (self.looked_up, self.found) = (0, 0);
        }
        i64::from(self.all) - i64::from(was)
    }
}

/// What the search for a page's twin came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// There was none: the page is no sample, or is one repeated word.
    Unseen,
    /// There is none, and the page may be another's under this tag.
    New(u32),
    /// The page is stored, as shared.
    Shared,
}

/// A stored page with the same bytes.
enum Twin {
    Entry(EntryId),
    Share(u32),
}

pub(crate) struct Duplicates {
    pub shares: Shares,
    pub candidates: Candidates,
    /// The entry that is made a candidate next, of those stored while their pools sampled; none when all were.
    pub fill: EntryId,
    hash: PageHash,
    /// Chooses the samples.
    salt: u64,
    /// A candidate, unpacked to be compared.
    pub beside: Table<Page>,
    /// Pools that deduplicate, and of these those all of whose pages are looked up.
    pools: u64,
    pools_all: u64,
    hashed: u64,
    found: u64,
    failed: u64,
    ticks: u64,
    /// Bits of the hash that count: few of them make collisions.
    #[cfg(test)]
    pub tag_bits: u32,
}

impl Duplicates {
    /// Room for the twins of so many pages.
    pub fn new(max_pages: usize) -> Result<Duplicates, Errno> {
        let mut salt = [0; 8];
        random_bytes(&mut salt)?;
        Ok(Duplicates {
            shares: Shares::new(max_pages)?,
            candidates: Candidates::new(max_pages)?,
            fill: EntryId::NONE,
            hash: PageHash::new()?,
            salt: u64::from_ne_bytes(salt) | 1,
            beside: Table::new(1)?,
            pools: 0,
            pools_all: 0,
            hashed: 0,
            found: 0,
            failed: 0,
            ticks: 0,
            #[cfg(test)]
            tag_bits: 32,
        })
    }

    /// A pool was made or destroyed.
    pub fn count_pool(&mut self, pool: &Pool, op: fn(u64, u64) -> u64) {
        if pool.config.dedup != Dedup::Off {
            calibrate();
            self.pools = op(self.pools, 1);
            self.pools_all = op(self.pools_all, pool.sampler.is_all(pool.config.dedup).into());
        }
    }

    /// Whether no page was ever looked up.
    #[inline]
    pub fn is_new(&self) -> bool {
        self.hashed == 0
    }

    /// Bytes of memory taken; none where no pool ever deduplicated.
    pub fn touched_bytes(&self) -> usize {
        // The page beside, and the key of the hash.
        let fixed = if self.hashed > 0 { 3 * PAGE_SIZE } else { 0 };
        self.shares.touched_bytes() + self.candidates.touched_bytes() + fixed
    }

    /// Lets the table have room for the pages there are to find, opening or closing so many buckets at most.
    #[inline]
    pub fn fit(&mut self, pages: u64, at_most: usize) {
        if self.hashed > 0 {
            self.candidates.fit(if self.pools_all > 0 { pages } else { pages / u64::from(SAMPLED) }, at_most);
        }
    }

    pub fn stats(&self) -> DedupStats {
        DedupStats {
            pools: self.pools,
            pools_all: self.pools_all,
            hashed: self.hashed,
            found: self.found,
            failed: self.failed,
            ns: ns_from_ticks(self.ticks),
            shares: self.shares.live() as u64,
            saved_bytes: self.shares.saved_bytes(),
            table_bytes: self.touched_bytes() as u64,
        }
    }

    pub fn check(&self, broken: &mut Vec<String>) {
        self.candidates.check(broken);
    }

    /// A share ended: its candidate is the page that stayed, if one did.
    pub fn renamed(&mut self, tag: u32, share: u32, stays: Option<EntryId>) {
        self.candidates.rename(tag, EntryId::share(share), stays);
    }

    /// Whether a page is a sample.
    #[inline]
    pub fn is_sample(&self, page: &Page) -> bool {
        let mut mixed = self.salt;
        for n in 0..WORDS {
            // Not all at the same place of their kilobyte: records often have the same size as a part of the page.
            let at = n * (PAGE_SIZE / WORDS) + n * 56;
            let word = u64::from_ne_bytes(std::array::from_fn(|i| page[at + i]));
            let wide = u128::from(mixed ^ word) * u128::from(self.salt ^ 0x9e37_79b9_7f4a_7c15);
            mixed = (wide as u64 ^ (wide >> 64) as u64).wrapping_add(n as u64);
        }
        ((mixed >> 32) as u32).is_multiple_of(SAMPLED)
    }

    pub fn tag(&self, page: &Page, circle: Circle) -> u32 {
        let whose = u32::from(circle.guest.0) << 1 | u32::from(circle.ephemeral);
        let tag = self.hash.hash(page)[0] as u32;
        #[cfg(test)]
        let tag = tag & (u64::from(u32::MAX) >> (32 - self.tag_bits)) as u32;
        tag ^ whose.wrapping_mul(0x9e37_79b1)
    }
}

impl PageStore {
    /// Looks a page up whose handle holds none, if its pool does that, and stores it as shared if it has a twin.
    pub(crate) fn look_up(&mut self, slot: usize, object: ObjectId, index: u64, page: &Page) -> Search {
        let Pool { config, sampler, .. } = self.pools[slot];
        let wanted = sampler.is_all(config.dedup) || self.dedup.is_sample(page);
        if !wanted || same_filled(page).is_some() {
            return Search::Unseen;
        }
        let start = ticks();
        let search = self.share_with_twin(slot, object, index, page);
        let found = search == Search::Shared;
        self.dedup.hashed += 1;
        self.dedup.found += u64::from(found);
        if config.dedup == Dedup::Auto {
            let change = self.pools[slot].sampler.tell(found);
            self.dedup.pools_all = self.dedup.pools_all.wrapping_add_signed(change);
            if change > 0 {
                self.dedup.fill = EntryId::in_leaf(1, 0);
            }
        }
        self.fill_in();
        self.fit_candidates(STEPS);
        self.dedup.ticks += ticks().saturating_sub(start);
        search
    }

    /// Offers a page whose handle holds none only to be shared: for a store that is known to have no room for more data.
    /// Whether it was stored.
    pub(crate) fn put_twin(&mut self, pool: PoolId, object: ObjectId, index: u64, page: &Page) -> bool {
        let Ok(slot) = self.live_slot(pool) else { return false };
        // A sample or two would be no help.
        !self.pools[slot].stats.frozen && self.seeks(slot) && self.share(slot, object, index, page).is_ok()
    }

    /// Whether all pages of a pool are looked up.
    #[inline]
    pub(crate) fn seeks(&self, slot: usize) -> bool {
        let Pool { config, sampler, .. } = self.pools[slot];
        config.dedup != Dedup::Off && sampler.is_all(config.dedup)
    }

    /// A bit for each pool all of whose pages are looked up.
    pub(crate) fn seeking(&self) -> u64 {
        let all = (0..self.pools.len()).filter(|slot| self.pools[*slot].live && self.seeks(*slot));
        all.fold(0, |bits, slot| bits | 1 << slot)
    }

    /// A put that may need no packing: of a page that is looked up, under a handle that holds none. `None`, and nothing
    /// but the search in `effort` has happened, where it was not stored as shared.
    ///
    /// # Errors
    /// As [`PageStore::put`].
    pub(crate) fn put_shared(
        &mut self,
        Handle { pool, object, index }: Handle,
        page: &Page,
        effort: &mut Effort,
    ) -> Result<Option<Outcome>, StoreError> {
        let slot = self.live_slot(pool)?;
        let asked = !self.pools[slot].stats.frozen && self.seeks(slot) && !self.dedup.is_new();
        if !asked || !self.objects.get(slot as u32, object, index).is_empty() {
            return Ok(None);
        }
        Ok(match self.share(slot, object, index, page) {
            Ok(outcome) => Some(outcome),
            Err(search) => {
                effort.search = Some(search);
                None
            }
        })
    }

    /// Stores a page as shared and counts the put, or tells what else the search came to.
    fn share(&mut self, slot: usize, object: ObjectId, index: u64, page: &Page) -> Result<Outcome, Search> {
        match self.look_up(slot, object, index, page) {
            Search::Shared => Ok(self.count_put(slot, Ok(()))),
            other => Err(other),
        }
    }

    /// Lets a stored page be found that is not shared.
    pub(crate) fn remember(&mut self, id: EntryId, tag: u32) {
        self.dedup.candidates.put(tag, id);
    }

    /// As `Duplicates::fit`, for what is stored now.
    #[inline]
    pub(crate) fn fit_candidates(&mut self, at_most: usize) {
        let alone = self.held.packed_pages + self.held.raw_pages;
        self.dedup.fit(alone + self.dedup.shares.live() as u64, at_most);
    }

    fn share_with_twin(&mut self, slot: usize, object: ObjectId, index: u64, page: &Page) -> Search {
        let Pool { guest, kind, .. } = self.pools[slot];
        let circle = Circle { guest, ephemeral: kind.is_ephemeral() };
        let tag = self.dedup.tag(page, circle);
        // Under one hold of the lock: no other shard can be asked.
        let mut effort = Effort::alone();
        // Whatever makes room may forget or move the twin: it is looked for again.
        while let Some(twin) = self.find_twin(slot, circle, tag, page) {
            match self.share_with(twin, circle, tag, slot, object, index, page) {
                Ok(()) => return Search::Shared,
                Err(reason) if self.make_room(guest, 0, reason, &mut effort).is_to_try_again() => {}
                Err(_) => break,
            }
        }
        Search::New(tag)
    }

    /// A stored page with the same bytes that a page of this pool may share.
    fn find_twin(&mut self, slot: usize, circle: Circle, tag: u32, page: &Page) -> Option<Twin> {
        let (config, on_lease) = (self.pools[slot].config, self.keeps_on_lease(slot));
        if !self.dedup.shares.has_room() {
            return None;
        }
        let id = self.dedup.candidates.find(tag)?;
        let (twin, data, of) = match id.place() {
            EntryPlace::Share(share) => self.share_twin(share)?,
            _ => self.entry_twin(id)?,
        };
        let PageStore { slab, dedup, codec, .. } = self;
        if of != circle {
            return None;
        }
        let same = match data.form() {
            Form::Packed(loc, len) if config.pack => {
                let packed = slab.read(loc, len)?;
                codec.decode(packed, &mut dedup.beside[0]) && dedup.beside[0] == *page
            }
            Form::Raw(loc) if config.raw || on_lease => slab.read(loc, PAGE_SIZE)? == page,
            // A form that the pool keeps no page in.
            _ => return None,
        };
        dedup.failed += u64::from(!same);
        same.then_some(twin)
    }

    fn entry_twin(&self, id: EntryId) -> Option<(Twin, Entry, Circle)> {
        let entry = self.objects.entry(id).filter(|entry| !entry.is_empty())?;
        if let Form::Shared(share) = entry.form() {
            return self.share_twin(share);
        }
        let (pool, ..) = self.objects.handle(id)?;
        let Pool { guest, kind, .. } = self.pools[pool as usize];
        Some((Twin::Entry(id), entry, Circle { guest, ephemeral: kind.is_ephemeral() }))
    }

    fn share_twin(&self, share: u32) -> Option<(Twin, Entry, Circle)> {
        let (data, circle) = self.dedup.shares.get(share)?;
        Some((Twin::Share(share), data, circle))
    }

    /// Stores a page as one that shares its twin's data, if there is room as things are; changes nothing if not.
    #[allow(clippy::too_many_arguments)]
    fn share_with(
        &mut self,
        twin: Twin,
        circle: Circle,
        tag: u32,
        slot: usize,
        object: ObjectId,
        index: u64,
        page: &Page,
    ) -> Result<(), Reason> {
        self.admit(circle.guest, 0, None)?;
        let share = match twin {
            Twin::Share(share) => share,
            Twin::Entry(id) => self.make_share(id, circle, tag).ok_or(Reason::IndexFull)?,
        };
        let done = self.insert_shared(slot, object, index, page, share);
        match done {
            Ok(_) => self.dedup.candidates.put(tag, EntryId::share(share)),
            Err(_) => self.unmake_share(share),
        }
        done.map(|_| ())
    }
}

#[cfg(test)]
mod tests;

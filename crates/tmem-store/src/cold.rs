// SPDX-License-Identifier: Apache-2.0
//! Owns: which stored pages have been cold long enough for a tighter form, and the exchange of one form for another.
//! Callers: `backend`, for the pager's background work, which packs the pages again between the two calls. Locks: the store's, for
//! each call; not in between. Law 12: a form is exchanged only where the very bytes are stored that it was made of.

use crate::class::{class_of, slot_size};
use crate::entry::{Entry, EntryId, Form};
use crate::guests::slot_bytes;
use crate::object::ObjectId;
use crate::order::Place;
use crate::pool::{PageStore, PoolId};
use tmem_sys::{Errno, PAGE_SIZE, Page, Table};

/// Pages moved at most to make room for a tighter form in a full store.
const COMPACTED_AT_ONCE: usize = 64;

/// A cold page's stored bytes, copied out.
#[derive(Clone, Copy, Debug, Default)]
struct Job {
    id: u32,
    len: u16,
}

/// Cold pages on their way to a tighter form.
pub struct ColdBatch {
    jobs: [Job; ColdBatch::MOST],
    count: usize,
    bytes: Table<Page>,
}

impl ColdBatch {
    /// Pages of a batch: what one hold of the lock copies out or exchanges.
    pub const MOST: usize = 16;
    /// Bytes it takes.
    pub const FOOTPRINT: usize = ColdBatch::MOST * PAGE_SIZE;

    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<ColdBatch, Errno> {
        Ok(ColdBatch {
            jobs: [Job::default(); ColdBatch::MOST],
            count: 0,
            bytes: Table::new(ColdBatch::MOST)?,
        })
    }

    /// Pages in it.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The stored bytes of the `n`th: packed, or the page itself where there are [`PAGE_SIZE`] of them.
    pub fn stored(&self, n: usize) -> &[u8] {
        &self.bytes[n][..self.jobs[n].len.into()]
    }

    fn push(&mut self, id: EntryId, stored: &[u8]) {
        self.jobs[self.count] = Job { id: id.0, len: stored.len() as u16 };
        self.bytes[self.count][..stored.len()].copy_from_slice(stored);
        self.count += 1;
    }
}

impl PageStore {
    /// Sets the clock by which puts are dated, in any unit.
    pub(crate) fn set_clock(&mut self, now: u32) {
        self.order.set_clock(now);
    }

    /// Whether [`PageStore::take_cold`] would find pages to look at.
    pub(crate) fn has_cold(&mut self, before: u32) -> bool {
        self.order.has_unswept(before)
    }

    /// Copies out pages that were put before `before`, oldest first, and were not looked at yet. False when there are no more.
    pub(crate) fn take_cold(&mut self, before: u32, batch: &mut ColdBatch) -> bool {
        let PageStore { order, objects, slab, .. } = self;
        batch.count = 0;
        order.sweep(before, ColdBatch::MOST, &mut |_, id| {
            let entry = objects.entry(id).filter(|e| !e.is_settled());
            let stored = entry.and_then(|entry| match entry.form() {
                Form::Packed(loc, len) => slab.read(loc, len),
                Form::Raw(loc) => slab.read(loc, PAGE_SIZE),
                _ => None,
            });
            if let Some(stored) = stored {
                batch.push(id, stored);
            }
        })
    }

    /// Copies out up to `most` pages of one step of the order, for a sample of all; the next step, 0 after the last.
    pub(crate) fn sample(&self, step: u32, most: usize, batch: &mut ColdBatch) -> u32 {
        batch.count = 0;
        self.order.sample(step, most.min(ColdBatch::MOST), &mut |id| {
            if let Some(stored) = self.objects.entry(id).and_then(|entry| self.stored(entry)) {
                batch.push(id, stored);
            }
        })
    }

    /// Whether a page is in a form for pages that stay cold.
    pub(crate) fn is_cold(&self, pool: PoolId, object: ObjectId, index: u64) -> bool {
        self.live_slot(pool).is_ok_and(|slot| self.objects.get(slot as u32, object, index).is_cold())
    }

    /// The bytes that an entry's page takes.
    fn stored(&self, entry: Entry) -> Option<&[u8]> {
        match entry.form() {
            Form::Packed(loc, len) => self.slab.read(loc, len),
            Form::Raw(loc) => self.slab.read(loc, PAGE_SIZE),
            _ => None,
        }
    }

    /// Stores the `n`th page of a batch in a tighter form, or notes that there is none. True where bytes were saved.
    pub(crate) fn settle_cold(&mut self, batch: &ColdBatch, n: usize, tighter: Option<&[u8]>) -> bool {
        let id = EntryId(batch.jobs[n].id);
        let Some(entry) = self.objects.entry(id).filter(|e| self.order.id(Place(e.record())) == id) else {
            return false;
        };
        let (loc, len) = match entry.form() {
            Form::Packed(loc, len) => (loc, len),
            Form::Raw(loc) => (loc, PAGE_SIZE),
            _ => return false,
        };
        if self.slab.read(loc, len) != Some(batch.stored(n)) {
            // Another page by now.
            return false;
        }
        let better = tighter.and_then(|bytes| self.store_tighter(id, entry, bytes));
        if let Some(entry) = self.objects.entry_mut(id) {
            *entry = better.unwrap_or(*entry).with_record(entry.record()).settled();
        }
        better.is_some()
    }

    /// Puts the tighter bytes of a page into a slot of their own; `None` where there is none to be had, or none that is
    /// smaller.
    fn store_tighter(&mut self, id: EntryId, old: Entry, bytes: &[u8]) -> Option<Entry> {
        let size = slot_bytes(&self.slab, old);
        if slot_size(class_of(bytes.len())) >= size {
            return None;
        }
        if self.slab.mapped_bytes() >= self.slab.capacity_bytes() && self.slab.chunks.leased.idle == 0 {
            // What was freed before makes room, or this page will when its larger slot is.
            self.compact(COMPACTED_AT_ONCE);
        }
        let loc = self.slab.store_tighter(bytes)?;
        if self.slab.size_at(loc).is_none_or(|is| is >= size) {
            self.slab.free(loc);
            return None;
        }
        self.slab.set_owner(loc, id);
        let new = Entry::cold(loc, bytes.len());
        // Compaction may have moved it.
        let old = self.objects.entry(id).unwrap_or(old);
        self.exchange(id, old, new);
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Recoder;
    use crate::ops::{Loaded, Outcome};
    use crate::pool::{PoolConfig, StoreConfig};
    use crate::{ObjectId, PoolId};

    /// Text-like pages, different for each `n`.
    fn page(n: u64) -> Page {
        let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut word = [0; 8];
        std::array::from_fn(|i| {
            if i % 8 == 0 {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                word = ((x >> 56).wrapping_mul(0x0101_7351_1133_0717) & 0x1f1f_1f1f_1f1f_1f1f
                    | 0x6060_6060_6060_6060)
                    .to_le_bytes();
            }
            word[i % 8]
        })
    }

    fn store(pages: u64) -> (PageStore, PoolId) {
        let mut store = PageStore::new(StoreConfig::for_pages(pages, 64 << 20)).unwrap();
        let pool = store.new_pool(PoolConfig { raw: true, ..PoolConfig::default() }).unwrap();
        store.set_clock(1);
        for n in 0..pages {
            assert_eq!(store.put(pool, ObjectId([0; 3]), n, &page(n)), Ok(Outcome::Stored));
        }
        (store, pool)
    }

    #[test]
    fn cold_pages_are_exchanged_and_what_changed_meanwhile_is_not() {
        let (mut store, pool) = store(3000);
        let object = ObjectId([0; 3]);
        let mut recoder = Recoder::new(store.dictionaries().clone()).unwrap();
        let mut batch = ColdBatch::new().unwrap();
        assert!(!store.take_cold(1, &mut batch) && batch.is_empty(), "nothing is that old");
        store.set_clock(10);
        let before = store.stats();
        let (mut saved, mut rounds) = (0, 0);
        while store.take_cold(2, &mut batch) {
            assert!(!batch.is_empty());
            // One is gone, and one is another page, when the tighter forms are ready.
            let first = rounds * ColdBatch::MOST as u64;
            assert_eq!(store.flush_page(pool, object, first), Ok(true));
            assert_eq!(store.put(pool, object, first + 1, &page(first + 70_000)), Ok(Outcome::Stored));
            for n in 0..batch.len() {
                let mut whole = [0; PAGE_SIZE];
                assert!(store.codec.decode(batch.stored(n), &mut whole));
                let tighter = recoder.recode(&whole, Some(batch.stored(n)));
                saved += u64::from(store.settle_cold(&batch, n, tighter));
            }
            rounds += 1;
        }
        let after = store.stats();
        assert_eq!(after.held.cold_pages, saved);
        assert!(saved > 2500 && after.slot_bytes < before.slot_bytes, "{saved} exchanged, {after:?}");
        assert_eq!(store.check(), Vec::<String>::new());
        let mut into = [0; PAGE_SIZE];
        for n in 0..3000 {
            let most = ColdBatch::MOST as u64;
            let (gone, other) = (n % most == 0 && n / most < rounds, n % most == 1 && n / most < rounds);
            let expected = if gone { Loaded::Absent } else { Loaded::Loaded };
            assert_eq!(store.get(pool, object, n, &mut into), Ok(expected));
            assert!(gone || into == page(if other { n - 1 + 70_000 } else { n }), "page {n}");
        }
    }

    #[test]
    fn a_full_store_is_packed_tighter_within_its_capacity() {
        let capacity = 4 << 20;
        let mut store = PageStore::new(StoreConfig::for_pages(3000, capacity)).unwrap();
        let pool = store.new_pool(PoolConfig { raw: true, ..PoolConfig::default() }).unwrap();
        let object = ObjectId([0; 3]);
        let full = (0..3000).find(|&n| !store.put(pool, object, n, &page(n)).unwrap().is_stored()).unwrap();
        let (mut recoder, mut batch) =
            (Recoder::new(store.dictionaries().clone()).unwrap(), ColdBatch::new().unwrap());
        let (mut saved, mut most) = (0, 0);
        while store.take_cold(1, &mut batch) {
            for n in 0..batch.len() {
                let mut whole = [0; PAGE_SIZE];
                assert!(store.codec.decode(batch.stored(n), &mut whole));
                saved +=
                    u64::from(store.settle_cold(&batch, n, recoder.recode(&whole, Some(batch.stored(n)))));
                most = most.max(store.mapped_bytes());
            }
        }
        assert!(saved * 10 > full * 9, "{saved} of {full} were packed tighter");
        assert!(most <= capacity + (256 << 10), "{most} bytes mapped");
        while store.compact(64) > 0 {}
        assert!(
            store.mapped_bytes() <= capacity
                && store.put(pool, object, 4000, &page(4000)).unwrap().is_stored()
        );
        assert_eq!(store.check(), Vec::<String>::new());
        let mut into = [0; PAGE_SIZE];
        for n in 0..full {
            assert_eq!(store.get(pool, object, n, &mut into), Ok(Loaded::Loaded));
            assert!(into == page(n), "page {n}");
        }
    }

    #[test]
    fn a_sample_comes_from_all_of_the_order() {
        let (store, _) = store(5000);
        let mut batch = ColdBatch::new().unwrap();
        let (mut step, mut seen, mut steps) = (0, 0, 0);
        loop {
            step = store.sample(step, 8, &mut batch);
            assert!(batch.len() <= 8);
            seen += batch.len();
            steps += 1;
            if step == 0 {
                break;
            }
        }
        assert!(steps == 5 && seen > 30, "{seen} pages in {steps} steps");
    }
}

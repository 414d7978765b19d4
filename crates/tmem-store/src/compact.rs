// SPDX-License-Identifier: Apache-2.0
//! Owns: compaction: pages move out of sparse chunks into fuller ones of their class, so that chunks come free for
//! other classes or for the kernel. Callers: the pager when it is idle or short. Locks: the store's, for one step.
//! The index is walked leaf by leaf, so slots need no way back to their entries.

use crate::entry::{Entry, Form};
use crate::pool::PageStore;
use crate::slab::{Loc, Slab};
use tmem_sys::PAGE_SIZE;

/// Leaves of the index in one step of an evacuation: 512 pages that may have to be moved.
const EVACUATED_AT_ONCE: u32 = 8;

impl PageStore {
    /// Looks at up to `leaves` leaves of the index (64 pages each), from where the last step ended, and moves what
    /// lies in a sparse chunk while a fuller one has room. How many pages were moved.
    pub fn compact(&mut self, leaves: usize) -> usize {
        let end = self.objects.trees.leaves.fresh();
        let mut moved = 0;
        for _ in 0..leaves.min(end as usize) {
            self.compact_from = if self.compact_from + 1 >= end { 1 } else { self.compact_from + 1 };
            if self.objects.trees.leaves.is_live(self.compact_from) {
                moved += self.move_in_leaf(self.compact_from, Slab::relocate);
            }
        }
        self.moved += moved as u64;
        moved
    }

    /// Begins to empty as many chunks as the free slots of their classes amount to, by a walk over the whole index. For a
    /// store that is full of free slots of the wrong sizes. Whether there are such chunks.
    pub(crate) fn begin_evacuation(&mut self) -> bool {
        if !self.is_evacuating() && self.slab.choose_leaving() > 0 {
            self.evacuate_from = 1;
        }
        self.is_evacuating()
    }

    pub(crate) fn is_evacuating(&self) -> bool {
        self.evacuate_from != 0
    }

    /// A few leaves of the walk; nobody is to wait for all of it.
    pub(crate) fn evacuate_some(&mut self) {
        let end = self.objects.trees.leaves.fresh();
        let until = self.evacuate_from.saturating_add(EVACUATED_AT_ONCE).min(end);
        for leaf in self.evacuate_from..until {
            if self.objects.trees.leaves.is_live(leaf) {
                self.moved += self.move_in_leaf(leaf, Slab::leave) as u64;
            }
        }
        self.evacuate_from = until;
        if until >= end {
            self.evacuate_from = 0;
            self.slab.settle();
        }
    }

    /// Offers every page of a leaf a better place; how many took it.
    fn move_in_leaf(&mut self, leaf: u32, better_place: fn(&mut Slab, Loc, usize) -> Option<Loc>) -> usize {
        let mut moved = 0;
        for entry in &mut self.objects.trees.leaves[leaf] {
            let slab = &mut self.slab;
            let better = match entry.form() {
                Form::Packed(loc, len) => better_place(slab, loc, len).map(|to| Entry::packed(to, len)),
                Form::Raw(loc) => better_place(slab, loc, PAGE_SIZE).map(Entry::raw),
                Form::Empty | Form::Same(_) | Form::Broken(_) => None,
            };
            if let Some(better) = better {
                *entry = better.with_record(entry.record());
                moved += 1;
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use crate::pool::{PageStore, PoolConfig, StoreConfig};
    use crate::{Loaded, ObjectId, Outcome};
    use tmem_sys::{PAGE_SIZE, Page};

    /// A page that packs to about 1.5 KB, different for each n.
    fn page(n: u64) -> Page {
        let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        std::array::from_fn(|i| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            if i < 1400 { x as u8 } else { n as u8 }
        })
    }

    #[test]
    fn sparse_chunks_come_free_and_every_page_stays() {
        let mut store = PageStore::new(StoreConfig::for_pages(4096, 16 << 20)).unwrap();
        let pool = store.new_pool(PoolConfig::default()).unwrap();
        let object = ObjectId([0; 3]);
        for n in 0..4096 {
            assert_eq!(store.put(pool, object, n, &page(n)), Ok(Outcome::Stored));
        }
        for n in (0..4096).filter(|n| n % 5 != 0) {
            assert_eq!(store.flush_page(pool, object, n), Ok(true));
        }
        let before = store.stats().mapped_bytes;
        let moved: usize = (0..8).map(|_| store.compact(32)).sum();
        store.trim();
        let after = store.stats();
        assert_eq!(after.moved, moved as u64);
        assert!(after.mapped_bytes * 3 < before, "{before} bytes mapped, {} after", after.mapped_bytes);
        let mut into = [0; PAGE_SIZE];
        for n in 0..4096 {
            let expected = if n % 5 == 0 { Loaded::Loaded } else { Loaded::Absent };
            assert_eq!(store.get(pool, object, n, &mut into), Ok(expected));
            assert!(n % 5 != 0 || into == page(n));
        }
        assert_eq!(store.check(), Vec::<String>::new());
        assert_eq!((0..8).map(|_| store.compact(64)).sum::<usize>(), 0, "nothing is moved to and fro");
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: compaction: a sparse chunk is emptied into the fuller ones of its class, so that it comes free for other classes
//! or for the kernel. Callers: the pager when it is idle or short, `room`. Locks: the store's, for one step.
//! A slot knows its entry, so a step costs what it moves. Law: no page is lost to it; what it cannot move stays.

use crate::class::CLASSES;
use crate::entry::{EntryPlace, Form};
use crate::pool::PageStore;
use crate::slab::{Loc, Slab};
use tmem_sys::PAGE_SIZE;

impl PageStore {
    /// Empties chunks whose pages all fit into others of their class, until `pages` were moved or there is no such chunk.
    /// How many pages were moved.
    pub fn compact(&mut self, pages: usize) -> usize {
        let mut moved = 0;
        while moved < pages {
            let Some(chunk) = self.slab.choose_leaving(self.compact_from as usize) else { break };
            let all = self.empty_chunk(chunk);
            moved += all.unwrap_or(0);
            self.compact_from = (self.compact_from + 1) % CLASSES as u32;
            if all.is_none() {
                break;
            }
        }
        self.moved += moved as u64;
        moved
    }

    /// Moves all pages out of a chunk that was chosen for it; `None` where one cannot be moved.
    fn empty_chunk(&mut self, chunk: usize) -> Option<usize> {
        self.empty_chunk_by(chunk, Slab::leave)
    }

    pub(crate) fn empty_chunk_by(
        &mut self,
        chunk: usize,
        leave: fn(&mut Slab, Loc, usize) -> Option<Loc>,
    ) -> Option<usize> {
        let (mut moved, mut from) = (0, 0);
        while let Some(loc) = self.slab.next_taken(chunk, from) {
            if !self.move_slot_by(loc, leave) {
                // There is no room, or stray writes broke the way from slot to entry, and `check` will tell.
                self.slab.settle(chunk);
                return None;
            }
            moved += 1;
            from = loc.slot() + 1;
        }
        Some(moved)
    }

    /// Moves one slot's data to where `leave` finds a place, and tells its entry.
    pub(crate) fn move_slot_by(
        &mut self,
        loc: Loc,
        leave: impl FnOnce(&mut Slab, Loc, usize) -> Option<Loc>,
    ) -> bool {
        let PageStore { slab, objects, dedup, .. } = self;
        let entry = slab.owner(loc).and_then(|owner| match owner.place() {
            // What several pages share moves once, with its share.
            EntryPlace::Share(share) => dedup.shares.data_mut(share),
            _ => objects.entry_mut(owner),
        });
        let Some(entry) = entry else { return false };
        let to = match entry.form() {
            Form::Packed(at, len) if at == loc => leave(slab, loc, len),
            Form::Raw(at) if at == loc => leave(slab, loc, PAGE_SIZE),
            _ => None,
        };
        let Some(to) = to else { return false };
        *entry = entry.moved(to);
        true
    }

    /// Whether so much of the slab is free slots that compaction is worth its time.
    pub fn is_sparse(&self) -> bool {
        let all = self.slab.mapped_bytes() + self.slab.leased_chunk_bytes();
        self.slab.free_bytes() > all / SPARSE_PART + SPARSE_LEAST
    }
}

/// Free slots may take this part of the slab and this many bytes more: a chunk of each class that is not full.
const SPARSE_PART: usize = 32;
const SPARSE_LEAST: usize = CLASSES / 4 * crate::class::CHUNK;

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
        let moved: usize = (0..80).map(|_| store.compact(32)).sum();
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
        assert_eq!(store.compact(64), 0, "nothing is moved to and fro");
    }
}

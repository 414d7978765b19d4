// SPDX-License-Identifier: Apache-2.0
//! Owns: the table in which a page's twin is looked for: a name for each tag of 32 bits. Callers: `dedup`. Locks: the
//! store's. Law: a name is a hint. What it names may be gone or have other bytes, so whoever takes it compares them; and
//! an entry of the table may be lost at any time, which costs room and nothing else. So the table has hardly more entries
//! than there are pages to find, eight bytes each: nine or ten bytes a page. Of two buckets that a tag may lie in, the emptier
//! takes it: 95 of 100 entries stay, where they would be 75 with one bucket for a tag.

use crate::entry::EntryId;
use crate::page_bytes;
use tmem_sys::page::fetch_line;
use tmem_sys::{Errno, PAGE_SIZE, Table};

/// Entries of a bucket, which fills a line of the processor's caches.
const SLOTS: usize = 8;
/// Pages to find for each bucket.
const PAGES: usize = 7;
/// One page of buckets is the least.
const FIRST: usize = PAGE_SIZE / size_of::<Bucket>();
/// Buckets moved by one put at most, when the table changes its size.
pub(crate) const STEPS: usize = 4;

/// Tag above, name below; 0 for none.
type Bucket = [u64; SLOTS];

fn tag_of(entry: u64) -> u32 {
    (entry >> 32) as u32
}

pub(crate) struct Candidates {
    buckets: Table<Bucket>,
    /// Buckets in use. A tag's place among them follows its order among all tags, so that a table of another size is made
    /// of this one bucket by bucket, and no put pays for a whole rehash.
    open: usize,
    /// As many as there were before; the same where no change is under way. Of these, the buckets from `moved` on have
    /// moved when the table grows, the buckets below when it shrinks.
    before: usize,
    moved: usize,
}

impl Candidates {
    pub fn new(max_pages: usize) -> Result<Candidates, Errno> {
        let buckets = Table::new((max_pages / PAGES).next_multiple_of(FIRST).max(FIRST))?;
        Ok(Candidates { buckets, open: 0, before: 0, moved: 0 })
    }

    pub fn touched_bytes(&self) -> usize {
        page_bytes(self.open.max(self.before) * size_of::<Bucket>())
    }

    pub fn find(&self, tag: u32) -> Option<EntryId> {
        if self.open == 0 {
            return None;
        }
        let homes = self.homes(tag);
        fetch_line(&self.buckets[homes[1]]);
        let mut entries = homes.iter().flat_map(|home| &self.buckets[*home]);
        entries.find(|e| **e != 0 && tag_of(**e) == tag).map(|e| EntryId(*e as u32))
    }

    /// Names a candidate, instead of another of its tag or, where there is no room, of any.
    pub fn put(&mut self, tag: u32, name: EntryId) {
        if self.open == 0 {
            return;
        }
        let homes = self.homes(tag);
        let place = |home: usize, is: &dyn Fn(u64) -> bool| {
            self.buckets[home].iter().position(|e| is(*e)).map(|slot| (home, slot))
        };
        let has_tag = |e: u64| e != 0 && tag_of(e) == tag;
        let known = homes.iter().find_map(|home| place(*home, &has_tag));
        let free = || {
            let full = |home: usize| self.buckets[home].iter().filter(|e| **e != 0).count();
            place(if full(homes[1]) < full(homes[0]) { homes[1] } else { homes[0] }, &|e| e == 0)
        };
        // The low bits of a tag do not choose the first bucket.
        let (home, slot) = known.or_else(free).unwrap_or((homes[0], tag as usize % SLOTS));
        self.buckets[home][slot] = u64::from(tag) << 32 | u64::from(name.0);
    }

    /// Gives a candidate another name, or none, where it is still under this one.
    pub fn rename(&mut self, tag: u32, old: EntryId, new: Option<EntryId>) {
        if self.open == 0 {
            return;
        }
        let whole = u64::from(tag) << 32;
        for home in self.homes(tag) {
            if let Some(entry) = self.buckets[home].iter_mut().find(|e| **e == whole | u64::from(old.0)) {
                *entry = new.map_or(0, |new| whole | u64::from(new.0));
            }
        }
    }

    /// Brings the table nearer to the size that so many pages want: in so many steps at most, each of one bucket.
    pub fn fit(&mut self, pages: u64, at_most: usize) {
        let wanted = (pages as usize / PAGES).clamp(FIRST, self.buckets.len());
        // A part more than is wanted, and a part less before it shrinks: pages that come and go change nothing.
        let roomy = (wanted + wanted / 8).min(self.buckets.len());
        for _ in 0..at_most {
            if self.open != self.before {
                self.move_bucket();
            } else if self.open == 0 {
                (self.open, self.before) = (FIRST, FIRST);
            } else if wanted > self.open {
                (self.open, self.moved) = (roomy, self.before);
            } else if roomy + roomy / 8 < self.open {
                (self.open, self.moved) = (roomy, 0);
            } else {
                return;
            }
        }
    }

    /// The buckets that a tag may lie in.
    fn homes(&self, tag: u32) -> [usize; 2] {
        let grows = self.open > self.before;
        [tag, tag.wrapping_mul(0x9e37_79b1).rotate_left(16)].map(|hash| {
            let place = |buckets: usize| ((u64::from(hash) * buckets as u64) >> 32) as usize;
            let old = place(self.before);
            if (old >= self.moved) == grows { place(self.open) } else { old }
        })
    }

    /// Moves one bucket to where its entries lie in the new size: the highest when the table grows, as they go up, and the
    /// lowest when it shrinks, so that none is in the way of another.
    fn move_bucket(&mut self) {
        let grows = self.open > self.before;
        let bucket = if grows { self.moved - 1 } else { self.moved };
        self.moved = if grows { bucket } else { bucket + 1 };
        for entry in std::mem::replace(&mut self.buckets[bucket], [0; SLOTS]) {
            if entry != 0 {
                self.put(tag_of(entry), EntryId(entry as u32));
            }
        }
        if self.moved == if grows { 0 } else { self.before } {
            self.buckets.discard(self.open * size_of::<Bucket>()..self.before * size_of::<Bucket>());
            self.before = self.open;
            self.moved = 0;
        }
    }

    /// Finds entries that lie where nobody looks for them.
    pub fn check(&self, broken: &mut Vec<String>) {
        for (at, bucket) in self.buckets[..self.open.max(self.before)].iter().enumerate() {
            if bucket.iter().any(|e| *e != 0 && !self.homes(tag_of(*e)).contains(&at)) {
                broken.push(format!("bucket {at} has a candidate of another"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scattered(n: u32) -> u32 {
        (u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }

    #[test]
    fn most_candidates_are_found_while_the_table_grows_and_shrinks() {
        let mut table = Candidates::new(100_000).unwrap();
        assert_eq!(table.find(7), None);
        for n in 1..=20_000 {
            table.fit(n.into(), if n % 2 == 0 { STEPS } else { 0 });
            table.put(scattered(n), EntryId(n));
        }
        let found = |table: &Candidates| {
            let found = (1..=20_000).filter(|n| table.find(scattered(*n)) == Some(EntryId(*n))).count();
            let mut broken = Vec::new();
            table.check(&mut broken);
            assert!(broken.is_empty(), "{broken:?}");
            found
        };
        assert!(table.touched_bytes() <= 20_000 * 10 + 2 * PAGE_SIZE);
        let full = found(&table);
        assert!(full > 18_000, "{full} of 20,000");
        table.fit(5_000, usize::MAX);
        assert!(table.touched_bytes() <= 6_500 * 10 + PAGE_SIZE);
        let quarter = found(&table);
        assert!(quarter > 4_000, "{quarter} in 5,000 places");
        table.fit(0, usize::MAX);
        assert!(table.touched_bytes() <= 2 * PAGE_SIZE);
        assert!(found(&table) > 250);
    }

    #[test]
    fn a_name_changes_only_while_it_is_the_one_that_is_known() {
        let mut table = Candidates::new(100).unwrap();
        table.fit(1, STEPS);
        table.put(5, EntryId(64));
        table.rename(5, EntryId::share(64), None);
        assert_eq!(table.find(5), Some(EntryId(64)));
        table.rename(5, EntryId(64), Some(EntryId::share(3)));
        table.rename(5, EntryId(64), Some(EntryId(9)));
        assert_eq!(table.find(5), Some(EntryId::share(3)));
        table.put(5, EntryId(70));
        assert_eq!(table.find(5), Some(EntryId(70)));
        table.rename(5, EntryId(70), None);
        assert_eq!(table.find(5), None);
    }
}

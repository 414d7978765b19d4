// SPDX-License-Identifier: Apache-2.0
//! Owns: the table in which a page's twin is looked for: a name for each tag of 32 bits. Callers: `dedup`. Locks: the
//! store's. Law: a name is a hint. What it names may be gone or have other bytes, so whoever takes it compares them; and
//! an entry of the table may be lost at any time, which costs room and nothing else. So the table has no more entries than
//! there are pages to find, eight bytes each, and none is looked for elsewhere when its bucket is full.

use crate::page_bytes;
use tmem_sys::page::fetch_line;
use tmem_sys::{Errno, PAGE_SIZE, Table};

/// Entries of a bucket, which fills a line of the processor's caches.
const SLOTS: usize = 8;
/// One page of buckets is the least.
const FIRST: usize = PAGE_SIZE / size_of::<Bucket>();
/// Buckets opened or closed by one put at most.
pub(crate) const STEPS: usize = 4;

/// Tag above, name below; 0 for none.
type Bucket = [u64; SLOTS];

/// What may have a page's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// The id of an entry.
    Entry(u32),
    Share(u32),
}

const SHARE: u32 = 1 << 31;

impl Name {
    fn bits(self) -> u64 {
        match self {
            Name::Entry(id) => id.into(),
            Name::Share(number) => (number | SHARE).into(),
        }
    }

    fn of(bits: u64) -> Name {
        let bits = bits as u32;
        if bits & SHARE == 0 { Name::Entry(bits) } else { Name::Share(bits & !SHARE) }
    }
}

fn tag_of(entry: u64) -> u32 {
    (entry >> 32) as u32
}

pub(crate) struct Candidates {
    /// Linear hashing: buckets are opened one at a time, so no put pays for a whole rehash.
    buckets: Table<Bucket>,
    open: usize,
}

impl Candidates {
    pub fn new(max_pages: usize) -> Result<Candidates, Errno> {
        let buckets = (max_pages / SLOTS).next_multiple_of(FIRST).max(FIRST);
        Ok(Candidates { buckets: Table::new(buckets)?, open: 0 })
    }

    pub fn touched_bytes(&self) -> usize {
        page_bytes(self.open * size_of::<Bucket>())
    }

    /// Asks for the memory of a tag's bucket.
    #[inline]
    pub fn expect(&self, tag: u32) {
        if self.open > 0 {
            fetch_line(&self.buckets[self.bucket_of(tag)]);
        }
    }

    pub fn find(&self, tag: u32) -> Option<Name> {
        if self.open == 0 {
            return None;
        }
        let bucket = &self.buckets[self.bucket_of(tag)];
        bucket.iter().find(|e| **e != 0 && tag_of(**e) == tag).map(|e| Name::of(*e))
    }

    /// Names a candidate, instead of another of its tag or, where there is no room, of any.
    pub fn put(&mut self, tag: u32, name: Name) {
        if self.open > 0 {
            let at = self.bucket_of(tag);
            insert(&mut self.buckets[at], tag, name);
        }
    }

    /// Gives a candidate another name, or none, where it is still under this one.
    pub fn rename(&mut self, tag: u32, old: Name, new: Option<Name>) {
        if self.open == 0 {
            return;
        }
        let (at, whole) = (self.bucket_of(tag), u64::from(tag) << 32);
        if let Some(entry) = self.buckets[at].iter_mut().find(|e| **e == whole | old.bits()) {
            *entry = new.map_or(0, |new| whole | new.bits());
        }
    }

    /// Opens or closes buckets, so many at most, until there is an entry for each of `pages`.
    pub fn fit(&mut self, pages: u64, at_most: usize) {
        let wanted = (pages as usize / SLOTS).clamp(FIRST, self.buckets.len());
        for _ in 0..at_most {
            match self.open {
                0 => self.open = FIRST,
                open if open < wanted => self.open_bucket(),
                // A few more than wanted stay: pages that come and go open and close none.
                open if open > wanted + wanted / 8 => self.close_bucket(),
                _ => return,
            }
        }
    }

    fn bucket_of(&self, tag: u32) -> usize {
        let span = self.open.next_power_of_two();
        let at = tag as usize & (span - 1);
        if at < self.open { at } else { at - span / 2 }
    }

    /// The bucket that the entries of the last open one come from.
    fn origin(&self) -> usize {
        self.open - 1 - self.open.next_power_of_two() / 2
    }

    fn open_bucket(&mut self) {
        self.open += 1;
        let (old, new) = (self.origin(), self.open - 1);
        for slot in 0..SLOTS {
            let entry = self.buckets[old][slot];
            if entry != 0 && self.bucket_of(tag_of(entry)) == new {
                self.buckets[new][slot] = std::mem::take(&mut self.buckets[old][slot]);
            }
        }
    }

    fn close_bucket(&mut self) {
        let (old, last) = (self.origin(), self.open - 1);
        self.open = last;
        for entry in std::mem::replace(&mut self.buckets[last], [0; SLOTS]) {
            if entry != 0 {
                insert(&mut self.buckets[old], tag_of(entry), Name::of(entry));
            }
        }
        if last.is_multiple_of(FIRST) {
            self.buckets.discard(last * size_of::<Bucket>()..(last + FIRST) * size_of::<Bucket>());
        }
    }

    /// Finds entries that lie where nobody looks for them.
    pub fn check(&self, broken: &mut Vec<String>) {
        for (at, bucket) in self.buckets[..self.open].iter().enumerate() {
            if bucket.iter().any(|e| *e != 0 && self.bucket_of(tag_of(*e)) != at) {
                broken.push(format!("bucket {at} has a candidate of another"));
            }
        }
    }
}

fn insert(bucket: &mut Bucket, tag: u32, name: Name) {
    let same = bucket.iter().position(|e| *e != 0 && tag_of(*e) == tag);
    let slot = same.or_else(|| bucket.iter().position(|e| *e == 0));
    // The high bits of a tag have not chosen the bucket.
    let slot = slot.unwrap_or((tag >> 29) as usize);
    bucket[slot] = u64::from(tag) << 32 | name.bits();
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
            table.fit(n.into(), STEPS);
            table.put(scattered(n), Name::Entry(n));
        }
        let found = |table: &Candidates| {
            let found = (1..=20_000).filter(|n| table.find(scattered(*n)) == Some(Name::Entry(*n))).count();
            let mut broken = Vec::new();
            table.check(&mut broken);
            assert!(broken.is_empty(), "{broken:?}");
            found
        };
        assert!(table.touched_bytes() <= 20_000 * 8 + PAGE_SIZE);
        let full = found(&table);
        assert!(full > 16_000, "{full} of 20,000");
        table.fit(5_000, usize::MAX);
        assert!(table.touched_bytes() <= 6_000 * 8 + PAGE_SIZE);
        let quarter = found(&table);
        assert!(quarter > 4_000, "{quarter} in 5,000 places");
        table.fit(0, usize::MAX);
        assert_eq!(table.touched_bytes(), PAGE_SIZE);
        assert!(found(&table) > 400);
    }

    #[test]
    fn a_name_changes_only_while_it_is_the_one_that_is_known() {
        let mut table = Candidates::new(100).unwrap();
        table.fit(1, STEPS);
        table.put(5, Name::Entry(64));
        table.rename(5, Name::Share(64), None);
        assert_eq!(table.find(5), Some(Name::Entry(64)));
        table.rename(5, Name::Entry(64), Some(Name::Share(3)));
        table.rename(5, Name::Entry(64), Some(Name::Entry(9)));
        assert_eq!(table.find(5), Some(Name::Share(3)));
        table.put(5, Name::Entry(70));
        assert_eq!(table.find(5), Some(Name::Entry(70)));
        table.rename(5, Name::Entry(70), None);
        assert_eq!(table.find(5), None);
    }
}

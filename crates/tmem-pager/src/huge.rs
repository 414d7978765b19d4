// SPDX-License-Identifier: Apache-2.0
//! Owns: how many pages each block of the arena has that are not free, a block being as large as a huge page. From it follows
//! what huge pages may take while memory is plain, whose tables count in the budget, and what a walk over the arena may pass
//! by. Callers: `verbs`, `bulk`, every walk. Lock: the pager's. Law 13.

use std::ops::Range;
use tmem_sys::page::HUGE_SIZE;
use tmem_sys::{Errno, PAGE_SIZE, Table};

pub const HUGE_PAGES: usize = HUGE_SIZE / PAGE_SIZE;

/// The bits of a block that count its pages.
const COUNT: u16 = 0x3ff;
/// What is known of the block's pages, beside their states, may have been written.
const MARKED: u16 = 0x4000;
/// The block's tables may take memory.
const TABLED: u16 = 0x8000;
/// Blocks looked at together.
const CHUNK: usize = 32;

pub struct Huge {
    blocks: Table<u16>,
    /// Blocks with pages that are not free.
    reached: usize,
    /// Blocks whose tables may take memory.
    tabled: usize,
    /// Where those of them are that have no page in use.
    spare: Range<usize>,
}

impl Huge {
    /// # Errors
    /// `ENOMEM`.
    pub fn new(pages: usize) -> Result<Huge, Errno> {
        let blocks = Table::new(pages.div_ceil(HUGE_PAGES))?;
        Ok(Huge { blocks, reached: 0, tabled: 0, spare: 0..0 })
    }

    /// Calls `each` with every block of a range and how many pages of the range it has.
    fn each(range: &Range<usize>, mut each: impl FnMut(usize, u16)) {
        let mut page = range.start;
        while page < range.end {
            let end = range.end.min((page / HUGE_PAGES + 1) * HUGE_PAGES);
            each(page / HUGE_PAGES, (end - page) as u16);
            page = end;
        }
    }

    /// Free pages come into use.
    pub fn add(&mut self, range: &Range<usize>) {
        Huge::each(range, |block, pages| {
            let word = &mut self.blocks[block];
            self.reached += usize::from(*word & COUNT == 0);
            self.tabled += usize::from(*word & TABLED == 0);
            *word = (*word | TABLED) + pages;
        });
    }

    /// Pages in use become free.
    pub fn remove(&mut self, range: &Range<usize>) {
        Huge::each(range, |block, pages| {
            let word = &mut self.blocks[block];
            *word -= pages;
            if *word & COUNT == 0 {
                self.reached -= 1;
                let spare = &mut self.spare;
                *spare = if spare.start == spare.end {
                    block..block + 1
                } else {
                    spare.start.min(block)..spare.end.max(block + 1)
                };
            }
        });
    }

    /// Bytes of the huge pages that all extents and one more reach into.
    pub fn bytes_with(&self, range: &Range<usize>) -> usize {
        let mut more = 0;
        Huge::each(range, |block, _| more += usize::from(self.blocks[block] & COUNT == 0));
        (self.reached + more) * HUGE_SIZE
    }

    /// Pages for which there are tables.
    #[inline]
    pub fn tabled(&self) -> usize {
        self.tabled * HUGE_PAGES
    }

    /// As [`Huge::tabled`], once a range is in use too.
    pub fn tabled_with(&self, range: &Range<usize>) -> usize {
        let mut more = 0;
        Huge::each(range, |block, _| more += usize::from(self.blocks[block] & TABLED == 0));
        (self.tabled + more) * HUGE_PAGES
    }

    /// Notes that what is known of a range's pages is written.
    pub fn mark(&mut self, range: &Range<usize>) {
        Huge::each(range, |block, _| self.blocks[block] |= MARKED);
    }

    /// As [`Huge::mark`], for all pages in use.
    pub fn mark_used(&mut self, top: usize) {
        let blocks = &mut self.blocks[..top.div_ceil(HUGE_PAGES)];
        blocks.iter_mut().filter(|word| **word & COUNT != 0).for_each(|word| *word |= MARKED);
    }

    /// Whether anything but the state of a page may have been written. False means: never, or all of it is zero again.
    pub fn is_marked(&self, page: usize) -> bool {
        self.blocks[page / HUGE_PAGES] & MARKED != 0
    }

    /// The pages of the next marked block at or after `from`.
    pub fn next_marked(&self, from: usize) -> Option<Range<usize>> {
        let first = from / HUGE_PAGES;
        let found = self.blocks.get(first..)?.iter().position(|word| word & MARKED != 0)?;
        Some((first + found) * HUGE_PAGES..(first + found + 1) * HUGE_PAGES)
    }

    /// The first page at or after `from`, before `to`, whose block has pages in use.
    pub fn next_used(&self, from: usize, to: usize) -> Option<usize> {
        if from >= to {
            return None;
        }
        let first = from / HUGE_PAGES;
        if self.blocks[first] & COUNT != 0 {
            return Some(from);
        }
        let rest = &self.blocks[first..to.div_ceil(HUGE_PAGES)];
        let empty = |chunk: &&[u16]| chunk.iter().fold(0, |all, word| all | word) & COUNT == 0;
        let passed = rest.chunks(CHUNK).take_while(empty).count() * CHUNK;
        let found = rest.get(passed..)?.iter().position(|word| word & COUNT != 0)?;
        Some((first + passed + found) * HUGE_PAGES)
    }

    /// The end of the block of a page, `to` at most.
    pub fn block_end(&self, page: usize, to: usize) -> usize {
        to.min((page / HUGE_PAGES + 1) * HUGE_PAGES)
    }

    /// The next pages of `from..to` in blocks that have pages in use, block beside block.
    pub fn used_run(&self, from: usize, to: usize) -> Option<Range<usize>> {
        let start = self.next_used(from, to)?;
        let after = start / HUGE_PAGES + 1;
        let rest = &self.blocks[after..to.div_ceil(HUGE_PAGES).max(after)];
        let more = rest.iter().take_while(|word| **word & COUNT != 0).count();
        Some(start..to.min((after + more) * HUGE_PAGES))
    }

    /// Where the last block with pages in use ends.
    pub fn end_of_use(&self, top: usize) -> usize {
        let blocks = &self.blocks[..top.div_ceil(HUGE_PAGES)];
        blocks.iter().rposition(|word| word & COUNT != 0).map_or(0, |last| (last + 1) * HUGE_PAGES)
    }

    /// Whether more than `pages` of tables are of blocks without a page in use.
    pub fn has_spare(&self, pages: usize) -> bool {
        (self.tabled - self.reached) * HUGE_PAGES > pages
    }

    /// The next blocks at or after `from` whose tables may go, side by side; their pages.
    pub fn spare_run(&self, from: usize) -> Option<Range<usize>> {
        let is_spare = |word: &u16| word & (COUNT | TABLED) == TABLED;
        let first = self.spare.start.max(from / HUGE_PAGES);
        let blocks = self.blocks.get(first..self.spare.end)?;
        let skip = blocks.iter().position(is_spare)?;
        let n = blocks[skip..].iter().take_while(|word| is_spare(word)).count();
        Some((first + skip) * HUGE_PAGES..(first + skip + n) * HUGE_PAGES)
    }

    /// The tables of spare blocks are gone, and with them what was noted there.
    pub fn untable(&mut self, pages: &Range<usize>) {
        Huge::each(pages, |block, _| {
            self.blocks[block] = 0;
            self.tabled -= 1;
        });
    }

    /// No block is spare any more.
    pub fn forget_spares(&mut self) {
        self.spare = 0..0;
    }

    /// Pages in use of the block that a page is in, as noted.
    pub fn used_near(&self, page: usize) -> usize {
        usize::from(self.blocks[page / HUGE_PAGES] & COUNT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_count_once_and_as_long_as_anything_is_in_them() {
        let mut huge = Huge::new(8 * HUGE_PAGES).unwrap();
        let (a, b) = (10..HUGE_PAGES + 1, HUGE_PAGES + 1..3 * HUGE_PAGES);
        assert_eq!(huge.bytes_with(&a), 2 * HUGE_SIZE);
        huge.add(&a);
        assert_eq!(huge.bytes_with(&b), 3 * HUGE_SIZE);
        huge.add(&b);
        huge.remove(&a);
        assert_eq!(huge.bytes_with(&(0..1)), 3 * HUGE_SIZE, "the second is still in use");
        huge.remove(&b);
        assert_eq!(huge.bytes_with(&(0..1)), HUGE_SIZE);
    }

    #[test]
    fn tables_are_of_blocks_that_were_used_until_they_are_given_back() {
        let mut huge = Huge::new(4096 * HUGE_PAGES).unwrap();
        let far = 3000 * HUGE_PAGES + 5..3002 * HUGE_PAGES;
        assert_eq!(huge.tabled_with(&far), 2 * HUGE_PAGES);
        huge.add(&(7..9));
        huge.add(&far);
        huge.mark(&far);
        assert_eq!((huge.tabled(), huge.tabled_with(&far)), (3 * HUGE_PAGES, 3 * HUGE_PAGES));
        assert_eq!(huge.next_used(0, 4096 * HUGE_PAGES), Some(0));
        assert_eq!(huge.used_run(600, 4096 * HUGE_PAGES), Some(far.start - 5..far.end));
        assert_eq!(huge.next_used(3002 * HUGE_PAGES, 4096 * HUGE_PAGES), None);
        assert_eq!(huge.end_of_use(4096 * HUGE_PAGES), far.end);
        assert!(huge.is_marked(far.start) && !huge.is_marked(7));
        huge.remove(&far);
        assert!(huge.has_spare(HUGE_PAGES) && !huge.has_spare(2 * HUGE_PAGES));
        let spare = huge.spare_run(0).unwrap();
        assert_eq!(spare, far.start - 5..far.end);
        huge.untable(&spare);
        huge.forget_spares();
        assert_eq!((huge.tabled(), huge.spare_run(0)), (HUGE_PAGES, None));
        assert!(!huge.is_marked(far.start));
    }
}

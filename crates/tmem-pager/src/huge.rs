// SPDX-License-Identifier: Apache-2.0
//! Owns: how many huge pages the extents reach into. While memory is plain the kernel gives huge pages whole, so that
//! this, and not the sum of the extents, is what they may take. Callers: `verbs`. Lock: the pager's. Law 13.

use std::ops::Range;
use tmem_sys::page::HUGE_SIZE;
use tmem_sys::{Errno, PAGE_SIZE, Table};

pub const HUGE_PAGES: usize = HUGE_SIZE / PAGE_SIZE;

pub struct Huge {
    /// Pages of extents in each huge page of the arena.
    used: Table<u16>,
    reached: usize,
}

impl Huge {
    /// # Errors
    /// `ENOMEM`.
    pub fn new(pages: usize) -> Result<Huge, Errno> {
        Ok(Huge { used: Table::new(pages.div_ceil(HUGE_PAGES))?, reached: 0 })
    }

    /// Calls `each` with every huge page of a range and how many pages of the range it has.
    fn each(range: &Range<usize>, mut each: impl FnMut(usize, u16)) {
        let mut page = range.start;
        while page < range.end {
            let end = range.end.min((page / HUGE_PAGES + 1) * HUGE_PAGES);
            each(page / HUGE_PAGES, (end - page) as u16);
            page = end;
        }
    }

    pub fn add(&mut self, range: &Range<usize>) {
        Huge::each(range, |huge, pages| {
            self.reached += usize::from(self.used[huge] == 0);
            self.used[huge] += pages;
        });
    }

    pub fn remove(&mut self, range: &Range<usize>) {
        Huge::each(range, |huge, pages| {
            self.used[huge] = self.used[huge].saturating_sub(pages);
            self.reached -= usize::from(self.used[huge] == 0);
        });
    }

    /// Bytes of the huge pages that all extents and one more reach into.
    pub fn bytes_with(&self, range: &Range<usize>) -> usize {
        let mut more = 0;
        Huge::each(range, |huge, _| more += usize::from(self.used[huge] == 0));
        (self.reached + more) * HUGE_SIZE
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
}

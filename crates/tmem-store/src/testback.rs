// SPDX-License-Identifier: Apache-2.0
//! Owns: two backends for tests and measurements: one that refuses everything, so that all goes to the swap device,
//! and one that keeps plain copies, which prices the pager without a codec. Locks: the caller's.

use crate::ops::{BackendOps, Corrupt, Loaded, Outcome, Reason};
use crate::page_bytes;
use tmem_sys::{Errno, PAGE_SIZE, Page, Table};

/// Refuses every page.
#[derive(Debug, Default)]
pub struct RefuseAll {
    pub refused: u64,
}

impl BackendOps for RefuseAll {
    fn init(&mut self, _area: u32, _pages: u64) {}

    fn store(&mut self, _area: u32, _page: u64, _data: &Page) -> Outcome {
        self.refused += 1;
        Outcome::Refused(Reason::Unwilling)
    }

    fn load(&mut self, _area: u32, _page: u64, _into: &mut Page) -> Result<Loaded, Corrupt> {
        Ok(Loaded::Absent)
    }

    fn invalidate_page(&mut self, _area: u32, _page: u64) {}

    fn invalidate_area(&mut self, _area: u32) {}

    fn footprint(&self) -> usize {
        0
    }

    fn check(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One area's part of the table of copies.
#[derive(Clone, Copy, Default)]
struct Extent {
    first: usize,
    pages: usize,
}

/// The most areas that plain copies are kept of.
const PLAIN_AREAS: usize = 64;

/// Keeps every page as it is, in one table.
pub struct PlainCopies {
    copies: Table<Page>,
    present: Table<u8>,
    areas: [Extent; PLAIN_AREAS],
    reserved: usize,
    stored: usize,
}

impl PlainCopies {
    /// # Errors
    /// `ENOMEM` when the address space cannot hold `max_pages` pages.
    pub fn new(max_pages: usize) -> Result<PlainCopies, Errno> {
        Ok(PlainCopies {
            copies: Table::new(max_pages)?,
            present: Table::new(max_pages)?,
            areas: [Extent::default(); PLAIN_AREAS],
            reserved: 0,
            stored: 0,
        })
    }

    fn slot(&self, area: u32, page: u64) -> Result<usize, Reason> {
        let extent = self.areas.get(area as usize).filter(|e| e.pages > 0).ok_or(Reason::NoArea)?;
        if page < extent.pages as u64 { Ok(extent.first + page as usize) } else { Err(Reason::OutOfRange) }
    }
}

impl BackendOps for PlainCopies {
    /// Reserves a place for each page; an area that does not fit, or grows, is not taken.
    fn init(&mut self, area: u32, pages: u64) {
        let pages = pages as usize;
        if let Some(extent) = self.areas.get_mut(area as usize)
            && extent.pages == 0
            && self.copies.len() - self.reserved >= pages
        {
            *extent = Extent { first: self.reserved, pages };
            self.reserved += pages;
        }
    }

    fn store(&mut self, area: u32, page: u64, data: &Page) -> Outcome {
        match self.slot(area, page) {
            Ok(slot) => {
                self.copies[slot].copy_from_slice(data);
                self.stored += usize::from(self.present[slot] == 0);
                self.present[slot] = 1;
                Outcome::Stored
            }
            Err(reason) => Outcome::Refused(reason),
        }
    }

    fn load(&mut self, area: u32, page: u64, into: &mut Page) -> Result<Loaded, Corrupt> {
        match self.slot(area, page) {
            Ok(slot) if self.present[slot] == 1 => {
                into.copy_from_slice(&self.copies[slot]);
                Ok(Loaded::Loaded)
            }
            _ => Ok(Loaded::Absent),
        }
    }

    fn invalidate_page(&mut self, area: u32, page: u64) {
        if let Ok(slot) = self.slot(area, page)
            && self.present[slot] == 1
        {
            self.present[slot] = 0;
            self.stored -= 1;
            self.copies.discard(slot * PAGE_SIZE..(slot + 1) * PAGE_SIZE);
        }
    }

    fn invalidate_area(&mut self, area: u32) {
        let pages = self.areas.get(area as usize).map_or(0, |e| e.pages as u64);
        (0..pages).for_each(|page| self.invalidate_page(area, page));
        if let Some(extent) = self.areas.get_mut(area as usize) {
            extent.pages = 0;
        }
    }

    fn footprint(&self) -> usize {
        self.stored * PAGE_SIZE + page_bytes(self.reserved)
    }

    fn check(&self) -> Vec<String> {
        let stored = self.present.iter().filter(|p| **p == 1).count();
        if stored == self.stored {
            Vec::new()
        } else {
            vec![format!("{stored} plain copies, the counter says {}", self.stored)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_copies_keep_the_laws() {
        let mut b = PlainCopies::new(16).unwrap();
        let mut into = [0; PAGE_SIZE];
        b.init(1, 8);
        b.init(2, 9);
        assert_eq!(b.store(2, 0, &[1; PAGE_SIZE]), Outcome::Refused(Reason::NoArea));
        assert_eq!(b.store(1, 8, &[1; PAGE_SIZE]), Outcome::Refused(Reason::OutOfRange));
        assert_eq!(b.store(1, 7, &[1; PAGE_SIZE]), Outcome::Stored);
        assert_eq!(b.store(1, 7, &[2; PAGE_SIZE]), Outcome::Stored);
        assert_eq!(b.load(1, 7, &mut into), Ok(Loaded::Loaded));
        assert_eq!(into, [2; PAGE_SIZE]);
        b.invalidate_page(1, 7);
        assert_eq!(b.load(1, 7, &mut into), Ok(Loaded::Absent));
        b.invalidate_area(1);
        assert_eq!(b.store(1, 0, &[1; PAGE_SIZE]), Outcome::Refused(Reason::NoArea));
        assert!(b.check().is_empty());
        assert_eq!(RefuseAll::default().store(0, 0, &into), Outcome::Refused(Reason::Unwilling));
    }
}

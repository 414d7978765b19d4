// SPDX-License-Identifier: Apache-2.0
//! Owns: two backends for tests and measurements: one that refuses everything, so that all goes to the swap device,
//! and one that keeps plain copies, which prices the pager without a codec. Locks: the caller's.

use crate::areas::Areas;
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

/// Keeps every page as it is, in one table.
pub struct PlainCopies {
    copies: Table<Page>,
    present: Table<u8>,
    areas: Areas,
    stored: usize,
    /// One past the highest place that was ever used.
    top: usize,
}

impl PlainCopies {
    /// # Errors
    /// `ENOMEM` when the address space cannot hold `max_pages` pages.
    pub fn new(max_pages: usize) -> Result<PlainCopies, Errno> {
        Ok(PlainCopies {
            copies: Table::new(max_pages)?,
            present: Table::new(max_pages)?,
            areas: Areas::new(max_pages),
            stored: 0,
            top: 0,
        })
    }

    fn forget(&mut self, slot: usize) {
        if self.present[slot] == 1 {
            self.present[slot] = 0;
            self.stored -= 1;
            self.copies.discard(slot * PAGE_SIZE..(slot + 1) * PAGE_SIZE);
        }
    }
}

impl BackendOps for PlainCopies {
    fn init(&mut self, area: u32, pages: u64) {
        self.areas.init(area, pages);
    }

    fn store(&mut self, area: u32, page: u64, data: &Page) -> Outcome {
        match self.areas.slot(area, page) {
            Ok(slot) => {
                self.copies[slot].copy_from_slice(data);
                self.stored += usize::from(self.present[slot] == 0);
                self.present[slot] = 1;
                self.top = self.top.max(slot + 1);
                Outcome::Stored
            }
            Err(reason) => {
                // Law 3 around this refusal too: the area may have been larger.
                self.invalidate_page(area, page);
                Outcome::Refused(reason)
            }
        }
    }

    fn load(&mut self, area: u32, page: u64, into: &mut Page) -> Result<Loaded, Corrupt> {
        match self.areas.find(area, page) {
            Some(slot) if self.present[slot] == 1 => {
                into.copy_from_slice(&self.copies[slot]);
                Ok(Loaded::Loaded)
            }
            _ => Ok(Loaded::Absent),
        }
    }

    fn invalidate_page(&mut self, area: u32, page: u64) {
        if let Some(slot) = self.areas.find(area, page) {
            self.forget(slot);
        }
    }

    fn invalidate_area(&mut self, area: u32) {
        let slots = self.areas.end(area);
        for slot in slots {
            if self.stored == 0 {
                break;
            }
            self.forget(slot);
        }
    }

    fn footprint(&self) -> usize {
        self.stored * PAGE_SIZE + page_bytes(self.top)
    }

    fn check(&self) -> Vec<String> {
        let stored = self.present[..self.top].iter().filter(|p| **p == 1).count();
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

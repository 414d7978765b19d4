// SPDX-License-Identifier: Apache-2.0
//! Owns: the hook between pager and store: a presence bitmap, the stack of backends and the four counters by
//! their historical names. No policy. Callers: `evict` (store), `fault` (load), `verbs` (invalidate), under the
//! pager lock. Calls: `tmem_store::BackendOps`. It is the only way between pager and store.
//! Law 3: whatever a store answers, what was stored before under that handle is gone. Enforced here, around all
//! backends: invalidate first, then store.

use tmem_store::{BackendOps, Corrupt, Loaded, Outcome, Reason, StoreStats};
use tmem_sys::{Errno, Page, Table};

/// The historical counters, as `/sys/kernel/debug/frontswap` had them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrontswapCounters {
    pub loads: u64,
    pub succ_stores: u64,
    pub failed_stores: u64,
    pub invalidates: u64,
}

pub struct Frontswap {
    backends: Vec<Box<dyn BackendOps>>,
    area: u32,
    present: Table<u64>,
    present_count: usize,
    pub counters: FrontswapCounters,
    /// Refusals by reason, of the last backend asked.
    pub refused: [u64; Reason::COUNT],
}

impl Frontswap {
    /// A hook for one area of `pages`, with backends in the order they are to be asked.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(backends: Vec<Box<dyn BackendOps>>, area: u32, pages: usize) -> Result<Frontswap, Errno> {
        let mut this = Frontswap {
            backends,
            area,
            present: Table::new(pages.div_ceil(64))?,
            present_count: 0,
            counters: FrontswapCounters::default(),
            refused: [0; Reason::COUNT],
        };
        this.init(pages);
        Ok(this)
    }

    /// Tells every backend that the area exists.
    fn init(&mut self, pages: usize) {
        for backend in &mut self.backends {
            backend.init(self.area, pages as u64);
        }
    }

    /// Whether a load of `page` will hit.
    #[inline]
    pub fn is_present(&self, page: usize) -> bool {
        self.present[page / 64] >> (page % 64) & 1 == 1
    }

    pub fn present_count(&self) -> usize {
        self.present_count
    }

    /// Offers a page to each backend in turn until one takes it.
    pub fn store(&mut self, page: usize, data: &Page) -> Outcome {
        self.drop_present(page);
        let mut reason = Reason::Unwilling;
        for backend in &mut self.backends {
            match backend.store(self.area, page as u64, data) {
                Outcome::Stored => {
                    self.present[page / 64] |= 1 << (page % 64);
                    self.present_count += 1;
                    self.counters.succ_stores += 1;
                    return Outcome::Stored;
                }
                Outcome::Refused(why) => reason = why,
            }
        }
        self.counters.failed_stores += 1;
        self.refused[reason as usize] += 1;
        Outcome::Refused(reason)
    }

    /// Copies a stored page out. It stays stored.
    ///
    /// # Errors
    /// [`Corrupt`] when it was stored and is lost: the caller stops the process.
    pub fn load(&mut self, page: usize, into: &mut Page) -> Result<Loaded, Corrupt> {
        if !self.is_present(page) {
            return Ok(Loaded::Absent);
        }
        for backend in &mut self.backends {
            if backend.load(self.area, page as u64, into)? == Loaded::Loaded {
                self.counters.loads += 1;
                return Ok(Loaded::Loaded);
            }
        }
        // The bitmap promised a hit: a backend that forgets a persistent page has lost it.
        Err(Corrupt::Misplaced)
    }

    /// Forgets a page; nothing happens when it is not stored.
    pub fn invalidate_page(&mut self, page: usize) {
        if self.is_present(page) {
            self.counters.invalidates += 1;
            self.drop_present(page);
        }
    }

    fn drop_present(&mut self, page: usize) {
        if self.is_present(page) {
            self.backends.iter_mut().for_each(|b| b.invalidate_page(self.area, page as u64));
            self.present[page / 64] &= !(1 << (page % 64));
            self.present_count -= 1;
        }
    }

    /// Forgets the whole area; stores are refused until it is announced again.
    pub fn invalidate_area(&mut self) {
        self.backends.iter_mut().for_each(|b| b.invalidate_area(self.area));
        self.present.fill(0);
        self.present_count = 0;
    }

    /// Shares out how many bytes of memory the backends may take: each in turn what those before it leave.
    pub fn set_capacity(&mut self, bytes: usize) {
        let mut left = bytes;
        for backend in &mut self.backends {
            backend.set_capacity(left);
            left = left.saturating_sub(backend.footprint());
        }
    }

    /// Bytes of memory behind the hook.
    pub fn footprint(&self) -> usize {
        self.backends.iter().map(|b| b.footprint()).sum()
    }

    /// What the page store among the backends holds.
    pub fn store_stats(&self) -> Option<StoreStats> {
        self.backends.iter().find_map(|b| b.store_stats())
    }

    /// Every broken law of the backends and of the bitmap, in words.
    pub fn check(&self) -> Vec<String> {
        let mut broken: Vec<String> = self.backends.iter().flat_map(|b| b.check()).collect();
        let counted: usize = self.present.iter().map(|w| w.count_ones() as usize).sum();
        if counted != self.present_count {
            broken.push(format!(
                "frontswap: {counted} pages present in the bitmap, {} noted",
                self.present_count
            ));
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tmem_store::testback::{PlainCopies, RefuseAll};

    fn page(byte: u8) -> Page {
        [byte; 4096]
    }

    #[test]
    fn a_refused_store_leaves_nothing_behind() {
        let mut f = Frontswap::new(vec![Box::new(RefuseAll::default())], 0, 100).unwrap();
        assert!(!f.store(3, &page(1)).is_stored());
        assert!(!f.is_present(3));
        assert_eq!(f.load(3, &mut page(0)).unwrap(), Loaded::Absent);
        assert_eq!(f.counters, FrontswapCounters { failed_stores: 1, ..Default::default() });
    }

    /// Breaks law 3: once unwilling, it refuses a page and keeps the old one under the same handle.
    #[derive(Default)]
    struct KeepsOldData {
        copy: Option<Page>,
        unwilling: bool,
    }

    impl BackendOps for KeepsOldData {
        fn init(&mut self, _area: u32, _pages: u64) {}

        fn store(&mut self, _area: u32, _page: u64, data: &Page) -> Outcome {
            if std::mem::replace(&mut self.unwilling, true) {
                return Outcome::Refused(Reason::Unwilling);
            }
            self.copy = Some(*data);
            Outcome::Stored
        }

        fn load(&mut self, _area: u32, _page: u64, into: &mut Page) -> Result<Loaded, Corrupt> {
            Ok(self.copy.map_or(Loaded::Absent, |copy| {
                *into = copy;
                Loaded::Loaded
            }))
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

    #[test]
    fn old_data_is_gone_even_where_a_backend_keeps_it() {
        let mut f = Frontswap::new(vec![Box::new(KeepsOldData::default())], 0, 100).unwrap();
        assert!(f.store(3, &page(1)).is_stored());
        assert!(!f.store(3, &page(2)).is_stored());
        let mut got = page(0);
        assert_eq!(f.load(3, &mut got).unwrap(), Loaded::Absent);
        assert_eq!(got, page(0));
    }

    #[test]
    fn a_backend_that_forgets_a_page_is_found_out() {
        let mut f = Frontswap::new(vec![Box::new(KeepsOldData::default())], 0, 100).unwrap();
        assert!(f.store(3, &page(1)).is_stored());
        f.backends = vec![Box::new(RefuseAll::default())];
        assert_eq!(f.load(3, &mut page(0)), Err(Corrupt::Misplaced));
    }

    #[test]
    fn the_next_backend_is_asked_when_one_refuses() {
        let plain = PlainCopies::new(100).unwrap();
        let mut f = Frontswap::new(vec![Box::new(RefuseAll::default()), Box::new(plain)], 0, 100).unwrap();
        assert!(f.store(9, &page(7)).is_stored());
        let mut got = page(0);
        assert_eq!(f.load(9, &mut got).unwrap(), Loaded::Loaded);
        assert_eq!(got, page(7));
        f.invalidate_page(9);
        f.invalidate_page(9);
        assert_eq!(f.load(9, &mut got).unwrap(), Loaded::Absent);
        assert_eq!(f.counters.invalidates, 1);
        assert!(f.check().is_empty());
    }
}

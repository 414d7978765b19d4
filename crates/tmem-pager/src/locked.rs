// SPDX-License-Identifier: Apache-2.0
//! Owns: what a program asks and tells about pages in RAM: `mlock`, `munlock`, `mincore`. Callers: doors. Locks, in order:
//! extents, then state. Law 13: what may not leave is refused where it would leave too little to page with.

use crate::bulk::next_kept;
use crate::error::PagerError;
use crate::page::PageState;
use crate::pager::Pager;
use crate::state::{LOCKED, State};
use std::ops::Range;
use tmem_sys::Errno;
use tmem_sys::page::pages_for;

impl Pager {
    /// Makes a range present and keeps it so until [`Pager::unlock`], however often it is asked to.
    ///
    /// # Errors
    /// `Closed`; `NotOurs` where a page is not committed; `Budget` where too little of it would be left to page with; `Kernel`
    /// where plain memory cannot be filled. Nothing has changed then.
    pub fn lock(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.covered(addr, bytes)?;
        self.with(|s| s.lock(&range))?
    }

    /// Ends [`Pager::lock`].
    ///
    /// # Errors
    /// `Closed`; `NotOurs` where a page is in no extent.
    pub fn unlock(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.covered(addr, bytes)?;
        self.with(|s| s.unlock(&range))
    }

    /// Ends [`Pager::lock`] for all that is locked.
    ///
    /// # Errors
    /// `Closed`.
    pub fn unlock_all(&self) -> Result<(), PagerError> {
        self.with(State::unlock_all)
    }

    /// Bytes that would be locked with those of a range.
    ///
    /// # Errors
    /// `Closed`; `NotOurs` where a page is in no extent.
    pub fn locked_with(&self, addr: usize, bytes: usize) -> Result<usize, PagerError> {
        let range = self.covered(addr, bytes)?;
        self.with(|s| (s.locked + range.filter(|&page| !s.is_locked(page)).count()) * tmem_sys::PAGE_SIZE)
    }

    /// For each page from `addr` on, 1 where it is in RAM and 0 where it is not, as `mincore` answers.
    ///
    /// # Errors
    /// `Closed`; `NotOurs` where a page is in no extent; `Kernel` when `/proc/self/pagemap` cannot be read.
    pub fn resident(&self, addr: usize, pages: &mut [u8]) -> Result<(), PagerError> {
        let range = self.covered(addr, pages.len() * tmem_sys::PAGE_SIZE)?;
        let told = self.with(|s| s.resident(&range, pages))?;
        told.map_err(|e| PagerError::Kernel("reading /proc/self/pagemap", e))
    }

    fn covered(&self, addr: usize, bytes: usize) -> Result<Range<usize>, PagerError> {
        let range = self.inside(addr, bytes)?;
        debug_assert_eq!(range.len(), pages_for(bytes));
        if self.extents().cover(&range) { Ok(range) } else { Err(PagerError::NotOurs) }
    }
}

impl State {
    fn lock(&mut self, range: &Range<usize>) -> Result<(), PagerError> {
        if self.count_free(range) > 0 {
            return Err(PagerError::NotOurs);
        }
        // Programs that want as much as they can get ask again and again for a page less: that costs no look at each page.
        let counted = || range.clone().filter(|&page| self.meta[page].pins == 0).count();
        let fresh = if self.pinned == 0 { range.len() } else { counted() };
        self.room_to_keep(fresh, "locking")?;
        let mut from = if self.is_armed() { range.end } else { range.start };
        while let Some(part) = next_kept(&self.states, &self.huge, from, range.end) {
            from = part.end;
            let filled = self.frames.unshare(part.start, part.len());
            filled.map_err(|e| PagerError::Kernel("filling locked memory", e))?;
        }
        self.huge.mark(range);
        for page in range.clone() {
            let meta = &mut self.meta[page];
            if meta.flags & LOCKED == 0 {
                meta.flags |= LOCKED;
                self.locked += 1;
                self.pinned += usize::from(meta.pins == 0);
                meta.pins = meta.pins.saturating_add(1);
            }
        }
        if self.is_armed() {
            range.clone().for_each(|page| self.ensure(page, range.end - page));
        }
        Ok(())
    }

    fn is_locked(&self, page: usize) -> bool {
        self.huge.is_marked(page) && self.meta[page].flags & LOCKED != 0
    }

    fn unlock(&mut self, range: &Range<usize>) {
        if self.locked == 0 {
            return;
        }
        for page in range.clone() {
            if self.is_locked(page) {
                self.meta[page].flags &= !LOCKED;
                self.locked -= 1;
                self.unpin(page..page + 1);
            }
        }
    }

    /// Also in a forked child, which inherits no locks.
    pub fn unlock_all(&mut self) {
        let mut from = 0;
        while let Some(pages) = self.huge.next_marked(from).filter(|_| self.locked > 0) {
            from = pages.end;
            self.unlock(&pages);
        }
    }

    fn resident(&self, range: &Range<usize>, pages: &mut [u8]) -> Result<(), Errno> {
        pages.fill(0);
        let mut from = range.start;
        while let Some((state, run)) = self.next_run(from, range.end) {
            from = run.end;
            let told = run.start - range.start..run.end - range.start;
            match state {
                PageState::Resident | PageState::Standby => pages[told].fill(1),
                PageState::Fresh if self.is_armed() => {}
                PageState::Fresh | PageState::LetGo => {
                    self.frames.scan_present(run, |page| pages[page - range.start] = 1)?;
                }
                PageState::Free | PageState::Out => {}
            }
        }
        Ok(())
    }
}

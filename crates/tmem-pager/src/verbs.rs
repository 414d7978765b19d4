// SPDX-License-Identifier: Apache-2.0
//! Owns: what a program asks of paged memory on purpose: allocate, release, prefetch, evict, pin, advise.
//! Callers: `pager` (from Python threads), the guard's hooks (hold, release_hold). Lock: the pager's, held.

use crate::error::PagerError;
use crate::page::PageState;
use crate::readahead::Pattern;
use crate::slots::GROUP;
use crate::state::{BATCH, State};
use crate::stats::Stat;
use std::ops::Range;
use tmem_sys::PAGE_SIZE;

/// Of the 16 MiB that the kernel's count may be beyond the budget, what the unused parts of huge pages may take.
const HUGE_SLACK: usize = 8 << 20;

/// Advice for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    Pattern(Pattern),
    WillNeed,
    Cold,
}

impl State {
    /// Bytes of all pages that are in use.
    pub fn mapped(&self) -> usize {
        (self.frames.arena_pages() - self.states.count(PageState::Free)) * PAGE_SIZE
    }

    /// Whether `more` pages of a range still fit as plain memory. Huge pages that are not used whole may pass the budget by a
    /// little.
    pub fn fits_plain(&self, range: &Range<usize>, more: usize) -> bool {
        self.short_of_plain(range, more) == 0
    }

    /// Bytes by which the budget is short of room for `more` pages of a range as plain memory.
    pub fn short_of_plain(&self, range: &Range<usize>, more: usize) -> usize {
        self.plain_bytes(range, more).saturating_sub(self.ram)
    }

    /// Bytes of the budget that an extent of plain memory could still have.
    pub fn plain_room(&self) -> usize {
        self.ram.saturating_sub(self.plain_bytes(&(0..0), 0))
    }

    /// Bytes of the budget that plain memory takes with `more` pages of a range.
    pub fn plain_bytes(&self, range: &Range<usize>, more: usize) -> usize {
        let others = self.huge.tabled_with(range) * crate::state::META_BYTES + crate::state::FIXED_OVERHEAD;
        // Where access is given page by page, no huge page reaches beyond it.
        let huge = if self.frames.is_guarded() { 0 } else { self.huge.bytes_with(range) };
        let mapped = self.mapped() + more * PAGE_SIZE;
        mapped.max(huge.saturating_sub(HUGE_SLACK)) + others + self.lodgers.bytes()
    }

    /// Makes a range of free pages part of an extent.
    ///
    /// # Errors
    /// As [`State::commit`].
    pub fn allocate(&mut self, range: &Range<usize>) -> Result<(), PagerError> {
        self.commit(range)?;
        self.stats.add(Stat::Regions, 1);
        self.publish();
        Ok(())
    }

    /// Ends an extent: whatever its pages held, anywhere, is gone.
    ///
    /// # Errors
    /// As [`State::free`].
    pub fn release(&mut self, range: &Range<usize>) -> Result<(), PagerError> {
        let freed = self.free(range);
        let regions = self.stats.get(Stat::Regions);
        self.stats.set(Stat::Regions, regions.saturating_sub(1));
        self.publish();
        freed
    }

    /// Makes one page resident from wherever it is.
    pub fn ensure(&mut self, page: usize, run: usize) {
        match self.states.get(page) {
            PageState::Standby => drop(self.put_back(page, run.min(GROUP))),
            PageState::Fresh | PageState::Out => {
                let missing = |p: usize| matches!(self.states.get(p), PageState::Fresh | PageState::Out);
                let n = (page..page + run.min(GROUP)).take_while(|&p| missing(p)).count();
                self.bring_run(page, n, false);
            }
            PageState::Resident | PageState::Free | PageState::LetGo => {}
        }
    }

    /// Brings in as much of a range as the budget lets stay.
    pub fn prefetch(&mut self, range: Range<usize>) {
        let room = self.allowance().saturating_sub(self.allowance() / 8 + self.pinned + self.held);
        let mut page = range.start;
        let end = range.end.min(range.start + room);
        while page < end {
            self.ensure(page, end - page);
            page = self.states_end_of_resident(page, end);
        }
    }

    fn states_end_of_resident(&self, page: usize, end: usize) -> usize {
        (page..end).find(|&p| !self.states.is(p, PageState::Resident)).unwrap_or(end).max(page + 1)
    }

    /// Sends a range out because the program asks; how many pages left. Pinned and held pages stay.
    pub fn evict_on_request(&mut self, range: Range<usize>) -> usize {
        let mut left = 0;
        let mut page = range.start;
        while page < range.end {
            page = self.find(PageState::Resident, page, range.end).unwrap_or(range.end);
            if page == range.end {
                break;
            }
            if !self.may_leave(page) {
                page += 1;
                continue;
            }
            let mut n = 1;
            while n < BATCH && page + n < range.end && self.may_leave(page + n) {
                n += 1;
            }
            let Some((slot, found)) = self.slots.find_holes(n) else {
                // Packed pages leave free frames in their slots: only giving those up makes holes.
                self.pack_oldest(BATCH);
                if self.give_up_frames(BATCH) == 0 {
                    break;
                }
                continue;
            };
            let moved = self.take_out(page, n.min(found), slot);
            left += moved;
            page += moved.max(1);
        }
        while self.slots.standby_count() > 0 && self.pack_oldest(BATCH) > 0 {}
        self.supply(0);
        left
    }

    fn may_leave(&self, page: usize) -> bool {
        self.states.is(page, PageState::Resident) && self.meta[page].pins == 0 && self.meta[page].holds == 0
    }

    /// Makes a range resident and keeps it so until as many unpins.
    ///
    /// # Errors
    /// `Budget` when pinned pages would take more than the budget can spare; then nothing is pinned.
    pub fn pin(&mut self, range: Range<usize>) -> Result<(), PagerError> {
        if range.clone().any(|p| self.meta[p].pins == u16::MAX) {
            return Err(PagerError::Budget(
                "a page is pinned 65535 times already; end some of those pins first".into(),
            ));
        }
        let fresh = range.clone().filter(|&p| self.meta[p].pins == 0).count();
        self.room_to_keep(fresh, "pinning")?;
        self.huge.mark(&range);
        for page in range.clone() {
            let meta = &mut self.meta[page];
            self.pinned += usize::from(meta.pins == 0);
            meta.pins = meta.pins.saturating_add(1);
        }
        if self.is_armed() {
            (range.start..range.end).for_each(|page| self.ensure(page, range.end - page));
        }
        Ok(())
    }

    pub fn unpin(&mut self, range: Range<usize>) {
        for page in range {
            let meta = &mut self.meta[page];
            if meta.pins > 0 {
                meta.pins -= 1;
                self.pinned -= usize::from(meta.pins == 0);
            }
        }
    }

    /// For a system call: as many pages from `first` as may be held are made resident and kept. How many.
    pub fn hold(&mut self, first: usize, want: usize) -> usize {
        let want = want.min(self.frames.arena_pages() - first);
        self.take_back_to_pin(want);
        let room = self.pin_limit().saturating_sub(self.pinned + self.held).max(GROUP);
        let n = if self.is_armed() { want.min(room) } else { want };
        self.huge.mark(&(first..first + n));
        for page in first..first + n {
            let meta = &mut self.meta[page];
            self.held += usize::from(meta.holds == 0);
            meta.holds = meta.holds.saturating_add(1);
        }
        if self.is_armed() {
            (first..first + n).for_each(|page| self.ensure(page, first + n - page));
        }
        n
    }

    pub fn release_hold(&mut self, first: usize, count: usize) {
        for page in first..first + count {
            let meta = &mut self.meta[page];
            if meta.holds > 0 {
                meta.holds -= 1;
                self.held -= usize::from(meta.holds == 0);
            }
        }
    }

    pub fn advise(&mut self, range: Range<usize>, advice: Advice) {
        match advice {
            Advice::Pattern(pattern) => {
                self.huge.mark(&range);
                range.for_each(|p| self.meta[p].pattern = pattern as u8);
            }
            Advice::WillNeed if self.is_armed() => self.prefetch(range),
            Advice::Cold if self.is_armed() => drop(self.evict_on_request(range)),
            Advice::WillNeed | Advice::Cold => {}
        }
    }
}

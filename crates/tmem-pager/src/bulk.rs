// SPDX-License-Identifier: Apache-2.0
//! Owns: what is done to pages by the range: they come into use and go out of it, lose their contents, and are walked over.
//! Callers: `verbs`, `admit`, `space`, walks of `evict` and `arm`. Lock: the pager's, held.
//! Law 12: access goes first, then frames, then what is noted: at no point could a page be read whose contents are gone in part.
//! Nothing is written for a page that was never paged but its state, so that plain memory costs what it costs elsewhere.

use crate::error::PagerError;
use crate::huge::{HUGE_PAGES, Huge};
use crate::page::{Event, PageState, States};
use crate::state::{LOCKED, META_BYTES, Meta, State};
use std::ops::Range;
use tmem_sys::Errno;

/// Free pages whose tables are kept: what comes and goes costs no system calls for tables.
const TABLES_KEPT: usize = 8 * HUGE_PAGES;
/// The part of the budget that such tables may take while memory is plain.
const PLAIN_PART: usize = 1024;

fn find(states: &States, huge: &Huge, state: PageState, from: usize, to: usize) -> Option<usize> {
    let mut page = from;
    while page < to {
        page = huge.next_used(page, to)?;
        let end = huge.block_end(page, to);
        let found = states.find(state, page, end);
        if found.is_some() {
            return found;
        }
        page = end;
    }
    None
}

/// The next pages at or after `from` that were not let go of.
pub fn next_kept(states: &States, huge: &Huge, from: usize, to: usize) -> Option<Range<usize>> {
    if states.count(PageState::LetGo) == 0 {
        return (from < to).then_some(from..to);
    }
    let start = states.find_other(PageState::LetGo, from, to)?;
    Some(start..find(states, huge, PageState::LetGo, start, to).unwrap_or(to))
}

impl State {
    /// The first page of `from..to` in a state other than `Free`.
    #[inline]
    pub fn find(&self, state: PageState, from: usize, to: usize) -> Option<usize> {
        // Near by first, whatever the block: the hand mostly has not far to go.
        let near = to.min(from + HUGE_PAGES);
        let found = self.states.find(state, from, near);
        if found.is_some() || near == to { found } else { find(&self.states, &self.huge, state, near, to) }
    }

    /// The next pages of `from..to` that share a state other than `Free`.
    pub fn next_run(&self, from: usize, to: usize) -> Option<(PageState, Range<usize>)> {
        let mut page = from;
        loop {
            page = self.huge.next_used(page, to)?;
            let end = self.huge.block_end(page, to);
            match self.states.get(page) {
                PageState::Free => {
                    page = self.states.find_other(PageState::Free, page, end).unwrap_or(end);
                }
                _ => {
                    let (state, end) = self.states.run(page, to);
                    return Some((state, page..end));
                }
            }
        }
    }

    /// The next free pages of `from..to`.
    pub fn next_free(&self, from: usize, to: usize) -> Option<Range<usize>> {
        let mut start = from;
        while start < to && self.huge.next_used(start, to) == Some(start) {
            let block = self.huge.block_end(start, to);
            match self.states.find(PageState::Free, start, block) {
                Some(page) => {
                    start = page;
                    break;
                }
                None => start = block,
            }
        }
        let mut end = start;
        while end < to {
            let block = self.huge.block_end(end, to);
            let used = self.huge.next_used(end, block).is_some();
            match used.then(|| self.states.find_other(PageState::Free, end, block)).flatten() {
                Some(page) => {
                    end = page;
                    break;
                }
                None => end = block,
            }
        }
        (start < end).then_some(start..end)
    }

    /// How many pages of a range are free.
    pub fn count_free(&self, range: &Range<usize>) -> usize {
        let (mut from, mut count) = (range.start, 0);
        while let Some(run) = self.next_free(from, range.end) {
            count += run.len();
            from = run.end;
        }
        count
    }

    /// Has the free ones of a range's pages used: they read as zeros, and may be touched.
    ///
    /// # Errors
    /// The kernel's; then nothing has changed.
    pub fn commit(&mut self, range: &Range<usize>) -> Result<(), PagerError> {
        self.open(range)?;
        self.top = self.top.max(range.end);
        self.reach = self.reach.max(self.top);
        let mut from = range.start;
        while let Some(run) = self.next_free(from, range.end) {
            from = run.end;
            self.huge.add(&run);
            if self.is_armed() {
                self.huge.mark(&run);
            }
            self.states.change_all(run, PageState::Free, Event::Allocate);
        }
        self.share_out();
        Ok(())
    }

    /// Gives access to the free ones of a range's pages.
    fn open(&self, range: &Range<usize>) -> Result<(), PagerError> {
        let mut from = range.start;
        while let Some(run) = self.next_free(from, range.end) {
            from = run.end;
            if let Err(e) = self.frames.open(run) {
                let mut at = range.start;
                while let Some(run) = self.next_free(at, from) {
                    at = run.end;
                    // What stays open by a second refusal is free, and closed again with whatever comes there.
                    let _ = self.frames.close(run);
                }
                return Err(PagerError::Kernel("giving access to memory", e));
            }
        }
        Ok(())
    }

    /// Frees pages: whatever they held, anywhere, is gone, and nothing may touch them. Those that are free stay so.
    ///
    /// # Errors
    /// The kernel's. Where access is given page by page, nothing has changed then.
    pub fn free(&mut self, range: &Range<usize>) -> Result<(), PagerError> {
        self.restore(range)?;
        let gone = self.frames.close(range.clone()).and_then(|()| self.drop_frames(range));
        let gone = gone.map_err(|e| PagerError::Kernel("giving memory back", e));
        if self.frames.is_guarded() {
            gone.clone()?;
        }
        self.vacate(range, Event::Release);
        self.overshot = self.overshot && self.frame_count() > self.allowance();
        self.backoff = 0;
        self.give_tables_back();
        gone
    }

    /// Zeroes pages: whatever they held, anywhere, is gone. What is free, or let go of, is passed by.
    ///
    /// # Errors
    /// `EINVAL` where a page is locked in memory; then nothing has changed. The kernel's; then only what comes before has.
    pub fn discard(&mut self, range: &Range<usize>) -> Result<(), PagerError> {
        let failed = |e| PagerError::Kernel("dropping contents", e);
        if self.any_marked(range, |meta| meta.pins != 0) {
            return Err(failed(Errno::EINVAL));
        }
        let mut from = range.start;
        while let Some(part) = next_kept(&self.states, &self.huge, from, range.end) {
            from = part.end;
            self.drop_frames(&part).map_err(failed)?;
            self.vacate(&part, Event::Vanish);
        }
        if self.is_armed() && self.held > 0 {
            // A system call is at them: it would find them missing (law 16).
            for page in range.clone() {
                if self.huge.is_marked(page) && self.meta[page].holds != 0 {
                    self.ensure(page, 1);
                }
            }
        }
        Ok(())
    }

    /// Whether what is known of any page of a range is so.
    pub fn any_marked(&self, range: &Range<usize>, is: impl Fn(&Meta) -> bool) -> bool {
        let mut page = range.start;
        while page < range.end {
            let end = self.huge.block_end(page, range.end);
            if self.huge.is_marked(page) && self.meta[page..end].iter().any(&is) {
                return true;
            }
            page = end;
        }
        false
    }

    /// Drops the frames of a range's pages. A huge page is split only where it can be one: by that alone, parts of it are
    /// given back.
    fn drop_frames(&mut self, range: &Range<usize>) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        let whole = |page: usize| self.huge.used_near(page) == HUGE_PAGES;
        if self.frames.is_guarded() && !whole(range.start) && !whole(range.end - 1) {
            return self.frames.drop_small(range.clone());
        }
        self.frames.drop_pages(range.start, range.len())
    }

    /// Lets go of whatever pages have beside frames in the arena, and takes them through `Release` or `Vanish`.
    fn vacate(&mut self, range: &Range<usize>, event: Event) {
        let mut from = range.start;
        while let Some((state, run)) = self.next_run(from, range.end) {
            from = run.end;
            if event == Event::Vanish && matches!(state, PageState::Fresh | PageState::LetGo) {
                continue;
            }
            if event == Event::Release {
                self.release_run(run, state);
            } else {
                self.clear(&run, state, false);
                self.states.change_all(run, state, event);
            }
        }
    }

    /// Frees pages that are all in one state; access and frames have gone.
    pub fn release_run(&mut self, run: Range<usize>, state: PageState) {
        self.clear(&run, state, true);
        self.states.change_all(run.clone(), state, Event::Release);
        self.huge.remove(&run);
    }

    fn clear(&mut self, run: &Range<usize>, state: PageState, release: bool) {
        let mut page = run.start;
        while page < run.end {
            let end = self.huge.block_end(page, run.end);
            if self.huge.is_marked(page) {
                (page..end).for_each(|page| self.clear_page(page, state, release));
            }
            page = end;
        }
    }

    fn clear_page(&mut self, page: usize, state: PageState, release: bool) {
        if state == PageState::Standby {
            let slot = self.meta[page].slot as usize;
            self.slots.free_standby(slot);
        }
        self.forget_copies(page);
        let meta = &mut self.meta[page];
        if release {
            self.pinned -= usize::from(std::mem::take(&mut meta.pins) != 0);
            self.held -= usize::from(std::mem::take(&mut meta.holds) != 0);
            meta.pattern = 0;
            self.locked -= usize::from(meta.flags & LOCKED != 0);
        }
        // What is locked and dropped (by a call that does not know) stays locked.
        meta.flags &= if release { 0 } else { LOCKED };
    }

    /// Gives the tables of blocks back that no page is in use of, where they are many.
    fn give_tables_back(&mut self) {
        let plain = if self.is_armed() { 0 } else { self.ram / PLAIN_PART / META_BYTES };
        if !self.huge.has_spare(TABLES_KEPT.max(plain)) {
            return;
        }
        let (mut from, mut all) = (0, true);
        while let Some(run) = self.huge.spare_run(from) {
            from = run.end;
            if self.held > 0 && self.any_marked(&run, |meta| meta.holds != 0) {
                // A system call under way is still to find its holds.
                all = false;
                continue;
            }
            self.meta.discard(run.start * size_of::<Meta>()..run.end * size_of::<Meta>());
            self.states.discard_free(run.clone());
            self.swap.discard(run.clone());
            self.huge.untable(&run);
        }
        if all {
            self.huge.forget_spares();
        }
        self.top = self.huge.end_of_use(self.top).min(self.top);
        self.hand = self.hand.min(self.top);
        self.copy_hand = self.copy_hand.min(self.top);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: pages that are the kernel's for a while, with whatever it has mapped there: how they leave our care and come back.
//! Callers: doors, for access that is neither none nor all and for files mapped over memory; `bulk` and `fork`. Locks, in order:
//! extents, then state. Law 12: a page is let go of with its contents, and what it has is found out when it comes back.
//! Law 13: what the kernel may have there counts whole.

use crate::bulk::next_kept;
use crate::error::PagerError;
use crate::page::{Event, PageState};
use crate::pager::Pager;
use crate::state::{BATCH, LOCKED, State};
use std::ops::Range;
use tmem_sys::PAGE_SIZE;

/// Pages of one hold of the lock.
const STEP: usize = 512;

impl Pager {
    /// Lets the kernel have the pages of a range, with their contents. Those it has stay its own.
    ///
    /// # Errors
    /// `Closed`; `NotOurs` where a page is not committed; `Budget` where too little of it would be left to page with: nothing
    /// has changed then. `Kernel` at its limit of mappings: what comes before is the kernel's then.
    pub fn let_go(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.inside(addr, bytes)?;
        let extents = self.extents();
        if !extents.cover(&range) {
            return Err(PagerError::NotOurs);
        }
        self.with(|s| s.may_let_go(&range))??;
        for first in range.clone().step_by(STEP) {
            self.with(|s| s.let_go(first..range.end.min(first + STEP)))??;
        }
        self.make_room()
    }

    /// Takes back those pages of a range that the kernel has, all of them private anonymous memory that may be read and written.
    ///
    /// # Errors
    /// `Closed`; `NotOurs`; `Kernel`: what comes before is ours again then.
    pub fn adopt(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.inside(addr, bytes)?;
        let _extents = self.extents();
        self.with(|s| s.adopt(&range))?
    }

    /// Maps those pages of a range anew that the kernel has, whatever is there by now. They stay reserved.
    ///
    /// # Errors
    /// As [`Pager::adopt`].
    pub fn restore(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.inside(addr, bytes)?;
        let _extents = self.extents();
        self.with(|s| s.restore(&range))?
    }
}

impl State {
    /// The next pages of `from..to` that the kernel has.
    fn next_let_go(&self, from: usize, to: usize) -> Option<Range<usize>> {
        if self.states.count(PageState::LetGo) == 0 {
            return None;
        }
        let start = self.find(PageState::LetGo, from, to)?;
        Some(start..self.states.run(start, to).1)
    }

    fn may_let_go(&mut self, range: &Range<usize>) -> Result<(), PagerError> {
        if self.count_free(range) > 0 {
            return Err(PagerError::NotOurs);
        }
        let (mut from, mut more) = (range.start, 0);
        while let Some(part) = next_kept(&self.states, &self.huge, from, range.end) {
            from = part.end;
            more += part.len();
        }
        self.room_to_keep(more, "letting the kernel have")
    }

    fn let_go(&mut self, range: Range<usize>) -> Result<(), PagerError> {
        let mut from = range.start;
        while from < range.end {
            let (state, end) = self.states.run(from, range.end);
            from = match state {
                PageState::LetGo => end,
                PageState::Free => return Err(PagerError::NotOurs),
                PageState::Fresh => self.hand_over(from..end)?,
                _ => {
                    let end = end.min(from + BATCH);
                    let held = self.hold(from, end - from);
                    let done = self.hand_over(from..from + held);
                    self.release_hold(from, held);
                    done?
                }
            };
        }
        Ok(())
    }

    /// Lets go of pages that have their contents in the arena, or none; where they end.
    fn hand_over(&mut self, pages: Range<usize>) -> Result<usize, PagerError> {
        self.frames.let_go(pages.clone()).map_err(|e| PagerError::Kernel("letting memory go", e))?;
        for page in pages.clone() {
            if self.huge.is_marked(page) {
                self.forget_copies(page);
                self.meta[page].flags &= LOCKED;
            }
        }
        let mut from = pages.start;
        while from < pages.end {
            let (state, end) = self.states.run(from, pages.end);
            self.states.change_all(from..end, state, Event::LetGo);
            from = end;
        }
        Ok(pages.end)
    }

    fn adopt(&mut self, range: &Range<usize>) -> Result<(), PagerError> {
        let mut from = range.start;
        while let Some(run) = self.next_let_go(from, range.end) {
            from = run.end;
            self.frames.adopt(run.clone()).map_err(|e| PagerError::Kernel("taking memory back", e))?;
            self.states.change_all(run.clone(), PageState::LetGo, Event::Adopt);
            if self.is_armed()
                && let Err(e) = self.find_frames(run.clone())
            {
                // What has a frame is not known: the kernel keeps all of it.
                let _ = self.hand_over(run);
                return Err(PagerError::Kernel("reading /proc/self/pagemap", e));
            }
        }
        Ok(())
    }

    /// Has the pages of a range free that the kernel has, in place of whatever is mapped there.
    ///
    /// # Errors
    /// The kernel's; what comes before is free then.
    pub fn restore(&mut self, range: &Range<usize>) -> Result<(), PagerError> {
        let mut from = range.start;
        while let Some(run) = self.next_let_go(from, range.end) {
            from = run.end;
            self.frames.restore(run.clone()).map_err(|e| PagerError::Kernel("mapping memory anew", e))?;
            self.release_run(run, PageState::LetGo);
        }
        Ok(())
    }

    /// Whether the budget can spare `more` pages that are not to leave.
    ///
    /// # Errors
    /// `Budget`, with what was asked in its text.
    pub fn room_to_keep(&mut self, more: usize, what: &str) -> Result<(), PagerError> {
        self.take_back_to_pin(more);
        if self.pinned + self.held + more <= self.pin_limit() || !self.is_armed() {
            return Ok(());
        }
        let mib = |pages: usize| pages * PAGE_SIZE / (1 << 20);
        Err(PagerError::Budget(format!(
            "{what} {} MiB more would leave too little of the budget to page with: {} MiB may be pinned in all and \
             {} MiB are. Pin a smaller part, or raise ram=",
            mib(more),
            mib(self.pin_limit()),
            mib(self.pinned + self.held)
        )))
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: what an allocation does to the budget: it fits as plain memory, begins paging, or is refused; and what waits to
//! be used again goes before that. Callers: `pager`, `blocks`. Locks: extents (held by the caller), then state.
//! Law 13: no extent is made that the tables and the budget have no room for.

use crate::arm::{self, Turn};
use crate::error::PagerError;
use crate::extents::Extents;
use crate::pager::Pager;
use crate::state::State;
use std::ops::Range;
use tmem_sys::PAGE_SIZE;

impl Pager {
    /// Makes a range of free pages part of an extent; its address.
    ///
    /// # Errors
    /// As [`Pager::allocate`].
    pub(crate) fn admit(&self, extents: &mut Extents, range: &Range<usize>) -> Result<usize, PagerError> {
        let passes_budget = |s: &mut State| !s.is_armed() && !s.fits_plain(range, range.len());
        let (tables_fit, mut must_arm) = self.with(|s| (s.tables_fit(range), passes_budget(s)))?;
        if !tables_fit {
            return Err(no_tables(range));
        }
        if must_arm {
            self.release_idle(extents, 0);
            must_arm = self.with(|s| passes_budget(s) && !s.take_back_for(range, range.len()))?;
        }
        let armed =
            if must_arm { Some(arm::prepare(&arm::turn(), self.choice, self.planned)?) } else { None };
        let address = self.with(|s| {
            if let Some((entry, guarded)) = armed
                && !s.is_armed()
            {
                s.arm(entry, guarded)?;
                self.slot().note_paged();
            }
            s.refuse_if_overshot()?;
            s.allocate(range)?;
            Ok(s.frames.arena_addr() + range.start * PAGE_SIZE)
        })?;
        self.start_background();
        address
    }

    /// Begins paging if it has not begun.
    ///
    /// # Errors
    /// `Closed`, `Unsupported`.
    pub(crate) fn begin_paging(&self) -> Result<(), PagerError> {
        // Held while paging begins, so that no fork comes in between.
        let mut extents = self.extents();
        if self.with(|s| !s.is_armed())? {
            self.release_idle(&mut extents, 0);
            self.begin_in_turn(&arm::turn())?;
            self.start_background();
        }
        Ok(())
    }

    /// As [`Pager::begin_paging`], for whoever has the right to; no fork comes in between.
    pub(crate) fn begin_in_turn(&self, turn: &Turn) -> Result<(), PagerError> {
        let (entry, guarded) = arm::prepare(turn, self.choice, self.planned)?;
        self.with(|s| if s.is_armed() { Ok(()) } else { s.arm(entry, guarded) })??;
        self.slot().note_paged();
        Ok(())
    }

    /// Pages of ended blocks that may wait to be used again: none once memory is paged.
    pub(crate) fn idle_limit(&self) -> usize {
        if self.slot().is_paged() { 0 } else { self.slot().ram_pages() / 8 }
    }

    /// Gives back what waits beyond `most` pages.
    pub(crate) fn release_idle(&self, extents: &mut Extents, most: usize) {
        while let Some(extent) = extents.idle.surplus(most) {
            extents.give(&extent);
            let _ = self.with(|s| s.release(&extent));
        }
    }
}

/// There is no room for the tables of a range.
pub fn no_tables(range: &Range<usize>) -> PagerError {
    PagerError::Budget(format!(
        "the tables alone for {} MiB of arrays would take more than three quarters of the budget: free arrays, or raise ram=",
        (range.end * PAGE_SIZE) >> 20
    ))
}

impl State {
    /// Law 14: nothing new is made while more frames are in use than the budget has room for.
    ///
    /// # Errors
    /// `Budget`.
    pub fn refuse_if_overshot(&mut self) -> Result<(), PagerError> {
        if self.is_armed() && self.overshot {
            self.backoff = 0;
            self.supply(1);
            if self.frame_count() > self.allowance() {
                return Err(PagerError::Budget(
                    "the budget is overshot and nothing can be packed or swapped out: free arrays, raise ram=, or \
                     give a larger swap="
                        .into(),
                ));
            }
            self.overshot = false;
        }
        Ok(())
    }
}

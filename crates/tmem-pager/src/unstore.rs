// SPDX-License-Identifier: Apache-2.0
//! Owns: the way back from the store: pages that were stored longest ago return to frames that the budget leaves unused, as a partial
//! swapoff has it. Callers: doors, for guests that shrink what they have stored. Lock: the pager's, for one bounded step at a time.
//! Law: no page leaves RAM for one that returns; what the swap device has stays there.

use crate::error::PagerError;
use crate::page::PageState;
use crate::pager::Pager;
use crate::state::{BATCH, State};
use crate::swapout::MAX_BATCH;

/// Frames left unused, so that the next fault need not send a page out.
const MARGIN: usize = 4 * BATCH;
/// Old pages looked at for a step: those that a thread works on are passed by.
const LOOKED_AT: usize = 4 * MAX_BATCH;

impl Pager {
    /// Has up to `pages` stored pages leave the store for RAM, the oldest first, while frames are unused; how many did. Copies of
    /// pages that are in RAM leave too.
    ///
    /// # Errors
    /// `Closed`.
    pub fn unstore(&self, pages: usize) -> Result<usize, PagerError> {
        let mut done = 0;
        while done < pages {
            let more = self.with(|s| s.unstore(pages - done))?;
            if more == 0 {
                break;
            }
            done += more;
        }
        self.with(State::publish)?;
        Ok(done)
    }
}

impl State {
    /// One step: at most a batch of pages.
    fn unstore(&mut self, want: usize) -> usize {
        if !self.is_armed() {
            return 0;
        }
        let (mut pages, mut count, mut after) = ([0usize; MAX_BATCH], 0, 0);
        for _ in 0..LOOKED_AT {
            if count == want.min(MAX_BATCH) {
                break;
            }
            let Some(oldest) = self.frontswap.oldest(after) else { break };
            after = oldest.after;
            let page = oldest.page as usize;
            if !self.is_busy(page) {
                pages[count] = page;
                count += 1;
            }
        }
        let mut done = 0;
        for &page in &pages[..count] {
            if !self.states.is(page, PageState::Out) {
                self.forget_copies(page);
            } else if self.unused_frames() > MARGIN {
                self.bring_run(page, 1, false);
            } else {
                break;
            }
            done += 1;
        }
        done
    }

    /// Frames that the budget has room for and no page has.
    fn unused_frames(&self) -> usize {
        (self.allowance() + self.slots.free_count()).saturating_sub(self.frame_count())
    }
}

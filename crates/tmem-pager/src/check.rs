// SPDX-License-Identifier: Apache-2.0
//! Owns: the check of a pager against its laws, for tests and for whoever doubts. Caller: `pager`. Lock: the pager's, held.
//! Law: looking changes nothing.

use crate::page::PageState;
use crate::state::{Meta, PACKED, State};

impl State {
    /// Every broken law of this pager and all below it, in words.
    pub fn check(&self) -> Vec<String> {
        let mut broken = self.frontswap.check();
        broken.extend(self.swap.check());
        let frames = &self.frames;
        broken.extend(self.slots.check(|slot| frames.is_filled(slot)));
        let mut copies = 0;
        for page in self.noted_pages(&mut broken) {
            let meta = &self.meta[page];
            let stored = self.frontswap.is_present(page) || self.swap.holds(page);
            copies += usize::from(meta.flags & PACKED != 0);
            if self.frontswap.is_present(page) && self.swap.holds(page) {
                broken.push(format!("page {page} is stored twice: behind frontswap and on the swap device"));
            }
            match self.states.get(page) {
                PageState::Out if !stored => broken.push(format!("page {page} is out and stored nowhere")),
                PageState::Standby if self.slots.owner(meta.slot as usize) != Some(page) => {
                    broken.push(format!(
                        "page {page} is on standby in slot {}, which is not its own",
                        meta.slot
                    ));
                }
                PageState::Free | PageState::Fresh | PageState::LetGo if stored => {
                    broken.push(format!("page {page} has no contents and is stored"));
                }
                _ => {}
            }
        }
        if copies != self.packed_copies {
            broken.push(format!("{copies} pages keep a packed copy, {} noted", self.packed_copies));
        }
        broken
    }

    /// The pages of all blocks with pages in use, once what is counted of them was counted again.
    fn noted_pages(&self, broken: &mut Vec<String>) -> Vec<usize> {
        let arena = self.frames.arena_pages();
        let (mut pages, mut counts, mut from) = (Vec::new(), [0; PageState::ALL.len()], 0);
        while let Some(run) = self.huge.used_run(from, arena) {
            from = run.end;
            pages.extend(run);
        }
        let mut used = 0;
        for (i, &page) in pages.iter().enumerate() {
            let state = self.states.get(page);
            counts[state as usize] += 1;
            used += usize::from(state != PageState::Free);
            if i + 1 == pages.len() || self.huge.block_end(page, arena) == page + 1 {
                if used != self.huge.used_near(page) {
                    broken.push(format!("the block of page {page} has {used} pages in use, not as noted"));
                }
                used = 0;
            }
            if !self.huge.is_marked(page) && !is_blank(&self.meta[page]) {
                broken.push(format!("page {page} was never paged, and something is noted of it"));
            }
        }
        counts[PageState::Free as usize] += arena - pages.len();
        if counts != self.states.counts() {
            broken.push("page states: the counts by state do not match the pages".into());
        }
        if pages.last().is_some_and(|last| {
            self.huge.end_of_use(arena) <= *last || self.top + crate::huge::HUGE_PAGES <= *last
        }) {
            broken.push("pages in use lie above the top".into());
        }
        pages
    }
}

fn is_blank(meta: &Meta) -> bool {
    (meta.pins, meta.holds, meta.flags, meta.pattern) == (0, 0, 0, 0)
}

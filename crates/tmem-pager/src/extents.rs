// SPDX-License-Identifier: Apache-2.0
//! Owns: which ranges of an arena belong to an array. Callers: `verbs` (allocate, release), never the fault path.
//! Lock: its own, taken before the pager lock. Allocates from the heap, which is why it is apart.

use crate::idle::Idle;
use crate::runs::Runs;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tmem_sys::page::HUGE_SIZE;
use tmem_sys::{PAGE_SIZE, page};

const HUGE_PAGES: usize = HUGE_SIZE / PAGE_SIZE;
/// From this size on arrays begin at a huge page: 32 MiB. The unused rest of the last one is then little against it;
/// smaller arrays lie end to end, and share the huge page between them.
const ALIGNED_FROM: usize = 16 * HUGE_PAGES;

pub struct Extents {
    /// Free ranges by first page; neighbours are always merged.
    free: BTreeMap<usize, usize>,
    /// Live ranges by first page.
    live: BTreeMap<usize, usize>,
    /// Those of them that small blocks share.
    pub runs: Runs,
    /// Those of them that no block is in any more, kept for the next of their size.
    pub idle: Idle,
    /// First pages of those that were pinned or advised: not to be used again without a thought.
    pub steered: BTreeSet<usize>,
}

impl Extents {
    pub const fn new() -> Extents {
        Extents {
            free: BTreeMap::new(),
            live: BTreeMap::new(),
            runs: Runs::new(),
            idle: Idle::new(),
            steered: BTreeSet::new(),
        }
    }

    /// Makes `pages` available, all free.
    pub fn reset(&mut self, pages: usize) {
        self.live.clear();
        self.runs.clear();
        self.idle.clear();
        self.steered.clear();
        self.free = BTreeMap::from([(0, pages)]);
    }

    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Arrays, or what else lives in the live ranges.
    pub fn blocks(&self) -> usize {
        self.live.len() - self.runs.len() + self.runs.blocks() - self.idle.len()
    }

    /// The lowest fitting range for `bytes`.
    pub fn take(&mut self, bytes: usize) -> Option<Range<usize>> {
        let pages = page::pages_for(bytes).max(1);
        let align = if pages >= ALIGNED_FROM { HUGE_PAGES } else { 1 };
        let fit = |(&start, &len): (&usize, &usize)| {
            let first = start.next_multiple_of(align);
            (first + pages <= start + len).then_some((start, len, first))
        };
        let (start, len, first) = self.free.iter().find_map(fit)?;
        self.free.remove(&start);
        if first > start {
            self.free.insert(start, first - start);
        }
        if first + pages < start + len {
            self.free.insert(first + pages, start + len - first - pages);
        }
        self.live.insert(first, pages);
        Some(first..first + pages)
    }

    /// Gives a range back. False when it is not live.
    pub fn give(&mut self, range: &Range<usize>) -> bool {
        if self.live.get(&range.start) != Some(&range.len()) {
            return false;
        }
        self.live.remove(&range.start);
        self.steered.remove(&range.start);
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&s, &len)) = self.free.range(..start).next_back()
            && s + len == start
        {
            self.free.remove(&s);
            start = s;
        }
        if let Some(len) = self.free.remove(&end) {
            end += len;
        }
        self.free.insert(start, end - start);
        true
    }

    /// The live range that holds a page.
    pub fn at(&self, page: usize) -> Option<Range<usize>> {
        self.holding(&(page..page + 1))
    }

    /// The live range that holds all of `pages`.
    pub fn holding(&self, pages: &Range<usize>) -> Option<Range<usize>> {
        let (&start, &len) = self.live.range(..=pages.start).next_back()?;
        (pages.end <= start + len).then_some(start..start + len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_never_overlap_and_all_comes_back(ops in prop::collection::vec((any::<bool>(), 1usize..90_000_000), 1..80)) {
            let mut e = Extents::new();
            e.reset(200_000);
            let mut held: Vec<Range<usize>> = Vec::new();
            for (take, n) in ops {
                if take {
                    if let Some(r) = e.take(n) {
                        prop_assert!(held.iter().all(|h| h.end <= r.start || r.end <= h.start));
                        prop_assert!(r.len() < ALIGNED_FROM || r.start % HUGE_PAGES == 0);
                        held.push(r);
                    }
                } else if !held.is_empty() {
                    let r = held.swap_remove(n % held.len());
                    prop_assert!(e.give(&r));
                    prop_assert!(!e.give(&r));
                }
            }
            for r in held.drain(..) {
                prop_assert!(e.give(&r));
            }
            prop_assert_eq!(e.free.len(), 1);
            prop_assert_eq!(e.live(), 0);
        }
    }
}

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
        self.take_aligned(page::pages_for(bytes).max(1), 1)
    }

    /// The lowest fitting range of so many pages that begins at a multiple of `align` pages.
    pub fn take_aligned(&mut self, pages: usize, align: usize) -> Option<Range<usize>> {
        let align = if pages >= ALIGNED_FROM { align.max(HUGE_PAGES) } else { align };
        let fit = |(&start, &len): (&usize, &usize)| {
            let first = start.checked_next_multiple_of(align)?;
            (first.checked_add(pages)? <= start + len).then_some((start, len, first))
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

    /// Takes just this range. False where it is not all free.
    pub fn take_at(&mut self, range: &Range<usize>) -> bool {
        let Some((&start, &len)) = self.free.range(..=range.start).next_back() else { return false };
        let end = start + len;
        if range.end > end {
            return false;
        }
        self.free.remove(&start);
        if range.start > start {
            self.free.insert(start, range.start - start);
        }
        if range.end < end {
            self.free.insert(range.end, end - range.end);
        }
        self.live.insert(range.start, range.len());
        true
    }

    /// Gives a range back. False when it is not live.
    pub fn give(&mut self, range: &Range<usize>) -> bool {
        if self.live.get(&range.start) != Some(&range.len()) {
            return false;
        }
        self.live.remove(&range.start);
        self.steered.remove(&range.start);
        self.free(range);
        true
    }

    fn free(&mut self, range: &Range<usize>) {
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
    }

    /// The next part of `pages` at or after `from` that lies in one live range.
    pub fn next_part(&self, from: usize, pages: &Range<usize>) -> Option<Range<usize>> {
        let before = self.at(from).map(|live| from..live.end);
        let after = || self.live.range(from..pages.end).next().map(|(&start, &len)| start..start + len);
        let part = before.or_else(after)?;
        let part = part.start..part.end.min(pages.end);
        (!part.is_empty()).then_some(part)
    }

    /// Whether live ranges hold all of `pages` between them.
    pub fn cover(&self, pages: &Range<usize>) -> bool {
        let mut from = pages.start;
        while from < pages.end {
            match self.next_part(from, pages) {
                Some(part) if part.start == from => from = part.end,
                _ => return false,
            }
        }
        true
    }

    /// Gives a part of one live range back; what is left of it on either side stays live.
    pub fn cut(&mut self, part: &Range<usize>) {
        let Some(live) = self.holding(part) else { return };
        self.live.remove(&live.start);
        let steered = self.steered.remove(&live.start);
        for rest in [live.start..part.start, part.end..live.end] {
            if !rest.is_empty() {
                self.live.insert(rest.start, rest.len());
                if steered {
                    self.steered.insert(rest.start);
                }
            }
        }
        self.free(part);
    }

    /// Has the live range that ends at `end` end so many `pages` later, where they are free. Whether it does.
    pub fn grow(&mut self, end: usize, pages: usize) -> bool {
        let Some(live) = end.checked_sub(1).and_then(|last| self.at(last)) else { return false };
        let Some(&len) = self.free.get(&end).filter(|&&len| live.end == end && len >= pages) else {
            return false;
        };
        self.free.remove(&end);
        if len > pages {
            self.free.insert(end + pages, len - pages);
        }
        self.live.insert(live.start, live.len() + pages);
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

        /// Against one bit a page: what is cut, grown and taken, in any order.
        #[test]
        fn parts_come_and_go_as_pages_would(ops in prop::collection::vec((0u8..3, 0usize..200, 1usize..40), 1..120)) {
            let mut e = Extents::new();
            e.reset(256);
            let mut live = [false; 256];
            for (op, at, n) in ops {
                let range = at..(at + n).min(256);
                match op {
                    0 => if let Some(r) = e.take_aligned(n, 4) {
                        prop_assert!(r.start % 4 == 0 && live[r.clone()].iter().all(|l| !l));
                        live[r].fill(true);
                    },
                    1 => {
                        while let Some(part) = e.next_part(range.start, &range) {
                            prop_assert!(live[part.clone()].iter().all(|l| *l));
                            e.cut(&part);
                            live[part].fill(false);
                        }
                        prop_assert!(live[range].iter().all(|l| !l));
                    }
                    _ => if at > 0 && e.grow(at, n) {
                        prop_assert!(live[at - 1] && live[range.clone()].iter().all(|l| !l));
                        live[range].fill(true);
                    },
                }
                for (page, is) in live.iter().enumerate() {
                    prop_assert_eq!(e.at(page).is_some(), *is);
                }
                let first = live.iter().position(|l| *l).unwrap_or(0);
                let end = (first..256).find(|&p| !live[p]).unwrap_or(256);
                prop_assert!(e.cover(&(first..end)) && (end == 256 || !e.cover(&(first..end + 1))));
            }
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: extents of ended blocks that wait to be used again while memory is plain: a program that makes and drops
//! arrays all the time would pay for fresh pages each time, which a `malloc` spares it. Pure bookkeeping.
//! Callers: `blocks`. Lock: the extents', whose part this is. Law 13: they count like arrays, and go before paging begins.

use std::collections::VecDeque;
use std::ops::Range;

/// Looked through one by one, so they are few.
const MOST: usize = 64;

#[derive(Default)]
pub struct Idle {
    /// Those that waited longest first.
    waiting: VecDeque<Range<usize>>,
    pages: usize,
}

impl Idle {
    pub const fn new() -> Idle {
        Idle { waiting: VecDeque::new(), pages: 0 }
    }

    /// How many extents wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    pub fn holds(&self, extent: &Range<usize>) -> bool {
        self.waiting.contains(extent)
    }

    /// The extent of that many pages that came last: its pages are the likeliest to be in the processor's caches.
    pub fn take(&mut self, pages: usize) -> Option<Range<usize>> {
        let at = self.waiting.iter().rposition(|extent| extent.len() == pages)?;
        self.pages -= pages;
        self.waiting.remove(at)
    }

    pub fn add(&mut self, extent: Range<usize>) {
        self.pages += extent.len();
        self.waiting.push_back(extent);
    }

    /// The one that waited longest, where there are more than `pages` allow.
    pub fn surplus(&mut self, pages: usize) -> Option<Range<usize>> {
        if self.pages <= pages && self.waiting.len() <= MOST {
            return None;
        }
        let extent = self.waiting.pop_front()?;
        self.pages -= extent.len();
        Some(extent)
    }

    pub fn clear(&mut self) {
        self.waiting.clear();
        self.pages = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_size_comes_first_and_the_oldest_goes_first() {
        let mut idle = Idle::new();
        for extent in [0..4, 10..14, 20..21] {
            idle.add(extent);
        }
        assert!(idle.holds(&(10..14)) && !idle.holds(&(10..12)));
        assert_eq!(idle.take(4), Some(10..14));
        assert_eq!(idle.take(2), None);
        assert_eq!((idle.pages(), idle.surplus(5)), (5, None));
        assert_eq!(idle.surplus(4), Some(0..4));
        assert_eq!((idle.pages(), idle.surplus(0)), (1, Some(20..21)));
        assert_eq!((idle.pages(), idle.surplus(0)), (0, None));
    }
}

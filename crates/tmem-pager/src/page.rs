// SPDX-License-Identifier: Apache-2.0
//! Owns: the states of a page and every transition between them. This is the only file that changes a state.
//! Callers: `fault`, `evict`, `verbs`, `arm`, `fork`, under the pager lock. Law 12: a transition that is not in
//! the table means that a page's whereabouts are no longer known, and the process stops with a report.

use std::ops::Range;
use tmem_sys::page::fetch_line;
use tmem_sys::{Errno, Table};

/// How many states there are.
const KINDS: usize = 6;

/// Where a page of the arena is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageState {
    /// Part of no extent, or reserved by one for later. Must be zero: tables begin zeroed.
    Free = 0,
    /// Part of an extent and never written: reads as zeros.
    Fresh = 1,
    /// Its frame is in the arena.
    Resident = 2,
    /// Its frame is in a staging slot, uncompressed: a fault moves it back (the second chance).
    Standby = 3,
    /// Its contents are in frontswap or on the swap device only.
    Out = 4,
    /// Part of an extent and the kernel's alone, with whatever it has mapped there.
    LetGo = 5,
}

impl PageState {
    pub const ALL: [PageState; KINDS] = [
        PageState::Free,
        PageState::Fresh,
        PageState::Resident,
        PageState::Standby,
        PageState::Out,
        PageState::LetGo,
    ];

    fn from_byte(byte: u8) -> PageState {
        PageState::ALL[byte as usize]
    }
}

/// What happens to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An extent comes to hold the page, or to use what it reserved.
    Allocate,
    /// A first touch, or a frame found at arming.
    Touch,
    /// Eviction moved the frame to a staging slot.
    TakeOut,
    /// The frame was moved back.
    PutBack,
    /// The contents were stored; the frame is free.
    Pack,
    /// The contents were loaded into a frame and moved in.
    FaultIn,
    /// The program dropped the contents itself (`madvise`): zeros again.
    Vanish,
    /// The extent is gone, or keeps the page in reserve.
    Release,
    /// The kernel is to have the page with its contents.
    LetGo,
    /// The page comes back from the kernel; what it has is found after.
    Adopt,
}

impl Event {
    pub const ALL: [Event; 10] = [
        Event::Allocate,
        Event::Touch,
        Event::TakeOut,
        Event::PutBack,
        Event::Pack,
        Event::FaultIn,
        Event::Vanish,
        Event::Release,
        Event::LetGo,
        Event::Adopt,
    ];
}

/// The table of transitions; `None` is a broken law.
pub const fn next(state: PageState, event: Event) -> Option<PageState> {
    use PageState::{Free, Fresh, LetGo, Out, Resident, Standby};
    match (state, event) {
        (Free, Event::Allocate) | (LetGo, Event::Adopt) => Some(Fresh),
        (Resident | Standby | Out, Event::Vanish) => Some(Fresh),
        (Fresh, Event::Touch) | (Standby, Event::PutBack) | (Out, Event::FaultIn) => Some(Resident),
        (Resident, Event::TakeOut) => Some(Standby),
        (Standby, Event::Pack) => Some(Out),
        (Fresh | Resident | Standby | Out | LetGo, Event::Release) => Some(Free),
        (Fresh | Resident, Event::LetGo) => Some(LetGo),
        _ => None,
    }
}

/// The states of all pages of an arena, and how many pages are in each.
pub struct States {
    table: Table<u8>,
    counts: [usize; KINDS],
}

impl States {
    /// # Errors
    /// `ENOMEM`.
    pub fn new(pages: usize) -> Result<States, Errno> {
        let mut counts = [0; KINDS];
        counts[PageState::Free as usize] = pages;
        Ok(States { table: Table::new(pages)?, counts })
    }

    #[inline]
    pub fn get(&self, page: usize) -> PageState {
        PageState::from_byte(self.table[page])
    }

    /// Asks for the memory of a page's state.
    #[inline]
    pub fn expect(&self, page: usize) {
        fetch_line(&self.table[page]);
    }

    #[inline]
    pub fn is(&self, page: usize, state: PageState) -> bool {
        self.table[page] == state as u8
    }

    pub fn count(&self, state: PageState) -> usize {
        self.counts[state as usize]
    }

    /// Takes one page through an event; its new state.
    #[inline]
    pub fn change(&mut self, page: usize, event: Event) -> PageState {
        let old = self.get(page);
        let Some(new) = next(old, event) else { illegal() };
        self.table[page] = new as u8;
        self.counts[old as usize] -= 1;
        self.counts[new as usize] += 1;
        new
    }

    /// Takes pages that are all in the state `from` through an event.
    pub fn change_all(&mut self, pages: Range<usize>, from: PageState, event: Event) {
        let Some(new) = next(from, event) else { illegal() };
        let run = &mut self.table[pages];
        if !run.chunks(CHUNK).all(|chunk| all_are(chunk, from)) {
            illegal()
        }
        run.fill(new as u8);
        self.counts[from as usize] -= run.len();
        self.counts[new as usize] += run.len();
    }

    /// The state of a page, and where the pages before `to` end that share it.
    pub fn run(&self, page: usize, to: usize) -> (PageState, usize) {
        let state = self.get(page);
        (state, self.find_other(state, page, to).unwrap_or(to))
    }

    /// The first page of `from..to` in `state`.
    pub fn find(&self, state: PageState, from: usize, to: usize) -> Option<usize> {
        let hay = self.table.get(from..to)?;
        hay.iter().position(|&b| b == state as u8).map(|i| from + i)
    }

    /// The first page of `from..to` that is not in `state`.
    pub fn find_other(&self, state: PageState, from: usize, to: usize) -> Option<usize> {
        let hay = self.table.get(from..to)?;
        // Whole chunks without a branch between their bytes: streams pass over long runs.
        let same = hay.chunks_exact(CHUNK).take_while(|c| all_are(c, state)).count() * CHUNK;
        hay[same..].iter().position(|&b| b != state as u8).map(|i| from + same + i)
    }

    /// The last page of `from..to` that is not in `state`.
    pub fn rfind_other(&self, state: PageState, from: usize, to: usize) -> Option<usize> {
        let hay = self.table.get(from..to)?;
        let same = hay.rchunks_exact(CHUNK).take_while(|c| all_are(c, state)).count() * CHUNK;
        hay[..hay.len() - same].iter().rposition(|&b| b != state as u8).map(|i| from + i)
    }

    /// One past the last page below `top` that is part of an extent.
    pub fn end_of_use(&self, top: usize) -> usize {
        self.table[..top].iter().rposition(|&b| b != PageState::Free as u8).map_or(0, |last| last + 1)
    }

    /// Gives the memory back that the states of free pages take.
    pub fn discard_free(&mut self, pages: Range<usize>) {
        self.table.discard(pages);
    }

    /// Counts again, page by page.
    pub fn recount(&self, pages: usize) -> [usize; KINDS] {
        let mut counts = [0; KINDS];
        self.table[..pages].iter().for_each(|&b| counts[b as usize] += 1);
        counts[PageState::Free as usize] += self.table.len() - pages;
        counts
    }

    pub fn counts(&self) -> [usize; KINDS] {
        self.counts
    }
}

/// States compared at once.
const CHUNK: usize = 64;

fn all_are(states: &[u8], state: PageState) -> bool {
    states.iter().fold(0, |diff, &b| diff | (b ^ state as u8)) == 0
}

#[cold]
fn illegal() -> ! {
    tmem_sys::syscall::die("a page was taken through a transition that its state does not have (law 12)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_follow_every_legal_walk() {
        let mut s = States::new(8).unwrap();
        for event in
            [Event::Allocate, Event::Touch, Event::TakeOut, Event::Pack, Event::FaultIn, Event::Vanish]
        {
            s.change(3, event);
            assert_eq!(s.recount(8), s.counts());
        }
        assert!(s.is(3, PageState::Fresh));
        s.change(3, Event::Release);
        assert_eq!(s.count(PageState::Free), 8);
    }

    #[test]
    fn many_pages_change_as_each_would() {
        let mut s = States::new(1000).unwrap();
        s.change_all(10..900, PageState::Free, Event::Allocate);
        s.change(200, Event::Touch);
        assert_eq!(s.run(10, 1000), (PageState::Fresh, 200));
        assert_eq!(s.run(201, 500), (PageState::Fresh, 500));
        s.change_all(201..900, PageState::Fresh, Event::LetGo);
        assert_eq!((s.count(PageState::LetGo), s.recount(1000)), (699, s.counts()));
    }

    #[test]
    fn the_ends_of_runs_are_found_from_both_sides() {
        let mut s = States::new(1000).unwrap();
        let other = |s: &States, from, to| {
            (s.find_other(PageState::Free, from, to), s.rfind_other(PageState::Free, from, to))
        };
        assert_eq!(other(&s, 3, 900), (None, None));
        s.change(5, Event::Allocate);
        s.change(700, Event::Allocate);
        assert_eq!(other(&s, 3, 900), (Some(5), Some(700)));
        assert_eq!(other(&s, 6, 700), (None, None));
        assert_eq!(other(&s, 6, 701), (Some(700), Some(700)));
        assert_eq!(other(&s, 5, 6), (Some(5), Some(5)));
    }

    #[test]
    fn a_page_with_contents_never_becomes_fresh_but_by_the_program() {
        for state in PageState::ALL {
            for event in Event::ALL {
                let to = next(state, event);
                if to == Some(PageState::Fresh) {
                    assert!(matches!(event, Event::Allocate | Event::Vanish | Event::Adopt));
                }
                if state == PageState::Out && to.is_some() {
                    assert!(matches!(event, Event::FaultIn | Event::Release | Event::Vanish));
                }
                if state == PageState::LetGo && to.is_some() {
                    assert!(matches!(event, Event::Release | Event::Adopt));
                }
            }
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: where pages are, for whoever asks. Callers: `pager`, from Python threads. Lock: the pager's, for a run of pages at a
//! time. Law: looking changes nothing.

use crate::error::PagerError;
use crate::page::PageState;
use crate::pager::Pager;
use crate::state::State;
use std::ops::Range;

/// Where a page is, from the nearest tier down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tier {
    /// Never written, or part of no array: zeros that take no memory. In plain memory, any page.
    Fresh,
    /// In the array's own memory.
    Resident,
    /// Out of it, uncompressed.
    Standby,
    /// Behind frontswap, in the form it had when it left.
    Stored,
    /// Behind frontswap, packed tighter since.
    Cold,
    /// On the swap device.
    Swap,
}

/// Pages looked at under one hold of the lock.
const RUN: usize = 4096;

impl Pager {
    /// Where each page of a range is, as numbers of [`Tier`].
    ///
    /// # Errors
    /// `NotOurs`, `Closed`.
    pub fn tiers(&self, addr: usize, bytes: usize) -> Result<Vec<u8>, PagerError> {
        let Range { start: first, end } = self.pages(addr, bytes)?;
        let mut tiers = vec![0; end - first];
        for (n, run) in tiers.chunks_mut(RUN).enumerate() {
            let from = first + n * RUN;
            self.with(|state| {
                run.iter_mut().enumerate().for_each(|(i, tier)| *tier = state.tier(from + i) as u8)
            })?;
        }
        Ok(tiers)
    }
}

impl State {
    fn tier(&self, page: usize) -> Tier {
        if page >= self.top {
            return Tier::Fresh;
        }
        match self.states.get(page) {
            PageState::Free | PageState::Fresh => Tier::Fresh,
            PageState::Resident | PageState::LetGo => Tier::Resident,
            PageState::Standby => Tier::Standby,
            PageState::Out if self.swap.holds(page) => Tier::Swap,
            PageState::Out if self.frontswap.is_cold(page) => Tier::Cold,
            PageState::Out => Tier::Stored,
        }
    }
}

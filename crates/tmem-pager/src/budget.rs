// SPDX-License-Identifier: Apache-2.0
//! Owns: the budget while it changes, and what counts against it, for whoever shares one between several. Callers: doors, whose
//! budget is a part of a whole tree's. Locks, in order: extents, then state, the latter for one bounded step at a time.
//! Laws 13 and 14: a smaller budget holds at once, or is overshot and that counted.

use crate::arm;
use crate::error::PagerError;
use crate::pager::{MIN_RAM, Pager, too_small};
use crate::state::{BATCH, State};
use crate::stats::Stat;
use tmem_sys::PAGE_SIZE;

/// Steps without a page less in RAM, beyond those that put pages on standby, after which no more can leave.
const PATIENCE: usize = 16;
/// Pages of one step towards a smaller budget.
const STEP: usize = 4 * BATCH;

impl Pager {
    /// Changes the budget. A smaller one sends pages out until it holds, or no more can leave: then it is overshot. While memory
    /// is plain only the number changes; see [`Pager::outgrown`].
    ///
    /// # Errors
    /// `Closed`; `Budget` below the minimum.
    pub fn set_ram(&self, bytes: usize) -> Result<(), PagerError> {
        if bytes < MIN_RAM {
            return Err(too_small(bytes));
        }
        let now = self.with(|s| s.set_own_ram(bytes))?;
        self.slot().set_ram(now);
        self.make_room()
    }

    /// Sends pages out until the budget holds, a step at a time.
    pub(crate) fn make_room(&self) -> Result<(), PagerError> {
        let (mut least, mut in_vain, mut most) = (usize::MAX, 0, 0);
        // Where no more could leave the last time, little is tried: each try costs as much as one that succeeds.
        let is_known = self.with(|s| s.overshot)?;
        while self.with(State::shrink)? {
            let (frames, inherited) = self.with(|s| (s.frame_count(), s.inherited_written()))?;
            if frames < least || inherited > most {
                (least, most, in_vain) = (frames.min(least), inherited, 0);
                continue;
            }
            // Pages go to standby before they leave. Those that nobody takes go back to where they were, and so on for ever.
            in_vain += 1;
            if in_vain > if is_known { 1 } else { PATIENCE + frames / BATCH } {
                return self.with(State::overshoot);
            }
        }
        Ok(())
    }

    /// As [`Pager::set_ram`], and begins paging where plain memory takes more than a smaller budget. Where that cannot be, the
    /// budget stays what it was.
    ///
    /// # Errors
    /// `Closed`; `Budget` below the minimum; `Unsupported` when the machine's state does not permit paging.
    pub fn resize(&self, bytes: usize) -> Result<(), PagerError> {
        let before = self.with(|s| s.own_ram)?;
        self.set_ram(bytes)?;
        if self.outgrown()
            && let Err(why) = self.arm_now()
        {
            self.set_ram(before)?;
            return Err(why);
        }
        Ok(())
    }

    /// Bytes that count against the budget now.
    ///
    /// # Errors
    /// `Closed`.
    pub fn usage(&self) -> Result<usize, PagerError> {
        self.with(|s| s.usage())
    }

    /// Whether memory is plain and takes more than the budget.
    pub fn outgrown(&self) -> bool {
        self.with(|s| !s.is_armed() && s.usage() > s.ram).unwrap_or(false)
    }

    /// Begins paging if it has not begun, and sends out what the budget has no room for. Where another thread is about to begin,
    /// that is left to it.
    ///
    /// # Errors
    /// `Closed`, `Unsupported`.
    pub fn arm_now(&self) -> Result<(), PagerError> {
        let extents = self.open_extents()?;
        let Some(turn) = arm::try_turn() else { return Ok(()) };
        drop(extents);
        if self.with(|s| !s.is_armed())? {
            self.begin_in_turn(&turn)?;
        }
        drop(turn);
        self.start_background();
        self.make_room()
    }
}

impl State {
    /// Bytes that count against the budget.
    pub fn usage(&self) -> usize {
        if self.is_armed() {
            self.frame_count() * PAGE_SIZE + self.overhead()
        } else {
            self.plain_bytes(&(0..0), 0)
        }
    }

    /// The pager's own budget; a host may have it keep another. The budget in force.
    fn set_own_ram(&mut self, bytes: usize) -> usize {
        self.own_ram = bytes;
        self.set_ram()
    }

    /// The budget that a host has the pager keep instead of its own, if any: less, or what another guest gave up. The budget in
    /// force.
    pub fn set_balloon(&mut self, target: Option<usize>) -> usize {
        self.balloon = target;
        self.set_ram()
    }

    fn set_ram(&mut self) -> usize {
        let bytes = self.balloon.unwrap_or(self.own_ram);
        self.ram = bytes;
        self.backoff = 0;
        self.writing_rests = 0;
        self.share_out();
        self.stats.set(Stat::Ram, bytes as u64);
        bytes
    }

    /// One step towards a budget that holds; whether there are more to do.
    fn shrink(&mut self) -> bool {
        let over = self.frame_count().saturating_sub(self.allowance());
        if !self.is_armed() || over == 0 {
            self.overshot = self.overshot && over > 0;
            return false;
        }
        self.share_out();
        self.give_up_frames(over.min(STEP)) > 0
            || self.take_back(over.min(STEP))
            || (self.store_is_over() && self.shrink_store())
            || self.reclaim() > 0
            || self.remains_over()
    }

    /// Sends pages out of private memory: where leased memory is idle, there, else the oldest to the swap device.
    fn shrink_store(&mut self) -> bool {
        self.frontswap.leasing().is_some_and(|store| store.relieve(BATCH) > 0)
            || self.write_back() > 0
            || self.frontswap.tidy(true)
    }

    /// What a forked child's parent had on lease is the child's own: it leaves before the budget is said to be overshot.
    #[cold]
    pub fn shrink_inheritance(&mut self) {
        let mut is_known = false;
        while self.frame_count() > self.allowance() {
            self.is_heir = self.frontswap.leasing().is_some_and(|store| store.has_own_windows());
            if !self.is_heir {
                return;
            }
            if !is_known {
                self.share_out();
                is_known = true;
            }
            if !self.store_is_over() || !self.shrink_store() {
                return;
            }
        }
    }

    /// Pages that went to the swap device so far, where some did that a parent had on lease: for long no frame comes free of it.
    fn inherited_written(&mut self) -> u64 {
        let inherits = self.frontswap.leasing().is_some_and(|store| store.has_own_windows());
        if inherits { self.stats.get(Stat::WrittenBack) } else { 0 }
    }

    /// Whether the store has more than its part of the budget.
    fn store_is_over(&self) -> bool {
        self.frontswap.footprint() > self.store_share()
    }

    /// Nothing more can leave: false.
    fn remains_over(&mut self) -> bool {
        self.overshoot();
        false
    }
}

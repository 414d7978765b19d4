// SPDX-License-Identifier: Apache-2.0
//! Owns: what is different while several threads fault. Callers: `serve`, `fault`. Lock: the pager's, held.
//!
//! A move of pages flushes them from every processor on which a thread of the process runs, by an interrupt that takes some
//! twenty microseconds on a virtual machine, and one for each run of pages. A copy into a new frame flushes nothing. So with
//! several threads single pages come in by copies, frames are not recycled, and the moves out and the discarding of frames are
//! done many at a time, while the others sleep (`Slot::while_others_sleep`). Measured on two processors, uniform random reads:
//! 6.9 us an access with moves both ways, though one thread alone takes 3.0.

use crate::state::State;
use tmem_sys::ThreadKey;

/// Faults of one thread after which it is taken to be alone.
const ALONE_AFTER: u32 = 64;
/// Frames that are exchanged for room at once.
pub const EXCHANGE: usize = 128;

/// Which threads fault.
#[derive(Default)]
pub struct Several {
    last: Option<ThreadKey>,
    /// Faults for which more than one thread is taken to be at work.
    left: u32,
}

impl Several {
    fn note(&mut self, who: ThreadKey) {
        self.left = match self.last.replace(who) {
            Some(last) if last != who => ALONE_AFTER,
            _ => self.left.saturating_sub(1),
        };
    }
}

impl State {
    /// Notes which thread faults.
    pub fn note_thread(&mut self, who: ThreadKey) {
        self.several.note(who);
    }

    /// Whether more than one thread faults.
    pub fn are_several(&self) -> bool {
        self.several.left > 0
    }

    /// Whether a new frame fits into the budget.
    pub fn has_room(&self) -> bool {
        self.frame_count() < self.allowance()
    }

    /// Whether free frames are to be given back for new ones.
    pub fn wants_exchange(&mut self) -> bool {
        let free = self.slots.free_count();
        self.are_several() && self.is_armed() && !self.has_room() && free > 0 && !self.take_back(free + 1)
    }

    /// Gives free frames back to the system, and takes out the pages that are to be packed next.
    pub fn exchange(&mut self) {
        self.give_up_frames(EXCHANGE);
        let wanted = self.standby_target() + EXCHANGE;
        if self.slots.standby_count() < wanted {
            self.take_out_more(wanted - self.slots.standby_count());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_several_until_one_was_alone_for_long() {
        let mut seen = Several::default();
        let mut note = |who: i32| {
            seen.note(ThreadKey::of(who));
            seen.left > 0
        };
        assert!(!note(1) && !note(1) && note(2) && note(2) && note(1));
        assert!((1..ALONE_AFTER).all(|_| note(1)));
        assert!(!note(1));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: frames that one thread packs, fills or moves in while the pager's lock is not held: lent ones, and new ones. Callers:
//! the pager lends and takes back under its lock; in between, the thread has the frame to itself. Law 12: a frame that is lent
//! is neither moved, discarded nor looked at through [`Frames`]; its slot's second bitmap says so, and each of those asks it.

use super::{Frames, Moved, move_frames};
use crate::page::{PAGE_SHIFT, Page};
use crate::uffd::Uffd;
use std::ops::Range;

/// A frame of the staging area that one thread has to itself.
pub struct Lent {
    addr: usize,
    slot: usize,
    arena: usize,
    uffd: &'static Uffd,
}

/// A slot whose lent frame went into the arena.
pub struct Left {
    slot: usize,
}

/// What it takes to make new frames in the arena without the pager's lock.
#[derive(Clone, Copy)]
pub struct Copier {
    arena: usize,
    pages: usize,
    uffd: &'static Uffd,
}

impl Copier {
    /// Copies a page into a new frame at a missing page of the arena.
    pub fn copy_in(&self, page: usize, data: &Page) -> Moved {
        assert!(page < self.pages, "page outside the arena");
        // SAFETY: the source is a live page.
        Moved::from(unsafe {
            self.uffd.copy_range(self.arena + (page << PAGE_SHIFT), data.as_ptr() as usize, size_of_val(data))
        })
    }
}

impl Frames {
    pub fn copier(&self) -> Copier {
        Copier { arena: self.arena.addr(), pages: self.arena_pages(), uffd: self.uffd() }
    }

    /// Lends the frame of a slot. Whoever takes it must bring it back, or its slot.
    pub fn lend(&mut self, slot: usize) -> Lent {
        assert!(slot < self.slots && self.is_filled(slot) && !self.is_lent(slot), "no frame to lend");
        self.lent[slot / 64] |= 1 << (slot % 64);
        Lent { addr: self.slot_addr(slot), slot, arena: self.arena.addr(), uffd: self.uffd() }
    }

    /// Ends a loan; the slot, which has its frame.
    pub fn take_back(&mut self, lent: Lent) -> usize {
        self.end_loan(lent.slot)
    }

    /// Ends a loan whose frame is in the arena; the slot, which is a hole now.
    pub fn take_empty(&mut self, left: Left) -> usize {
        let slot = self.end_loan(left.slot);
        self.mark(slot..slot + 1, false);
        slot
    }

    fn end_loan(&mut self, slot: usize) -> usize {
        self.lent[slot / 64] &= !(1 << (slot % 64));
        slot
    }

    pub(super) fn is_lent(&self, slot: usize) -> bool {
        self.lent[slot / 64] >> (slot % 64) & 1 == 1
    }

    pub(super) fn none_lent(&self, slots: Range<usize>) -> bool {
        slots.into_iter().all(|slot| !self.is_lent(slot))
    }
}

impl Lent {
    pub fn page(&self) -> &Page {
        // SAFETY: the slot was filled when it was lent, and nobody moves, discards or borrows a lent frame.
        unsafe { &*(self.addr as *const Page) }
    }

    pub fn page_mut(&mut self) -> &mut Page {
        // SAFETY: as in `page`; the loan is this thread's alone.
        unsafe { &mut *(self.addr as *mut Page) }
    }

    /// Moves the frame to a missing page of the arena.
    ///
    /// # Errors
    /// The loan as it was, and what the kernel said.
    pub fn put_in(self, page: usize) -> Result<Left, (Lent, Moved)> {
        let to = self.arena + (page << PAGE_SHIFT);
        // SAFETY: nobody refers into the frame: the loan is used up here. Nobody refers into a missing page.
        match unsafe { move_frames(self.uffd, to, self.addr, 1) } {
            Moved { pages: 1, .. } => Ok(Left { slot: self.slot }),
            moved => Err((self, moved)),
        }
    }
}

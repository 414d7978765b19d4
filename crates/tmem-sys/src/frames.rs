// SPDX-License-Identifier: Apache-2.0
//! Owns: the memory of one `Memory` object: the arena that arrays live in, and the staging area where frames
//! wait outside it. Every frame is in one of the two; moving it is the only way a page leaves or comes back.
//! Callers: the pager, under its lock. Law 12: a hole in the staging area is never read, a filled slot never
//! overwritten by a move; the bitmap here says which is which and every transfer is checked against it.

mod lend;
mod space;

use crate::errno::Errno;
use crate::mapping::{Advice, Mapping};
use crate::page::{HUGE_SIZE, PAGE_SHIFT, PAGE_SIZE, Page, ZERO_PAGE, fetch};
use crate::pagemap;
use crate::syscall::die;
use crate::table::Table;
use crate::uffd::{Progress, Uffd};
use std::ops::Range;

pub use lend::{Copier, Left, Lent};
pub use space::{Parts, whole};

/// The most pages of one move.
const MAX_MOVE: usize = 512;

/// Pages transferred, and the reason for an early stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub pages: usize,
    pub stopped: Option<Errno>,
}

impl From<Progress> for Moved {
    fn from(p: Progress) -> Moved {
        Moved { pages: p.bytes / PAGE_SIZE, stopped: p.stopped }
    }
}

/// What may be touched of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All of it: who touches what is in use by nobody is not told.
    Everywhere,
    /// What was opened: a touch of the rest is SIGSEGV, as on memory that is not mapped.
    Opened,
}

pub struct Frames {
    arena: Mapping,
    access: Access,
    staging: Mapping,
    /// One bit a staging slot: a frame is there.
    filled: Table<u64>,
    /// One bit a staging slot: its frame is lent.
    lent: Table<u64>,
    slots: usize,
    uffd: Option<&'static Uffd>,
}

impl Frames {
    /// Reserves an arena of `pages` and a staging area of `slots` (rounded up to 64).
    ///
    /// # Errors
    /// `ENOMEM` when the address space limit forbids it.
    pub fn new(pages: usize, slots: usize, access: Access) -> Result<Frames, Errno> {
        let slots = slots.next_multiple_of(64);
        let arena = match access {
            Access::Everywhere => Mapping::aligned(pages << PAGE_SHIFT, HUGE_SIZE)?,
            Access::Opened => Mapping::closed(pages << PAGE_SHIFT, HUGE_SIZE)?,
        };
        let staging = Mapping::new(slots << PAGE_SHIFT)?;
        arena.advise(0..arena.len(), Advice::DontFork)?;
        staging.advise(0..staging.len(), Advice::DontFork)?;
        // A kernel without huge pages refuses; plain pages do as well.
        let _ = arena.advise(0..arena.len(), Advice::HugePage);
        Ok(Frames {
            arena,
            access,
            staging,
            filled: Table::new(slots / 64)?,
            lent: Table::new(slots / 64)?,
            slots,
            uffd: None,
        })
    }

    pub fn arena_addr(&self) -> usize {
        self.arena.addr()
    }

    pub fn arena_pages(&self) -> usize {
        self.arena.len() >> PAGE_SHIFT
    }

    pub fn slots(&self) -> usize {
        self.slots
    }

    pub fn is_registered(&self) -> bool {
        self.uffd.is_some()
    }

    /// Registers arena and staging area: from here on a missing page of either is a fault to be served. What was let go of is
    /// left out.
    ///
    /// # Errors
    /// The kernel's; then nothing is registered.
    pub fn register(&mut self, uffd: &'static Uffd, parts: Parts<'_>) -> Result<(), Errno> {
        // Huge pages would be zeroed by the kernel for every fault that the descriptor then takes over.
        let _ = self.each_part(parts, |bytes| self.arena.advise(bytes, Advice::NoHugePage));
        uffd.register(self.staging.addr(), self.staging.len())?;
        let addr = self.arena.addr();
        if let Err(e) = self.each_part(parts, |bytes| uffd.register(addr + bytes.start, bytes.len())) {
            let _ = self.each_part(parts, |bytes| uffd.unregister(addr + bytes.start, bytes.len()));
            let _ = uffd.unregister(self.staging.addr(), self.staging.len());
            return Err(e);
        }
        self.uffd = Some(uffd);
        Ok(())
    }

    /// In a forked child: the staging area was not inherited, the arena's registration neither.
    ///
    /// # Errors
    /// The kernel's.
    pub fn renew_after_fork(&mut self, parts: Parts<'_>) -> Result<(), Errno> {
        let fresh = Mapping::new(self.staging.len())?;
        fresh.advise(0..fresh.len(), Advice::DontFork)?;
        // The old range is not mapped in this process: its owner must not unmap whatever may be there by now.
        std::mem::forget(std::mem::replace(&mut self.staging, fresh));
        self.filled.fill(0);
        self.lent.fill(0);
        self.set_inherited(false, parts)?;
        match self.uffd.take() {
            Some(uffd) => self.register(uffd, parts),
            None => Ok(()),
        }
    }

    /// Lets a fork inherit the arena, or not. Only the at-fork handlers lift the ban (law 15).
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_inherited(&self, yes: bool, parts: Parts<'_>) -> Result<(), Errno> {
        let advice = if yes { Advice::DoFork } else { Advice::DontFork };
        self.each_part(parts, |bytes| self.arena.advise(bytes, advice))
    }

    pub fn is_filled(&self, slot: usize) -> bool {
        self.filled[slot / 64] >> (slot % 64) & 1 == 1
    }

    fn mark(&mut self, slots: Range<usize>, filled: bool) {
        for slot in slots {
            let bit = 1u64 << (slot % 64);
            if filled {
                self.filled[slot / 64] |= bit;
            } else {
                self.filled[slot / 64] &= !bit;
            }
        }
    }

    fn all(&self, slots: Range<usize>, filled: bool) -> bool {
        slots.end <= self.slots && slots.clone().all(|s| self.is_filled(s) == filled)
    }

    fn page_addr(&self, page: usize, n: usize) -> usize {
        assert!(page + n <= self.arena_pages(), "page range outside the arena");
        self.arena.addr() + (page << PAGE_SHIFT)
    }

    fn slot_addr(&self, slot: usize) -> usize {
        self.staging.addr() + (slot << PAGE_SHIFT)
    }

    fn uffd(&self) -> &'static Uffd {
        self.uffd.expect("transfers happen only after registration")
    }

    /// Takes `n` frames from the arena to the holes at `slot`. What was moved is filled there and missing here.
    pub fn take_out(&mut self, page: usize, n: usize, slot: usize) -> Moved {
        assert!(n <= MAX_MOVE && self.all(slot..slot + n, false), "take_out needs holes");
        let (src, dst) = (self.page_addr(page, n), self.slot_addr(slot));
        // SAFETY: no Rust reference into the arena exists in this crate or above; holes are never referenced.
        let moved = unsafe { move_frames(self.uffd(), dst, src, n) };
        self.mark(slot..slot + moved.pages, true);
        moved
    }

    /// Moves `n` filled slots into missing pages of the arena. Whoever waits there is woken by the fault's entry.
    pub fn put_in(&mut self, slot: usize, n: usize, page: usize) -> Moved {
        assert!(n <= MAX_MOVE && self.all(slot..slot + n, true), "put_in needs frames");
        assert!(self.none_lent(slot..slot + n), "a lent frame stays");
        let (src, dst) = (self.slot_addr(slot), self.page_addr(page, n));
        // SAFETY: `&mut self` proves that no borrowed frame is live; nobody refers into a missing page.
        let moved = unsafe { move_frames(self.uffd(), dst, src, n) };
        self.mark(slot..slot + moved.pages, false);
        moved
    }

    /// Copies pages into new frames at missing pages of the arena.
    pub fn copy_in(&mut self, page: usize, data: &[Page]) -> Moved {
        let dst = self.page_addr(page, data.len());
        // SAFETY: the source is a live slice of that length.
        Moved::from(unsafe { self.uffd().copy_range(dst, data.as_ptr() as usize, size_of_val(data)) })
    }

    /// Makes a new zeroed frame in a hole.
    ///
    /// # Errors
    /// The kernel's; `ENOMEM` above all.
    pub fn new_frame(&mut self, slot: usize) -> Result<(), Errno> {
        assert!(self.all(slot..slot + 1, false), "new_frame needs a hole");
        // SAFETY: the source is a static page.
        let p =
            unsafe { self.uffd().copy_range(self.slot_addr(slot), ZERO_PAGE.0.as_ptr() as usize, PAGE_SIZE) };
        match p {
            Progress { bytes: PAGE_SIZE, .. } => {
                self.mark(slot..slot + 1, true);
                Ok(())
            }
            Progress { stopped, .. } => Err(stopped.unwrap_or(Errno::EAGAIN)),
        }
    }

    /// Gives the frames of filled slots back to the system.
    pub fn discard_frames(&mut self, slots: Range<usize>) {
        assert!(
            self.all(slots.clone(), true) && self.none_lent(slots.clone()),
            "discard_frames needs frames"
        );
        let bytes = slots.start << PAGE_SHIFT..slots.end << PAGE_SHIFT;
        if self.staging.advise(bytes, Advice::DontNeed).is_ok() {
            self.mark(slots, false);
        }
    }

    pub fn frame(&self, slot: usize) -> &Page {
        assert!(slot < self.slots && self.is_filled(slot) && !self.is_lent(slot), "no frame in that slot");
        // SAFETY: the slot is filled, so the page is present; it is borrowed with `self`.
        unsafe { &*(self.slot_addr(slot) as *const Page) }
    }

    /// Asks for the memory of a slot's frame, if it is there and nobody works on it.
    pub fn expect(&self, slot: usize) {
        if self.is_filled(slot) && !self.is_lent(slot) {
            fetch(self.frame(slot));
        }
    }

    pub fn frame_mut(&mut self, slot: usize) -> &mut Page {
        assert!(slot < self.slots && self.is_filled(slot) && !self.is_lent(slot), "no frame in that slot");
        // SAFETY: as in `frame`, borrowed mutably.
        unsafe { &mut *(self.slot_addr(slot) as *mut Page) }
    }

    /// Drops whatever frames a range of the arena has: the next touch finds missing or zero pages.
    ///
    /// # Errors
    /// The kernel's (`EINVAL` when the range is locked in memory).
    pub fn drop_pages(&mut self, page: usize, n: usize) -> Result<(), Errno> {
        let range = page << PAGE_SHIFT..(page + n) << PAGE_SHIFT;
        self.split_edges(&range);
        self.arena.advise(range, Advice::DontNeed)
    }

    /// As [`Frames::drop_pages`], where no huge page reaches over an end of the range.
    ///
    /// # Errors
    /// As [`Frames::drop_pages`].
    pub fn drop_small(&mut self, pages: Range<usize>) -> Result<(), Errno> {
        self.arena.advise(space::bytes(&pages), Advice::DontNeed)
    }

    /// Splits the huge pages that reach over either end of a byte range whose contents are of no use any more. Dropping a
    /// part of one unmaps it and frees nothing until the kernel is short of memory; `MADV_FREE` of a part splits at once.
    fn split_edges(&self, range: &Range<usize>) {
        let head = range.start..range.end.min(range.start.next_multiple_of(HUGE_SIZE));
        let tail = head.end.max(range.end / HUGE_SIZE * HUGE_SIZE)..range.end;
        for edge in [&head, &tail] {
            if !edge.is_empty() {
                // A refusal (locked memory) costs nothing but the split.
                let _ = self.arena.advise(edge.clone(), Advice::Free);
            }
        }
    }

    /// Breaks copy-on-write sharing of present pages, so that they can be moved again after a fork.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unshare(&mut self, page: usize, n: usize) -> Result<(), Errno> {
        self.arena.advise(page << PAGE_SHIFT..(page + n) << PAGE_SHIFT, Advice::PopulateWrite)
    }

    /// Calls `present(page)` for each page of the range that has a frame (or kernel swap entry).
    ///
    /// # Errors
    /// The kernel's, when `/proc/self/pagemap` cannot be read.
    pub fn scan_present(&self, pages: Range<usize>, mut present: impl FnMut(usize)) -> Result<(), Errno> {
        let start = self.page_addr(pages.start, pages.len());
        pagemap::each_page(start, pages.len(), |i, there| {
            if there {
                present(pages.start + i);
            }
        })
    }
}

/// Moves `n` frames, and believes the kernel only as far as what is there agrees. Linux 6.18, which moves present pages in
/// batches, does not count a batch that it moved at the second try: it then finds the target taken, and reports less than it
/// did. A page taken for unmoved by mistake would be lost.
///
/// # Safety
/// As [`Uffd::move_range`].
unsafe fn move_frames(uffd: &Uffd, dst: usize, src: usize, n: usize) -> Moved {
    // SAFETY: passed on to the caller.
    let told = Moved::from(unsafe { uffd.move_range(dst, src, n << PAGE_SHIFT) });
    if !in_doubt(told, n) {
        return told;
    }
    let (at, rest) = (told.pages << PAGE_SHIFT, n - told.pages);
    let (mut gone, mut came) = ([false; MAX_MOVE], [false; MAX_MOVE]);
    let looked = pagemap::each_page(src + at, rest, |i, there| gone[i] = !there)
        .and_then(|()| pagemap::each_page(dst + at, rest, |i, there| came[i] = there));
    if looked.is_err() {
        die(
            "the kernel's answer to a move of pages is in doubt, and /proc/self/pagemap cannot be read (law 12)",
        );
    }
    settle(told, n, &gone[..rest], &came[..rest])
}

/// Whether more may have been moved than told.
fn in_doubt(told: Moved, n: usize) -> bool {
    told.pages < n && matches!(told.stopped, Some(Errno::EAGAIN | Errno::EEXIST | Errno::ENOENT))
}

/// What was moved, told or not: of the pages after those told, the ones that have left their place and come to the other.
fn settle(told: Moved, n: usize, gone: &[bool], came: &[bool]) -> Moved {
    let more = gone.iter().zip(came).take_while(|(gone, came)| **gone && **came).count();
    match told.pages + more {
        all if all == n => Moved { pages: n, stopped: None },
        // What stopped it met a page that it had moved itself: what follows is simply not done yet.
        pages if more > 0 => Moved { pages, stopped: Some(Errno::EAGAIN) },
        _ => told,
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if let Some(uffd) = self.uffd {
            let _ = uffd.unregister(self.arena.addr(), self.arena.len());
            let _ = uffd.unregister(self.staging.addr(), self.staging.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers that Linux 6.18 was seen to give while memory was being compacted.
    #[test]
    fn what_was_moved_counts_and_not_what_was_told() {
        let told = |pages, stopped| Moved { pages, stopped };
        let (again, exists) = (Some(Errno::EAGAIN), Some(Errno::EEXIST));
        assert_eq!(settle(told(59, again), 64, &[true; 5], &[true; 5]), told(64, None));
        assert_eq!(settle(told(0, exists), 64, &[true; 64], &[true; 64]), told(64, None));
        let (mut gone, mut came) = ([false; 33], [false; 33]);
        gone[..2].fill(true);
        came[..2].fill(true);
        assert_eq!(settle(told(31, again), 64, &gone, &came), told(33, again));
        assert_eq!(settle(told(0, exists), 3, &[true, true, false], &[true, true, false]), told(2, again));
    }

    #[test]
    fn what_the_kernel_told_right_stays() {
        let told = |pages, stopped| Moved { pages, stopped };
        let exists = told(0, Some(Errno::EEXIST));
        assert_eq!(settle(exists, 2, &[false; 2], &[true; 2]), exists, "a frame in the way");
        let gone = told(3, Some(Errno::ENOENT));
        assert_eq!(settle(gone, 5, &[true; 2], &[false; 2]), gone, "the program dropped the page");
        assert!(!in_doubt(told(0, Some(Errno::EBUSY)), 4) && !in_doubt(told(4, None), 4));
    }
}

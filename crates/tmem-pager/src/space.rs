// SPDX-License-Identifier: Apache-2.0
//! Owns: the verbs of a pager that stands in for the kernel's address space: extents are reserved, committed page by page, cut
//! and grown, as `mmap` and its kin ask. Callers: doors that take over a program's own mappings; addresses and lengths are
//! whole pages. Locks, in order: extents, then state; the right to begin paging is taken under extents and kept without.
//! Laws 13 and 17: what does not fit the budget begins paging or is refused; no byte of an extent is touched here.

use crate::admit::no_tables;
use crate::arm;
use crate::error::PagerError;
use crate::extents::Extents;
use crate::page::PageState;
use crate::pager::Pager;
use crate::state::State;
use crate::stats::Stat;
use std::ops::Range;
use tmem_sys::PAGE_SIZE;
use tmem_sys::page::pages_for;

/// What a page of the arena is to a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Part of no extent, or not of the arena.
    Unmapped,
    /// Part of an extent, and not to be touched.
    Reserved,
    /// Committed, and in the pager's care.
    Managed,
    /// The kernel's.
    LetGo,
}

impl Pager {
    /// The pages of a byte range, as far as they lie in the arena; empty where none do.
    pub(crate) fn clip(&self, addr: usize, bytes: usize) -> Range<usize> {
        let (base, len) = (self.base(), self.slot().arena_bytes());
        let (from, to) = (addr.max(base), addr.saturating_add(bytes).min(base.saturating_add(len)));
        if base == 0 || from >= to {
            return 0..0;
        }
        (from - base) / PAGE_SIZE..(to - base).div_ceil(PAGE_SIZE)
    }

    /// As [`Pager::clip`], for a range that lies in the arena whole.
    pub(crate) fn inside(&self, addr: usize, bytes: usize) -> Result<Range<usize>, PagerError> {
        let range = self.clip(addr, bytes);
        let whole = range.len() == pages_for(bytes) && addr.is_multiple_of(PAGE_SIZE);
        if whole { Ok(range) } else { Err(PagerError::NotOurs) }
    }

    fn address(&self, page: usize) -> usize {
        self.base() + page * PAGE_SIZE
    }

    /// An extent of address space, at a multiple of `align` bytes, none of whose pages may be touched yet.
    ///
    /// # Errors
    /// `Closed`; `Budget` when address space ends.
    pub fn reserve(&self, bytes: usize, align: usize) -> Result<usize, PagerError> {
        let range = self.reserve_in(&mut *self.open_extents()?, bytes, align)?;
        Ok(self.address(range.start))
    }

    fn reserve_in(
        &self,
        extents: &mut Extents,
        bytes: usize,
        align: usize,
    ) -> Result<Range<usize>, PagerError> {
        let pages = pages_for(bytes).max(1);
        let range = extents.take_aligned(pages, pages_for(align).max(1)).ok_or_else(|| {
            PagerError::Budget(format!(
                "no room for {bytes} bytes in the {} GiB of address space",
                self.slot().arena_bytes() >> 30
            ))
        })?;
        self.count_extents(extents)?;
        Ok(range)
    }

    fn count_extents(&self, extents: &Extents) -> Result<(), PagerError> {
        self.with(|s| s.stats.set(Stat::Regions, extents.live() as u64))
    }

    /// Has the pages of a range used that are not: they read as zeros. Begins paging where that passes the budget; where another
    /// thread is about to, what is committed meanwhile may pass it for a moment.
    ///
    /// # Errors
    /// `Closed`; `NotOurs` where the range is not all in extents; `Budget`, `Unsupported` as [`Pager::allocate`]; `Kernel` at
    /// the kernel's limit of mappings. Nothing has changed then.
    pub fn commit(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.inside(addr, bytes)?;
        loop {
            let mut extents = self.open_extents()?;
            if !extents.cover(&range) {
                return Err(PagerError::NotOurs);
            }
            if self.commit_in(&mut extents, &range)? {
                break;
            }
            let Some(turn) = arm::try_turn() else {
                self.with(|s| s.commit(&range))??;
                break;
            };
            // Others go on meanwhile: one of them may hold what this thread's threads need to be made ready.
            drop(extents);
            self.begin_in_turn(&turn)?;
        }
        self.start_background();
        Ok(())
    }

    /// Commits a range, unless paging is to begin first: then it answers false.
    fn commit_in(&self, extents: &mut Extents, range: &Range<usize>) -> Result<bool, PagerError> {
        let mut fits = self.with(|s| s.try_commit(range))??;
        if !fits && extents.idle.len() > 0 {
            self.release_idle(extents, 0);
            fits = self.with(|s| s.try_commit(range))??;
        }
        Ok(fits)
    }

    /// A new extent, all of it committed; its address.
    ///
    /// # Errors
    /// As [`Pager::reserve`] and [`Pager::commit`].
    pub fn map(&self, bytes: usize) -> Result<usize, PagerError> {
        let addr = self.reserve(bytes, PAGE_SIZE)?;
        match self.commit(addr, bytes.max(1).next_multiple_of(PAGE_SIZE)) {
            Ok(()) => Ok(addr),
            Err(why) => {
                self.unmap(addr, bytes)?;
                Err(why)
            }
        }
    }

    /// Ends the contents of a range whose address space stays reserved: a touch is SIGSEGV.
    ///
    /// # Errors
    /// `Closed`; `NotOurs`; `Kernel`.
    pub fn decommit(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.inside(addr, bytes)?;
        let extents = self.extents();
        if !extents.cover(&range) {
            return Err(PagerError::NotOurs);
        }
        self.with(|s| s.free(&range))?
    }

    /// Ends the contents of a range, which reads as zeros from then on (`MADV_DONTNEED`). What is not committed stays as it is.
    ///
    /// # Errors
    /// `Closed`; `NotOurs` where a page is in no extent; `Kernel` with `EINVAL` where one is locked in memory.
    pub fn discard(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.inside(addr, bytes)?;
        let extents = self.extents();
        if !extents.cover(&range) {
            return Err(PagerError::NotOurs);
        }
        self.with(|s| s.discard(&range))?
    }

    /// Ends whatever of a byte range is in extents: parts of them, several, none. Its address space is free again.
    ///
    /// # Errors
    /// `Kernel` at the kernel's limit of mappings, since an extent that is cut in two takes more of them; what comes before
    /// has gone then.
    pub fn unmap(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let mut extents = self.extents();
        self.unmap_in(&mut extents, self.clip(addr, bytes))?;
        self.count_extents(&extents)?;
        if self.is_closed() {
            self.release_empty_runs(extents);
        }
        Ok(())
    }

    fn unmap_in(&self, extents: &mut Extents, range: Range<usize>) -> Result<(), PagerError> {
        let mut from = range.start;
        while let Some(part) = extents.next_part(from, &range) {
            self.with(|s| s.free(&part))??;
            from = part.end;
            extents.cut(&part);
        }
        Ok(())
    }

    /// As [`Pager::unmap`], and has the range reserved from then on, all of it, as one extent. Nobody can take it in between:
    /// what is mapped over something never was free.
    ///
    /// # Errors
    /// As [`Pager::unmap`]; `NotOurs` where the range is not in the arena.
    pub fn claim(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.inside(addr, bytes)?;
        let mut extents = self.open_extents()?;
        self.unmap_in(&mut extents, range.clone())?;
        let taken = extents.take_at(&range);
        self.count_extents(&extents)?;
        if taken { Ok(()) } else { Err(PagerError::NotOurs) }
    }

    /// Has the free pages of a range used by what moves there from other pages, which does not grow by it: the budget is not
    /// asked.
    ///
    /// # Errors
    /// `Closed`; `NotOurs` where the range is not all in extents; `Budget` where there is no room for the tables; `Kernel` at
    /// the kernel's limit of mappings. Nothing has changed then.
    pub fn commit_for_moving(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.inside(addr, bytes)?;
        let extents = self.open_extents()?;
        if !extents.cover(&range) {
            return Err(PagerError::NotOurs);
        }
        self.with(|s| if s.tables_fit(&range) { s.commit(&range) } else { Err(no_tables(&range)) })?
    }

    /// What the page at an address is.
    pub fn state_of(&self, addr: usize) -> Kind {
        self.run_of(addr, addr + 1).0
    }

    /// What the page at `addr` is, and up to where, `end` at most, all pages are. What follows may be the same again.
    pub fn run_of(&self, addr: usize, end: usize) -> (Kind, usize) {
        let range = self.clip(addr, end.saturating_sub(addr));
        let extents = self.extents();
        if range.is_empty() || !self.has(addr) {
            let outside = if addr < self.base() { self.base().min(end) } else { end };
            return (Kind::Unmapped, outside);
        }
        let part = extents.next_part(range.start, &range);
        let (kind, to) = match part {
            Some(part) if part.start == range.start => {
                self.with(|s| s.kind_of(&part)).unwrap_or((Kind::Unmapped, range.end))
            }
            Some(part) => (Kind::Unmapped, part.start),
            None => (Kind::Unmapped, range.end),
        };
        (kind, self.address(to).min(end))
    }

    /// Has the extent that ends with a range of `old_bytes` end with one of `new_bytes`, in place, and commits what is new. False
    /// where the address space behind is taken, or the budget has no room.
    pub fn extend(&self, addr: usize, old_bytes: usize, new_bytes: usize) -> bool {
        let Ok(old) = self.inside(addr, old_bytes) else { return false };
        let Some(more) = pages_for(new_bytes).checked_sub(old.len()) else { return false };
        if more == 0 {
            return true;
        }
        if !self.open_extents().is_ok_and(|mut extents| extents.grow(old.end, more)) {
            return false;
        }
        let (end, bytes) = (self.address(old.end), more * PAGE_SIZE);
        let fits = self.commit(end, bytes).is_ok();
        // Nothing was committed then, and what is taken back needs no more mappings.
        if !fits {
            let _ = self.unmap(end, bytes);
        }
        fits
    }
}

impl State {
    /// What the first of some pages of an extent is, and where those end that are the same.
    fn kind_of(&self, part: &Range<usize>) -> (Kind, usize) {
        if let Some(free) = self.next_free(part.start, part.end).filter(|free| free.start == part.start) {
            return (Kind::Reserved, free.end);
        }
        let is_let_go = |state| state == PageState::LetGo;
        let (first, mut end) = self.states.run(part.start, part.end);
        while !is_let_go(first)
            && end < part.end
            && !matches!(self.states.get(end), PageState::Free | PageState::LetGo)
        {
            end = self.states.run(end, part.end).1;
        }
        (if is_let_go(first) { Kind::LetGo } else { Kind::Managed }, end)
    }

    /// Commits a range where that fits the budget as things are; false where paging is to begin first.
    fn try_commit(&mut self, range: &Range<usize>) -> Result<bool, PagerError> {
        let more = self.count_free(range);
        if more == 0 {
            return Ok(true);
        }
        if !self.tables_fit(range) {
            return Err(no_tables(range));
        }
        if !self.is_armed() && !self.fits_plain(range, more) && !self.take_back_for(range, more) {
            return Ok(false);
        }
        self.refuse_if_overshot()?;
        self.commit(range)?;
        Ok(true)
    }
}

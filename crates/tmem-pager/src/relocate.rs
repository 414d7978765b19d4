// SPDX-License-Identifier: Apache-2.0
//! Owns: contents that change their address, as `mremap` asks. Callers: doors. Locks, in order: extents, then state, the latter
//! for some pages at a time. Law 12: at each step a page is at one of the two addresses. Law 13: no frame is made for it; what
//! is out comes in as on a fault, some pages at a time.

use crate::error::PagerError;
use crate::fault::TRIES;
use crate::page::{Event, PageState};
use crate::pager::Pager;
use crate::state::{BATCH, LOCKED, State};
use crate::stats::Stat;
use std::ops::Range;
use tmem_sys::Errno;
use tmem_sys::frames::Moved;
use tmem_sys::syscall::{die, sched_yield};

/// Pages of one hold of the lock.
const STEP: usize = 512;

impl Pager {
    /// Moves the contents of committed pages to others that are committed, whose own contents go: another thread's fault beside
    /// them may have filled some ahead. What is left reads as zeros.
    ///
    /// # Errors
    /// `Closed`; `NotOurs` where a page of either range is not as said, or they overlap; `Kernel` with `EBUSY` where the kernel
    /// is at a page: nothing has moved then.
    pub fn relocate(&self, from: usize, to: usize, bytes: usize) -> Result<(), PagerError> {
        let (from, to) = (self.inside(from, bytes)?, self.inside(to, bytes)?);
        let extents = self.extents();
        let apart = from.end <= to.start || to.end <= from.start;
        let is_as_said = apart && extents.cover(&from) && extents.cover(&to);
        if !is_as_said || !self.with(|s| s.may_relocate(&from, &to))? {
            return Err(PagerError::NotOurs);
        }
        let mut done = 0;
        while done < from.len() {
            match self.with(|s| s.relocate_some(from.start + done..from.end, to.start + done))? {
                Ok(n) => done += n,
                Err(e) => {
                    self.move_back(to.start..to.start + done, from.start)?;
                    return Err(PagerError::Kernel("moving memory", e));
                }
            }
        }
        Ok(())
    }

    /// Undoes the first part of a relocation.
    fn move_back(&self, from: Range<usize>, to: usize) -> Result<(), PagerError> {
        let mut done = 0;
        while done < from.len() {
            match self.with(|s| s.relocate_some(from.start + done..from.end, to + done))? {
                Ok(n) => done += n,
                Err(_) => die("memory that was moved in part can be moved neither way (law 12)"),
            }
        }
        Ok(())
    }
}

impl State {
    fn may_relocate(&self, from: &Range<usize>, to: &Range<usize>) -> bool {
        let none_gone = |range: &Range<usize>| {
            self.states.count(PageState::LetGo) == 0
                || self.states.find(PageState::LetGo, range.start, range.end).is_none()
        };
        [from, to].into_iter().all(|range| none_gone(range) && self.count_free(range) == 0)
    }

    /// Empties pages that others are moved to. None may be at them any more: what a system call holds stays present.
    fn clear_the_way(&mut self, to: Range<usize>) -> Result<(), Errno> {
        if self.states.find_other(PageState::Fresh, to.start, to.end).is_none() {
            return Ok(());
        }
        let emptied = self.discard(&to).is_ok();
        let is_empty = self.states.find_other(PageState::Fresh, to.start, to.end).is_none();
        if emptied && is_empty { Ok(()) } else { Err(Errno::EBUSY) }
    }

    /// Moves some of the pages; how many.
    fn relocate_some(&mut self, from: Range<usize>, to: usize) -> Result<usize, Errno> {
        if !self.is_armed() {
            self.frames.shift_plain(from.clone(), to)?;
            self.carry_marks(&from, to);
            return Ok(from.len());
        }
        let most = from.len().min(STEP);
        let mut done = 0;
        while done < most {
            let n = self.shift_some(from.start + done, to + done, most - done);
            match n {
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Moves a page, and those after it that are alike; how many. None yet where it had to be brought in first.
    fn shift_some(&mut self, page: usize, to: usize, most: usize) -> Result<usize, Errno> {
        let (state, end) = self.states.run(page, page + most);
        let n = (end - page).min(BATCH);
        match state {
            PageState::Fresh => {
                self.clear_the_way(to..to + (end - page))?;
                self.carry_marks(&(page..end), to);
                Ok(end - page)
            }
            PageState::Resident => {
                self.clear_the_way(to..to + n)?;
                self.shift_frames(page, to, n)
            }
            PageState::Standby => {
                self.clear_the_way(to..to + 1)?;
                self.shift_standby(page, to)
            }
            _ => {
                self.ensure(page, n);
                if !self.states.is(page, PageState::Resident) {
                    // Sent out again for those after it.
                    self.ensure(page, 1);
                }
                Ok(0)
            }
        }
    }

    fn shift_frames(&mut self, page: usize, to: usize, n: usize) -> Result<usize, Errno> {
        let (mut most, mut tries, mut unshared) = (n, 0, false);
        loop {
            let moved = self.frames.shift(page, most, to);
            self.stats.add(Stat::Moves, 1);
            if moved.pages > 0 {
                (0..moved.pages).for_each(|i| self.has_moved(page + i, to + i));
                return Ok(moved.pages);
            }
            match moved.stopped {
                // One of the two ranges is more than one mapping to the kernel.
                Some(Errno::EINVAL) if most > 1 => most = 1,
                Some(Errno::EINVAL) => return self.copy_over(page, to),
                // Shared with a forked child, perhaps one long gone: a write of our own unshares it.
                Some(Errno::EBUSY) if !unshared && self.frames.unshare(page, 1).is_ok() => {
                    self.stats.add(Stat::Unshared, 1);
                    (most, unshared) = (1, true);
                }
                Some(Errno::EBUSY | Errno::EAGAIN | Errno::EINTR) if tries < TRIES => {
                    self.stats.add(Stat::MoveRetries, 1);
                    sched_yield();
                }
                // The program dropped the page by itself: it reads as zeros.
                Some(Errno::ENOENT) => {
                    self.forget_copies(page);
                    self.states.change(page, Event::Vanish);
                    return Ok(0);
                }
                Some(Errno::EEXIST) => die("a page that is noted as missing is present (law 12)"),
                other => return Err(other.unwrap_or(Errno::EAGAIN)),
            }
            tries += 1;
        }
    }

    /// As `shift_frames` for one page whose frame the kernel does not move there.
    fn copy_over(&mut self, page: usize, to: usize) -> Result<usize, Errno> {
        if !self.frames.peek(page, &mut self.scratch[0])? {
            self.forget_copies(page);
            self.states.change(page, Event::Vanish);
            return Ok(0);
        }
        self.copy_to(to)?;
        self.frames.drop_small(page..page + 1)?;
        self.has_moved(page, to);
        Ok(1)
    }

    /// Copies the scratch page into a new frame.
    fn copy_to(&mut self, to: usize) -> Result<(), Errno> {
        match self.frames.copy_in(to, &self.scratch[..1]) {
            Moved { pages: 1, .. } => Ok(()),
            Moved { stopped, .. } => Err(stopped.unwrap_or(Errno::EAGAIN)),
        }
    }

    /// A page on standby goes from there to its new place.
    fn shift_standby(&mut self, page: usize, to: usize) -> Result<usize, Errno> {
        let slot = self.meta[page].slot as usize;
        let mut tries = 0;
        loop {
            let moved = self.frames.put_in(slot, 1, to);
            self.stats.add(Stat::Moves, 1);
            if moved.pages == 1 {
                self.slots.leave_standby(slot);
                break;
            }
            match moved.stopped {
                Some(Errno::EBUSY | Errno::EAGAIN | Errno::EINTR) if tries < TRIES => sched_yield(),
                Some(Errno::EINVAL) => {
                    self.scratch[0].copy_from_slice(self.frames.frame(slot));
                    self.copy_to(to)?;
                    self.slots.free_standby(slot);
                    break;
                }
                other => return Err(other.unwrap_or(Errno::EAGAIN)),
            }
            tries += 1;
        }
        self.has_moved(page, to);
        Ok(1)
    }

    /// The frame of a page is at another now.
    fn has_moved(&mut self, page: usize, to: usize) {
        self.forget_copies(page);
        self.states.change(page, Event::Vanish);
        self.meta[page].flags &= LOCKED;
        self.states.change(to, Event::Touch);
        self.carry_marks(&(page..page + 1), to);
    }

    /// What the program has locked stays so at its new address.
    fn carry_marks(&mut self, from: &Range<usize>, to: usize) {
        if self.pinned == 0 || !self.any_marked(from, |meta| meta.pins != 0) {
            return;
        }
        self.huge.mark(&(to..to + from.len()));
        for (i, page) in from.clone().enumerate() {
            let meta = &mut self.meta[page];
            let (pins, locked) = (std::mem::take(&mut meta.pins), meta.flags & LOCKED);
            meta.flags &= !LOCKED;
            let meta = &mut self.meta[to + i];
            self.pinned -= usize::from(pins != 0 && meta.pins != 0);
            meta.pins = meta.pins.saturating_add(pins);
            meta.flags |= locked;
        }
    }
}

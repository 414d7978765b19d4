// SPDX-License-Identifier: Apache-2.0
//! Owns: the arena as a part of the program's address space: access to it page by page, parts that are the kernel's for a
//! while, contents that change their address. Callers: the pager, under its lock, as extents come, go and change.
//! Law 12: access ends before contents do, so that no write comes between and is found by the next owner. Law 15: what the
//! kernel has is inherited as any memory is, everything else is not.

use super::{Access, Frames, MAX_MOVE, Moved, move_frames};
use crate::errno::Errno;
use crate::mapping::Advice;
use crate::page::{PAGE_SHIFT, PAGE_SIZE, Page};
use crate::pagemap;
use std::ops::Range;

/// The pages of the arena that are ours and not the kernel's: the next of them at or after one, side by side.
pub type Parts<'a> = &'a dyn Fn(usize) -> Option<Range<usize>>;

/// All pages of an arena of so many.
pub fn whole(pages: usize) -> impl Fn(usize) -> Option<Range<usize>> {
    move |from| (from < pages).then_some(from..pages)
}

pub(super) fn bytes(pages: &Range<usize>) -> Range<usize> {
    pages.start << PAGE_SHIFT..pages.end << PAGE_SHIFT
}

impl Frames {
    /// Whether only what was opened may be touched.
    pub fn is_guarded(&self) -> bool {
        self.access == Access::Opened
    }

    /// Gives access to pages that are to hold something.
    ///
    /// # Errors
    /// The kernel's: `ENOMEM` at its limit of mappings or of data.
    pub fn open(&self, pages: Range<usize>) -> Result<(), Errno> {
        if self.is_guarded() { self.arena.set_open(bytes(&pages), true) } else { Ok(()) }
    }

    /// Takes access to pages, whose contents stay.
    ///
    /// # Errors
    /// As [`Frames::open`]; then there is access still.
    pub fn close(&self, pages: Range<usize>) -> Result<(), Errno> {
        if self.is_guarded() { self.arena.set_open(bytes(&pages), false) } else { Ok(()) }
    }

    pub(super) fn each_part(
        &self,
        parts: Parts<'_>,
        mut each: impl FnMut(Range<usize>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut from = 0;
        while let Some(part) = parts(from) {
            from = part.end;
            each(bytes(&part))?;
        }
        Ok(())
    }

    /// The kernel is to serve pages itself, and a fork to inherit them, from here on. Their frames stay where they are.
    ///
    /// # Errors
    /// The kernel's; then nothing has changed.
    pub fn let_go(&mut self, pages: Range<usize>) -> Result<(), Errno> {
        let range = bytes(&pages);
        self.arena.advise(range.clone(), Advice::DoFork)?;
        let Some(uffd) = self.uffd else { return Ok(()) };
        uffd.unregister(self.arena.addr() + range.start, range.len()).inspect_err(|_| {
            let _ = self.arena.advise(range.clone(), Advice::DontFork);
        })
    }

    /// Takes pages back from the kernel: they are private anonymous memory that may be read and written. What frames they have
    /// is the caller's to find out.
    ///
    /// # Errors
    /// The kernel's; then they are the kernel's still.
    pub fn adopt(&mut self, pages: Range<usize>) -> Result<(), Errno> {
        let range = bytes(&pages);
        self.arena.advise(range.clone(), Advice::DontFork)?;
        let huge = if self.is_registered() { Advice::NoHugePage } else { Advice::HugePage };
        let _ = self.arena.advise(range.clone(), huge);
        let Some(uffd) = self.uffd else { return Ok(()) };
        uffd.register(self.arena.addr() + range.start, range.len()).inspect_err(|_| {
            let _ = self.arena.advise(range.clone(), Advice::DoFork);
        })
    }

    /// Maps pages anew that the kernel has, whatever is there instead by now. Nothing may touch them.
    ///
    /// # Errors
    /// The kernel's; then they are the kernel's still.
    pub fn restore(&mut self, pages: Range<usize>) -> Result<(), Errno> {
        self.arena.renew(bytes(&pages))?;
        self.adopt(pages)
    }

    /// Moves `n` frames of the arena to missing pages of it.
    pub fn shift(&mut self, page: usize, n: usize, to: usize) -> Moved {
        assert!(n <= MAX_MOVE && (page + n <= to || to + n <= page), "shift needs ranges that are apart");
        let (src, dst) = (self.page_addr(page, n), self.page_addr(to, n));
        // SAFETY: no Rust reference into the arena exists in this crate or above.
        unsafe { move_frames(self.uffd(), dst, src, n) }
    }

    /// Moves the contents of plain memory to other pages, whose own go. What is left is zeros.
    ///
    /// # Errors
    /// The kernel's, above all `ENOMEM`: then nothing has moved.
    pub fn shift_plain(&mut self, pages: Range<usize>, to: usize) -> Result<(), Errno> {
        assert!(!self.is_registered(), "a page that is served would wait for the pager's lock");
        if pages.len() >= MAX_MOVE && self.arena.shift(bytes(&pages), to << PAGE_SHIFT).is_ok() {
            return Ok(());
        }
        self.drop_small(to..to + pages.len())?;
        let (src, dst) = (self.page_addr(pages.start, pages.len()), self.page_addr(to, pages.len()));
        let mut present = [false; MAX_MOVE];
        for first in (0..pages.len()).step_by(MAX_MOVE) {
            let n = MAX_MOVE.min(pages.len() - first);
            pagemap::each_page(src + (first << PAGE_SHIFT), n, |i, there| present[i] = there)?;
            for i in (0..n).filter(|i| present[*i]) {
                let at = (first + i) << PAGE_SHIFT;
                // SAFETY: whole pages of the arena that overlap nowhere, which may be read and written; both are plain memory.
                unsafe {
                    std::ptr::copy_nonoverlapping((src + at) as *const u8, (dst + at) as *mut u8, PAGE_SIZE)
                };
            }
            // Bounded memory: what is copied goes before more is. A refusal (locked memory) is seen at the end.
            let _ = self.drop_small(pages.start + first..pages.start + first + n);
        }
        self.drop_small(pages)
    }

    /// Copies a page that is in the arena; false where it is not there.
    ///
    /// # Errors
    /// The kernel's, when `/proc/self/pagemap` cannot be read.
    pub fn peek(&self, page: usize, into: &mut Page) -> Result<bool, Errno> {
        let addr = self.page_addr(page, 1);
        let mut there = false;
        pagemap::each_page(addr, 1, |_, is| there = is)?;
        if there {
            // SAFETY: the page is present and part of an extent, so that it may be read; the buffer is another page.
            unsafe { std::ptr::copy_nonoverlapping(addr as *const u8, into.as_mut_ptr(), PAGE_SIZE) };
        }
        Ok(there)
    }
}

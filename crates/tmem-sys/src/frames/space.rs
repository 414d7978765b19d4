// SPDX-License-Identifier: Apache-2.0
//! Owns: access to the arena where it is given page by page. Callers: the pager, under its lock, as extents come and go.
//! Law 12: access ends before contents do, so that no write comes between and is found by the next owner.

use super::{Access, Frames};
use crate::errno::Errno;
use crate::page::PAGE_SHIFT;
use std::ops::Range;

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
}

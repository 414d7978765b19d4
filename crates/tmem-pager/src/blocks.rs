// SPDX-License-Identifier: Apache-2.0
//! Owns: what a `malloc` needs of a pager: blocks found again by their address alone. A large block is an extent, a
//! small one shares pages with others of its size (`runs`). Callers: doors that stand in for an allocator.
//! Locks: extents, then state; where a block is used again, extents alone. Law 17: no byte of a block is touched here, so
//! nothing here can fault.

use crate::error::PagerError;
use crate::extents::Extents;
use crate::pager::Pager;
use crate::runs::{LARGEST, RUN_BYTES};
use std::ops::Range;
use tmem_sys::page::pages_for;
use tmem_sys::{LockGuard, PAGE_SIZE};

/// A block that was just made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub addr: usize,
    /// Whether it is known to hold zeros.
    pub zeroed: bool,
}

impl Pager {
    /// A block of at least `bytes`, aligned to 16.
    ///
    /// # Errors
    /// As [`Pager::allocate`].
    pub fn allocate_block(&self, bytes: usize) -> Result<Block, PagerError> {
        let mut extents = self.open_extents()?;
        let base = self.base();
        if bytes > LARGEST {
            if let Some(extent) = extents.idle.take(pages_for(bytes)) {
                return Ok(Block { addr: base + extent.start * PAGE_SIZE, zeroed: false });
            }
            return Ok(Block { addr: self.allocate_in(&mut extents, bytes)?, zeroed: true });
        }
        let bytes = bytes.max(1);
        let offset = match extents.runs.take(bytes) {
            Some(offset) => offset,
            None => {
                let first = (self.allocate_in(&mut extents, RUN_BYTES)? - base) / PAGE_SIZE;
                extents.runs.add(first, bytes);
                extents.runs.take(bytes).ok_or(PagerError::NotOurs)?
            }
        };
        Ok(Block { addr: base + offset, zeroed: false })
    }

    /// Ends the block that begins at `addr`; false when none does. At interpreter exit nothing happens.
    pub fn release_block(&self, addr: usize) -> bool {
        if crate::pager::is_finalized() {
            return true;
        }
        let mut extents = self.extents();
        let Some(offset) = addr.checked_sub(self.base()) else { return false };
        let Some(extent) = extents.at(offset / PAGE_SIZE) else { return false };
        if !extents.runs.is_run(extent.start) {
            let whole = offset == extent.start * PAGE_SIZE && !extents.idle.holds(&extent);
            return whole && self.release_extent(extents, extent);
        }
        if !extents.runs.give(extent.start, offset) {
            return false;
        }
        if extents.runs.drop_if_spare(extent.start) {
            self.release_in(extents, extent);
        } else if self.is_closed() {
            self.release_empty_runs(extents);
        }
        true
    }

    /// Ends the extent of a block, or keeps it for the next while memory is plain.
    fn release_extent(&self, mut extents: LockGuard<'_, Extents>, extent: Range<usize>) -> bool {
        let most = self.idle_limit();
        if extent.len() > most || self.is_closed() || extents.steered.contains(&extent.start) {
            return self.release_in(extents, extent);
        }
        extents.idle.add(extent);
        self.release_idle(&mut extents, most);
        true
    }

    /// Bytes that the block at `addr` has room for.
    pub fn block_bytes(&self, addr: usize) -> Option<usize> {
        let extents = self.extents();
        let offset = addr.checked_sub(self.base())?;
        let extent = extents.at(offset / PAGE_SIZE)?;
        if extents.runs.is_run(extent.start) {
            return extents.runs.bytes(extent.start, offset);
        }
        (offset == extent.start * PAGE_SIZE).then_some(extent.len() * PAGE_SIZE)
    }
}

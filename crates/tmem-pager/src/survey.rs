// SPDX-License-Identifier: Apache-2.0
//! Owns: what a door that stands in for the kernel's address space asks of a pager, and the claim of a range by its address.
//! Callers: such doors. Locks, in order: extents, then state.

use crate::error::PagerError;
use crate::fork;
use crate::page::PageState;
use crate::pager::Pager;
use std::ops::Range;
use tmem_sys::PAGE_SIZE;

/// Registers the handlers around `fork` ahead of the first pager, for a door that has handlers of its own to put in order.
///
/// # Errors
/// `ENOMEM`.
pub fn register_fork() -> Result<(), PagerError> {
    fork::register()
}

impl Pager {
    /// The addresses of the arena.
    pub fn arena(&self) -> Range<usize> {
        let base = self.base();
        base..base + self.slot().arena_bytes()
    }

    /// Whether paging has begun.
    pub fn is_paging(&self) -> bool {
        self.slot().is_paged()
    }

    /// The budget in bytes.
    pub fn ram(&self) -> usize {
        self.slot().ram_bytes()
    }

    /// Bytes that are committed, written or not.
    pub fn committed(&self) -> usize {
        self.with(|s| s.mapped()).unwrap_or(0)
    }

    /// Bytes of pages that were written, wherever they are now. Known only once paging has begun.
    pub fn touched(&self) -> usize {
        let held = [PageState::Resident, PageState::Standby, PageState::Out];
        self.with(|s| held.map(|state| s.states.count(state)).iter().sum::<usize>() * PAGE_SIZE).unwrap_or(0)
    }

    /// Bytes of RAM that the pager accounts for once paging has begun: frames, store, tables.
    pub fn memory_bytes(&self) -> usize {
        self.with(|s| s.frame_count() * PAGE_SIZE + s.overhead()).unwrap_or(0)
    }

    /// Whether no page of a committed range was ever written, so that nothing is lost with it. In doubt it answers false.
    pub fn is_fresh(&self, addr: usize, bytes: usize) -> bool {
        let Ok(range) = self.inside(addr, bytes) else { return false };
        self.with(|s| {
            if s.is_armed() {
                return range.clone().all(|page| s.states.is(page, PageState::Fresh));
            }
            let mut written = false;
            s.frames.scan_present(range, |_| written = true).is_ok() && !written
        })
        .unwrap_or(false)
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the edge between store and swap device: where the store has no room, its oldest pages go down as they are packed,
//! many in one write, so that younger ones find room. Callers: `evict`. Lock: the pager's, held.
//! One order from end to end: whatever its form, the page that was stored longest ago leaves first. Law 14: what the swap
//! device refuses stays where it is. Law 12: a page leaves the store once it is on the device.

use crate::page::PageState;
use crate::state::State;
use crate::stats::Stat;
use crate::swapout::MAX_BATCH;
use tmem_store::Blob;

/// Old pages looked at for a batch: those that a thread works on are passed by.
const LOOKED_AT: usize = 4 * MAX_BATCH;
/// Refusals of the store to let pass after the swap device took nothing: each try costs a write that fails.
const REST: u32 = 256;

impl State {
    /// Sends the oldest stored pages to the swap device. How many places in the store came free.
    pub fn write_back(&mut self) -> usize {
        if !self.swap.exists() || self.rests_from_writing() {
            return 0;
        }
        let (mut pages, mut blobs) = ([0usize; MAX_BATCH], [Blob::Same(0); MAX_BATCH]);
        let (mut count, mut after) = (0, 0);
        // Copies of pages in RAM: to be let go of, not written.
        let (mut copies, mut copied) = ([0usize; MAX_BATCH], 0);
        for _ in 0..LOOKED_AT {
            if count == MAX_BATCH || copied == MAX_BATCH {
                break;
            }
            let Some(oldest) = self.frontswap.oldest(after) else { break };
            after = oldest.after;
            let page = oldest.page as usize;
            match self.states.get(page) {
                _ if self.is_busy(page) => {}
                PageState::Out => {
                    (pages[count], blobs[count]) = (page, oldest.blob);
                    count += 1;
                }
                _ => {
                    copies[copied] = page;
                    copied += 1;
                }
            }
        }
        let (stored, why) =
            if count > 0 { self.swap.store(&pages[..count], &blobs[..count]) } else { (0, None) };
        self.stats.add(Stat::SwapStores, stored as u64);
        self.stats.add(Stat::WrittenBack, stored as u64);
        for page in &pages[..stored] {
            self.frontswap.invalidate_page(*page);
        }
        for page in &copies[..copied] {
            self.forget_copies(*page);
        }
        self.stats.add(Stat::CopiesDropped, copied as u64);
        if let Some(reason) = why {
            self.writing_rests = if stored == 0 { REST } else { 0 };
            self.tell_swap(reason);
        }
        stored + copied
    }

    fn rests_from_writing(&mut self) -> bool {
        let rests = self.writing_rests > 0;
        self.writing_rests = self.writing_rests.saturating_sub(1);
        rests
    }
}

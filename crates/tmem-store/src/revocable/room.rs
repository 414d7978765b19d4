// SPDX-License-Identifier: Apache-2.0
//! Owns: where a page goes: which extent is written next, when another is asked for, and who is forgotten where there is none. Callers:
//! `store`, `owner`. Locks: the owner's. Law 6: without a new extent the oldest is written anew, and all that was in it is gone.

use super::log::{Home, Short, Spot};
use super::pages::Known;
use super::store::Store;
use crate::lease::Extent;
use crate::object::ObjectId;
use crate::ops::Reason;
use tmem_sys::time;

/// Extents that are asked for at once.
const AHEAD: u32 = 2;
/// Pages forgotten together at most where the index is full.
const STEP: usize = 64;

impl Store {
    /// Writes bytes to an extent: the one at hand, another that holds no page, a new one, or the oldest, whose pages go.
    /// `None` where a new one may come soon.
    pub(super) fn append(&mut self, bytes: &[u8], wait: bool) -> Result<Option<Spot>, Reason> {
        let now_ms = time::now_ns() / 1_000_000;
        loop {
            match self.log.append(bytes, now_ms) {
                Ok(spot) => {
                    if self.log.is_low() {
                        self.ask_ahead();
                    }
                    return Ok(Some(spot));
                }
                Err(Short::Gone(home)) => self.cut_off(home),
                Err(Short::Full) => {
                    if !self.begin_next(wait)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Begins another extent; false where a new one may come soon.
    fn begin_next(&mut self, wait: bool) -> Result<bool, Reason> {
        if let Some(home) = self.log.spare() {
            self.log.begin(home);
            return Ok(true);
        }
        if self.may_grow() {
            if let Some(extent) = self.mailbox.take(0)
                && self.adopt(extent)
            {
                return Ok(true);
            }
            self.mailbox.want(AHEAD);
            if wait {
                return Ok(false);
            }
        }
        let oldest = self.log.oldest().ok_or(Reason::StoreFull)?;
        self.forget_all_in(oldest, true);
        self.log.begin(oldest);
        Ok(true)
    }

    /// Asks for extents before they are needed, unless some are there.
    fn ask_ahead(&self) {
        if self.mailbox.waiting() == 0 {
            self.mailbox.want(if self.may_grow() { AHEAD } else { 0 });
        }
    }

    fn may_grow(&self) -> bool {
        self.log.held() < self.max_extents && self.log.leased() < self.max_bytes
    }

    /// Takes an extent in; one that it has no use for goes back to where it came from.
    pub fn adopt(&mut self, extent: Extent) -> bool {
        // One that is shorter than it says was cut off already.
        let adopted = if extent.fd.size() == Ok(extent.bytes) { self.log.adopt(extent) } else { Err(extent) };
        adopted.map_err(|extent| self.mailbox.refuse(extent)).is_ok()
    }

    /// Notes a page that was written; where the index is full the oldest go.
    pub(super) fn note(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        known: Known,
    ) -> Result<(), Reason> {
        let mut noted = self.pages.add(slot as u32, object, index, known);
        if noted.is_err() {
            let some = (self.pages.live() / 16).clamp(1, STEP);
            (0..some).for_each(|_| self.forget_one());
            noted = self.pages.add(slot as u32, object, index, known);
        }
        noted?;
        self.count_on(slot, known);
        Ok(())
    }

    /// Forgets a page to make room in the index: of those without data where they are most, else the oldest.
    fn forget_one(&mut self) {
        let same = self.pages.live() - self.log.pages();
        let home = if 2 * same > self.pages.live() { None } else { self.log.oldest_with_pages() };
        if let Some((pool, known)) = self.pages.remove_oldest(home) {
            self.count_off(pool as usize, known);
            self.count_evicted(pool as usize);
        }
    }

    pub(super) fn forget_all_in(&mut self, home: Home, evicted: bool) {
        while let Some((pool, known)) = self.pages.remove_oldest(Some(home)) {
            self.count_off(pool as usize, known);
            self.count_evicted(pool as usize);
            self.stats.revoked_pages += u64::from(!evicted);
        }
    }

    fn count_evicted(&mut self, slot: usize) {
        self.pools[slot].stats.traffic.evicted += 1;
        self.stats.traffic.evicted += 1;
    }
}

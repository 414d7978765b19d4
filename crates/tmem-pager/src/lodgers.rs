// SPDX-License-Identifier: Apache-2.0
//! Owns: what of a budget is lent to hosts of ephemeral pages (caches): given while nobody needs it, taken back before paged
//! memory goes short. Callers: `admit`, `evict`, `several` when they are short; the bindings when a cache wants more. Locks,
//! in order: the pager's, then the lodger's host; whoever else holds such a host's lock has signals blocked.
//! Law 13: what is lent counts whole. Law 17: taking back uses no heap, and touches no paged memory.

use crate::error::PagerError;
use crate::pager::Pager;
use crate::state::{BATCH, State};
use std::ops::Range;
use std::sync::Arc;
use tmem_store::Host;
use tmem_sys::PAGE_SIZE;

/// The least that is lent at once, so that a growing cache does not ask for each entry.
const STEP: usize = 256 << 10;
/// Frames that are left to paged memory: lent, they would be wanted back at the next fault.
const LEFT: usize = 8 * BATCH;

struct Lodger {
    host: Arc<Host>,
    /// What it has: its limit, or more where its tables take more than that.
    bytes: usize,
    /// It has given all it can.
    dry: bool,
}

/// Lodgers that one pager can have: their places are made before, because none is made under its lock.
const MOST: usize = 32;

/// Everyone who was lent something.
pub struct Lodgers {
    all: Vec<Lodger>,
    bytes: usize,
}

impl Default for Lodgers {
    fn default() -> Lodgers {
        Lodgers { all: Vec::with_capacity(MOST), bytes: 0 }
    }
}

impl Lodgers {
    /// Bytes lent.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes at least `bytes` back from those that have most; how many came. Their oldest pages go.
    fn give(&mut self, bytes: usize) -> usize {
        let mut freed = 0;
        while freed < bytes {
            let most = self.all.iter_mut().filter(|lodger| !lodger.dry).max_by_key(|lodger| lodger.bytes);
            let Some(lodger) = most else { break };
            let keep = lodger.bytes.saturating_sub(bytes - freed);
            // Less than a step holds hardly anything but tables.
            let keep = if keep < STEP { 0 } else { keep };
            let left = lodger.host.shrink_to(keep).max(keep);
            lodger.dry = left >= lodger.bytes || keep == 0;
            let came = lodger.bytes.saturating_sub(left);
            self.bytes = self.bytes - lodger.bytes + left;
            lodger.bytes = left;
            freed += came;
        }
        freed
    }

    /// What a host has; `None` where there are too many lodgers for it to be one.
    fn place(&mut self, host: &Arc<Host>) -> Option<&mut Lodger> {
        let known = self.all.iter().position(|lodger| Arc::ptr_eq(&lodger.host, host));
        if known.is_none() && self.all.len() < MOST {
            let bytes = host.stats().footprint_bytes as usize;
            self.bytes += bytes;
            self.all.push(Lodger { host: Arc::clone(host), bytes, dry: true });
            return self.all.last_mut();
        }
        self.all.get_mut(known?)
    }

    fn lend(&mut self, host: &Arc<Host>, bytes: usize) {
        if let Some(lodger) = self.place(host) {
            lodger.bytes += bytes;
            lodger.dry = false;
            host.set_limit(lodger.bytes);
            self.bytes += bytes;
        }
    }

    fn end(&mut self, host: &Arc<Host>) {
        if let Some(at) = self.all.iter().position(|lodger| Arc::ptr_eq(&lodger.host, host)) {
            self.bytes -= self.all.swap_remove(at).bytes;
        }
    }
}

impl State {
    /// Takes back what `want` frames need and the budget has no more room for; whether they can be had now.
    #[inline]
    pub fn take_back(&mut self, want: usize) -> bool {
        self.lodgers.bytes > 0 && self.take_back_frames(want)
    }

    #[cold]
    fn take_back_frames(&mut self, want: usize) -> bool {
        let short = |s: &State| (s.frame_count() + want).saturating_sub(s.allowance());
        if self.slots.free_count() < want && short(self) > 0 {
            self.take_back_bytes((short(self) + BATCH) * PAGE_SIZE);
        }
        self.slots.free_count() >= want || short(self) == 0
    }

    /// Takes back room for a page that the store has none for; whether anything came.
    pub fn take_back_for_store(&mut self) -> bool {
        self.lodgers.bytes > 0 && self.take_back_bytes(BATCH * PAGE_SIZE)
    }

    /// Takes back what `more` pages that are to stay need beside those that stay already.
    pub fn take_back_to_pin(&mut self, more: usize) {
        let short = (self.pinned + self.held + more).saturating_sub(self.pin_limit());
        if self.is_armed() && self.lodgers.bytes > 0 && short > 0 {
            self.take_back_bytes(short * PAGE_SIZE);
        }
    }

    fn take_back_bytes(&mut self, bytes: usize) -> bool {
        let came = self.lodgers.give(bytes) > 0;
        if came {
            self.share_out();
        }
        came
    }

    /// Takes back what `more` pages of a range need as plain memory, where that is enough; whether they fit now.
    pub fn take_back_for(&mut self, range: &Range<usize>, more: usize) -> bool {
        let short = self.short_of_plain(range, more);
        short <= self.lodgers.bytes && {
            self.lodgers.give(short);
            self.fits_plain(range, more)
        }
    }

    /// Bytes of the budget that nothing is in and nobody was lent.
    fn idle_bytes(&self) -> usize {
        if self.is_armed() {
            return self.allowance().saturating_sub(self.frame_count() + LEFT) * PAGE_SIZE;
        }
        self.plain_room().saturating_sub(LEFT * PAGE_SIZE)
    }

    fn lend(&mut self, host: &Arc<Host>, bytes: usize) -> bool {
        let idle = self.idle_bytes();
        let Some(known) = self.lodgers.place(host).map(|lodger| lodger.bytes) else { return false };
        let most = host.reserve_bytes().saturating_sub(known);
        let bytes = bytes.min(most);
        if bytes == 0 || idle < bytes {
            return false;
        }
        self.lodgers.lend(host, bytes.max(STEP.min(idle)).min(most));
        self.share_out();
        true
    }
}

impl Pager {
    /// Counts what a host of ephemeral pages takes now, which is to be lent more later.
    ///
    /// # Errors
    /// `Closed`; `Budget` where there are too many.
    pub fn take_in(&self, host: &Arc<Host>) -> Result<(), PagerError> {
        if self.is_closed() {
            return Err(PagerError::Closed);
        }
        let known = self.with(|s| s.lodgers.place(host).is_some())?;
        let full = || PagerError::Budget(format!("{MOST} caches live on this Memory already; close some"));
        known.then_some(()).ok_or_else(full)
    }

    /// Lends a host of ephemeral pages so many bytes of the budget, if nobody needs them. Whoever takes the host's lock blocks
    /// signals first.
    pub fn lend_to(&self, host: &Arc<Host>, bytes: usize) -> bool {
        self.with(|s| s.lend(host, bytes)).unwrap_or(false)
    }

    /// What a host was lent is its no more: it ends now.
    pub fn end_lending(&self, host: &Arc<Host>) {
        // Nothing is left of a pager that is closed and without arrays, and of what it lent.
        let _ = self.with(|s| s.lodgers.end(host));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tmem_store::Cache;
    use tmem_store::ObjectId;

    const MIB: usize = 1 << 20;

    fn noise(seed: u64) -> Vec<u8> {
        let mut x = seed | 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        };
        (0..PAGE_SIZE - 100).map(|_| next()).collect()
    }

    fn fill(cache: &Cache, entries: std::ops::Range<u64>) {
        for n in entries {
            assert!(cache.put(ObjectId([n, 0, 0]), b"k", &noise(n)).unwrap().is_stored());
        }
    }

    fn has(cache: &Cache, n: u64) -> bool {
        cache.find(ObjectId([n, 0, 0]), b"k", &mut [0; PAGE_SIZE], false).unwrap().is_some()
    }

    #[test]
    fn what_is_lent_is_counted_whole_and_comes_back_oldest_first_down_to_nothing() {
        let mut lodgers = Lodgers::default();
        let cache = Cache::new(0, 8 * MIB, true).unwrap();
        lodgers.lend(cache.host(), 4 * MIB);
        let lent = lodgers.bytes();
        assert!((4 * MIB..5 * MIB).contains(&lent));
        fill(&cache, 0..700);
        assert_eq!(cache.stats().unwrap().evicted, 0);
        assert!(lodgers.give(MIB) >= MIB);
        assert!(
            cache.stats().unwrap().footprint as usize <= lodgers.bytes() && lodgers.bytes() <= lent - MIB
        );
        assert!(has(&cache, 699) && !has(&cache, 0), "the oldest go first");
        let before = lodgers.bytes();
        let came = lodgers.give(usize::MAX);
        assert_eq!(lodgers.bytes(), before - came);
        assert!(lodgers.bytes() < MIB / 4, "{} bytes are left", lodgers.bytes());
        assert_eq!((cache.stats().unwrap().entries, lodgers.give(1)), (0, 0));
        assert!(!cache.put(ObjectId([1, 0, 0]), b"k", &noise(1)).unwrap().is_stored());
        lodgers.lend(cache.host(), 2 * MIB);
        fill(&cache, 0..100);
        assert_eq!(cache.check(), Vec::<String>::new());
        lodgers.end(cache.host());
        assert_eq!(lodgers.bytes(), 0);
    }

    #[test]
    fn the_one_that_has_most_gives_first() {
        let mut lodgers = Lodgers::default();
        let caches = [2 * MIB, 6 * MIB].map(|bytes| {
            let cache = Cache::new(0, 8 * MIB, true).unwrap();
            lodgers.lend(cache.host(), bytes);
            fill(&cache, 0..200);
            cache
        });
        assert!(lodgers.give(5 * MIB / 2) >= 5 * MIB / 2);
        assert!(has(&caches[0], 0), "the smaller keeps all");
        assert!(caches[1].stats().unwrap().limit as usize <= 4 * MIB);
    }
}

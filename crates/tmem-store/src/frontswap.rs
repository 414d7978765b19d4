// SPDX-License-Identifier: Apache-2.0
//! Owns: the hook between whoever evicts pages and the backends: who holds each page, the stack of backends, the four
//! counters by their historical names. No policy. Callers: the pager's `evict` (store), `fault` (load) and `verbs`
//! (invalidate), under its lock; `stack`, under the lock of the bindings. Calls: `BackendOps`.
//! Law 3: whatever a store answers, what was stored before under that handle is gone. Enforced here, around all backends:
//! invalidate in every one first, then store; and only the backend that took a page is asked for it.

use crate::codec::Coded;
use crate::cold::ColdBatch;
use crate::ops::{BackendOps, Copied, Corrupt, Loaded, Oldest, Outcome, Reason, Soon};
use crate::pool::PageStore;
use crate::stats::{Refusals, StoreStats};
use tmem_sys::{Errno, Page, Table};

/// Backends that one hook can have: which of them holds a page is a byte.
pub const MAX_BACKENDS: usize = 64;

/// The historical counters, as `/sys/kernel/debug/frontswap` had them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrontswapCounters {
    pub loads: u64,
    pub succ_stores: u64,
    pub failed_stores: u64,
    pub invalidates: u64,
}

/// How the hook treats what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// A page that a backend took is reported as refused all the same, so that it goes to the swap device too. The backend may
    /// then forget it at any time.
    pub writethrough: bool,
    /// A load takes the page out.
    pub exclusive: bool,
}

pub struct Frontswap {
    backends: Vec<Box<dyn BackendOps>>,
    area: u32,
    /// Pages that may be stored; 0 while there is no area.
    pages: usize,
    mode: Mode,
    /// Which backend holds a page, counted from 1; 0 for none.
    holder: Table<u8>,
    /// One past the highest page that was ever stored.
    top: usize,
    present_count: usize,
    /// Backends whose pages cannot be reached from this process, one bit each.
    unreachable: u64,
    pub counters: FrontswapCounters,
    /// Refusals by reason, of the last backend asked.
    pub refused: Refusals,
}

impl Frontswap {
    /// A hook for one area of `pages`, with backends in the order they are to be asked.
    ///
    /// # Errors
    /// `ENOMEM`; `ENOSPC` for more than [`MAX_BACKENDS`].
    pub fn new(
        backends: Vec<Box<dyn BackendOps>>,
        area: u32,
        pages: usize,
        mode: Mode,
    ) -> Result<Frontswap, Errno> {
        let mut this = Frontswap {
            backends: Vec::with_capacity(backends.len()),
            area,
            pages: 0,
            mode,
            holder: Table::new(pages)?,
            top: 0,
            present_count: 0,
            unreachable: 0,
            counters: FrontswapCounters::default(),
            refused: Refusals::default(),
        };
        this.init(pages)?;
        backends.into_iter().try_for_each(|backend| this.register(backend))?;
        Ok(this)
    }

    /// Announces the area: again after [`Frontswap::invalidate_area`], or with another size. Forgets nothing.
    ///
    /// # Errors
    /// `ENOMEM` when it grew past what the address space holds; then nothing has changed.
    pub fn init(&mut self, pages: usize) -> Result<(), Errno> {
        if pages > self.holder.len() {
            let mut larger = Table::new(pages)?;
            larger[..self.top].copy_from_slice(&self.holder[..self.top]);
            self.holder = larger;
        }
        self.pages = pages;
        let area = self.area;
        self.backends.iter_mut().for_each(|b| b.init(area, pages as u64));
        Ok(())
    }

    /// Takes one more backend, which is asked after those there are. It learns of the area if that is live.
    ///
    /// # Errors
    /// `ENOSPC` for more than [`MAX_BACKENDS`].
    pub fn register(&mut self, mut backend: Box<dyn BackendOps>) -> Result<(), Errno> {
        if self.backends.len() == MAX_BACKENDS {
            return Err(Errno::ENOSPC);
        }
        if self.pages > 0 {
            backend.init(self.area, self.pages as u64);
        }
        self.backends.push(backend);
        Ok(())
    }

    /// Whether a load of `page` will hit.
    #[inline]
    pub fn is_present(&self, page: usize) -> bool {
        self.holder.get(page).is_some_and(|h| *h != 0)
    }

    pub fn present_count(&self) -> usize {
        self.present_count
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why nothing can be stored under a page number, if so.
    pub fn refusal(&self, page: usize) -> Option<Reason> {
        match self.pages {
            0 => Some(Reason::NoArea),
            pages if page >= pages => Some(Reason::OutOfRange),
            _ => None,
        }
    }

    /// Offers a page to each backend in turn until one takes it. With writethrough the answer is a refusal even then.
    pub fn store(&mut self, page: usize, data: &Page) -> Outcome {
        self.offer(page, |backend, area| backend.store(area, page as u64, data))
    }

    /// As [`Frontswap::store`], with the form that a codec made of the page while the caller held no lock.
    pub fn store_coded(&mut self, page: usize, data: &Page, coded: &Coded<'_>) -> Outcome {
        self.offer(page, |backend, area| backend.store_coded(area, page as u64, data, coded))
    }

    fn offer(&mut self, page: usize, store: impl Fn(&mut dyn BackendOps, u32) -> Outcome) -> Outcome {
        self.drop_present(page);
        if let Some(reason) = self.refusal(page) {
            return self.refuse(reason);
        }
        let mut reason = Reason::Unwilling;
        for (i, backend) in self.backends.iter_mut().enumerate() {
            match store(&mut **backend, self.area) {
                Outcome::Stored => {
                    self.holder[page] = i as u8 + 1;
                    self.top = self.top.max(page + 1);
                    self.present_count += 1;
                    self.counters.succ_stores += 1;
                    return if self.mode.writethrough {
                        Outcome::Refused(Reason::Unwilling)
                    } else {
                        Outcome::Stored
                    };
                }
                Outcome::Refused(why) => reason = why,
            }
        }
        self.refuse(reason)
    }

    fn refuse(&mut self, reason: Reason) -> Outcome {
        self.counters.failed_stores += 1;
        self.refused.count(reason);
        Outcome::Refused(reason)
    }

    /// Copies a stored page out. It stays stored, unless loads are exclusive.
    ///
    /// # Errors
    /// [`Corrupt`] when it was stored and is lost: the caller stops the process. With writethrough there is none: the page is
    /// absent then, and the swap device has it.
    #[inline]
    pub fn load(&mut self, page: usize, into: &mut Page) -> Result<Loaded, Corrupt> {
        if !self.is_present(page) {
            return Ok(Loaded::Absent);
        }
        let holder = usize::from(self.holder[page]) - 1;
        // The holder promised a hit: a backend that forgets a persistent page has lost it.
        let lost = match self.backends[holder].load(self.area, page as u64, into) {
            Ok(Loaded::Loaded) => {
                self.counters.loads += 1;
                if self.mode.exclusive {
                    self.drop_present(page);
                }
                return Ok(Loaded::Loaded);
            }
            Ok(Loaded::Absent) => Corrupt::NotGiven,
            Err(corrupt) => corrupt,
        };
        if self.mode.writethrough {
            self.drop_present(page);
            return Ok(Loaded::Absent);
        }
        Err(lost)
    }

    /// Copies what is stored for a page as it is; it stays stored. `None` where there is nothing, or where only a load will do.
    ///
    /// # Errors
    /// As [`Frontswap::load`].
    pub fn copy_packed(&mut self, page: usize, into: &mut Page) -> Result<Option<Copied>, Corrupt> {
        if !self.is_present(page) || self.mode != Mode::default() {
            return Ok(None);
        }
        let holder = usize::from(self.holder[page]) - 1;
        let copied = self.backends[holder].copy_packed(self.area, page as u64, into)?;
        self.counters.loads += u64::from(copied.is_some());
        Ok(copied)
    }

    /// The page will be loaded soon, or stored for the first time: asks for the memory that this will read.
    #[inline]
    pub fn expect(&self, page: usize, soon: Soon) {
        let holder = usize::from(self.holder.get(page).copied().unwrap_or(0)).saturating_sub(1);
        if let Some(backend) = self.backends.get(holder) {
            backend.expect(self.area, page as u64, soon);
        }
    }

    /// The page that was stored longest ago by the first backend that keeps them in order, but for those up to the place `after`
    /// (0 for none). `None` where there is no other.
    pub fn oldest(&self, after: u32) -> Option<Oldest<'_>> {
        // With writethrough the swap device has every page already.
        if self.mode.writethrough {
            return None;
        }
        let backend = self.backends.iter().find(|b| b.oldest(0).is_some())?;
        backend.oldest(after).filter(|oldest| oldest.area == self.area)
    }

    /// The page was found unchanged: it is as young as one that is stored now.
    pub fn touch(&mut self, page: usize) {
        if self.is_present(page) {
            let holder = usize::from(self.holder[page]) - 1;
            self.backends[holder].touch(self.area, page as u64);
        }
    }

    /// Sets the clock by which stores are dated, in any unit.
    pub fn set_clock(&mut self, now: u32) {
        self.backends.iter_mut().for_each(|b| b.set_clock(now));
    }

    /// As [`BackendOps::has_cold`], of the page store among the backends.
    pub fn has_cold(&mut self, before: u32) -> bool {
        self.page_store().is_some_and(|store| store.has_cold(before))
    }

    /// As [`BackendOps::take_cold`], of the page store among the backends.
    pub fn take_cold(&mut self, before: u32, batch: &mut ColdBatch) -> bool {
        self.page_store().is_some_and(|store| store.take_cold(before, batch))
    }

    /// As [`BackendOps::sample`].
    pub fn sample(&mut self, step: u32, most: usize, batch: &mut ColdBatch) -> u32 {
        self.page_store().map_or(0, |store| store.sample(step, most, batch))
    }

    /// As [`BackendOps::settle_cold`].
    pub fn settle_cold(&mut self, batch: &ColdBatch, n: usize, tighter: Option<&[u8]>) -> bool {
        self.page_store().is_some_and(|store| store.settle_cold(batch, n, tighter))
    }

    /// Whether a page is stored in a form for pages that stay cold.
    pub fn is_cold(&self, page: usize) -> bool {
        let holder = self.holder.get(page).and_then(|h| usize::from(*h).checked_sub(1));
        holder.is_some_and(|holder| self.backends[holder].is_cold(self.area, page as u64))
    }

    /// As [`BackendOps::tidy`], of each backend.
    pub fn tidy(&mut self, wholly: bool) -> bool {
        self.backends.iter_mut().fold(false, |done, b| b.tidy(wholly) | done)
    }

    fn page_store(&mut self) -> Option<&mut Box<dyn BackendOps>> {
        self.backends.iter_mut().find(|b| b.store_stats().is_some())
    }

    /// The first page store among the backends that may take memory on lease.
    pub fn leasing(&mut self) -> Option<&mut PageStore> {
        self.backends.iter_mut().find_map(|b| b.leasing())
    }

    /// As [`BackendOps::has_lease_room`], of any backend, where a page that is stored is not on the swap device too.
    pub fn has_lease_room(&mut self) -> bool {
        !self.mode.writethrough && self.backends.iter_mut().any(|b| b.has_lease_room())
    }

    /// Forgets a page; nothing happens when it is not stored.
    pub fn invalidate_page(&mut self, page: usize) {
        if self.is_present(page) {
            self.counters.invalidates += 1;
            self.drop_present(page);
        }
    }

    fn drop_present(&mut self, page: usize) {
        if self.is_present(page) {
            self.backends.iter_mut().for_each(|b| b.invalidate_page(self.area, page as u64));
            self.holder[page] = 0;
            self.present_count -= 1;
        }
    }

    /// Forgets the whole area; stores are refused until it is announced again.
    pub fn invalidate_area(&mut self) {
        self.backends.iter_mut().for_each(|b| b.invalidate_area(self.area));
        self.holder[..self.top].fill(0);
        self.top = 0;
        self.present_count = 0;
        self.pages = 0;
    }

    /// In a forked child: notes which backends' pages cannot be reached here.
    pub fn after_fork_in_child(&mut self) {
        for (i, backend) in self.backends.iter_mut().enumerate() {
            if !backend.after_fork_in_child() {
                self.unreachable |= 1 << i;
            }
        }
    }

    /// Whether any page may be out of reach.
    pub fn is_cut_off(&self) -> bool {
        self.unreachable != 0
    }

    /// Whether a page is stored where this process cannot reach it.
    pub fn is_out_of_reach(&self, page: usize) -> bool {
        self.is_present(page) && self.unreachable >> (self.holder[page] - 1) & 1 == 1
    }

    /// Shares out how many bytes of memory the backends may take: each in turn what those before it leave.
    pub fn set_capacity(&mut self, bytes: usize) {
        let mut left = bytes;
        for backend in &mut self.backends {
            backend.set_capacity(left);
            left = left.saturating_sub(backend.footprint());
        }
    }

    /// Whether a backend refuses pages unseen, so that none is to be packed for it beforehand.
    pub fn is_full(&self) -> bool {
        self.backends.iter().any(|b| b.is_full())
    }

    /// Bytes of memory behind the hook.
    pub fn footprint(&self) -> usize {
        self.backends.iter().map(|b| b.footprint()).sum()
    }

    /// What the page store among the backends holds.
    pub fn store_stats(&self) -> Option<StoreStats> {
        self.backends.iter().find_map(|b| b.store_stats())
    }

    /// Every broken law of the backends and of the table of holders, in words.
    pub fn check(&self) -> Vec<String> {
        let mut broken: Vec<String> = self.backends.iter().flat_map(|b| b.check()).collect();
        let held = self.holder[..self.top].iter().filter(|h| **h != 0);
        let counted = held.clone().count();
        if counted != self.present_count {
            broken.push(format!("frontswap: {counted} pages have a holder, {} noted", self.present_count));
        }
        if held.clone().any(|h| usize::from(*h) > self.backends.len()) {
            broken.push("frontswap: a page is held by a backend that is not there".into());
        }
        broken
    }
}

#[cfg(test)]
mod tests;

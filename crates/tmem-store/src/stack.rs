// SPDX-License-Identifier: Apache-2.0
//! Owns: a frontswap hook with a swap device below it, for whoever pages by himself: which slot a page has. Callers: the
//! bindings, which hold a lock around each call. The device may be shared, and has a lock of its own, taken last.
//! Law 3: whatever a store answers, the old page is gone, from the backends and from the device. Law 14: what the backends
//! refuse goes to the device; what that refuses stays the caller's.

use crate::frontswap::{Frontswap, Mode};
use crate::ops::{BackendOps, Corrupt, Loaded, Outcome, Reason};
use crate::stats::Refusals;
use crate::swap::{SwapDevice, SwapFault, SwapSlot};
use std::fmt;
use std::sync::Arc;
use tmem_sys::{Errno, Lock, Page, Table};

/// A device that several stacks may share; `None` once it was closed.
pub type SharedDevice = Arc<Lock<Option<SwapDevice>>>;

/// Why a page that was stored cannot be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Backend(Corrupt),
    Device(SwapFault),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Backend(corrupt) => corrupt.fmt(f),
            Lost::Device(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for Lost {}

/// What this stack did with the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    pub writes: u64,
    pub reads: u64,
    /// Pages on it now.
    pub pages: usize,
    pub refused: Refusals,
}

pub struct Stack {
    pub hook: Frontswap,
    device: Option<SharedDevice>,
    /// Slot + 1 of a page, or 0.
    slot_of: Table<u32>,
    /// One past the highest page that ever had a slot.
    top: usize,
    pub counters: DeviceCounters,
}

impl Stack {
    /// # Errors
    /// As [`Frontswap::new`]; `EINVAL` for writethrough without a device to write to.
    pub fn new(
        device: Option<SharedDevice>,
        backends: Vec<Box<dyn BackendOps>>,
        area: u32,
        pages: usize,
        mode: Mode,
    ) -> Result<Stack, Errno> {
        if mode.writethrough && device.is_none() {
            return Err(Errno::EINVAL);
        }
        Ok(Stack {
            hook: Frontswap::new(backends, area, pages, mode)?,
            slot_of: Table::new(if device.is_some() { pages } else { 0 })?,
            device,
            top: 0,
            counters: DeviceCounters::default(),
        })
    }

    /// As [`Frontswap::init`].
    ///
    /// # Errors
    /// As [`Frontswap::init`].
    pub fn init(&mut self, pages: usize) -> Result<(), Errno> {
        if self.device.is_some() && pages > self.slot_of.len() {
            let mut larger = Table::new(pages)?;
            larger[..self.top].copy_from_slice(&self.slot_of[..self.top]);
            self.slot_of = larger;
        }
        self.hook.init(pages)
    }

    fn slot(&self, page: usize) -> Option<SwapSlot> {
        self.slot_of.get(page).and_then(|s| s.checked_sub(1)).map(SwapSlot)
    }

    /// Whether a load will hit.
    pub fn holds(&self, page: usize) -> bool {
        self.hook.is_present(page) || self.slot(page).is_some()
    }

    /// The swap-out of a page.
    pub fn store(&mut self, page: usize, data: &Page) -> Outcome {
        self.free_slot(page);
        let outcome = self.hook.store(page, data);
        if outcome.is_stored() || self.hook.refusal(page).is_some() {
            return outcome;
        }
        let Outcome::Refused(reason) = outcome else { return outcome };
        match self.write(page, data) {
            None => Outcome::Refused(reason),
            Some(Ok(())) => Outcome::Stored,
            Some(Err(why)) => {
                self.counters.refused.count(why);
                // A copy that may be forgotten at any time is no place for the only one (writethrough).
                self.hook.invalidate_page(page);
                Outcome::Refused(why)
            }
        }
    }

    fn write(&mut self, page: usize, data: &Page) -> Option<Result<(), Reason>> {
        let shared = self.device.as_ref()?;
        let written = shared.lock().as_mut().map_or(Err(Reason::SwapError), |device| device.write(data));
        Some(written.map(|slot| {
            self.slot_of[page] = slot.0 + 1;
            self.top = self.top.max(page + 1);
            self.counters.writes += 1;
            self.counters.pages += 1;
        }))
    }

    /// The swap-in of a page. It stays stored, unless loads are exclusive: then it leaves the backends and the device.
    ///
    /// # Errors
    /// [`Lost`] when it was stored and cannot be given back; it stays so until it is invalidated or stored again.
    pub fn load(&mut self, page: usize, into: &mut Page) -> Result<Loaded, Lost> {
        let mut found = self.hook.load(page, into).map_err(Lost::Backend)?;
        if found == Loaded::Absent {
            found = self.read(page, into)?;
        }
        if found == Loaded::Loaded && self.hook.mode().exclusive {
            self.free_slot(page);
        }
        Ok(found)
    }

    fn read(&mut self, page: usize, into: &mut Page) -> Result<Loaded, Lost> {
        let (Some(slot), Some(shared)) = (self.slot(page), &self.device) else { return Ok(Loaded::Absent) };
        let gone = Err(SwapFault::Corrupt(slot));
        shared.lock().as_mut().map_or(gone, |device| device.read(slot, into)).map_err(Lost::Device)?;
        self.counters.reads += 1;
        Ok(Loaded::Loaded)
    }

    fn free_slot(&mut self, page: usize) {
        if let (Some(slot), Some(shared)) = (self.slot(page), &self.device) {
            if let Some(device) = shared.lock().as_mut() {
                device.free(slot);
            }
            self.slot_of[page] = 0;
            self.counters.pages -= 1;
        }
    }

    /// Forgets a page, wherever it is; nothing happens when it is not stored.
    pub fn invalidate_page(&mut self, page: usize) {
        self.hook.invalidate_page(page);
        self.free_slot(page);
    }

    /// Forgets every page; stores are refused until the next [`Stack::init`].
    pub fn invalidate_area(&mut self) {
        self.hook.invalidate_area();
        self.free_all();
    }

    fn free_all(&mut self) {
        for page in 0..self.top {
            self.free_slot(page);
        }
        self.top = 0;
    }

    /// Every broken law, in words.
    pub fn check(&self) -> Vec<String> {
        let mut broken = self.hook.check();
        let Some(shared) = &self.device else { return broken };
        let mut pages = 0;
        let device = shared.lock();
        broken.extend(device.iter().flat_map(SwapDevice::check));
        for (page, slot) in self.slot_of[..self.top].iter().enumerate().filter(|(_, s)| **s != 0) {
            pages += 1;
            if !device.as_ref().is_some_and(|d| d.holds(SwapSlot(slot - 1))) {
                broken.push(format!("page {page} is noted in slot {}, which holds no page", slot - 1));
            }
            if self.hook.is_present(page) && !self.hook.mode().writethrough {
                broken.push(format!("page {page} is with a backend and on the swap device"));
            }
        }
        if pages != self.counters.pages {
            broken.push(format!("{pages} pages have a slot, {} noted", self.counters.pages));
        }
        broken
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.free_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swap::SwapConfig;
    use crate::testback::{PlainCopies, RefuseAll};
    use tmem_sys::PAGE_SIZE;

    fn device(cap_pages: u64) -> SharedDevice {
        let config = SwapConfig { dir: std::env::temp_dir(), cap_pages, allow_memory: true };
        Arc::new(Lock::new(Some(SwapDevice::new(&config).unwrap())))
    }

    fn plain() -> Box<dyn BackendOps> {
        Box::new(PlainCopies::new(100).unwrap())
    }

    fn page(byte: u8) -> Page {
        [byte; PAGE_SIZE]
    }

    #[test]
    fn what_is_refused_goes_to_the_device_and_back() {
        let shared = device(1);
        let refuse = Box::new(RefuseAll::default());
        let mut s = Stack::new(Some(Arc::clone(&shared)), vec![refuse], 0, 10, Mode::default()).unwrap();
        assert!(s.store(3, &page(1)).is_stored());
        assert!(s.store(3, &page(2)).is_stored(), "the old slot is free before the new one is asked for");
        assert_eq!(s.store(4, &page(3)), Outcome::Refused(Reason::SwapFull));
        assert_eq!(s.store(10, &page(3)), Outcome::Refused(Reason::OutOfRange));
        let mut got = page(0);
        assert_eq!(s.load(3, &mut got), Ok(Loaded::Loaded));
        assert_eq!(got, page(2));
        assert_eq!(s.load(4, &mut got), Ok(Loaded::Absent));
        assert_eq!((s.counters.writes, s.counters.reads, s.counters.pages), (2, 1, 1));
        assert!(s.check().is_empty());
        drop(s);
        assert_eq!(shared.lock().as_ref().unwrap().stats().used, 0, "a stack that ends frees its slots");
    }

    #[test]
    fn writethrough_has_the_page_twice_or_not_at_all() {
        let mode = Mode { writethrough: true, ..Mode::default() };
        assert_eq!(Stack::new(None, vec![plain()], 0, 10, mode).err(), Some(Errno::EINVAL));
        let mut s = Stack::new(Some(device(1)), vec![plain()], 0, 10, mode).unwrap();
        assert!(s.store(1, &page(1)).is_stored());
        assert!(s.hook.is_present(1) && s.counters.pages == 1);
        assert_eq!(s.store(2, &page(2)), Outcome::Refused(Reason::SwapFull));
        assert!(!s.holds(2));
        s.hook.invalidate_page(1);
        let mut got = page(0);
        assert_eq!(s.load(1, &mut got), Ok(Loaded::Loaded));
        assert_eq!(got, page(1));
        assert!(s.check().is_empty());
    }

    #[test]
    fn an_exclusive_load_leaves_nothing_below() {
        let mode = Mode { exclusive: true, writethrough: true };
        let mut s = Stack::new(Some(device(4)), vec![plain()], 0, 10, mode).unwrap();
        assert!(s.store(1, &page(1)).is_stored());
        assert_eq!(s.load(1, &mut page(0)), Ok(Loaded::Loaded));
        assert!(!s.holds(1));
        assert_eq!(s.counters.pages, 0);
        s.invalidate_area();
        assert_eq!(s.store(1, &page(1)), Outcome::Refused(Reason::NoArea));
        s.init(20).unwrap();
        assert!(s.store(19, &page(1)).is_stored());
        assert!(s.check().is_empty());
    }
}

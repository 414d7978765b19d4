// SPDX-License-Identifier: Apache-2.0
//! Owns: which slot of the swap device a page has. Callers: `evict` (what frontswap refused falls through to here),
//! `fault`, `verbs`. Lock: the pager's. Law 14: a refused page goes to the swap device, and where that refuses too
//! it stays the caller's. Law 12: what cannot be read back ends the process, with a report.

use std::ops::Range;
use std::os::fd::OwnedFd;
use tmem_store::swap::MAX_RUN;
use tmem_store::{Blob, Reason, SwapDevice, SwapSlot};
use tmem_sys::syscall::die;
use tmem_sys::{Errno, Page, Table};

/// Pages of one write.
pub const MAX_BATCH: usize = 64;

#[derive(Default)]
pub struct SwapOut {
    device: Option<Device>,
    /// Pages offered while there was no device.
    no_device: u64,
}

struct Device {
    swap: SwapDevice,
    /// Slot + 1 of a page, or 0.
    slot_of: Table<u32>,
    /// One past the highest page that ever had a slot.
    top: usize,
    /// Read ends of the pipes whose write ends the children of each fork hold open; without one a child is taken to
    /// live for ever.
    children: Vec<(u32, Option<OwnedFd>)>,
}

impl SwapOut {
    pub fn none() -> SwapOut {
        SwapOut::default()
    }

    /// # Errors
    /// `ENOMEM`.
    pub fn new(swap: SwapDevice, pages: usize) -> Result<SwapOut, Errno> {
        let device = Device { swap, slot_of: Table::new(pages)?, top: 0, children: Vec::new() };
        Ok(SwapOut { device: Some(device), no_device: 0 })
    }

    pub fn exists(&self) -> bool {
        self.device.is_some()
    }

    #[inline]
    pub fn holds(&self, page: usize) -> bool {
        self.device.as_ref().is_some_and(|d| d.slot_of[page] != 0)
    }

    /// Writes pages out; how many of them, from the front, and why not the rest.
    pub fn store(&mut self, pages: &[usize], blobs: &[Blob<'_>]) -> (usize, Option<Reason>) {
        let mut scratch = Table::<Page>::new(64).unwrap();
        for (b, into) in blobs.iter().zip(scratch.iter_mut()) {
            match b {
                Blob::Page(p) => into.copy_from_slice(*p),
                Blob::Packed(b) => assert!(
                    tmem_store::codec::Decoder::new(tmem_store::Dictionaries::new()).unwrap().decode(b, into)
                ),
                Blob::Same(w) => tmem_store::codec::fill(*w, into),
            }
        }
        let mut data = [&tmem_sys::page::ZERO_PAGE.0; 64];
        for i in 0..blobs.len() {
            data[i] = &scratch[i];
        }
        let data = &data[..blobs.len()];
        let Some(device) = &mut self.device else {
            self.no_device += pages.len() as u64;
            return (0, Some(Reason::Unwilling));
        };
        let mut slots = [SwapSlot::NONE; MAX_BATCH];
        let mut batch = device.swap.write_batch(data, &mut slots[..data.len()]);
        if batch.refused == Some(Reason::SwapFull) && device.reap() {
            let rest = batch.stored;
            let again = device.swap.write_batch(&data[rest..], &mut slots[rest..data.len()]);
            batch = tmem_store::Batch { stored: rest + again.stored, refused: again.refused };
        }
        for (page, slot) in pages.iter().zip(&slots[..batch.stored]) {
            device.slot_of[*page] = slot.0 + 1;
            device.top = device.top.max(page + 1);
        }
        (batch.stored, batch.refused)
    }

    /// Reads pages back, from `page` on as many as lie in slots side by side, at most `most`; shows each and answers how
    /// many. None when `page` has no slot.
    pub fn load_run(&mut self, page: usize, most: usize, each: &mut dyn FnMut(usize, &Page)) -> usize {
        let Some(device) = &mut self.device else { return 0 };
        let Some(first) = device.slot_of[page].checked_sub(1) else { return 0 };
        let most = most.min(MAX_RUN).min(device.slot_of.len() - page);
        let beside = |k: &usize| device.slot_of[page + k] == first + 1 + *k as u32;
        let n = 1 + (1..most).take_while(beside).count();
        match device.swap.read_run(SwapSlot(first), n, each) {
            Ok(()) => n,
            Err(tmem_store::SwapFault::Corrupt(_)) => {
                die("a page on the swap device came back changed: its checksum does not match (law 12)")
            }
            Err(tmem_store::SwapFault::Io(..)) => die(
                "a page on the swap device cannot be read back: input/output error or a truncated file (law 12)",
            ),
        }
    }

    /// The page's slot is of no use any more.
    pub fn forget(&mut self, page: usize) {
        if let Some(device) = &mut self.device
            && let Some(slot) = device.slot_of[page].checked_sub(1)
        {
            device.slot_of[page] = 0;
            device.swap.free(SwapSlot(slot));
        }
    }

    /// Gives the memory back that pages without a slot take in the table.
    pub fn discard(&mut self, pages: Range<usize>) {
        if let Some(device) = &mut self.device {
            device.top = device.top.min(pages.start);
            device.slot_of.discard(pages.start * size_of::<u32>()..pages.end * size_of::<u32>());
        }
    }

    /// Bytes of memory the device takes; its pages too where it lies on a file system in memory.
    pub fn memory_bytes(&self) -> usize {
        self.device.as_ref().map_or(0, |d| d.swap.footprint())
    }

    pub fn used(&self) -> usize {
        self.device.as_ref().map_or(0, |d| d.swap.stats().used as usize)
    }

    pub fn cap(&self) -> usize {
        self.device.as_ref().map_or(0, |d| d.swap.stats().cap as usize)
    }

    pub fn traffic(&self) -> (u64, u64) {
        self.device.as_ref().map_or((0, 0), |d| (d.swap.stats().read, d.swap.stats().written))
    }

    pub fn refused(&self, reason: Reason) -> u64 {
        let none = if reason == Reason::Unwilling { self.no_device } else { 0 };
        none + self.device.as_ref().map_or(0, |d| d.swap.stats().refused.get(reason))
    }

    pub fn check(&self) -> Vec<String> {
        let Some(device) = &self.device else { return Vec::new() };
        let mut broken = device.swap.check();
        for (page, &slot) in device.slot_of[..device.top].iter().enumerate().filter(|(_, s)| **s != 0) {
            if !device.swap.holds(SwapSlot(slot - 1)) {
                broken.push(format!("page {page} is noted in slot {}, which holds no page", slot - 1));
            }
        }
        broken
    }

    /// Before a fork: the child's generation, for which the caller makes a pipe. `None` without a device.
    pub fn fork_prepare(&mut self) -> Option<u32> {
        self.device.as_mut().map(|d| d.swap.fork_prepare())
    }

    /// In the parent: `alive` reads end-of-file when the child, and whoever it forked, is gone.
    pub fn fork_parent(&mut self, generation: u32, alive: Option<OwnedFd>) {
        if let Some(device) = &mut self.device {
            device.swap.fork_parent();
            // Known before anybody asks who lives: the child just made would be taken for dead, and its slots rewritten.
            device.children.push((generation, alive));
            // Each child alive costs a descriptor, a dead one must not.
            device.reap();
        }
    }

    /// In the child: inherited slots are read only, and the parent's other children are none of ours.
    pub fn fork_child(&mut self) {
        if let Some(device) = &mut self.device {
            device.swap.fork_child();
            device.children.clear();
        }
    }
}

impl Device {
    /// Frees what only dead children could read; whether anything may have become free.
    fn reap(&mut self) -> bool {
        let before = self.children.len();
        self.children.retain(|(_, fd)| fd.as_ref().is_none_or(tmem_sys::fork::pipe_is_open));
        let children = &self.children;
        self.swap.reap(&mut |generation| children.iter().any(|(g, _)| *g == generation));
        self.children.len() < before
    }
}

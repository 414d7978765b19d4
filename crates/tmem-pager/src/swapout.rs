// SPDX-License-Identifier: Apache-2.0
//! Owns: by which slot of the swap device a page is found. Callers: `evict` (what frontswap refused falls through to here),
//! `fault`, `verbs`. Lock: the pager's. Law 14: a refused page goes to the swap device, and where that refuses too
//! it stays the caller's. Law 12: what cannot be read back ends the process, with a report.

use std::ops::Range;
use std::os::fd::OwnedFd;
use tmem_store::swap::MAX_RUN;
use tmem_store::{Blob, Reason, SwapDevice, SwapSlot, SwapStats};
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

    /// Writes pages out, each as its blob says, at most [`MAX_BATCH`]; how many of them, from the front, and why not the rest.
    pub fn store(&mut self, pages: &[usize], blobs: &[Blob<'_>]) -> (usize, Option<Reason>) {
        let Some(device) = &mut self.device else {
            self.no_device += pages.len() as u64;
            return (0, Some(Reason::Unwilling));
        };
        let mut slots = [SwapSlot::NONE; MAX_BATCH];
        let mut batch = device.swap.write_batch(blobs, &mut slots[..blobs.len()]);
        if batch.refused == Some(Reason::SwapFull) && device.reap() {
            let rest = batch.stored;
            let again = device.swap.write_batch(&blobs[rest..], &mut slots[rest..blobs.len()]);
            batch = tmem_store::Batch { stored: rest + again.stored, refused: again.refused };
        }
        for (page, slot) in pages.iter().zip(&slots[..batch.stored]) {
            device.slot_of[*page] = slot.0 + 1;
            device.top = device.top.max(page + 1);
        }
        (batch.stored, batch.refused)
    }

    /// Reads pages back, from `page` on as many as one read of the device finds, at most `most`; shows each and answers how
    /// many. None when `page` has no slot.
    pub fn load_run(&mut self, page: usize, most: usize, each: &mut dyn FnMut(usize, &Page)) -> usize {
        let Some(device) = &mut self.device else { return 0 };
        let mut slots = [SwapSlot::NONE; MAX_RUN];
        let most = most.min(MAX_RUN).min(device.slot_of.len() - page);
        let mut n = 0;
        while n < most
            && let Some(slot) = device.slot_of[page + n].checked_sub(1)
        {
            slots[n] = SwapSlot(slot);
            n += 1;
        }
        match device.swap.read_run(&slots[..n], each) {
            Ok(n) => n,
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
            if pages.end >= device.top {
                device.top = device.top.min(pages.start);
            }
            device.slot_of.discard(pages.start * size_of::<u32>()..pages.end * size_of::<u32>());
        }
    }

    /// Bytes of memory the device takes; its pages too where it lies on a file system in memory.
    pub fn memory_bytes(&self) -> usize {
        self.device.as_ref().map_or(0, |d| d.swap.footprint())
    }

    /// All zeros without a device.
    pub fn stats(&self) -> SwapStats {
        self.device.as_ref().map_or_else(SwapStats::default, |d| d.swap.stats())
    }

    pub fn refused(&self, reason: Reason) -> u64 {
        let none = if reason == Reason::Unwilling { self.no_device } else { 0 };
        none + self.device.as_ref().map_or(0, |d| d.swap.refused().get(reason))
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

#[cfg(test)]
mod tests {
    use super::*;
    use tmem_store::SwapConfig;
    use tmem_store::codec::{Codec, Coded};

    fn text(n: usize) -> Page {
        std::array::from_fn(|i| (i / 16 * (n + 1)) as u8)
    }

    fn noise(n: usize) -> Page {
        let mut x = n as u64 | 1;
        std::array::from_fn(|_| {
            x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (x >> 56) as u8
        })
    }

    /// A word, what a codec made of a page, a page: by turns.
    fn put(out: &mut SwapOut, page: usize) {
        let mut codec = Codec::new().unwrap();
        let (packed, plain) = (text(page), noise(page));
        let blob = match (page % 3, codec.encode(&packed, true)) {
            (0, _) => Blob::Same(page as u64),
            (1, Coded::Packed(bytes)) => Blob::Packed(bytes),
            _ => Blob::Page(&plain),
        };
        assert_eq!(out.store(&[page], &[blob]), (1, None));
    }

    fn expected(page: usize) -> Page {
        match page % 3 {
            0 => std::array::from_fn(|i| (page as u64).to_ne_bytes()[i % 8]),
            1 => text(page),
            _ => noise(page),
        }
    }

    #[test]
    fn pages_come_back_whole_in_whatever_form_they_left() {
        let config = SwapConfig { dir: std::env::temp_dir(), cap_pages: 256, allow_memory: true };
        let mut out = SwapOut::new(SwapDevice::new(&config).unwrap(), 100).unwrap();
        (0..90).for_each(|page| put(&mut out, page));
        out.forget(70);
        let (mut at, mut seen) = (0, Vec::new());
        while at < 100 {
            let n = out.load_run(at, 100, &mut |k, page| {
                assert!(*page == expected(at + k), "page {}", at + k);
                seen.push(at + k);
            });
            at += n.max(1);
        }
        assert!(seen.iter().copied().eq((0..90).filter(|page| *page != 70)));
        assert_eq!(out.stats().used, 89);
        assert!(out.stats().reads < 45, "neighbours are read together: {} reads", out.stats().reads);
        assert_eq!(out.check(), Vec::<String>::new());
        assert_eq!(SwapOut::none().store(&[1], &[Blob::Same(0)]), (0, Some(Reason::Unwilling)));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the swap device, where pages go that the store refused or has no room for: blobs one after another in an
//! unnamed file, written many at a time, capped, checksummed. Callers: the pager's frontswap hook, which keeps the slot
//! of each page. Locks: the pager's. Laws: 12, a page that comes back is the page that left, or an error; 14, a refused
//! write leaves the page with the caller; 15, what a forked child may read is not written again while it lives
//! (`swapfork`).
//!
//! Pages pass through a buffer of the device in both directions: direct I/O wants aligned memory, the checksum must be
//! of the bytes that are written even if the page changes meanwhile, and a failed read must not touch its target.

use crate::codec::Dictionaries;
use crate::ops::{Blob, Reason};
use crate::page_bytes;
use crate::stats::{Refusals, SwapStats};
pub use crate::swapanswer::{MAX_CAP, SwapFault, SwapOpenError, SwapSlot};
use crate::swapanswer::{is_full, refusal_of};
use crate::swapblob::Place;
use crate::swapfork::Children;
use crate::swaplevel::{Desk, Level, Work};
use crate::swapmap::CLUSTER;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tmem_sys::file::SwapDir;
use tmem_sys::{Errno, PAGE_SIZE, Page};

/// Files that one device can have: forks nest this deep while inherited pages live.
const LEVELS: usize = 16;
/// Pages of one read.
pub const MAX_RUN: usize = 64;
/// Blocks read in vain rather than by a system call of their own.
const GAP: usize = 4;

#[derive(Clone, Debug)]
pub struct SwapConfig {
    pub dir: PathBuf,
    /// Pages the file may hold as they are, at most [`MAX_CAP`]; it holds more that are packed.
    pub cap_pages: u64,
    /// Take a directory on tmpfs too.
    pub allow_memory: bool,
}

/// What became of a batch: the first `stored` pages have slots; the rest stay the caller's, for the reason given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Batch {
    pub stored: usize,
    pub refused: Option<Reason>,
}

pub struct SwapDevice {
    dir: SwapDir,
    cap: u64,
    levels: [Option<Level>; LEVELS],
    /// The level that is written; `None` in a forked child that has written nothing yet.
    own: Option<usize>,
    children: Children,
    desk: Desk,
    counts: SwapStats,
}

impl SwapDevice {
    /// Makes the file, so that a directory that cannot serve is known now.
    ///
    /// # Errors
    /// [`SwapOpenError`].
    pub fn new(config: &SwapConfig) -> Result<SwapDevice, SwapOpenError> {
        SwapDevice::sharing(config, Dictionaries::new())
    }

    /// As [`SwapDevice::new`], for pages that may be packed with these dictionaries.
    ///
    /// # Errors
    /// [`SwapOpenError`].
    pub fn sharing(
        config: &SwapConfig,
        dictionaries: Arc<Dictionaries>,
    ) -> Result<SwapDevice, SwapOpenError> {
        let mut device = SwapDevice {
            dir: SwapDir::open(&config.dir)?,
            cap: config.cap_pages.min(MAX_CAP),
            levels: [const { None }; LEVELS],
            own: None,
            children: Children::new()?,
            desk: Desk::new(dictionaries)?,
            counts: SwapStats::default(),
        };
        device.own_level()?;
        let in_memory = device.levels[0].as_ref().is_some_and(|l| l.file.in_memory());
        if in_memory && !config.allow_memory { Err(SwapOpenError::InMemory) } else { Ok(device) }
    }

    /// Writes pages, one after another where there is room; `slots` must be as long as `blobs`.
    /// When this ends in `SwapFull` while pages are in limbo, [`SwapDevice::reap`] may make room.
    pub fn write_batch(&mut self, blobs: &[Blob<'_>], slots: &mut [SwapSlot]) -> Batch {
        debug_assert_eq!(blobs.len(), slots.len());
        if let Some(level) = self.own.and_then(|n| self.levels[n].as_mut()) {
            level.map.tick();
        }
        let mut stored = 0;
        while stored < blobs.len() {
            match self.write_run(&blobs[stored..], &mut slots[stored..]) {
                Ok(n) => stored += n,
                Err(reason) => {
                    self.counts.refused.add(reason, (blobs.len() - stored) as u64);
                    return Batch { stored, refused: Some(reason) };
                }
            }
        }
        Batch { stored, refused: None }
    }

    /// Writes one page as it is.
    ///
    /// # Errors
    /// The reason of a refusal: the page stays the caller's.
    pub fn write(&mut self, page: &Page) -> Result<SwapSlot, Reason> {
        let mut slot = [SwapSlot::NONE];
        match self.write_batch(&[Blob::Page(page)], &mut slot).refused {
            None => Ok(slot[0]),
            Some(reason) => Err(reason),
        }
    }

    fn write_run(&mut self, blobs: &[Blob<'_>], slots: &mut [SwapSlot]) -> Result<usize, Reason> {
        let number = self.own_level().map_err(|_| Reason::SwapError)?;
        let SwapDevice { levels, desk, children, counts, .. } = self;
        let level = levels[number].as_mut().ok_or(Reason::SwapError)?;
        let (n, len, start) = loop {
            let bytes: usize = blobs.iter().map(|blob| blob.bytes().len()).sum();
            let want = bytes.div_ceil(PAGE_SIZE).min(CLUSTER);
            let room = if want > 0 { level.room(want, &mut Work { desk, children, counts }) } else { None };
            let room = room.unwrap_or_default();
            let (n, len) = copy_in(desk, &blobs[..blobs.len().min(level.records.left())], room.len())?;
            if len == 0 {
                break (n, len, 0);
            }
            match level.write(room.start, len, desk) {
                Ok(()) => break (n, len, room.start),
                Err(errno) => {
                    level.map.drop_head();
                    // What was freed below may still be written where the file cannot grow.
                    if is_full(errno) && level.map.stop_growing(&room) {
                        continue;
                    }
                    counts.io_errors += u64::from(!is_full(errno));
                    return Err(refusal_of(errno));
                }
            }
        };
        let (mut at, mut before) = (0, None);
        for (blob, slot) in blobs[..n].iter().zip(slots) {
            let size = blob.bytes().len();
            let filled = if let Blob::Same(word) = blob {
                level.fill(Place::SAME, *word, children.generation, None)
            } else {
                let sum = desk.sum(&desk.buffer.as_flattened()[at..at + size]);
                let place = Place::new(start * PAGE_SIZE + at, size);
                *before.insert(level.fill(place, sum, children.generation, before))
            };
            *slot = SwapSlot::new(number, filled);
            at += size;
        }
        counts.written += n as u64;
        counts.written_bytes += len as u64;
        counts.device_bytes += len.next_multiple_of(PAGE_SIZE) as u64;
        Ok(n)
    }

    /// Reads a page back. On an error the target is untouched.
    ///
    /// # Errors
    /// [`SwapFault`]: the page is lost, the program must stop.
    pub fn read(&mut self, slot: SwapSlot, into: &mut Page) -> Result<(), SwapFault> {
        self.read_run(&[slot], &mut |_, page| into.copy_from_slice(page)).map(|_| ())
    }

    /// Reads the first page, and those after it that one system call reads with it; at most [`MAX_RUN`]. Shows each once
    /// all were found to be right; how many.
    ///
    /// # Errors
    /// [`SwapFault`] of the first bad slot; then none was shown, unless a codec cannot read what it wrote.
    pub fn read_run(
        &mut self,
        slots: &[SwapSlot],
        each: &mut dyn FnMut(usize, &Page),
    ) -> Result<usize, SwapFault> {
        let done = self.show_run(slots, each);
        match done {
            Ok(n) => self.counts.read += n as u64,
            Err(SwapFault::Corrupt(_)) => self.counts.corrupt += 1,
            Err(SwapFault::Io(..)) => self.counts.io_errors += 1,
        }
        done
    }

    fn show_run(
        &mut self,
        slots: &[SwapSlot],
        each: &mut dyn FnMut(usize, &Page),
    ) -> Result<usize, SwapFault> {
        let Some(&first) = slots.first() else { return Ok(0) };
        let (n, blocks) = self.reach(slots);
        let level = self.levels[first.level()].as_ref().filter(|_| n > 0).ok_or(SwapFault::Corrupt(first))?;
        if !blocks.is_empty() {
            let into = &mut self.desk.buffer[..blocks.len()];
            level.file.read_at(blocks.start as u64, into).map_err(|errno| SwapFault::Io(first, errno))?;
            self.counts.reads += 1;
        }
        let (desk, slots) = (&mut self.desk, &slots[..n]);
        if let Some(wrong) = slots.iter().find(|slot| !level.is_right(slot.index(), blocks.start, desk)) {
            return Err(SwapFault::Corrupt(*wrong));
        }
        for (i, slot) in slots.iter().enumerate() {
            let page = level.page(slot.index(), blocks.start, desk).ok_or(SwapFault::Corrupt(*slot))?;
            each(i, page);
        }
        Ok(n)
    }

    /// How many pages, from the first on, lie within one read, and in which blocks. None where the first is no page.
    fn reach(&self, slots: &[SwapSlot]) -> (usize, Range<usize>) {
        let mut span = 0..0;
        let mut n = 0;
        for slot in &slots[..slots.len().min(MAX_RUN)] {
            let level = self.levels[slot.level()].as_ref().filter(|_| slot.level() == slots[0].level());
            let Some(level) = level.filter(|l| l.records.holds(slot.index())) else { break };
            let own = level.records.place(slot.index()).blocks();
            if !own.is_empty() {
                let all = if span.is_empty() {
                    own.clone()
                } else {
                    own.start.min(span.start)..own.end.max(span.end)
                };
                let enough = span.is_empty() || all.len() <= span.len() + own.len() + GAP;
                if all.len() > CLUSTER || !enough {
                    break;
                }
                span = all;
            }
            n += 1;
        }
        (n, span)
    }

    /// Whether a slot holds a page of this process.
    pub fn holds(&self, slot: SwapSlot) -> bool {
        self.levels[slot.level()].as_ref().is_some_and(|l| l.records.holds(slot.index()))
    }

    /// Forgets a page; nothing happens when the slot holds none.
    pub fn free(&mut self, slot: SwapSlot) {
        let number = slot.level();
        if let Some(level) = self.levels[number].as_mut().filter(|l| l.records.holds(slot.index())) {
            level.free(slot.index(), &self.children);
            if level.read_only && level.records.used == 0 {
                self.levels[number] = None;
            }
        }
    }

    /// Gives the disk space of freed blocks back. Slow: not for the fault path.
    pub fn trim(&mut self) {
        if let Some(level) = self.own.and_then(|n| self.levels[n].as_mut()) {
            level.punch_free();
        }
    }

    /// Before a fork, under the lock: the number by which [`SwapDevice::reap`] will ask for the child.
    pub fn fork_prepare(&mut self) -> u32 {
        self.children.prepare()
    }

    /// After the fork, in the parent; also when the fork failed.
    pub fn fork_parent(&mut self) {
        self.children.born();
    }

    /// After the fork, in the child: inherited files are read-only from now on, the first write makes a new one.
    pub fn fork_child(&mut self) {
        self.children.forget();
        self.own = None;
        for level in &mut self.levels {
            if let Some(inherited) = level {
                inherited.inherit();
                if inherited.records.used == 0 {
                    *level = None;
                }
            }
        }
    }

    /// Asks which children still live, and frees what only dead ones could read. A child lives while its
    /// pipe, which its own descendants inherit, has not reached its end.
    pub fn reap(&mut self, child_alive: &mut dyn FnMut(u32) -> bool) {
        if self.children.reap(child_alive)
            && let Some(level) = self.own.and_then(|n| self.levels[n].as_mut())
        {
            level.leave_limbo(&self.children);
        }
    }

    /// Whether the file passes the page cache by; `None` when no file is open.
    pub fn is_direct(&self) -> Option<bool> {
        self.levels.iter().flatten().next().map(|l| l.file.is_direct())
    }

    /// Whether the device is itself memory, and its pages count in the RAM budget.
    pub fn in_memory(&self) -> bool {
        self.levels.iter().flatten().any(|l| l.file.in_memory())
    }

    /// Bytes of memory taken; what is on the device too where that is memory.
    pub fn footprint(&self) -> usize {
        let levels = || self.levels.iter().flatten();
        let tables: usize = levels().map(|l| l.footprint(self.children.generation)).sum();
        let in_memory = levels().filter(|l| l.file.in_memory());
        let blocks: usize = in_memory.map(|l| l.map.busy_blocks()).sum();
        tables + blocks * PAGE_SIZE + Desk::FOOTPRINT + page_bytes(size_of::<u32>())
    }

    pub fn stats(&self) -> SwapStats {
        let levels = || self.levels.iter().flatten();
        SwapStats {
            cap: self.cap,
            used: levels().map(|l| l.records.used as u64).sum(),
            used_bytes: levels().map(|l| l.map.held_bytes as u64).sum(),
            file_bytes: levels().filter(|l| !l.read_only).map(|l| (l.map.written() * PAGE_SIZE) as u64).sum(),
            limbo: levels().map(|l| l.records.in_limbo as u64).sum(),
            levels: levels().count() as u32,
            footprint_bytes: self.footprint() as u64,
            ..self.counts
        }
    }

    /// The reasons of refused writes, counted.
    pub fn refused(&self) -> &Refusals {
        &self.counts.refused
    }

    /// Describes each broken law of the slot tables; empty when all is well. Contents are not read.
    pub fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (number, level) in self.levels.iter().enumerate() {
            if let Some(level) = level {
                level.check(number, &mut broken);
                if level.read_only == (self.own == Some(number)) {
                    broken.push(format!("swap level {number}: read-only and written, or neither"));
                }
            }
        }
        broken
    }

    /// The file of a slot by its descriptor, and the bytes of it that the slot takes: for tests that damage them.
    pub fn place_of(&self, slot: SwapSlot) -> Option<(i32, Range<u64>)> {
        let level = self.levels[slot.level()].as_ref()?;
        let place = level.records.place(slot.index());
        Some((level.file.fd(), place.start() as u64..(place.start() + place.len()) as u64))
    }

    /// The level that is written; makes its file if there is none.
    fn own_level(&mut self) -> Result<usize, Errno> {
        if let Some(number) = self.own {
            return Ok(number);
        }
        let number = self.levels.iter().position(Option::is_none).ok_or(Errno::ENOSPC)?;
        self.levels[number] = Some(Level::create(&self.dir, self.cap as usize, MAX_CAP as usize)?);
        self.own = Some(number);
        Ok(number)
    }

    #[cfg(test)]
    pub(crate) fn break_count(&mut self) {
        self.levels[0].as_mut().unwrap().records.break_count();
    }
}

/// Copies blobs one after another to the buffer, as many as find room in so many blocks. How many, and how many bytes.
fn copy_in(desk: &mut Desk, blobs: &[Blob<'_>], blocks: usize) -> Result<(usize, usize), Reason> {
    let room = &mut desk.buffer.as_flattened_mut()[..blocks.min(CLUSTER) * PAGE_SIZE];
    let (mut n, mut len) = (0, 0);
    for blob in blobs {
        let bytes = blob.bytes();
        if !blob.is_sound() || len + bytes.len() > room.len() {
            break;
        }
        room[len..len + bytes.len()].copy_from_slice(bytes);
        len += bytes.len();
        n += 1;
    }
    match blobs.first() {
        Some(first) if n == 0 && !first.is_sound() => Err(Reason::Incompressible),
        _ if n == 0 => Err(Reason::SwapFull),
        _ => Ok((n, len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_convicts_a_wrong_count() {
        let config = SwapConfig { dir: std::env::temp_dir(), cap_pages: 8, allow_memory: true };
        let mut device = SwapDevice::new(&config).unwrap();
        device.write(&[1; PAGE_SIZE]).unwrap();
        assert!(device.check().is_empty());
        device.break_count();
        assert!(!device.check().is_empty());
    }
}

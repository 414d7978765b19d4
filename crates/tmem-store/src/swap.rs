// SPDX-License-Identifier: Apache-2.0
//! Owns: the swap device, where pages go that the store refused: slots of an unnamed file, capped, checksummed.
//! Callers: the pager's frontswap hook, which keeps the slot of each page. Locks: the pager's.
//! Laws: 12, a page that comes back is the page that left, or an error; 14, a refused write leaves the page with the
//! caller; 15, slots that a forked child may read are not written again while it lives (see `swapfork`).
//!
//! Pages pass through a buffer of the device in both directions: direct I/O wants aligned memory, the checksum must be
//! of the bytes that are written even if the page changes meanwhile, and a failed read must not touch its target.

use crate::ops::Reason;
use crate::page_bytes;
use crate::stats::{Refusals, SwapStats};
pub use crate::swapanswer::{MAX_CAP, SwapFault, SwapOpenError, SwapSlot};
use crate::swapfork::Children;
use crate::swaplevel::Level;
use std::path::PathBuf;
use tmem_sys::file::SwapDir;
use tmem_sys::{Errno, PAGE_SIZE, Page, Table};
use xxhash_rust::xxh3::xxh3_64_with_secret;

/// Files that one device can have: forks nest this deep while inherited pages live.
const LEVELS: usize = 16;
/// Pages of one system call.
pub const MAX_RUN: usize = 64;
const SECRET_LEN: usize = 192;

#[derive(Clone, Debug)]
pub struct SwapConfig {
    pub dir: PathBuf,
    /// Pages the file may hold, at most [`MAX_CAP`].
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
    buffer: Table<Page>,
    secret: [u8; SECRET_LEN],
    counts: SwapStats,
}

impl SwapDevice {
    /// Makes the file, so that a directory that cannot serve is known now.
    ///
    /// # Errors
    /// [`SwapOpenError`].
    pub fn new(config: &SwapConfig) -> Result<SwapDevice, SwapOpenError> {
        let mut secret = [0; SECRET_LEN];
        tmem_sys::random::random_bytes(&mut secret)?;
        let mut device = SwapDevice {
            dir: SwapDir::open(&config.dir)?,
            cap: config.cap_pages.min(MAX_CAP),
            levels: [const { None }; LEVELS],
            own: None,
            children: Children::new()?,
            buffer: Table::new(MAX_RUN)?,
            secret,
            counts: SwapStats::default(),
        };
        device.own_level()?;
        let in_memory = device.levels[0].as_ref().is_some_and(|l| l.file.in_memory());
        if in_memory && !config.allow_memory { Err(SwapOpenError::InMemory) } else { Ok(device) }
    }

    /// Writes pages to slots, next to one another where there is room; `slots` must be as long as `pages`.
    /// When this ends in `SwapFull` while pages are in limbo, [`SwapDevice::reap`] may make room.
    pub fn write_batch(&mut self, pages: &[&Page], slots: &mut [SwapSlot]) -> Batch {
        debug_assert_eq!(pages.len(), slots.len());
        let mut stored = 0;
        while stored < pages.len() {
            match self.write_run(&pages[stored..], &mut slots[stored..]) {
                Ok(n) => stored += n,
                Err(reason) => {
                    self.counts.refused.add(reason, (pages.len() - stored) as u64);
                    return Batch { stored, refused: Some(reason) };
                }
            }
        }
        Batch { stored, refused: None }
    }

    /// Writes one page.
    ///
    /// # Errors
    /// The reason of a refusal: the page stays the caller's.
    pub fn write(&mut self, page: &Page) -> Result<SwapSlot, Reason> {
        let mut slot = [SwapSlot::NONE];
        match self.write_batch(&[page], &mut slot).refused {
            None => Ok(slot[0]),
            Some(reason) => Err(reason),
        }
    }

    fn write_run(&mut self, pages: &[&Page], slots: &mut [SwapSlot]) -> Result<usize, Reason> {
        let number = self.own_level().map_err(|_| Reason::SwapError)?;
        let SwapDevice { levels, buffer, secret, children, counts, .. } = self;
        let level = levels[number].as_mut().ok_or(Reason::SwapError)?;
        let (start, len) = level.find_run(pages.len().min(MAX_RUN)).ok_or(Reason::SwapFull)?;
        for (copy, page) in buffer.iter_mut().zip(&pages[..len]) {
            copy.copy_from_slice(*page);
        }
        level.write(start, &buffer[..len]).map_err(|errno| {
            counts.io_errors += u64::from(refusal_of(errno) == Reason::SwapError);
            refusal_of(errno)
        })?;
        for (i, slot) in slots[..len].iter_mut().enumerate() {
            level.fill(start + i, xxh3_64_with_secret(&buffer[i], secret), children.generation);
            *slot = SwapSlot::new(number, start + i);
        }
        counts.written += len as u64;
        Ok(len)
    }

    /// Reads a page back. On an error the target is untouched.
    ///
    /// # Errors
    /// [`SwapFault`]: the page is lost, the program must stop.
    pub fn read(&mut self, slot: SwapSlot, into: &mut Page) -> Result<(), SwapFault> {
        self.read_run(slot, 1, &mut |_, page| into.copy_from_slice(page))
    }

    /// Reads `count` (at most [`MAX_RUN`]) pages from slots that follow one another, and shows each once all were
    /// found to be right.
    ///
    /// # Errors
    /// [`SwapFault`] of the first bad slot; then none was shown.
    pub fn read_run(
        &mut self,
        first: SwapSlot,
        count: usize,
        each: &mut dyn FnMut(usize, &Page),
    ) -> Result<(), SwapFault> {
        let done = self.fill_buffer(first, count);
        match done {
            Ok(()) => {
                self.counts.read += count as u64;
                self.buffer[..count].iter().enumerate().for_each(|(i, page)| each(i, page));
            }
            Err(SwapFault::Corrupt(_)) => self.counts.corrupt += 1,
            Err(SwapFault::Io(..)) => self.counts.io_errors += 1,
        }
        done
    }

    fn fill_buffer(&mut self, first: SwapSlot, count: usize) -> Result<(), SwapFault> {
        let level = self.levels[first.level()].as_ref().ok_or(SwapFault::Corrupt(first))?;
        let slot_at = |i| SwapSlot::new(first.level(), first.index() + i);
        let buffer = self.buffer.get_mut(..count).ok_or(SwapFault::Corrupt(first))?;
        if let Some(i) = (0..count).find(|i| !level.holds(first.index() + i)) {
            return Err(SwapFault::Corrupt(slot_at(i)));
        }
        level.read(first.index(), buffer).map_err(|errno| SwapFault::Io(first, errno))?;
        let wrong =
            |i: &usize| xxh3_64_with_secret(&buffer[*i], &self.secret) != level.checksum(first.index() + i);
        (0..count).find(wrong).map_or(Ok(()), |i| Err(SwapFault::Corrupt(slot_at(i))))
    }

    /// Whether a slot holds a page of this process.
    pub fn holds(&self, slot: SwapSlot) -> bool {
        self.levels[slot.level()].as_ref().is_some_and(|l| l.holds(slot.index()))
    }

    /// Forgets a page; nothing happens when the slot holds none.
    pub fn free(&mut self, slot: SwapSlot) {
        let number = slot.level();
        if let Some(level) = self.levels[number].as_mut().filter(|l| l.holds(slot.index())) {
            level.free(slot.index(), &self.children);
            if level.read_only && level.used == 0 {
                self.levels[number] = None;
            }
        }
    }

    /// Gives the disk space of freed slots back. Slow: not for the fault path.
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
                if inherited.used == 0 {
                    *level = None;
                }
            }
        }
    }

    /// Asks which children still live, and frees the slots that only dead ones could read. A child lives while its
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

    /// Bytes of memory taken; the pages on the device too where that is memory.
    pub fn footprint(&self) -> usize {
        let tables: usize = self.levels.iter().flatten().map(Level::footprint).sum();
        let in_memory = self.levels.iter().flatten().filter(|l| l.file.in_memory());
        let pages: usize = in_memory.map(|l| (l.used + l.in_limbo) * PAGE_SIZE).sum();
        tables + pages + MAX_RUN * PAGE_SIZE + page_bytes(size_of::<u32>())
    }

    pub fn stats(&self) -> SwapStats {
        let levels = || self.levels.iter().flatten();
        SwapStats {
            cap: self.cap,
            used: levels().map(|l| l.used as u64).sum(),
            limbo: levels().map(|l| l.in_limbo as u64).sum(),
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

    /// The descriptor of a slot's file, for tests that damage it.
    pub fn fd_of(&self, slot: SwapSlot) -> Option<i32> {
        self.levels[slot.level()].as_ref().map(|l| l.file.fd())
    }

    /// The level that is written; makes its file if there is none.
    fn own_level(&mut self) -> Result<usize, Errno> {
        if let Some(number) = self.own {
            return Ok(number);
        }
        let number = self.levels.iter().position(Option::is_none).ok_or(Errno::ENOSPC)?;
        self.levels[number] = Some(Level::create(&self.dir, self.cap as usize)?);
        self.own = Some(number);
        Ok(number)
    }

    #[cfg(test)]
    pub(crate) fn break_count(&mut self) {
        self.levels[0].as_mut().unwrap().break_count();
    }
}

/// What a failed write says to whoever offered the page.
fn refusal_of(errno: Errno) -> Reason {
    // EDQUOT and EFBIG: the file system is full for us.
    if errno == Errno::ENOSPC || matches!(errno.name(), "EDQUOT" | "EFBIG") {
        Reason::SwapFull
    } else {
        Reason::SwapError
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_become_reasons() {
        assert_eq!(refusal_of(Errno::ENOSPC), Reason::SwapFull);
        assert_eq!(refusal_of(Errno(122)), Reason::SwapFull);
        assert_eq!(refusal_of(Errno::EIO), Reason::SwapError);
    }

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

// SPDX-License-Identifier: Apache-2.0
//! Owns: the windows of a slab: where extents that were taken on lease are mapped over it, above its private chunks, and when more
//! are asked for. Callers: `slab` when it needs a chunk, `vacate` when extents are to go, the pager around a fork. Locks: the
//! store's. Law 5: a window goes only when it is empty. Law 15: a forked child has none; what was in them is its own there.

mod fork;
mod giving;

use crate::class::{CHUNK, class_of};
use crate::lease::{Extent, Mailbox, host_id};
use crate::page_bytes;
use crate::slab::{Loc, Slab};
use crate::sums::Sums;
use std::ops::Range;
use std::sync::Arc;
use tmem_sys::overlay::{UNIT, Watch};
use tmem_sys::{Errno, Table, time};

/// Chunks of a unit.
const CHUNKS: usize = UNIT / CHUNK;
/// What an extent is taken to have before the first has come.
const USUAL_CHUNKS: usize = (4 << 20) / CHUNK;
/// A store asks for its first extent when its private chunks take so many.
const FIRST: usize = 8;
/// Where extents are filled faster than this, more are asked for at once, up to so many.
const FAST_NS: u64 = 100_000_000;
const MOST_AHEAD: u32 = 8;
/// How long a put waits for an extent that is under way, and where a page that is refused has no place at all.
const WAIT_MS: u64 = 20;
const PATIENT_WAIT_MS: u64 = 200;

/// Each window is a mapping, of which the pager needs many, and the program some: a quarter of those that a process usually has.
const MOST: usize = 16 << 10;

/// What is done with a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Filled,
    /// It is to be given back: no slot of it is given out.
    Given,
    /// The host does not know it any more.
    Lost,
    /// The host has cut it off: what is in it is gone, and whoever asks for it learns so.
    Cut,
}

struct Window {
    /// `None` in a forked child: the memory is the process's own, and only emptied.
    extent: Option<Extent>,
    chunks: Range<usize>,
    /// Chunks with pages.
    used: usize,
    what: Use,
}

impl Window {
    fn bytes(&self) -> Range<usize> {
        self.chunks.start * CHUNK..self.chunks.end * CHUNK
    }
}

pub(crate) struct Windows {
    all: Vec<Window>,
    /// By unit: the number of its window, plus one.
    units: Table<u32>,
    /// Windows that there may be.
    most: usize,
    watch: Watch,
    pub(crate) sums: Sums,
    /// The first chunk that a window can have.
    first: usize,
    mailbox: Option<Arc<Mailbox>>,
    /// Units that windows have, and those of leased memory; no unit from `top` on ever had one.
    taken: usize,
    leased: usize,
    top: usize,
    /// Chunks of the extent that came last.
    extent_chunks: usize,
    ahead: u32,
    asked_ns: u64,
    wait_ms: u64,
    /// They are inherited by the fork that is under way.
    inherited: bool,
}

impl Windows {
    /// For a table whose chunks from `first` on are places for leased memory.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(bytes: &Table<u8>, first: usize) -> Result<Box<Windows>, Errno> {
        let part = first * CHUNK..bytes.len();
        let units = part.len() / UNIT;
        Ok(Box::new(Windows {
            // None is added on the path of a page that has no place yet.
            all: Vec::with_capacity(units),
            units: Table::new(units)?,
            most: MOST,
            watch: Watch::new(bytes, part)?,
            sums: Sums::new(first..first + units * CHUNKS)?,
            first,
            mailbox: None,
            taken: 0,
            leased: 0,
            top: 0,
            extent_chunks: USUAL_CHUNKS,
            ahead: 1,
            asked_ns: 0,
            wait_ms: WAIT_MS,
            inherited: false,
        }))
    }

    fn units_of(&self, chunks: &Range<usize>) -> Range<usize> {
        (chunks.start - self.first) / CHUNKS..(chunks.end - self.first) / CHUNKS
    }

    fn at(&self, chunk: usize) -> Option<usize> {
        let number = *self.units.get((chunk.checked_sub(self.first)?) / CHUNKS)?;
        (number as usize).checked_sub(1)
    }

    fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Room for an extent of so many chunks.
    fn find_room(&self, chunks: usize) -> Option<Range<usize>> {
        let (want, mut run) = (chunks / CHUNKS, 0);
        if self.units.len() - self.taken < want || self.all.len() >= self.most {
            return None;
        }
        for (unit, number) in self.units.iter().enumerate() {
            run = if *number == 0 { run + 1 } else { 0 };
            if run == want && want > 0 {
                let start = self.first + (unit + 1 - want) * CHUNKS;
                return Some(start..start + chunks);
            }
        }
        None
    }

    fn add(&mut self, extent: Extent, chunks: Range<usize>) {
        let units = self.units_of(&chunks);
        // By the number that the operator knows.
        self.watch.set_id(units.clone(), host_id(extent.id));
        self.taken += units.len();
        self.leased += units.len();
        self.top = self.top.max(units.end);
        self.units[units].fill(self.all.len() as u32 + 1);
        self.extent_chunks = chunks.len();
        self.all.push(Window { extent: Some(extent), chunks, used: 0, what: Use::Filled });
    }

    fn remove(&mut self, number: usize) -> Window {
        let window = self.all.swap_remove(number);
        let units = self.units_of(&window.chunks);
        self.watch.set_id(units.clone(), 0);
        self.taken -= units.len();
        self.sums.forget(window.chunks.clone());
        self.leased -= if window.extent.is_some() { units.len() } else { 0 };
        self.units[units].fill(0);
        if self.all.is_empty() {
            // As before the first came.
            self.units.discard(0..self.top * size_of::<u32>());
            self.watch.reset(self.top);
            self.sums.reset();
            self.top = 0;
        }
        if let Some(moved) = self.all.get(number) {
            let units = self.units_of(&moved.chunks);
            self.units[units].fill(number as u32 + 1);
        }
        window
    }

    /// Bytes of memory taken beside the extents.
    fn footprint(&self) -> usize {
        // No more windows than units, and those with a mapping were all written by the last.
        page_bytes(self.top * size_of::<Window>())
            + page_bytes(self.top * size_of::<u32>())
            + page_bytes(self.top * size_of::<u64>())
    }

    /// How many to ask for: more where the last were filled fast.
    fn ask_ahead(&mut self) -> u32 {
        let now = time::now_ns();
        let fast = now - self.asked_ns < FAST_NS;
        self.asked_ns = now;
        self.ahead = if fast { (self.ahead * 2).min(MOST_AHEAD) } else { 1 };
        self.ahead
    }
}

impl Slab {
    /// From now on extents are taken from this mailbox, and asked for in it. False where the slab has no place for them.
    pub fn set_mailbox(&mut self, mailbox: Option<Arc<Mailbox>>) -> bool {
        let Some(windows) = &mut self.windows else { return false };
        if let Some(before) = std::mem::replace(&mut windows.mailbox, mailbox) {
            before.want(0);
        }
        true
    }

    pub fn mailbox(&self) -> Option<&Arc<Mailbox>> {
        self.windows.as_ref()?.mailbox.as_ref()
    }

    /// A leased chunk with a free slot of a class.
    pub(crate) fn leased_chunk(&mut self, class: usize) -> Option<usize> {
        if self.chunks.leased.mapped == 0 {
            return None;
        }
        let chunk = self.chunks.partial_leased(class);
        if chunk.is_some() {
            return chunk;
        }
        let chunk = self.chunks.open_leased(class)?;
        if let Some(windows) = &mut self.windows
            && let Some(number) = windows.at(chunk)
        {
            windows.all[number].used += 1;
        }
        Some(chunk)
    }

    /// As [`Slab::store`], in leased memory alone.
    #[cold]
    pub fn store_leased(&mut self, data: &[u8]) -> Option<Loc> {
        let (class, idle) = (class_of(data.len()), self.chunks.leased.idle);
        let mut chunk = self.leased_chunk(class);
        if chunk.is_none() && self.take_lease() {
            chunk = self.leased_chunk(class);
        }
        if self.chunks.leased.idle != idle {
            self.look_ahead();
        }
        self.store_at(chunk?, data)
    }

    /// As [`PageStore::has_lease_room`](crate::PageStore::has_lease_room).
    pub fn has_lease_room(&mut self) -> bool {
        if self.chunks.leased.idle == 0 {
            self.look_ahead();
        }
        self.chunks.leased.idle > 0
    }

    pub fn set_patience(&mut self, has_other_place: bool) {
        if let Some(windows) = &mut self.windows {
            windows.wait_ms = if has_other_place { WAIT_MS } else { PATIENT_WAIT_MS };
        }
    }

    /// Sees to it that leased room comes before there is need of it. For whenever a chunk was opened.
    #[cold]
    pub(crate) fn look_ahead(&mut self) {
        let Some(windows) = &self.windows else { return };
        // Where extents are filled fast, the next are asked for so much sooner.
        let enough = windows.extent_chunks / 4 * windows.ahead as usize;
        let is_small = windows.is_empty() && self.chunks.mapped < FIRST.min(self.capacity_chunks());
        if self.chunks.leased.idle >= enough || is_small {
            return;
        }
        self.take_extents(0, enough);
        let Some(windows) = self.windows.as_mut().filter(|_| self.chunks.leased.idle < enough) else {
            return;
        };
        let Some(mailbox) = windows.mailbox.clone().filter(|mailbox| mailbox.wanted() == 0) else { return };
        if windows.find_room(windows.extent_chunks).is_some() {
            mailbox.want(windows.ask_ahead());
        }
    }

    /// There is no room: whether leased room came, perhaps after a wait.
    #[cold]
    pub(crate) fn take_lease(&mut self) -> bool {
        let Some(windows) = &self.windows else { return false };
        let Some(mailbox) = windows.mailbox.as_ref() else { return false };
        if mailbox.wanted() == 0 && mailbox.waiting() == 0 {
            if windows.find_room(windows.extent_chunks).is_none() {
                return false;
            }
            mailbox.want(1);
        }
        let (before, wait_ms) = (self.chunks.leased.idle, windows.wait_ms);
        self.take_extents(wait_ms, before + 1);
        self.chunks.leased.idle > before
    }

    /// Maps extents that came, until so many leased chunks are idle; waits so long for the first.
    fn take_extents(&mut self, wait_ms: u64, enough: usize) {
        let Some(mailbox) = self.mailbox().cloned() else { return };
        let mut wait = wait_ms;
        while self.chunks.leased.idle < enough
            && let Some(extent) = mailbox.take(wait)
        {
            wait = 0;
            if let Err(extent) = self.add_extent(extent) {
                mailbox.refuse(extent);
            }
        }
    }

    /// Maps an extent; it comes back where it is not what it says, or has no place.
    ///
    /// # Errors
    /// The extent.
    pub(crate) fn add_extent(&mut self, extent: Extent) -> Result<(), Extent> {
        let Some(windows) = &mut self.windows else { return Err(extent) };
        let room = windows.find_room(extent.bytes / CHUNK).filter(|_| extent.bytes.is_multiple_of(UNIT));
        let Some(chunks) = room else { return Err(extent) };
        // Also where the kernel refuses: what is mapped there then was never used.
        if self.bytes.cover(chunks.start * CHUNK..chunks.end * CHUNK, &extent.fd).is_err() {
            return Err(extent);
        }
        windows.add(extent, chunks.clone());
        self.chunks.arrive(chunks);
        Ok(())
    }

    /// A leased chunk has become empty.
    #[cold]
    pub(crate) fn emptied_leased(&mut self, chunk: usize) {
        let Some(windows) = &mut self.windows else { return };
        let Some(number) = windows.at(chunk) else { return };
        let window = &mut windows.all[number];
        window.used -= 1;
        if window.extent.is_none() {
            self.bytes.discard(chunk * CHUNK..(chunk + 1) * CHUNK);
            if window.used == 0 {
                windows.remove(number);
            }
            return;
        }
        // What was asked for is not needed any more.
        if self.chunks.leased.idle > windows.extent_chunks / 2
            && let Some(mailbox) = windows.mailbox.as_ref().filter(|mailbox| mailbox.wanted() > 0)
        {
            mailbox.want(0);
        }
    }

    /// Whether windows are left whose memory is the process's own.
    pub fn has_own_windows(&self) -> bool {
        self.windows.as_ref().is_some_and(|windows| windows.taken > windows.leased)
    }

    /// Bytes of leased memory that is mapped.
    pub fn leased_bytes(&self) -> usize {
        self.windows.as_ref().map_or(0, |windows| windows.leased * UNIT)
    }

    /// Bytes of memory that windows take in this process beside the extents.
    pub(crate) fn windows_footprint(&self) -> usize {
        let sums = |windows: &Windows| windows.sums.footprint(windows.taken * CHUNKS);
        let windows = self.windows.as_ref().map_or(0, |windows| windows.footprint() + sums(windows));
        windows + self.chunks.leased_header_bytes()
    }

    /// Every extent that is mapped.
    pub fn extents(&self) -> impl Iterator<Item = &Extent> {
        self.windows.iter().flat_map(|windows| &windows.all).filter_map(|w| w.extent.as_ref())
    }

    /// Those that are the host's still.
    pub fn held_extents(&self) -> impl Iterator<Item = &Extent> {
        let windows = self.windows.iter().flat_map(|windows| &windows.all);
        windows.filter(|w| matches!(w.what, Use::Filled | Use::Given)).filter_map(|w| w.extent.as_ref())
    }

    /// Bytes of an extent, as far as is known.
    pub fn extent_bytes(&self) -> usize {
        self.windows.as_ref().map_or(0, |windows| windows.extent_chunks * CHUNK)
    }

    /// Whether an extent has another id now.
    pub fn renumber(&mut self, old: u64, new: u64) -> bool {
        let Some(windows) = &mut self.windows else { return false };
        let Some(number) = windows.number_of(old) else { return false };
        let units = windows.units_of(&windows.all[number].chunks);
        windows.watch.set_id(units, host_id(new));
        if let Some(extent) = &mut windows.all[number].extent {
            extent.id = new;
        }
        true
    }
}

/// The client gives back what a store held that ends before its guest does.
impl Drop for Windows {
    fn drop(&mut self) {
        if let Some(mailbox) = self.mailbox.take() {
            mailbox.want(0);
            mailbox.leave(self.all.drain(..).filter_map(|window| window.extent));
        }
    }
}

impl Windows {
    fn number_of(&self, id: u64) -> Option<usize> {
        self.all.iter().position(|w| w.extent.as_ref().is_some_and(|extent| extent.id == id))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use tmem_sys::lease::LeaseFd;

    #[test]
    fn windows_leave_mappings_for_what_is_none() {
        let mut windows = Windows::new(&Table::new(4 * UNIT).unwrap(), 0).unwrap();
        windows.most = 2;
        for id in 1..=2 {
            let room = windows.find_room(CHUNKS).unwrap();
            let fd = LeaseFd::new(UNIT).unwrap();
            windows.add(Extent { id, fd, bytes: UNIT }, room);
        }
        assert_eq!(windows.find_room(CHUNKS), None);
        windows.remove(0);
        assert!(windows.find_room(CHUNKS).is_some());
    }
}

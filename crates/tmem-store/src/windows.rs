// SPDX-License-Identifier: Apache-2.0
//! Owns: the windows of a slab: where extents that were taken on lease are mapped over it, above its private chunks, and when more
//! are asked for. Callers: `slab` when it needs a chunk, `vacate` when extents are to go, the pager around a fork. Locks: the
//! store's. Law 5: a window goes only when it is empty. Law 15: a forked child has none; what was in them is its own there.

use crate::class::CHUNK;
use crate::lease::{Extent, Mailbox};
use crate::leased::Draining;
use crate::page_bytes;
use crate::slab::{Loc, Slab};
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
/// How long a put waits for an extent that is under way.
const WAIT_MS: u64 = 20;

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
    watch: Watch,
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
            watch: Watch::new(bytes, part)?,
            first,
            mailbox: None,
            taken: 0,
            leased: 0,
            top: 0,
            extent_chunks: USUAL_CHUNKS,
            ahead: 1,
            asked_ns: 0,
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

    /// Room for an extent of so many chunks.
    fn find_room(&self, chunks: usize) -> Option<Range<usize>> {
        let (want, mut run) = (chunks / CHUNKS, 0);
        if self.units.len() - self.taken < want {
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
        self.watch.set_id(units.clone(), extent.id);
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
        self.leased -= if window.extent.is_some() { units.len() } else { 0 };
        self.units[units].fill(0);
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

    /// Sees to it that leased room comes before there is need of it. For whenever a chunk was opened.
    #[cold]
    pub(crate) fn look_ahead(&mut self) {
        let Some(windows) = &self.windows else { return };
        let enough = windows.extent_chunks / 4;
        if self.chunks.leased.idle >= enough || self.chunks.mapped < FIRST.min(self.capacity_chunks()) {
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
        let before = self.chunks.leased.idle;
        self.take_extents(WAIT_MS, before + 1);
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

    /// Bytes of leased memory that is mapped.
    pub fn leased_bytes(&self) -> usize {
        self.windows.as_ref().map_or(0, |windows| windows.leased * UNIT)
    }

    /// Bytes of memory that windows take in this process beside the extents.
    pub(crate) fn windows_footprint(&self) -> usize {
        let windows = self.windows.as_ref().map_or(0, |windows| windows.footprint());
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
        windows.watch.set_id(units, new);
        if let Some(extent) = &mut windows.all[number].extent {
            extent.id = new;
        }
        true
    }

    /// The emptiest window is to go: no slot of it is given out from now on. Its first chunk.
    pub fn begin_giving(&mut self) -> Option<Draining> {
        let windows = self.windows.as_mut()?;
        let open = windows.all.iter_mut().filter(|w| w.extent.is_some() && w.what == Use::Filled);
        let window = open.min_by_key(|w| w.used)?;
        window.what = Use::Given;
        let chunks = window.chunks.clone();
        chunks.clone().for_each(|chunk| self.chunks.drain(chunk, false));
        Some(Draining(chunks.start))
    }

    /// A window's extent is the host's no more: it is only emptied from now on.
    pub fn begin_losing(&mut self, id: u64) -> Option<Draining> {
        self.take_from_host(id, Use::Lost)
    }

    /// The host has cut an extent off. Its memory is touched no more, unless for a page that is in it.
    pub fn cut_off(&mut self, id: u64) {
        if let Some(window) = self.take_from_host(id, Use::Cut) {
            // It goes where it is empty.
            self.close_window(window);
        }
    }

    fn take_from_host(&mut self, id: u64, what: Use) -> Option<Draining> {
        let windows = self.windows.as_mut()?;
        let number = windows.number_of(id)?;
        let window = &mut windows.all[number];
        window.what = what;
        let chunks = window.chunks.clone();
        chunks.clone().for_each(|chunk| self.chunks.drain(chunk, false));
        Some(Draining(chunks.start))
    }

    /// A window that was lost and is not empty yet.
    pub fn lost(&self) -> Option<Draining> {
        let lost = |w: &&Window| w.what == Use::Lost && w.extent.is_some();
        self.windows.as_ref()?.all.iter().find(lost).map(|w| Draining(w.chunks.start))
    }

    /// A window stays: it is filled again.
    pub fn end_giving(&mut self, Draining(first): Draining) {
        let Some(windows) = &mut self.windows else { return };
        let Some(number) = windows.at(first) else { return };
        windows.all[number].what = Use::Filled;
        windows.all[number].chunks.clone().for_each(|chunk| self.chunks.undrain(chunk));
    }

    /// The first slot in use of a window from a chunk on.
    pub fn next_draining(&self, Draining(first): Draining, from: usize) -> Option<Loc> {
        let windows = self.windows.as_ref()?;
        let window = &windows.all[windows.at(first)?];
        (window.chunks.clone().skip_while(|chunk| *chunk < from)).find_map(|chunk| self.next_taken(chunk, 0))
    }

    /// Moves a slot of a draining chunk to any other chunk with room for it.
    pub fn leave_window(&mut self, loc: Loc, len: usize) -> Option<Loc> {
        let class = self.chunks.get(loc.chunk())?.class as usize;
        let leased = self.leased_chunk(class);
        let most = self.capacity_chunks();
        let to = leased.or_else(|| self.private_chunk(most, class))?;
        self.move_to(loc, len, to)
    }

    /// Moves a slot to a leased chunk.
    pub fn leave_for_lease(&mut self, loc: Loc, len: usize) -> Option<Loc> {
        let class = self.chunks.get(loc.chunk())?.class as usize;
        let to = self.leased_chunk(class)?;
        self.move_to(loc, len, to)
    }

    /// Where private chunks take more than they may and leased ones are idle: one to be emptied into those, the first from a
    /// number on, round and round. [`Slab::settle`] ends it.
    pub fn choose_relieved(&mut self, from: usize) -> Option<usize> {
        if self.chunks.mapped <= self.capacity_chunks() || self.chunks.leased.idle == 0 {
            return None;
        }
        self.chunks.choose_private(from)
    }

    /// Unmaps a window that is empty; its extent.
    pub fn close_window(&mut self, Draining(first): Draining) -> Option<Extent> {
        let windows = self.windows.as_mut()?;
        let number = windows.at(first)?;
        if windows.all[number].used > 0 || self.bytes.uncover(windows.all[number].bytes()).is_err() {
            return None;
        }
        windows.remove(number).extent
    }

    /// Before a fork: whether there is anything that the child has to copy.
    pub fn before_fork(&mut self) -> bool {
        let Some(windows) = &self.windows else { return false };
        if let Some(mailbox) = &windows.mailbox {
            mailbox.before_fork();
        }
        self.extents().next().is_some()
    }

    /// Has the child inherit the windows, or no more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_inherited(&mut self, yes: bool) -> Result<(), Errno> {
        let Some(windows) = &mut self.windows else { return Ok(()) };
        windows.inherited = yes;
        let leased = windows.all.iter().filter(|w| w.extent.is_some());
        leased.into_iter().try_for_each(|w| self.bytes.set_inherited(w.bytes(), yes))
    }

    pub fn after_fork_in_parent(&mut self) {
        if let Some(mailbox) = self.mailbox() {
            mailbox.after_fork_in_parent();
        }
    }

    /// In the child: what is in the windows becomes its own, and is only emptied. It has no leases.
    ///
    /// # Errors
    /// `ENOMEM`; `EFAULT` where the windows were not inherited.
    pub fn after_fork_in_child(&mut self) -> Result<(), Errno> {
        let Slab { windows, chunks, bytes, .. } = self;
        let Some(windows) = windows else { return Ok(()) };
        if let Some(mailbox) = &windows.mailbox {
            mailbox.after_fork_in_child();
        }
        for number in (0..windows.all.len()).rev() {
            let window = &mut windows.all[number];
            let (part, places) = (window.bytes(), window.chunks.clone());
            let Some(extent) = window.extent.take() else { continue };
            drop(extent);
            windows.leased -= part.len() / UNIT;
            let window = &windows.all[number];
            if window.used == 0 {
                bytes.uncover(part)?;
            } else if windows.inherited {
                let used = places.clone().filter(|chunk| chunks.get(*chunk).is_some());
                bytes.make_own(part, used.map(|chunk| chunk * CHUNK..(chunk + 1) * CHUNK))?;
            } else {
                return Err(Errno::EFAULT);
            }
            let empty = window.used == 0;
            places.for_each(|chunk| chunks.drain(chunk, true));
            if empty {
                windows.remove(number);
            }
        }
        windows.inherited = false;
        Ok(())
    }

    pub(crate) fn check_windows(&self, broken: &mut Vec<String>) {
        let Some(windows) = &self.windows else { return };
        let mut covered = 0;
        for (number, window) in windows.all.iter().enumerate() {
            let used = window.chunks.clone().filter(|chunk| self.chunks.get(*chunk).is_some()).count();
            if used != window.used {
                broken.push(format!("window {number}: {used} chunks used, its count says {}", window.used));
            }
            let units = windows.units_of(&window.chunks);
            covered += units.len();
            if windows.units[units].iter().any(|n| *n as usize != number + 1) {
                broken.push(format!("window {number}: its units are not noted as its own"));
            }
            let draining = window.extent.is_none() || window.what != Use::Filled;
            let stray = window.chunks.clone().filter(|chunk| self.chunks.get(*chunk).is_some());
            if stray.into_iter().any(|chunk| self.chunks.is_draining(chunk) != draining) {
                broken
                    .push(format!("window {number}: a chunk of it is to be emptied, or not, for no reason"));
            }
        }
        let taken = windows.units.iter().filter(|n| **n != 0).count();
        let leased: usize = self.extents().map(|extent| extent.bytes / UNIT).sum();
        if taken != covered || (taken, leased) != (windows.taken, windows.leased) {
            broken.push("windows: units are noted that no window has, or their counts differ".into());
        }
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

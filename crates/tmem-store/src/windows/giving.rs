// SPDX-License-Identifier: Apache-2.0
//! Owns: how windows end: one is emptied to be given back, or because the host does not know it any more; and how all of them are
//! checked. Callers: `vacate`, the slab's check. Locks: the store's. Law 5: a window goes only when it is empty.

use super::{Use, Window};
use crate::lease::Extent;
use crate::leased::Draining;
use crate::slab::{Loc, Slab};
use tmem_sys::PAGE_SIZE;
use tmem_sys::overlay::UNIT;

impl Slab {
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

    /// Moves a slot of a draining chunk to any other chunk with room for it; a page as it is to a private one only with `raw`.
    pub fn leave_window(&mut self, loc: Loc, len: usize, raw: bool) -> Option<Loc> {
        let class = self.chunks.get(loc.chunk())?.class as usize;
        let leased = self.leased_chunk(class);
        let most = self.capacity_chunks();
        let may_be_private = raw || len < PAGE_SIZE;
        let to = leased.or_else(|| if may_be_private { self.private_chunk(most, class) } else { None })?;
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
        let extent = windows.remove(number).extent;
        if windows.is_empty() {
            self.chunks.reset_leased();
        }
        extent
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

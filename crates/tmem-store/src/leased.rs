// SPDX-License-Identifier: Apache-2.0
//! Owns: the leased side of the chunks: chunks that come and go with their extents, and those that are to be emptied for good.
//! Callers: `windows`, `chunks`. Locks: the store's. A place of a leased chunk is empty (no memory behind it), idle, of a class
//! as a private one, or draining: it has a class, is on no list, and gives no slot out.
//! Law 11: a draining chunk counts as leased, or as private where its memory has become the process's own.

use crate::chunks::{Chunk, Chunks, FULL, LEASED, ZERO};
use crate::class::{CLASSES, slot_size, slots_in};

/// What `leaving` says of a draining chunk: in leased memory, or in a forked child's copy of it.
const DRAINING: u16 = 2;
const OWN: u16 = 3;
/// The list of a place without memory.
const EMPTY: u16 = FULL - 1;

/// A window that is being emptied, by its first chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draining(pub usize);

/// Counts of the leased side.
#[derive(Default)]
pub(crate) struct Leased {
    /// Idle chunks.
    pub idle: usize,
    /// Idle chunks, chunks of a class, and draining ones whose memory is leased.
    pub mapped: usize,
    /// Bytes of the slots of chunks of a class, in use or not.
    pub classed_bytes: usize,
    /// Bytes of the slots in use of draining chunks whose memory is leased.
    draining_bytes: usize,
}

impl Chunks {
    /// Memory came for these places.
    pub fn arrive(&mut self, places: std::ops::Range<usize>) {
        let begun = self.end.max(self.private);
        for at in begun..places.end {
            self.table[at] = Chunk { list: EMPTY, ..ZERO };
        }
        self.end = self.end.max(places.end);
        self.leased.mapped += places.len();
        // The first is taken first.
        for at in places.rev() {
            self.table[at] = ZERO;
            self.push_idle(LEASED, at);
        }
    }

    /// Gives back the memory of the headers of leased chunks, where no place has memory.
    pub fn reset_leased(&mut self) {
        let (from, to) = (self.private.min(self.end), self.end);
        self.table[from..to].fill(ZERO);
        self.table.discard(from * size_of::<Chunk>()..to * size_of::<Chunk>());
        self.end = self.end.min(self.fresh());
    }

    /// The fullest partial leased chunk of a class.
    pub fn partial_leased(&self, class: usize) -> Option<usize> {
        self.partial_of(LEASED, class)
    }

    /// The first private chunk with pages from a number on, or else of all: no slot of it is given out from now on.
    pub fn choose_private(&mut self, from: usize) -> Option<usize> {
        let known = self.private.min(self.end);
        let used = |at: &usize| self.table[*at].used > 0;
        let at = (from.min(known)..known).find(used).or_else(|| (0..from.min(known)).find(used))?;
        self.unlink(at);
        (self.table[at].list, self.table[at].leaving) = (FULL, 1);
        Some(at)
    }

    /// An idle leased chunk, for a class.
    pub fn open_leased(&mut self, class: usize) -> Option<usize> {
        let at = self.pop_idle_leased()?;
        self.begin(at, class);
        self.leased.classed_bytes += slots_in(class) * slot_size(class);
        Some(at)
    }

    /// From here on a place is only emptied; with `own`, its memory is the process's. An idle one is empty at once.
    pub fn drain(&mut self, at: usize, own: bool) {
        let Chunk { class, used, leaving, list, .. } = self.table[at];
        let class = class as usize;
        if list == EMPTY {
            return;
        }
        if self.is_idle(at) {
            self.unlink(at);
            self.leased.idle -= 1;
            self.leased.mapped -= 1;
            self.table[at].list = EMPTY;
            return;
        }
        let (slots, size) = (slots_in(class), slot_size(class));
        if leaving <= 1 {
            self.unlink(at);
            self.free[LEASED][class] -= slots as u32 - u32::from(used);
            self.leased.classed_bytes -= slots * size;
            self.leased.draining_bytes += usize::from(used) * size;
            (self.table[at].list, self.table[at].leaving) = (FULL, DRAINING);
        }
        if own && leaving != OWN {
            self.leased.draining_bytes -= usize::from(used) * size;
            self.leased.mapped -= 1;
            self.mapped += 1;
            self.table[at].leaving = OWN;
        }
    }

    /// Ends [`Chunks::drain`] of a place whose memory is leased still.
    pub fn undrain(&mut self, at: usize) {
        let Chunk { class, used, leaving, list, .. } = self.table[at];
        let class = class as usize;
        if list == EMPTY {
            self.table[at] = ZERO;
            self.push_idle(LEASED, at);
            self.leased.mapped += 1;
        } else if leaving == DRAINING {
            let (slots, size) = (slots_in(class), slot_size(class));
            self.free[LEASED][class] += slots as u32 - u32::from(used);
            self.leased.classed_bytes += slots * size;
            self.leased.draining_bytes -= usize::from(used) * size;
            self.table[at].leaving = 0;
            self.relist(at);
        }
    }

    /// As [`Chunks::gave`], of a draining chunk.
    #[cold]
    pub(crate) fn gave_draining(&mut self, at: usize) -> bool {
        let chunk = &mut self.table[at];
        let (size, leaving) = (slot_size(chunk.class as usize), chunk.leaving);
        chunk.used -= 1;
        let empty = chunk.used == 0;
        if empty {
            *chunk = Chunk { list: EMPTY, ..ZERO };
        }
        if leaving == DRAINING {
            self.leased.draining_bytes -= size;
            self.leased.mapped -= usize::from(empty);
        } else {
            self.mapped -= usize::from(empty);
        }
        empty
    }

    pub fn is_draining(&self, at: usize) -> bool {
        self.table[at].leaving > 1
    }

    /// Bytes of the slots in use in leased memory.
    pub fn leased_slot_bytes(&self) -> usize {
        let free: usize =
            (0..CLASSES).map(|class| self.free[LEASED][class] as usize * slot_size(class)).sum();
        self.leased.classed_bytes - free + self.leased.draining_bytes
    }

    /// Compares the counts of the leased side: its places on no list, and the chunks that are the process's own.
    pub fn check_leased(&self, broken: &mut Vec<String>) -> (usize, usize) {
        let (mut idle, mut classed, mut unlisted, mut own) = (0, 0, 0, 0);
        let (mut classed_bytes, mut draining_bytes) = (0, 0);
        for at in self.private..self.end.max(self.private) {
            let chunk = &self.table[at];
            if chunk.list == EMPTY {
                unlisted += 1;
                continue;
            }
            if self.is_idle(at) {
                idle += 1;
                continue;
            }
            self.check_classed(at, chunk, broken);
            let class = (chunk.class as usize).min(CLASSES - 1);
            unlisted += usize::from(chunk.list == FULL);
            own += usize::from(chunk.leaving == OWN);
            classed += usize::from(chunk.leaving != OWN);
            match chunk.leaving {
                OWN => {}
                DRAINING => draining_bytes += usize::from(chunk.used) * slot_size(class),
                _ => classed_bytes += slots_in(class) * slot_size(class),
            }
        }
        let counts = &self.leased;
        if (idle, idle + classed) != (counts.idle, counts.mapped)
            || (classed_bytes, draining_bytes) != (counts.classed_bytes, counts.draining_bytes)
        {
            broken.push(format!("slab: {idle} idle and {classed} used leased chunks; the counters differ"));
        }
        (unlisted, own)
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the headers of the slab's chunks and the lists they are on. Callers: `slab` only.
//! A chunk is in exactly one state: never used (beyond `fresh`), given back, idle (mapped, no class), or of a class
//! and then in the list of its fullness, or full and in no list.
//!
//! Private chunks come first, then the places of leased ones, which have lists and counts of their own (`leased`).

use crate::class::{CLASSES, PAGES, slot_size, slots_in};
use crate::leased::Leased;
use crate::page_bytes;
use tmem_sys::{Errno, Table};

/// Partial chunks of a class are listed by how full they are, in so many steps; allocation takes from the fullest.
pub(crate) const STEPS: usize = 8;
const LISTS: usize = CLASSES * STEPS + 2;
const IDLE: u16 = (LISTS - 2) as u16;
const GIVEN_BACK: u16 = (LISTS - 1) as u16;
/// Full chunks are on no list.
pub(crate) const FULL: u16 = u16::MAX;
/// Private chunks are on the first lists, leased ones on as many that follow.
const SIDES: usize = 2;
pub(crate) const PRIVATE: usize = 0;
pub(crate) const LEASED: usize = 1;

tmem_sys::pod! {
    pub(crate) struct Chunk {
        /// Neighbours in the list: chunk number plus one, 0 for none.
        pub next: u32,
        pub prev: u32,
        pub list: u16,
        pub class: u16,
        pub used: u16,
        /// Not 0 while its pages are moved out: no slot is given out, and it is on no list. Beyond 1 see `leased`.
        pub leaving: u16,
        /// The first free slot of the chain, plus one.
        pub free: u16,
        /// Slots from here on were never used.
        pub fresh: u16,
        /// The words of a chunk of whole pages.
        pub pages: [u32; PAGES],
    }
}

pub(crate) const ZERO: Chunk =
    Chunk { next: 0, prev: 0, list: 0, class: 0, used: 0, leaving: 0, free: 0, fresh: 0, pages: [0; PAGES] };

pub(crate) struct Chunks {
    pub(crate) table: Table<Chunk>,
    heads: [u32; SIDES * LISTS],
    /// Free slots of the chunks of each class, of each side.
    pub(crate) free: [[u32; CLASSES]; SIDES],
    /// Private chunks from here on were never used.
    fresh: usize,
    /// No chunk from here on was ever used.
    pub(crate) end: usize,
    /// Chunks from here on are places of leased ones.
    pub(crate) private: usize,
    pub idle: usize,
    /// Private chunks of a class, and idle ones.
    pub mapped: usize,
    pub leased: Leased,
}

#[inline]
fn list_of(side: usize, class: usize, used: usize) -> u16 {
    let slots = slots_in(class);
    if used == slots { FULL } else { (side * LISTS + class * STEPS + used * STEPS / slots) as u16 }
}

impl Chunks {
    pub fn new(private: usize, leased: usize) -> Result<Chunks, Errno> {
        Ok(Chunks {
            table: Table::new(private + leased)?,
            heads: [0; SIDES * LISTS],
            free: [[0; CLASSES]; SIDES],
            fresh: 0,
            end: 0,
            private,
            idle: 0,
            mapped: 0,
            leased: Leased::default(),
        })
    }

    /// Private chunks that there can be.
    pub fn len(&self) -> usize {
        self.private
    }

    pub(crate) fn fresh(&self) -> usize {
        self.fresh
    }

    /// Every chunk that may have been used.
    pub fn all(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.fresh).chain(self.private..self.end.max(self.private))
    }

    /// Bytes of the headers of private chunks, as touched.
    #[inline]
    pub fn header_bytes(&self) -> usize {
        page_bytes(self.fresh * size_of::<Chunk>())
    }

    /// Bytes of the headers of leased chunks, as touched.
    pub fn leased_header_bytes(&self) -> usize {
        page_bytes(self.end.saturating_sub(self.private) * size_of::<Chunk>())
    }

    /// Whether a chunk's place is for leased memory.
    #[inline]
    pub fn is_leased(&self, at: usize) -> bool {
        at >= self.private
    }

    #[inline]
    fn side(&self, at: usize) -> usize {
        usize::from(self.is_leased(at))
    }

    /// Gives back the memory of the headers, where no chunk is mapped.
    pub fn reset_if_empty(&mut self) {
        if self.mapped == 0 {
            let most = if self.end > self.private { self.private * size_of::<Chunk>() } else { usize::MAX };
            self.table.discard(0..page_bytes(self.fresh * size_of::<Chunk>()).min(most));
            self.heads[..LISTS].fill(0);
            self.fresh = 0;
            self.end = if self.end > self.private { self.end } else { 0 };
        }
    }

    /// The header of a chunk that has a class.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&Chunk> {
        self.table[..self.end].get(at).filter(|c| c.used > 0)
    }

    /// The header of a chunk that was ever used.
    #[inline]
    pub fn get_any(&self, at: usize) -> Option<&Chunk> {
        self.table[..self.end].get(at)
    }

    #[inline]
    pub fn header_mut(&mut self, at: usize) -> &mut Chunk {
        &mut self.table[at]
    }

    /// The fullest partial private chunk of a class.
    pub fn partial(&self, class: usize) -> Option<usize> {
        self.partial_of(PRIVATE, class)
    }

    #[inline]
    pub(crate) fn partial_of(&self, side: usize, class: usize) -> Option<usize> {
        let from = side * LISTS + class * STEPS;
        let heads = &self.heads[from..from + STEPS];
        heads.iter().rev().find(|h| **h != 0).map(|h| *h as usize - 1)
    }

    /// A private chunk for a class: an idle one, one given back, or a fresh one; the latter two only if `may_map`.
    pub fn open(&mut self, class: usize, may_map: bool) -> Option<usize> {
        let at = if self.heads[IDLE as usize] != 0 {
            self.idle -= 1;
            self.pop(IDLE)
        } else if !may_map {
            return None;
        } else if self.heads[GIVEN_BACK as usize] != 0 {
            self.mapped += 1;
            self.pop(GIVEN_BACK)
        } else if self.fresh < self.private {
            self.mapped += 1;
            self.fresh += 1;
            self.end = self.end.max(self.fresh);
            self.fresh - 1
        } else {
            return None;
        };
        self.begin(at, class);
        Some(at)
    }

    /// Gives a chunk that is on no list a class.
    pub(crate) fn begin(&mut self, at: usize, class: usize) {
        let side = self.side(at);
        self.table[at] = Chunk { class: class as u16, ..ZERO };
        self.free[side][class] += slots_in(class) as u32;
        self.push(list_of(side, class, 0), at);
    }

    /// Notes that a slot of a chunk was taken.
    #[inline]
    pub fn took(&mut self, at: usize) {
        let side = self.side(at);
        let chunk = &mut self.table[at];
        chunk.used += 1;
        self.free[side][chunk.class as usize] -= 1;
        self.relist(at);
    }

    /// Notes that a slot of a chunk was given back; true when the chunk is now empty, idle and without a class.
    #[inline]
    pub fn gave(&mut self, at: usize) -> bool {
        let side = self.side(at);
        let chunk = &mut self.table[at];
        if side == LEASED && chunk.leaving > 1 {
            return self.gave_draining(at);
        }
        let class = chunk.class as usize;
        chunk.used -= 1;
        self.free[side][class] += 1;
        if chunk.used > 0 {
            self.relist(at);
            return false;
        }
        chunk.leaving = 0;
        self.free[side][class] -= slots_in(class) as u32;
        self.unlink(at);
        self.push_idle(side, at);
        if side == LEASED {
            self.leased.classed_bytes -= slots_in(class) * slot_size(class);
        }
        true
    }

    /// Puts a chunk that is on no list among the idle ones.
    pub(crate) fn push_idle(&mut self, side: usize, at: usize) {
        self.push((side * LISTS) as u16 + IDLE, at);
        *(if side == PRIVATE { &mut self.idle } else { &mut self.leased.idle }) += 1;
    }

    /// Takes an idle leased chunk off its list, if there is one.
    pub(crate) fn pop_idle_leased(&mut self) -> Option<usize> {
        if self.leased.idle == 0 {
            return None;
        }
        self.leased.idle -= 1;
        Some(self.pop(LISTS as u16 + IDLE))
    }

    pub(crate) fn is_idle(&self, at: usize) -> bool {
        self.table[at].list == (self.side(at) * LISTS) as u16 + IDLE
    }

    /// The sparsest chunk of a class whose pages all fit into the others of the class: it is taken off its list, and no slot
    /// of it is given out until it is empty, or [`Chunks::settle`].
    ///
    /// Pages of private chunks go to leased ones where they can, and never back: nothing is moved to and fro.
    pub fn choose_leaving(&mut self, class: usize) -> Option<usize> {
        let spare = |side: usize| self.free[side][class] as usize;
        let enough = [spare(PRIVATE) + spare(LEASED), spare(LEASED)].map(|free| free >= slots_in(class));
        let lists = |side: usize| side * LISTS + class * STEPS..side * LISTS + (class + 1) * STEPS;
        let sparsest = |side: usize| lists(side).find(|list| self.heads[*list] != 0).filter(|_| enough[side]);
        let list = sparsest(PRIVATE).or_else(|| sparsest(LEASED))?;
        let at = self.pop(list as u16);
        (self.table[at].list, self.table[at].leaving) = (FULL, 1);
        Some(at)
    }

    /// Puts a chunk that was chosen and is not empty back on its list.
    pub fn settle(&mut self, at: usize) {
        if self.table[at].leaving == 1 {
            self.table[at].leaving = 0;
            self.relist(at);
        }
    }

    /// Whether so much is free in chunks of this class that one of them could be emptied.
    #[inline]
    pub fn has_spare(&self, class: usize) -> bool {
        let [private, leased] = [self.free[PRIVATE][class], self.free[LEASED][class]];
        let slots = slots_in(class) as u32;
        (private > 0 && private + leased >= slots) || leased >= slots
    }

    /// Takes one idle chunk out of use; the caller discards its memory.
    pub fn give_back(&mut self) -> Option<usize> {
        if self.idle == 0 {
            return None;
        }
        let at = self.pop(IDLE);
        self.push(GIVEN_BACK, at);
        self.idle -= 1;
        self.mapped -= 1;
        Some(at)
    }

    pub(crate) fn relist(&mut self, at: usize) {
        let chunk = self.table[at];
        if chunk.leaving != 0 {
            return;
        }
        let list = list_of(self.side(at), chunk.class as usize, chunk.used as usize);
        if list != chunk.list {
            self.unlink(at);
            self.push(list, at);
        }
    }

    fn push(&mut self, list: u16, at: usize) {
        let next =
            if list == FULL { 0 } else { std::mem::replace(&mut self.heads[list as usize], at as u32 + 1) };
        if next != 0 {
            self.table[next as usize - 1].prev = at as u32 + 1;
        }
        let chunk = &mut self.table[at];
        (chunk.list, chunk.next, chunk.prev) = (list, next, 0);
    }

    pub(crate) fn unlink(&mut self, at: usize) {
        let Chunk { next, prev, list, .. } = self.table[at];
        if list == FULL {
            return;
        }
        match prev {
            0 => self.heads[list as usize] = next,
            prev => self.table[prev as usize - 1].next = next,
        }
        if next != 0 {
            self.table[next as usize - 1].prev = prev;
        }
    }

    fn pop(&mut self, list: u16) -> usize {
        let at = self.heads[list as usize] as usize - 1;
        self.unlink(at);
        at
    }

    /// Compares counts and lists.
    pub fn check(&self, broken: &mut Vec<String>) {
        let mut listed = 0;
        let known = self.fresh + self.end.saturating_sub(self.private);
        for (list, &head) in self.heads.iter().enumerate() {
            let (mut at, mut prev) = (head, 0);
            while at != 0 && listed <= known {
                listed += 1;
                let Some(chunk) = self.table[..self.end].get(at as usize - 1) else {
                    broken.push(format!("list {list}: chunk {at} was never used"));
                    break;
                };
                let side = self.side(at as usize - 1);
                if chunk.list as usize != list || chunk.prev != prev || list / LISTS != side {
                    broken.push(format!("chunk {}: in list {list}, its header says otherwise", at - 1));
                    break;
                }
                (at, prev) = (chunk.next, at);
            }
        }
        let (mut idle, mut classed, mut full) = (0, 0, 0);
        for (at, chunk) in self.table[..self.fresh].iter().enumerate() {
            match chunk.list {
                IDLE => idle += 1,
                GIVEN_BACK => {}
                list => {
                    classed += 1;
                    full += usize::from(list == FULL);
                    self.check_classed(at, chunk, broken);
                }
            }
        }
        let (unlisted, own) = self.check_leased(broken);
        if (idle, idle + classed + own) != (self.idle, self.mapped) {
            broken.push(format!("slab: {idle} idle and {classed} used chunks; the counters differ"));
        }
        if listed + full + unlisted != known {
            broken.push(format!("slab: {listed} chunks listed and {full} full do not make {known}"));
        }
        self.check_free(broken);
    }

    fn check_free(&self, broken: &mut Vec<String>) {
        let mut free = [[0; CLASSES]; SIDES];
        for at in self.all() {
            let chunk = &self.table[at];
            let class = chunk.class as usize;
            if chunk.used > 0 && class < CLASSES && chunk.leaving <= 1 {
                let slots = slots_in(class) as u32;
                free[self.side(at)][class] += slots - u32::from(chunk.used).min(slots);
            }
        }
        if free != self.free {
            broken.push("slab: the counts of free slots differ from the chunks".into());
        }
    }

    pub(crate) fn check_classed(&self, at: usize, chunk: &Chunk, broken: &mut Vec<String>) {
        let class = chunk.class as usize;
        if class >= CLASSES {
            broken.push(format!("chunk {at}: class {class} does not exist"));
            return;
        }
        let leaves = chunk.leaving != 0;
        if chunk.used == 0
            || chunk.fresh as usize > slots_in(class)
            || (leaves && (chunk.leaving == 1 || !self.is_leased(at)))
        {
            broken.push(format!(
                "chunk {at}: empty and with a class, beyond its slots, or chosen and not emptied"
            ));
        }
        let used = (chunk.used as usize).min(slots_in(class));
        let list = if leaves { FULL } else { list_of(self.side(at), class, used) };
        if list != chunk.list {
            broken.push(format!("chunk {at}: {} used is not the fullness of its list", chunk.used));
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the headers of the slab's chunks and the lists they are on. Callers: `slab` only.
//! A chunk is in exactly one state: never used (beyond `fresh`), given back, idle (mapped, no class), or of a class
//! and then in the list of its fullness, or full and in no list.

use crate::class::{CLASSES, PAGES, slots_in};
use crate::page_bytes;
use tmem_sys::{Errno, Table};

/// Partial chunks of a class are listed by how full they are, in so many steps; allocation takes from the fullest.
pub(crate) const STEPS: usize = 8;
const LISTS: usize = CLASSES * STEPS + 2;
const IDLE: u16 = (LISTS - 2) as u16;
const GIVEN_BACK: u16 = (LISTS - 1) as u16;
/// Full chunks are on no list.
const FULL: u16 = u16::MAX;

tmem_sys::pod! {
    pub(crate) struct Chunk {
        /// Neighbours in the list: chunk number plus one, 0 for none.
        next: u32,
        prev: u32,
        list: u16,
        pub class: u16,
        pub used: u16,
        /// 1 while its pages are moved out: no slot is given out, and it is on no list.
        pub leaving: u16,
        /// The first free slot of the chain, plus one.
        pub free: u16,
        /// Slots from here on were never used.
        pub fresh: u16,
        /// The words of a chunk of whole pages.
        pub pages: [u32; PAGES],
    }
}

const ZERO: Chunk =
    Chunk { next: 0, prev: 0, list: 0, class: 0, used: 0, leaving: 0, free: 0, fresh: 0, pages: [0; PAGES] };

pub(crate) struct Chunks {
    table: Table<Chunk>,
    heads: [u32; LISTS],
    /// Free slots of the chunks of each class.
    free: [u32; CLASSES],
    /// Chunks from here on were never used.
    fresh: usize,
    pub idle: usize,
    /// Chunks of a class, and idle ones.
    pub mapped: usize,
}

fn list_of(class: usize, used: usize) -> u16 {
    let slots = slots_in(class);
    if used == slots { FULL } else { (class * STEPS + used * STEPS / slots) as u16 }
}

impl Chunks {
    pub fn new(count: usize) -> Result<Chunks, Errno> {
        let (heads, free) = ([0; LISTS], [0; CLASSES]);
        Ok(Chunks { table: Table::new(count)?, heads, free, fresh: 0, idle: 0, mapped: 0 })
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn fresh(&self) -> usize {
        self.fresh
    }

    /// Gives back the memory of the headers, where no chunk is mapped.
    pub fn reset_if_empty(&mut self) {
        if self.mapped == 0 {
            self.table.discard(0..page_bytes(self.fresh * size_of::<Chunk>()));
            (self.heads, self.fresh) = ([0; LISTS], 0);
        }
    }

    /// The header of a chunk that has a class.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&Chunk> {
        self.table[..self.fresh].get(at).filter(|c| c.used > 0)
    }

    /// The header of a chunk that was ever used.
    #[inline]
    pub fn get_any(&self, at: usize) -> Option<&Chunk> {
        self.table[..self.fresh].get(at)
    }

    #[inline]
    pub fn header_mut(&mut self, at: usize) -> &mut Chunk {
        &mut self.table[at]
    }

    /// The fullest partial chunk of a class.
    pub fn partial(&self, class: usize) -> Option<usize> {
        let heads = &self.heads[class * STEPS..(class + 1) * STEPS];
        heads.iter().rev().find(|h| **h != 0).map(|h| *h as usize - 1)
    }

    /// A chunk for a class: an idle one, one given back, or a fresh one; the latter two only if `may_map`.
    pub fn open(&mut self, class: usize, may_map: bool) -> Option<usize> {
        let at = if self.heads[IDLE as usize] != 0 {
            self.idle -= 1;
            self.pop(IDLE)
        } else if !may_map {
            return None;
        } else if self.heads[GIVEN_BACK as usize] != 0 {
            self.mapped += 1;
            self.pop(GIVEN_BACK)
        } else if self.fresh < self.table.len() {
            self.mapped += 1;
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        self.table[at] = Chunk { class: class as u16, ..ZERO };
        self.free[class] += slots_in(class) as u32;
        self.push(list_of(class, 0), at);
        Some(at)
    }

    /// Notes that a slot of a chunk was taken.
    #[inline]
    pub fn took(&mut self, at: usize) {
        let chunk = &mut self.table[at];
        chunk.used += 1;
        self.free[chunk.class as usize] -= 1;
        self.relist(at);
    }

    /// Notes that a slot of a chunk was given back; true when the chunk is now empty, idle and without a class.
    #[inline]
    pub fn gave(&mut self, at: usize) -> bool {
        let chunk = &mut self.table[at];
        let class = chunk.class as usize;
        chunk.used -= 1;
        self.free[class] += 1;
        if chunk.used > 0 {
            self.relist(at);
            return false;
        }
        chunk.leaving = 0;
        self.free[class] -= slots_in(class) as u32;
        self.unlink(at);
        self.push(IDLE, at);
        self.idle += 1;
        true
    }

    /// The sparsest chunk of a class whose pages all fit into the others of the class: it is taken off its list, and no slot
    /// of it is given out until it is empty, or [`Chunks::settle`].
    pub fn choose_leaving(&mut self, class: usize) -> Option<usize> {
        if (self.free[class] as usize) < slots_in(class) {
            return None;
        }
        let list = (class * STEPS..(class + 1) * STEPS).find(|list| self.heads[*list] != 0)?;
        let at = self.pop(list as u16);
        (self.table[at].list, self.table[at].leaving) = (FULL, 1);
        Some(at)
    }

    /// Puts a chunk that was chosen and is not empty back on its list.
    pub fn settle(&mut self, at: usize) {
        if self.table[at].leaving != 0 {
            self.table[at].leaving = 0;
            self.relist(at);
        }
    }

    /// Whether so much is free in chunks of this class that one of them could be emptied.
    #[inline]
    pub fn has_spare(&self, class: usize) -> bool {
        self.free[class] as usize >= slots_in(class)
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

    fn relist(&mut self, at: usize) {
        let chunk = self.table[at];
        if chunk.leaving != 0 {
            return;
        }
        let list = list_of(chunk.class as usize, chunk.used as usize);
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

    fn unlink(&mut self, at: usize) {
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
        for (list, &head) in self.heads.iter().enumerate() {
            let (mut at, mut prev) = (head, 0);
            while at != 0 && listed <= self.fresh {
                listed += 1;
                let Some(chunk) = self.table[..self.fresh].get(at as usize - 1) else {
                    broken.push(format!("list {list}: chunk {at} was never used"));
                    break;
                };
                if chunk.list as usize != list || chunk.prev != prev {
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
                    check_classed(at, chunk, broken);
                }
            }
        }
        if (idle, idle + classed) != (self.idle, self.mapped) {
            broken.push(format!("slab: {idle} idle and {classed} used chunks; the counters differ"));
        }
        if listed + full != self.fresh {
            broken.push(format!("slab: {listed} chunks listed and {full} full do not make {}", self.fresh));
        }
        self.check_free(broken);
    }

    fn check_free(&self, broken: &mut Vec<String>) {
        let mut free = [0; CLASSES];
        let classed = self.table[..self.fresh].iter().filter(|c| c.used > 0 && (c.class as usize) < CLASSES);
        for chunk in classed {
            let class = chunk.class as usize;
            free[class] += slots_in(class) as u32 - u32::from(chunk.used).min(slots_in(class) as u32);
        }
        if free != self.free {
            broken.push("slab: the counts of free slots differ from the chunks".into());
        }
    }
}

fn check_classed(at: usize, chunk: &Chunk, broken: &mut Vec<String>) {
    let class = chunk.class as usize;
    if class >= CLASSES {
        broken.push(format!("chunk {at}: class {class} does not exist"));
        return;
    }
    if chunk.used == 0 || chunk.fresh as usize > slots_in(class) || chunk.leaving != 0 {
        broken
            .push(format!("chunk {at}: empty and with a class, beyond its slots, or chosen and not emptied"));
    }
    let leaving = chunk.leaving != 0;
    let list = if leaving { FULL } else { list_of(class, (chunk.used as usize).min(slots_in(class))) };
    if list != chunk.list {
        broken.push(format!("chunk {at}: {} used is not the fullness of its list", chunk.used));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the headers of the slab's chunks and the lists they are on. Callers: `slab` only.
//! A chunk is in exactly one state: never used (beyond `fresh`), given back, idle (mapped, no class), or of a class
//! and then in the list of its fullness, or full and in no list.

use crate::class::{CLASSES, TAKEN_WORDS, slots_in};
use tmem_sys::{Errno, Table};

/// Partial chunks of a class are listed by quarters used; allocation takes from the fullest quarter.
pub(crate) const QUARTERS: usize = 4;
const LISTS: usize = CLASSES * QUARTERS + 2;
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
        /// One bit a slot.
        pub taken: [u64; TAKEN_WORDS],
    }
}

pub(crate) struct Chunks {
    table: Table<Chunk>,
    heads: [u32; LISTS],
    /// Chunks from here on were never used.
    fresh: usize,
    pub idle: usize,
    /// Chunks of a class, and idle ones.
    pub mapped: usize,
}

fn list_of(class: usize, used: usize) -> u16 {
    let slots = slots_in(class);
    if used == slots { FULL } else { (class * QUARTERS + used * QUARTERS / slots) as u16 }
}

impl Chunks {
    pub fn new(count: usize) -> Result<Chunks, Errno> {
        Ok(Chunks { table: Table::new(count)?, heads: [0; LISTS], fresh: 0, idle: 0, mapped: 0 })
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn fresh(&self) -> usize {
        self.fresh
    }

    /// The header of a chunk that has a class.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&Chunk> {
        self.table[..self.fresh].get(at).filter(|c| c.used > 0)
    }

    /// The fullest partial chunk of a class.
    pub fn partial(&self, class: usize) -> Option<usize> {
        let heads = &self.heads[class * QUARTERS..(class + 1) * QUARTERS];
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
        self.table[at] = Chunk {
            next: 0,
            prev: 0,
            list: 0,
            class: class as u16,
            used: 0,
            leaving: 0,
            taken: [0; TAKEN_WORDS],
        };
        self.push(list_of(class, 0), at);
        Some(at)
    }

    /// Takes a free slot of a chunk that has one.
    pub fn take_slot(&mut self, at: usize) -> usize {
        let chunk = &mut self.table[at];
        let word = chunk.taken.iter().position(|w| *w != u64::MAX).unwrap_or(0);
        let bit = chunk.taken[word].trailing_ones() as usize;
        chunk.taken[word] |= 1 << bit;
        chunk.used += 1;
        self.relist(at);
        word * 64 + bit
    }

    /// Gives a slot back; true when the chunk is now empty, idle and without a class.
    pub fn give_slot(&mut self, at: usize, slot: usize) -> bool {
        let chunk = &mut self.table[at];
        chunk.taken[slot / 64] &= !(1 << (slot % 64));
        chunk.used -= 1;
        if chunk.used > 0 {
            self.relist(at);
            return false;
        }
        chunk.leaving = 0;
        self.unlink(at);
        self.push(IDLE, at);
        self.idle += 1;
        true
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

    pub fn is_taken(&self, at: usize, slot: usize) -> bool {
        self.table[at].taken[slot / 64] & (1 << (slot % 64)) != 0
    }

    /// Takes off their lists as many chunks of each class as the free slots of the class amount to, the sparsest
    /// quarters first: what is in them fits into the rest. How many chunks.
    pub fn choose_leaving(&mut self) -> usize {
        let mut chosen = 0;
        for class in 0..CLASSES {
            let lists = class * QUARTERS..(class + 1) * QUARTERS;
            let free: usize = lists.clone().map(|list| self.free_slots(list)).sum();
            let mut spare = free / slots_in(class);
            for list in lists {
                while spare > 0 && self.heads[list] != 0 {
                    let at = self.pop(list as u16);
                    (self.table[at].list, self.table[at].leaving) = (FULL, 1);
                    spare -= 1;
                    chosen += 1;
                }
            }
        }
        chosen
    }

    /// Puts chunks that were chosen and are not empty back on their lists.
    pub fn settle(&mut self) {
        for at in 0..self.fresh {
            if self.table[at].leaving != 0 {
                self.table[at].leaving = 0;
                self.relist(at);
            }
        }
    }

    /// Free slots of the chunks on a list.
    fn free_slots(&self, list: usize) -> usize {
        let (mut free, mut at) = (0, self.heads[list]);
        while at != 0 {
            let chunk = &self.table[at as usize - 1];
            free += slots_in(chunk.class as usize) - chunk.used as usize;
            at = chunk.next;
        }
        free
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

    /// Compares bitmaps, counts and lists.
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
    }

    #[cfg(test)]
    pub fn header_mut(&mut self, at: usize) -> &mut Chunk {
        &mut self.table[at]
    }
}

fn check_classed(at: usize, chunk: &Chunk, broken: &mut Vec<String>) {
    let class = chunk.class as usize;
    if class >= CLASSES {
        broken.push(format!("chunk {at}: class {class} does not exist"));
        return;
    }
    let taken: u32 = chunk.taken.iter().map(|w| w.count_ones()).sum();
    let beyond = (slots_in(class)..TAKEN_WORDS * 64).any(|s| chunk.taken[s / 64] & (1 << (s % 64)) != 0);
    if taken != u32::from(chunk.used) || beyond || taken == 0 {
        broken.push(format!("chunk {at}: {taken} slots taken, its count says {}", chunk.used));
    }
    let leaving = chunk.leaving != 0;
    let list = if leaving { FULL } else { list_of(class, (chunk.used as usize).min(slots_in(class))) };
    if list != chunk.list {
        broken.push(format!("chunk {at}: {} used is not the fullness of its list", chunk.used));
    }
}

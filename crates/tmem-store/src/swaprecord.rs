// SPDX-License-Identifier: Apache-2.0
//! Owns: what is known of each blob of one swap file: place, checksum, generation, in use or in limbo; and which blobs
//! begin in a block. Callers: `swaplevel`, `swapclean`. 20 bytes a page and 4 a block, 4 more a page after a fork.

use crate::page_bytes;
use crate::swapblob::Place;
use tmem_sys::{Errno, Table};

/// Pages that a block may hold on average; more of them are refused.
const RECORDS_PER_BLOCK: usize = 8;

pub(crate) struct Records {
    /// Checksum of a blob; the word of a page that repeats one; the generation of its freeing for one in limbo.
    sums: Table<u64>,
    /// [`Place`]s.
    places: Table<u64>,
    /// Number + 1 of the blob that begins next in the same block; of the next unused record.
    next: Table<u32>,
    /// Generation in which a blob was written.
    born: Table<u32>,
    /// One bit a record that is no page of ours but may be a child's.
    limbo: Table<u64>,
    /// Number + 1 of the first blob that begins in a block.
    first: Table<u32>,
    /// Number + 1 of an unused record below `top`.
    spare: u32,
    /// Records from here on were never used.
    top: usize,
    pub used: usize,
    pub in_limbo: usize,
}

pub(crate) fn bit(table: &Table<u64>, at: usize) -> bool {
    table[at / 64] & (1 << (at % 64)) != 0
}

pub(crate) fn set_bit(table: &mut Table<u64>, at: usize, on: bool) {
    let mask = 1 << (at % 64);
    if on {
        table[at / 64] |= mask;
    } else {
        table[at / 64] &= !mask;
    }
}

impl Records {
    pub fn new(blocks: usize, most: usize) -> Result<Records, Errno> {
        let cap = (blocks * RECORDS_PER_BLOCK).min(most);
        Ok(Records {
            sums: Table::new(cap)?,
            places: Table::new(cap)?,
            next: Table::new(cap)?,
            born: Table::new(cap)?,
            limbo: Table::new(cap.div_ceil(64))?,
            first: Table::new(blocks)?,
            spare: 0,
            top: 0,
            used: 0,
            in_limbo: 0,
        })
    }

    /// Records that can still be taken.
    pub fn left(&self) -> usize {
        self.places.len() - self.used - self.in_limbo
    }

    pub fn top(&self) -> usize {
        self.top
    }

    pub fn holds(&self, number: usize) -> bool {
        number < self.top && !self.place(number).is_none() && !self.is_limbo(number)
    }

    pub fn is_limbo(&self, number: usize) -> bool {
        bit(&self.limbo, number)
    }

    pub fn place(&self, number: usize) -> Place {
        Place(self.places[number])
    }

    pub fn sum(&self, number: usize) -> u64 {
        self.sums[number]
    }

    pub fn born(&self, number: usize) -> u32 {
        self.born[number]
    }

    /// The record of the blob that begins first in a block.
    pub fn first_of(&self, block: usize) -> Option<usize> {
        self.first[block].checked_sub(1).map(|n| n as usize)
    }

    /// The records of the blobs that begin in a block, from its beginning on.
    pub fn of_block(&self, block: usize) -> impl Iterator<Item = usize> + '_ {
        let after = |number: &usize| self.next[*number].checked_sub(1).map(|n| n as usize);
        std::iter::successors(self.first_of(block), after)
    }

    /// Takes a record into use; the caller has seen that there are some `left`.
    pub fn take(&mut self, sum: u64, generation: u32) -> usize {
        let number = match self.spare.checked_sub(1) {
            Some(spare) => {
                self.spare = self.next[spare as usize];
                spare as usize
            }
            None => {
                self.top += 1;
                self.top - 1
            }
        };
        self.sums[number] = sum;
        self.note_born(number, generation);
        self.used += 1;
        number
    }

    fn note_born(&mut self, number: usize, generation: u32) {
        // Not written when it is right already: without forks this table stays untouched.
        if self.born[number] != generation {
            self.born[number] = generation;
        }
    }

    /// The page repeats its word.
    pub fn put_same(&mut self, number: usize) {
        self.places[number] = Place::SAME.0;
    }

    /// Notes where a blob lies. `before` is the blob put just before it: those of a block are put in their order.
    pub fn put(&mut self, number: usize, place: Place, before: Option<usize>) {
        self.places[number] = place.0;
        self.next[number] = 0;
        match before.filter(|b| self.place(*b).block() == place.block()) {
            Some(before) => self.next[before] = number as u32 + 1,
            None => self.first[place.block()] = number as u32 + 1,
        }
    }

    /// As [`Records::put`] for a blob that is elsewhere now.
    pub fn move_to(&mut self, number: usize, place: Place, before: Option<usize>, generation: u32) {
        self.unlink(number);
        self.note_born(number, generation);
        self.put(number, place, before);
    }

    fn unlink(&mut self, number: usize) {
        let (block, after) = (self.place(number).block(), self.next[number]);
        let before = self.of_block(block).take_while(|n| *n != number).last();
        match before {
            Some(before) => self.next[before] = after,
            None => self.first[block] = after,
        }
    }

    /// The blob is no page of ours any more, but a child's.
    pub fn enter_limbo(&mut self, number: usize, generation: u32) {
        set_bit(&mut self.limbo, number, true);
        self.sums[number] = u64::from(generation);
        self.used -= 1;
        self.in_limbo += 1;
    }

    /// The record is of no use any more, in limbo or not.
    pub fn release(&mut self, number: usize) {
        if self.is_limbo(number) {
            set_bit(&mut self.limbo, number, false);
            self.in_limbo -= 1;
        } else {
            self.used -= 1;
        }
        if !self.place(number).is_same() {
            self.unlink(number);
        }
        self.places[number] = Place::NONE.0;
        self.next[number] = self.spare;
        self.spare = number as u32 + 1;
    }

    /// The first record in limbo from `from` on.
    pub fn next_limbo(&self, from: usize) -> Option<usize> {
        if self.in_limbo == 0 {
            return None;
        }
        let mut word = from / 64;
        let mut seen = self.limbo.get(word)? & (u64::MAX << (from % 64));
        while seen == 0 {
            word += 1;
            if word * 64 >= self.top {
                return None;
            }
            seen = self.limbo[word];
        }
        Some(word * 64 + seen.trailing_zeros() as usize)
    }

    /// Tables, as touched; `blocks` of the file were used.
    pub fn footprint(&self, blocks: usize, generation: u32) -> usize {
        let (words, halves) =
            (page_bytes(self.top * size_of::<u64>()), page_bytes(self.top * size_of::<u32>()));
        let born = if generation > 0 { halves } else { 0 };
        2 * words + halves + born + page_bytes(self.top.div_ceil(8)) + page_bytes(blocks * size_of::<u32>())
    }

    /// Changes the count, as stray writes would.
    #[cfg(test)]
    pub fn break_count(&mut self) {
        self.used += 1;
    }
}

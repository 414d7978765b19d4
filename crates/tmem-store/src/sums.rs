// SPDX-License-Identifier: Apache-2.0
//! Owns: a checksum of what lies in each slot of leased memory, kept in memory of this process alone. Callers: `slab`, when it
//! stores, moves and reads. Locks: the store's. Law 12: what left private memory is compared before it is believed; what does not
//! compare is read by nobody.
//!
//! Leased memory is shared with the host, and with whoever may look into either process. The checksum is keyed with a secret of
//! the process. It tells accidents, not decides anything: 32 bits, so that a page costs four bytes of the guest's own budget.

use crate::class::MOST_SLOTS;
use crate::page_bytes;
use crate::slab::{Loc, Slab};
use std::ops::Range;
use tmem_sys::{Errno, Table};
use xxhash_rust::xxh3::xxh3_64_with_secret;

const SECRET: usize = 192;
/// Most chunks have no more slots than this: their sums lie close together. Those of the others lie apart.
const NEAR: usize = 64;
const FAR: usize = MOST_SLOTS - NEAR;

pub(crate) struct Sums {
    near: Table<u32>,
    far: Table<u32>,
    secret: Box<[u8; SECRET]>,
    /// The first chunk that has sums.
    first: usize,
    /// Chunks that have any: none from here on. And those with sums that lie apart.
    top: usize,
    apart: Table<u8>,
    apart_count: usize,
}

impl Sums {
    /// For the chunks of this range.
    ///
    /// # Errors
    /// `ENOMEM`; that of `getrandom`.
    pub fn new(chunks: Range<usize>) -> Result<Sums, Errno> {
        let mut secret = Box::new([0; SECRET]);
        tmem_sys::random::random_bytes(&mut secret[..])?;
        let count = chunks.len();
        Ok(Sums {
            near: Table::new(count.checked_mul(NEAR).ok_or(Errno::ENOMEM)?)?,
            far: Table::new(count.checked_mul(FAR).ok_or(Errno::ENOMEM)?)?,
            secret,
            first: chunks.start,
            top: 0,
            apart: Table::new(count)?,
            apart_count: 0,
        })
    }

    /// The checksum of some bytes.
    #[inline]
    pub fn of(&self, data: &[u8]) -> u32 {
        xxh3_64_with_secret(data, &self.secret[..]) as u32
    }

    pub fn set(&mut self, chunk: usize, slot: usize, sum: u32) {
        let chunk = chunk - self.first;
        self.top = self.top.max(chunk + 1);
        if slot < NEAR {
            self.near[chunk * NEAR + slot] = sum;
            return;
        }
        if self.apart[chunk] == 0 {
            self.apart[chunk] = 1;
            self.apart_count += 1;
        }
        self.far[chunk * FAR + slot - NEAR] = sum;
    }

    #[inline]
    pub fn get(&self, chunk: usize, slot: usize) -> u32 {
        let chunk = chunk - self.first;
        if slot < NEAR { self.near[chunk * NEAR + slot] } else { self.far[chunk * FAR + slot - NEAR] }
    }

    /// These chunks hold nothing any more, and their window goes.
    pub fn forget(&mut self, chunks: Range<usize>) {
        let chunks = chunks.start - self.first..chunks.end - self.first;
        self.near.discard(chunks.start * NEAR * size_of::<u32>()..chunks.end * NEAR * size_of::<u32>());
        self.far.discard(chunks.start * FAR * size_of::<u32>()..chunks.end * FAR * size_of::<u32>());
        for chunk in chunks.filter(|&chunk| chunk < self.top) {
            self.apart_count -= usize::from(std::mem::take(&mut self.apart[chunk]) != 0);
        }
    }

    /// Nothing is leased any more: as it was at first.
    pub fn reset(&mut self) {
        self.near.discard(0..self.top * NEAR * size_of::<u32>());
        self.far.discard(0..self.top * FAR * size_of::<u32>());
        self.apart.discard(0..self.top);
        (self.top, self.apart_count) = (0, 0);
    }

    /// Bytes of memory that it takes, of `leased` chunks that there are.
    pub fn footprint(&self, leased: usize) -> usize {
        // What lies apart begins somewhere in a page, of each chunk.
        let far = self.apart_count * page_bytes(FAR * size_of::<u32>()).min(2 * tmem_sys::PAGE_SIZE);
        page_bytes(leased.min(self.top) * NEAR * size_of::<u32>()) + far + page_bytes(self.top)
    }
}

impl Slab {
    /// Notes what was stored in a slot, where that is in leased memory.
    #[inline]
    pub(crate) fn note_sum(&mut self, loc: Loc, data: &[u8]) {
        if let Some(windows) = self.windows.as_mut().filter(|_| self.chunks.is_leased(loc.chunk())) {
            let sum = windows.sums.of(data);
            windows.sums.set(loc.chunk(), loc.slot(), sum);
        }
    }

    /// Whether a slot's bytes are what was stored there, as far as that is to be asked.
    #[inline]
    pub(crate) fn has_sum(&self, loc: Loc, data: &[u8]) -> bool {
        let sums = self.windows.as_ref().filter(|_| self.chunks.is_leased(loc.chunk())).map(|w| &w.sums);
        sums.is_none_or(|sums| sums.get(loc.chunk(), loc.slot()) == sums.of(data))
    }

    /// Notes the same of the slot that bytes were moved to. They were compared before; a sum that is there is not made anew.
    pub(crate) fn carry_sum(&mut self, from: Loc, to: Loc, len: usize) {
        let Some((at, _)) = self.place_of(to).filter(|_| self.chunks.is_leased(to.chunk())) else { return };
        let Some(windows) = &mut self.windows else { return };
        let sum = match self.chunks.is_leased(from.chunk()) {
            true => windows.sums.get(from.chunk(), from.slot()),
            false => windows.sums.of(&self.bytes[at..at + len]),
        };
        windows.sums.set(to.chunk(), to.slot(), sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_kept_by_slot_and_go_with_their_chunks() {
        let mut sums = Sums::new(100..612).unwrap();
        for (chunk, slot) in [(100, 0), (100, NEAR - 1), (100, NEAR), (611, MOST_SLOTS - 1), (356, 3)] {
            let sum = sums.of(&[chunk as u8, slot as u8]);
            sums.set(chunk, slot, sum);
            assert_eq!(sums.get(chunk, slot), sum);
        }
        assert_ne!(sums.of(b"one"), sums.of(b"other"));
        assert_eq!(sums.apart_count, 2);
        sums.forget(100..356);
        assert_eq!((sums.get(100, 0), sums.get(100, NEAR), sums.apart_count), (0, 0, 1));
        assert_ne!(sums.get(356, 3), 0);
        sums.reset();
        assert_eq!((sums.get(356, 3), sums.get(611, MOST_SLOTS - 1)), (0, 0));
        assert_eq!(sums.footprint(512), 0);
    }
}

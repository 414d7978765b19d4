// SPDX-License-Identifier: Apache-2.0
//! Owns: the memory of packed and raw pages: slots of size classes in 32 KiB chunks of one reserved range.
//! Callers: `pool`, `compact`. Locks: the store's. Law: no more chunks are mapped than the capacity allows, except
//! after the capacity was lowered; then no slot is given out until flushes have made up for it.

use crate::chunks::Chunks;
use crate::class::{CHUNK, CLASSES, class_of, slot_size, slots_in};
use crate::page_bytes;
use tmem_sys::{Errno, Table};

/// Empty chunks that stay mapped, so that a store in steady state gives back and maps again nothing.
const KEEP_IDLE: usize = 8;

/// Where a slot is: chunk number above, slot number in the low 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Loc(pub u64);

impl Loc {
    fn new(chunk: usize, slot: usize) -> Loc {
        Loc((chunk as u64) << 16 | slot as u64)
    }

    pub fn chunk(self) -> usize {
        (self.0 >> 16) as usize
    }

    pub fn slot(self) -> usize {
        (self.0 & 0xffff) as usize
    }
}

pub(crate) struct Slab {
    bytes: Table<u8>,
    pub(crate) chunks: Chunks,
    capacity_chunks: usize,
    /// Bytes of the slots in use.
    slot_bytes: usize,
}

impl Slab {
    /// Reserves address space for `reserve` bytes; capacity can be set up to that.
    pub fn new(capacity: usize, reserve: usize) -> Result<Slab, Errno> {
        let chunks = (reserve / CHUNK).max(1);
        let mut slab = Slab {
            bytes: Table::new(chunks.checked_mul(CHUNK).ok_or(Errno::ENOMEM)?)?,
            chunks: Chunks::new(chunks)?,
            capacity_chunks: 0,
            slot_bytes: 0,
        };
        slab.set_capacity(capacity);
        Ok(slab)
    }

    /// Changes the limit on mapped bytes, within the reserve. What is stored stays.
    pub fn set_capacity(&mut self, bytes: usize) {
        self.capacity_chunks = (bytes / CHUNK).min(self.chunks.len());
        while self.chunks.mapped > self.capacity_chunks && self.give_back_one() {}
    }

    pub fn capacity_bytes(&self) -> usize {
        self.capacity_chunks * CHUNK
    }

    pub fn mapped_bytes(&self) -> usize {
        self.chunks.mapped * CHUNK
    }

    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Chunks and their headers, as touched.
    pub fn footprint(&self) -> usize {
        self.mapped_bytes() + page_bytes(self.chunks.fresh() * size_of::<crate::chunks::Chunk>())
    }

    /// Copies data into a slot, or says that there is no room.
    pub fn store(&mut self, data: &[u8]) -> Option<Loc> {
        let class = class_of(data.len());
        if self.chunks.mapped > self.capacity_chunks {
            return None;
        }
        let may_map = self.chunks.mapped < self.capacity_chunks;
        let chunk = (self.chunks.partial(class))
            .or_else(|| self.chunks.open(class, may_map))
            .or_else(|| self.roomier(class, data.len()))?;
        let size = slot_size(self.chunks.get(chunk).map_or(class, |c| c.class as usize));
        let slot = self.chunks.take_slot(chunk);
        self.slot_bytes += size;
        let at = chunk * CHUNK + slot * size;
        self.bytes[at..at + data.len()].copy_from_slice(data);
        Some(Loc::new(chunk, slot))
    }

    /// Whether data of this length surely finds a slot.
    pub fn has_room(&self, len: usize) -> bool {
        let class = class_of(len);
        let may_map = self.chunks.mapped < self.capacity_chunks;
        self.chunks.mapped <= self.capacity_chunks
            && (may_map || self.chunks.idle > 0 || self.chunks.partial(class).is_some())
    }

    /// At capacity: a partial chunk whose slots are larger than need be, by a quarter of the data at most.
    fn roomier(&self, class: usize, len: usize) -> Option<usize> {
        let near = (class + 1..CLASSES).take_while(|c| slot_size(*c) <= len + len / 4);
        near.filter_map(|c| self.chunks.partial(c)).next()
    }

    /// The first `len` bytes of a slot; `None` when no such slot is in use.
    #[inline]
    pub fn read(&self, loc: Loc, len: usize) -> Option<&[u8]> {
        let size = self.size_at(loc)?;
        let at = loc.chunk() * CHUNK + loc.slot() * size;
        (len <= size).then(|| &self.bytes[at..at + len])
    }

    /// Frees a slot; nothing happens when no such slot is in use.
    pub fn free(&mut self, loc: Loc) {
        let Some(size) = self.size_at(loc) else {
            debug_assert!(false, "freed twice: {loc:?}");
            return;
        };
        self.slot_bytes -= size;
        let empty = self.chunks.give_slot(loc.chunk(), loc.slot());
        if empty && (self.chunks.idle > KEEP_IDLE || self.chunks.mapped > self.capacity_chunks) {
            self.give_back_one();
        }
    }

    /// Moves data out of a chunk that is at most half full into the fullest other chunk of the class, if that one
    /// is at least as full: repeated, this only ever empties chunks.
    pub fn relocate(&mut self, loc: Loc, len: usize) -> Option<Loc> {
        let size = self.size_at(loc)?;
        let from = self.chunks.get(loc.chunk())?;
        let (class, used) = (from.class as usize, from.used);
        let chunk = self.chunks.partial(class)?;
        let fuller = chunk != loc.chunk() && self.chunks.get(chunk)?.used >= used;
        if !fuller || used as usize * 2 > slots_in(class) || len > size {
            return None;
        }
        Some(self.move_to(chunk, loc, size, len))
    }

    /// Chooses chunks whose pages all fit into the others of their class, and gives no slot of them out until
    /// [`Slab::settle`]. How many chunks.
    pub fn choose_leaving(&mut self) -> usize {
        self.chunks.choose_leaving()
    }

    /// Moves data out of a chunk that was chosen to be emptied.
    pub fn leave(&mut self, loc: Loc, len: usize) -> Option<Loc> {
        let size = self.size_at(loc)?;
        let from = self.chunks.get(loc.chunk())?;
        let chunk = if from.leaving == 0 { None } else { self.chunks.partial(from.class as usize) }?;
        (len <= size).then(|| self.move_to(chunk, loc, size, len))
    }

    pub fn settle(&mut self) {
        self.chunks.settle();
    }

    /// Moves data into a free slot of another chunk of the same class.
    fn move_to(&mut self, chunk: usize, loc: Loc, size: usize, len: usize) -> Loc {
        let slot = self.chunks.take_slot(chunk);
        let start = loc.chunk() * CHUNK + loc.slot() * size;
        self.bytes.copy_within(start..start + len, chunk * CHUNK + slot * size);
        self.slot_bytes += size;
        self.free(loc);
        Loc::new(chunk, slot)
    }

    /// Gives all idle chunks back: the store is asked to be as small as it can.
    pub fn trim(&mut self) {
        while self.give_back_one() {}
    }

    fn give_back_one(&mut self) -> bool {
        match self.chunks.give_back() {
            Some(chunk) => {
                self.bytes.discard(chunk * CHUNK..(chunk + 1) * CHUNK);
                true
            }
            None => false,
        }
    }

    /// Slot size where a location names a slot in use.
    #[inline]
    pub(crate) fn size_at(&self, loc: Loc) -> Option<usize> {
        let class = self.chunks.get(loc.chunk())?.class as usize;
        let taken =
            class < CLASSES && loc.slot() < slots_in(class) && self.chunks.is_taken(loc.chunk(), loc.slot());
        taken.then(|| slot_size(class))
    }

    /// Whether a slot in use is of a class that data of this length may get.
    pub fn fits(&self, loc: Loc, len: usize) -> bool {
        let least = slot_size(class_of(len));
        self.size_at(loc).is_some_and(|size| size == least || (least..=len + len / 4).contains(&size))
    }

    /// Slots in use, by the bitmaps.
    pub fn slots_taken(&self) -> usize {
        (0..self.chunks.fresh()).filter_map(|c| self.chunks.get(c)).map(|c| c.used as usize).sum()
    }

    pub fn check(&self, broken: &mut Vec<String>) {
        self.chunks.check(broken);
        let bytes: usize = (0..self.chunks.fresh())
            .filter_map(|c| self.chunks.get(c))
            .filter(|c| (c.class as usize) < CLASSES)
            .map(|c| c.used as usize * slot_size(c.class as usize))
            .sum();
        if bytes != self.slot_bytes {
            broken.push(format!("slab: {bytes} bytes of slots in use, the counter says {}", self.slot_bytes));
        }
    }

    /// Bytes of a chunk, for tests that overwrite them.
    #[cfg(test)]
    pub fn slot_mut(&mut self, loc: Loc, len: usize) -> &mut [u8] {
        let at = loc.chunk() * CHUNK + loc.slot() * self.size_at(loc).unwrap();
        &mut self.bytes[at..at + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(slab: &Slab) {
        let mut broken = Vec::new();
        slab.check(&mut broken);
        assert!(broken.is_empty(), "{broken:?}");
    }

    #[test]
    fn slots_hold_what_was_stored_and_capacity_holds() {
        let mut slab = Slab::new(16 * CHUNK, 64 * CHUNK).unwrap();
        let mut kept = Vec::new();
        for n in 0..800 {
            let data = vec![n as u8; 1000 + (n * 37) % 2000];
            if let Some(loc) = slab.store(&data) {
                kept.push((loc, data));
            }
            assert!(slab.mapped_bytes() <= slab.capacity_bytes());
        }
        checked(&slab);
        assert_eq!(slab.mapped_bytes(), 16 * CHUNK);
        assert!(slab.slot_bytes() * 10 > 16 * CHUNK * 9, "{} bytes of slots", slab.slot_bytes());
        for (loc, data) in &kept {
            assert_eq!(slab.read(*loc, data.len()), Some(&data[..]));
        }
        slab.set_capacity(CHUNK);
        for (loc, _) in kept.drain(..) {
            slab.free(loc);
            checked(&slab);
            assert!(slab.read(loc, 1).is_none(), "a freed slot is not read");
        }
        assert!(slab.mapped_bytes() <= CHUNK && slab.slot_bytes() == 0);
        slab.trim();
        assert_eq!(slab.mapped_bytes(), 0);
    }

    #[test]
    fn fuller_chunks_are_filled_first() {
        let mut slab = Slab::new(8 * CHUNK, 8 * CHUNK).unwrap();
        let locs: Vec<Loc> = (0..24).map(|_| slab.store(&[1; 4096]).unwrap()).collect();
        locs[..7].iter().for_each(|l| slab.free(*l));
        slab.free(locs[16]);
        assert_eq!(slab.store(&[2; 4096]).unwrap().chunk(), locs[16].chunk());
        checked(&slab);
    }

    #[test]
    fn a_lowered_capacity_refuses_until_flushes_made_up_for_it() {
        let mut slab = Slab::new(8 * CHUNK, 8 * CHUNK).unwrap();
        let locs: Vec<Loc> = (0..32).map(|_| slab.store(&[1; 4096]).unwrap()).collect();
        slab.set_capacity(2 * CHUNK);
        slab.free(locs[0]);
        assert!(slab.store(&[1; 4096]).is_none(), "over capacity, even a free slot is refused");
        locs[1..20].iter().for_each(|l| slab.free(*l));
        assert_eq!(slab.mapped_bytes(), 2 * CHUNK);
        assert!(slab.store(&[1; 4096]).is_some());
        checked(&slab);
    }
}

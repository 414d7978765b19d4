// SPDX-License-Identifier: Apache-2.0
//! Owns: the memory of packed and raw pages: slots of size classes in 32 KiB chunks of one reserved range, each with a
//! word that says whose it is, so that a chunk can be emptied without a search. Free slots of a chunk are chained.
//! Callers: `pool`, `compact`, `cold`. Locks: the store's. Law: no more chunks are mapped than the capacity allows, except
//! after the capacity was lowered, and a few for pages that are to take less; then no slot is given out to others until
//! what was freed has made up for it.

use crate::chunks::{Chunk, Chunks, LEASED, PRIVATE};
use crate::class::{
    CHUNK, CLASSES, MOST_SLOTS, PAGE_CLASS, PAGES, WORD, class_of, slot_size, slot_start, slots_in,
};
use crate::entry::EntryId;
use crate::windows::Windows;
use tmem_sys::overlay::UNIT;
use tmem_sys::page::{fetch_all, fetch_line};
use tmem_sys::{Errno, Table};

/// Bits of a slot's number in its location.
const SLOT_BITS: u32 = 10;
const _: () = assert!(MOST_SLOTS <= 1 << SLOT_BITS);
/// Chunks are numbered below this.
const MOST_CHUNKS: usize = 1 << 30;

/// Marks the word of a free slot; the rest of it is the next of the chain, plus one.
const FREE: u32 = 1 << 31;

/// Chunks that pages in tighter forms may take beyond the capacity: each frees a larger slot of another chunk.
const BEYOND: usize = 8;

/// Empty chunks that stay mapped, so that a store in steady state gives back and maps again nothing.
const KEEP_IDLE: usize = 8;

/// Where a slot is: chunk number above, slot number in the low 10 bits; 40 bits in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Loc(pub u64);

impl Loc {
    fn new(chunk: usize, slot: usize) -> Loc {
        Loc((chunk as u64) << SLOT_BITS | slot as u64)
    }

    pub fn chunk(self) -> usize {
        (self.0 >> SLOT_BITS) as usize
    }

    pub fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }
}

pub(crate) struct Slab {
    pub(crate) bytes: Table<u8>,
    pub(crate) chunks: Chunks,
    capacity_chunks: usize,
    /// Bytes of the slots in use.
    slot_bytes: usize,
    /// Where there is address space for leased memory.
    pub(crate) windows: Option<Box<Windows>>,
}

impl Slab {
    /// Reserves address space for `reserve` bytes; capacity can be set up to that.
    #[cfg(test)]
    pub fn new(capacity: usize, reserve: usize) -> Result<Slab, Errno> {
        Slab::with_leases(capacity, reserve, 0)
    }

    /// As [`Slab::new`], with address space for so many bytes of leased memory beside.
    pub fn with_leases(capacity: usize, reserve: usize, leases: usize) -> Result<Slab, Errno> {
        let leased = leases / UNIT * UNIT / CHUNK;
        let chunks = (reserve / CHUNK).clamp(1, MOST_CHUNKS.checked_sub(leased).ok_or(Errno::ENOMEM)?);
        let bytes = Table::new((chunks + leased).checked_mul(CHUNK).ok_or(Errno::ENOMEM)?)?;
        let windows = if leased > 0 { Some(Windows::new(&bytes, chunks)?) } else { None };
        let chunks = Chunks::new(chunks, leased)?;
        let mut slab = Slab { bytes, chunks, capacity_chunks: 0, slot_bytes: 0, windows };
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

    pub(crate) fn capacity_chunks(&self) -> usize {
        self.capacity_chunks
    }

    /// Bytes of private chunks that are mapped.
    pub fn mapped_bytes(&self) -> usize {
        self.chunks.mapped * CHUNK
    }

    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Bytes of leased chunks that are not only emptied.
    pub fn leased_chunk_bytes(&self) -> usize {
        self.chunks.leased.mapped * CHUNK
    }

    /// Bytes of the slots in use in leased memory.
    pub fn leased_slot_bytes(&self) -> usize {
        if self.windows.is_some() { self.chunks.leased_slot_bytes() } else { 0 }
    }

    /// Private chunks, and the headers of all, as touched.
    pub fn footprint(&self) -> usize {
        let own = self.mapped_bytes() + self.chunks.header_bytes();
        if self.windows.is_none() { own } else { own + self.windows_footprint() }
    }

    /// Copies data into a slot, or says that there is no room. The slot's owner is to be set next.
    pub fn store(&mut self, data: &[u8]) -> Option<Loc> {
        let most = self.capacity_chunks;
        self.store_within(most, data).or_else(|| {
            let came = self.windows.is_some() && self.take_lease();
            if came { self.store_within(most, data) } else { None }
        })
    }

    /// As [`Slab::store`], for data whose larger slot is freed next.
    pub fn store_tighter(&mut self, data: &[u8]) -> Option<Loc> {
        self.store_within(self.capacity_chunks + BEYOND, data)
    }

    fn store_within(&mut self, most: usize, data: &[u8]) -> Option<Loc> {
        let chunk = match self.windows {
            None => self.private_place(most, data.len())?,
            Some(_) => self.any_place(most, data.len())?,
        };
        self.store_at(chunk, data)
    }

    /// Copies data into a slot of a chunk that has a free one.
    pub(crate) fn store_at(&mut self, chunk: usize, data: &[u8]) -> Option<Loc> {
        let loc = self.take(chunk)?;
        let (at, _) = self.place_of(loc)?;
        self.bytes[at..at + data.len()].copy_from_slice(data);
        if self.windows.is_some() {
            self.note_sum(loc, data);
        }
        Some(loc)
    }

    /// A private chunk with a slot for data of this length.
    #[inline]
    fn private_place(&mut self, most: usize, len: usize) -> Option<usize> {
        let class = class_of(len);
        if self.chunks.mapped > most {
            return None;
        }
        self.private_chunk(most, class).or_else(|| self.roomier(PRIVATE, class, len))
    }

    /// A private chunk with a slot of a class.
    #[inline]
    pub(crate) fn private_chunk(&mut self, most: usize, class: usize) -> Option<usize> {
        if self.chunks.mapped > most {
            return None;
        }
        let may_map = self.chunks.mapped < most;
        self.chunks.partial(class).or_else(|| self.chunks.open(class, may_map))
    }

    /// A chunk with a slot for data of this length: a leased one first.
    fn any_place(&mut self, most: usize, len: usize) -> Option<usize> {
        let class = class_of(len);
        let opened = |slab: &Slab| (slab.chunks.leased.idle, slab.chunks.idle, slab.chunks.mapped);
        let before = opened(self);
        let chunk = (self.leased_chunk(class))
            .or_else(|| self.private_place(most, len))
            .or_else(|| self.roomier(LEASED, class, len));
        if before != opened(self) {
            self.look_ahead();
        }
        chunk
    }

    /// Whether data of this length surely finds a slot.
    pub fn has_room(&self, len: usize) -> bool {
        let class = class_of(len);
        let may_map = self.chunks.mapped < self.capacity_chunks;
        let private = self.chunks.mapped <= self.capacity_chunks
            && (may_map || self.chunks.idle > 0 || self.chunks.partial(class).is_some());
        private || self.chunks.leased.idle > 0 || self.chunks.partial_leased(class).is_some()
    }

    /// At capacity: a partial chunk whose slots are larger than need be, by a quarter of the data at most.
    fn roomier(&self, side: usize, class: usize, len: usize) -> Option<usize> {
        let near = (class + 1..CLASSES).take_while(|c| slot_size(*c) <= len + len / 4);
        near.filter_map(|c| self.chunks.partial_of(side, c)).next()
    }

    /// Takes a free slot of a chunk that has one, for nobody yet.
    fn take(&mut self, at: usize) -> Option<Loc> {
        let Chunk { class, free, fresh, .. } = *self.chunks.get_any(at)?;
        let slot = match free {
            0 => usize::from(fresh),
            free => usize::from(free) - 1,
        };
        if slot >= slots_in(class as usize) {
            debug_assert!(false, "chunk {at} is full");
            return None;
        }
        let next = if free == 0 { 0 } else { (self.word(at, class as usize, slot) & !FREE) as u16 };
        let header = self.chunks.header_mut(at);
        header.free = next;
        header.fresh += u16::from(free == 0);
        self.set_word(at, class as usize, slot, EntryId::NONE.0);
        self.chunks.took(at);
        self.slot_bytes += slot_size(class as usize);
        Some(Loc::new(at, slot))
    }

    /// Whose a slot is.
    pub fn owner(&self, loc: Loc) -> Option<EntryId> {
        let class = self.class_at(loc)?;
        Some(EntryId(self.word(loc.chunk(), class, loc.slot())))
    }

    /// Says whose a slot is: who is to learn of it when the data moves.
    #[inline]
    pub fn set_owner(&mut self, loc: Loc, owner: EntryId) {
        if let Some(class) = self.class_at(loc) {
            self.set_word(loc.chunk(), class, loc.slot(), owner.0);
        }
    }

    /// The `len` bytes that were stored in a slot; `None` when no such slot is in use, or they are not what was stored.
    #[inline]
    pub fn read(&self, loc: Loc, len: usize) -> Option<&[u8]> {
        let size = self.size_at(loc)?;
        let (at, _) = self.place_of(loc)?;
        let data = (len <= size).then(|| &self.bytes[at..at + len])?;
        (self.windows.is_none() || self.has_sum(loc, data)).then_some(data)
    }

    /// Asks for the memory of a slot's first `len` bytes, and for the word that says it is in use.
    #[inline]
    pub fn expect(&self, loc: Loc, len: usize) {
        if let Some((at, class)) = self.place_of(loc) {
            if class != PAGE_CLASS {
                fetch_line(&self.bytes[loc.chunk() * CHUNK + loc.slot() * WORD]);
            }
            fetch_all(&self.bytes[at..at + len.min(slot_size(class))]);
        }
    }

    /// Frees a slot; nothing happens when no such slot is in use.
    pub fn free(&mut self, loc: Loc) {
        let Some(class) = self.class_at(loc) else {
            debug_assert!(false, "freed twice: {loc:?}");
            return;
        };
        self.slot_bytes -= slot_size(class);
        let header = self.chunks.header_mut(loc.chunk());
        let next = std::mem::replace(&mut header.free, loc.slot() as u16 + 1);
        self.set_word(loc.chunk(), class, loc.slot(), FREE | u32::from(next));
        let empty = self.chunks.gave(loc.chunk());
        if empty && self.chunks.is_leased(loc.chunk()) {
            return self.emptied_leased(loc.chunk());
        }
        if empty && (self.chunks.idle > KEEP_IDLE || self.chunks.mapped > self.capacity_chunks) {
            self.give_back_one();
        }
    }

    /// A chunk whose pages all fit into the others of its class, of the first such class from `class` on, round and round.
    /// No slot of it is given out until it was emptied ([`Slab::leave`]) or [`Slab::settle`].
    pub fn choose_leaving(&mut self, class: usize) -> Option<usize> {
        let classes = (0..CLASSES).map(|n| (class + n) % CLASSES);
        let class = classes.into_iter().find(|class| self.chunks.has_spare(*class))?;
        self.chunks.choose_leaving(class)
    }

    /// The slots of a chunk that are in use, from slot number `from` on: the first of them.
    pub fn next_taken(&self, chunk: usize, from: usize) -> Option<Loc> {
        let header = self.chunks.get(chunk)?;
        (from..header.fresh.into())
            .map(|slot| Loc::new(chunk, slot))
            .find(|loc| self.class_at(*loc).is_some())
    }

    /// Moves data into the fullest other chunk of the class, a leased one first.
    pub fn leave(&mut self, loc: Loc, len: usize) -> Option<Loc> {
        let class = self.class_at(loc)?;
        let leased = self.windows.as_ref().and_then(|_| self.chunks.partial_leased(class));
        self.move_to(loc, len, leased.or_else(|| self.chunks.partial(class))?)
    }

    /// Moves data into a chunk of the class that has a free slot.
    pub(crate) fn move_to(&mut self, loc: Loc, len: usize, chunk: usize) -> Option<Loc> {
        let class = self.class_at(loc)?;
        let owner = self.owner(loc)?;
        let (start, _) = self.place_of(loc)?;
        if len > slot_size(class)
            || (self.windows.is_some() && !self.has_sum(loc, &self.bytes[start..start + len]))
        {
            return None;
        }
        let to = self.take(chunk)?;
        let (at, _) = self.place_of(to)?;
        self.bytes.copy_within(start..start + len, at);
        if self.windows.is_some() {
            self.carry_sum(loc, to, len);
        }
        self.set_owner(to, owner);
        self.free(loc);
        Some(to)
    }

    pub fn settle(&mut self, chunk: usize) {
        self.chunks.settle(chunk);
    }

    /// Bytes of slots that are free in chunks that hold something: what compaction could make whole chunks of.
    pub fn free_bytes(&self) -> usize {
        let leased = self.chunks.leased.mapped - self.chunks.leased.idle;
        (self.chunks.mapped - self.chunks.idle + leased) * CHUNK - self.slot_bytes
    }

    /// Gives all idle chunks back: the store is asked to be as small as it can.
    pub fn trim(&mut self) {
        while self.give_back_one() {}
        self.chunks.reset_if_empty();
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

    /// The class where a location names a slot in use.
    #[inline]
    fn class_at(&self, loc: Loc) -> Option<usize> {
        let chunk = self.chunks.get(loc.chunk())?;
        let class = chunk.class as usize;
        let taken = class < CLASSES
            && loc.slot() < usize::from(chunk.fresh)
            && self.word(loc.chunk(), class, loc.slot()) & FREE == 0;
        taken.then_some(class)
    }

    /// Slot size where a location names a slot in use.
    #[inline]
    pub(crate) fn size_at(&self, loc: Loc) -> Option<usize> {
        self.class_at(loc).map(slot_size)
    }

    /// Where in the bytes a slot begins, and its class, whether it is in use or not.
    #[inline]
    pub(crate) fn place_of(&self, loc: Loc) -> Option<(usize, usize)> {
        let class = self.chunks.get(loc.chunk())?.class as usize;
        let within = class < CLASSES && loc.slot() < slots_in(class);
        within.then(|| (loc.chunk() * CHUNK + slot_start(class, loc.slot()), class))
    }

    /// What is noted of a slot: its owner, or that it is free and which is the next of the chain.
    #[inline]
    fn word(&self, chunk: usize, class: usize, slot: usize) -> u32 {
        if class == PAGE_CLASS {
            return self.chunks.get_any(chunk).map_or(FREE, |c| c.pages[slot % PAGES]);
        }
        let at = chunk * CHUNK + slot * WORD;
        u32::from_ne_bytes(std::array::from_fn(|i| self.bytes[at + i]))
    }

    #[inline]
    fn set_word(&mut self, chunk: usize, class: usize, slot: usize, word: u32) {
        if class == PAGE_CLASS {
            self.chunks.header_mut(chunk).pages[slot % PAGES] = word;
        } else {
            let at = chunk * CHUNK + slot * WORD;
            self.bytes[at..at + WORD].copy_from_slice(&word.to_ne_bytes());
        }
    }

    /// Whether a slot in use is of a class that data of this length may get.
    pub fn fits(&self, loc: Loc, len: usize) -> bool {
        let least = slot_size(class_of(len));
        self.size_at(loc).is_some_and(|size| size == least || (least..=len + len / 4).contains(&size))
    }

    /// Slots in use, by the headers.
    pub fn slots_taken(&self) -> usize {
        self.chunks.all().filter_map(|c| self.chunks.get(c)).map(|c| c.used as usize).sum()
    }

    pub fn check(&self, broken: &mut Vec<String>) {
        self.chunks.check(broken);
        self.check_windows(broken);
        let bytes: usize = (self.chunks.all())
            .filter_map(|c| self.chunks.get(c))
            .filter(|c| (c.class as usize) < CLASSES)
            .map(|c| c.used as usize * slot_size(c.class as usize))
            .sum();
        if bytes != self.slot_bytes {
            broken.push(format!("slab: {bytes} bytes of slots in use, the counter says {}", self.slot_bytes));
        }
        for chunk in self.chunks.all() {
            if let Some(header) = self.chunks.get(chunk).filter(|c| (c.class as usize) < CLASSES) {
                self.check_chain(chunk, header, broken);
            }
        }
    }

    /// Compares a chunk's words with its count and its chain of free slots.
    fn check_chain(&self, chunk: usize, header: &Chunk, broken: &mut Vec<String>) {
        let (class, fresh) =
            (header.class as usize, usize::from(header.fresh).min(slots_in(header.class as usize)));
        let taken = (0..fresh).filter(|slot| self.word(chunk, class, *slot) & FREE == 0).count();
        let (mut free, mut at) = (0, usize::from(header.free));
        while (1..=fresh).contains(&at) && free <= fresh {
            free += 1;
            let word = self.word(chunk, class, at - 1);
            if word & FREE == 0 {
                break;
            }
            at = (word & !FREE) as usize;
        }
        if taken != header.used as usize || at != 0 || free + taken != fresh {
            broken.push(format!(
                "chunk {chunk}: {taken} slots taken and {free} in the chain of free ones; {} used and {fresh} touched noted",
                header.used
            ));
        }
    }

    /// Bytes of a chunk, for tests that overwrite them.
    #[cfg(test)]
    pub fn slot_mut(&mut self, loc: Loc, len: usize) -> &mut [u8] {
        let (at, _) = self.place_of(loc).unwrap();
        &mut self.bytes[at..at + len]
    }
}

#[cfg(test)]
mod tests;

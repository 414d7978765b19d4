// SPDX-License-Identifier: Apache-2.0
//! Owns: the order in which persistent pages were put, oldest first: blocks of entry numbers in a chain. Callers: `place`
//! and `pool` (in and out), `oldest` (who goes down first, who is cold). Locks: the store's.
//! Law: a page's place is the page's until it leaves; what leaves costs one write. Neighbouring blocks that are both
//! sparse become one, a bounded piece of work at a time, so that the order takes at most twice what its pages need.

use crate::entry::{Entry, EntryId};
use crate::page_bytes;
use tmem_sys::{Errno, PAGE_SIZE, Table};

/// Entry numbers of a block: a page of them.
const BLOCK: usize = PAGE_SIZE / size_of::<u32>();
/// Two neighbours with no more than this between them become one.
const SPARSE: u32 = BLOCK as u32;
/// A block of at least so many is done when it was begun this long ago, by the caller's clock.
const DATED: usize = 64;
const SPAN: u32 = 4;
/// Blocks looked at for a sparse neighbour whenever a new block is begun.
const LOOKED_AT: usize = 16;
/// And pairs made one then, at most.
const JOINED: usize = 3;

tmem_sys::pod! {
    struct Block {
        /// Entries in it.
        live: u32,
        /// Numbers of the neighbours, 0 for none; `older` links free blocks.
        older: u32,
        younger: u32,
        /// When it was begun, in the caller's clock; a block made of two has the younger's.
        begun: u32,
        /// Places up to here are empty.
        from: u16,
        /// Places from here on were never used.
        to: u16,
        /// Every entry in it was seen by the one that looks for cold pages.
        swept: u32,
    }
}

const ZERO: Block = Block { live: 0, older: 0, younger: 0, begun: 0, from: 0, to: 0, swept: 0 };

/// A page's place in the order; 0 is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place(pub u32);

impl Place {
    pub const NONE: Place = Place(0);

    fn new(block: u32, at: usize) -> Place {
        Place(block * BLOCK as u32 + at as u32)
    }

    fn block(self) -> u32 {
        self.0 / BLOCK as u32
    }

    fn at(self) -> usize {
        self.0 as usize % BLOCK
    }
}

pub(crate) struct Order {
    ids: Table<u32>,
    blocks: Table<Block>,
    oldest: u32,
    youngest: u32,
    /// The first free block.
    free: u32,
    /// Blocks from here on were never used.
    fresh: u32,
    /// Blocks in the chain.
    in_chain: usize,
    /// Pages in the order.
    live: usize,
    /// Where the search for sparse neighbours goes on.
    hand: u32,
    /// Where the search for cold pages goes on, 0 for the oldest of all.
    sweeping: u32,
    /// The caller's clock.
    now: u32,
}

impl Order {
    /// Room for `max_pages`, in address space.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(max_pages: usize) -> Result<Order, Errno> {
        // Twice what the pages need, and what is never used of the last block of all.
        let blocks = (max_pages.div_ceil(BLOCK) * 3 + 8).min(Entry::RECORDS / BLOCK);
        Ok(Order {
            ids: Table::new(blocks * BLOCK)?,
            blocks: Table::new(blocks)?,
            oldest: 0,
            youngest: 0,
            free: 0,
            fresh: 1,
            in_chain: 0,
            live: 0,
            hand: 0,
            sweeping: 0,
            now: 0,
        })
    }

    /// Sets the clock by which blocks are dated.
    pub fn set_clock(&mut self, now: u32) {
        self.now = now;
    }

    /// Puts a page at the young end. [`Place::NONE`] where there is no room: the page is then in no order, and stays.
    /// `moved` is told which entries have another place now.
    pub fn push(&mut self, id: EntryId, moved: &mut impl FnMut(EntryId, Place)) -> Place {
        if self.youngest == 0 || self.is_done(&self.blocks[self.youngest as usize]) {
            if !self.begin_block() {
                return Place::NONE;
            }
            self.join_some(moved);
        }
        let number = self.youngest;
        let block = &mut self.blocks[number as usize];
        let place = Place::new(number, block.to.into());
        block.to += 1;
        block.live += 1;
        self.live += 1;
        self.ids[place.0 as usize] = id.0;
        place
    }

    /// Whether the next page is to begin a block: this one is full, or its date would be wrong by too much.
    #[inline]
    fn is_done(&self, block: &Block) -> bool {
        let at = usize::from(block.to);
        at == BLOCK || (at >= DATED && self.now.saturating_sub(block.begun) >= SPAN)
    }

    /// Takes a page out.
    #[inline]
    pub fn remove(&mut self, place: Place) {
        let Some(id) = self.ids.get_mut(place.0 as usize).filter(|id| place != Place::NONE && **id != 0)
        else {
            return;
        };
        *id = 0;
        self.live -= 1;
        let number = place.block();
        let block = &mut self.blocks[number as usize];
        block.live -= 1;
        if usize::from(block.from) == place.at() {
            block.from += 1;
        }
        if block.live == 0 {
            self.unlink(number);
        }
    }

    /// The entry of a place has another number now.
    pub fn rename(&mut self, place: Place, id: EntryId) {
        if place != Place::NONE {
            self.ids[place.0 as usize] = id.0;
        }
    }

    /// Whose a place is.
    pub fn id(&self, place: Place) -> EntryId {
        EntryId(self.ids.get(place.0 as usize).copied().unwrap_or(0))
    }

    /// The oldest page but for those up to `after`, if that is a place.
    pub fn next(&self, after: Place) -> Option<(Place, EntryId)> {
        let (mut number, mut at) = (self.oldest, 0);
        if after != Place::NONE && self.blocks[after.block() as usize].live > 0 {
            (number, at) = (after.block(), after.at() + 1);
        }
        while number != 0 {
            let block = self.blocks[number as usize];
            at = at.max(block.from.into());
            let ids = &self.ids[number as usize * BLOCK..number as usize * BLOCK + usize::from(block.to)];
            if let Some(more) = ids.get(at..).and_then(|ids| ids.iter().position(|id| *id != 0)) {
                let at = at + more;
                return Some((Place::new(number, at), EntryId(ids[at])));
            }
            (number, at) = (block.younger, 0);
        }
        None
    }

    /// Shows up to `most` pages of blocks begun before `before`, oldest first, where the last time ended; each once, unless
    /// its block was made one with another since. False when there are no more.
    pub fn sweep(&mut self, before: u32, most: usize, each: &mut impl FnMut(Place, EntryId)) -> bool {
        let mut left = most;
        while left > 0 {
            let (number, from) = self.swept_to(before);
            if number == 0 {
                return false;
            }
            let to = usize::from(self.blocks[number as usize].to);
            for at in from..to {
                let place = Place::new(number, at);
                let id = self.id(place);
                if id != EntryId::NONE {
                    each(place, id);
                    left -= 1;
                }
                self.sweeping = Place::new(number, at + 1).0;
                if left == 0 && at + 1 < to {
                    return true;
                }
            }
            self.blocks[number as usize].swept = 1;
            self.sweeping = 0;
        }
        true
    }

    /// Whether [`Order::sweep`] would show anything.
    pub fn has_unswept(&mut self, before: u32) -> bool {
        self.swept_to(before).0 != 0
    }

    /// Shows up to `most` pages of one block at even distances, and answers with the next block, 0 after the last. `block` 0 is
    /// the oldest.
    pub fn sample(&self, block: u32, most: usize, each: &mut impl FnMut(EntryId)) -> u32 {
        let number = if block == 0 { self.oldest } else { block };
        let block = self.blocks[number as usize];
        if number == 0 || block.live == 0 {
            return 0;
        }
        let step = usize::from(block.to).div_ceil(most.max(1)).max(1);
        for at in (0..usize::from(block.to)).step_by(step) {
            // The next one where that place is empty, if it comes before the next step's.
            let ids =
                &self.ids[number as usize * BLOCK + at..number as usize * BLOCK + usize::from(block.to)];
            if let Some(id) = ids.iter().take(step).find(|id| **id != 0) {
                each(EntryId(*id));
            }
        }
        block.younger
    }

    /// When pages that are picked at random were put, as far as their blocks say; at most so many.
    pub fn sample_dates(&self, most: usize, random: &mut dyn FnMut() -> u64) -> impl Iterator<Item = u32> {
        let places = (self.fresh as usize * BLOCK).max(1) as u64;
        // Where few places are taken, few pages are found: there are not many then.
        let tries = if self.live == 0 { 0 } else { most * 16 };
        (0..tries)
            .filter_map(move |_| {
                let place = Place((random() % places) as u32);
                (self.id(place) != EntryId::NONE).then(|| self.blocks[place.block() as usize].begun)
            })
            .take(most)
    }

    /// The block to go on with, and where in it; 0 where all that are old enough were swept.
    fn swept_to(&mut self, before: u32) -> (u32, usize) {
        let old = |block: &Block| block.live > 0 && block.swept == 0 && block.begun < before;
        let at = Place(self.sweeping);
        if self.sweeping != 0 && old(&self.blocks[at.block() as usize]) {
            return (at.block(), at.at());
        }
        let mut number = self.oldest;
        while number != 0 {
            let block = &mut self.blocks[number as usize];
            if block.begun >= before {
                return (0, 0);
            }
            if block.swept == 0 {
                // What comes from now on is young, and begins a block of its own.
                block.to = BLOCK as u16;
                return (number, 0);
            }
            number = block.younger;
        }
        (0, 0)
    }

    /// Bytes of memory taken.
    pub fn touched_bytes(&self) -> usize {
        self.in_chain * PAGE_SIZE + page_bytes(self.fresh as usize * size_of::<Block>())
    }

    fn begin_block(&mut self) -> bool {
        let number = match self.free {
            0 if (self.fresh as usize) < self.blocks.len() => {
                self.fresh += 1;
                self.fresh - 1
            }
            0 => return false,
            free => {
                self.free = self.blocks[free as usize].older;
                free
            }
        };
        let older = std::mem::replace(&mut self.youngest, number);
        self.blocks[number as usize] = Block { older, begun: self.now, ..ZERO };
        match older {
            0 => self.oldest = number,
            older => self.blocks[older as usize].younger = number,
        }
        self.in_chain += 1;
        true
    }

    /// Takes an empty block out of the chain, and gives its memory back.
    fn unlink(&mut self, number: u32) {
        let Block { older, younger, .. } = self.blocks[number as usize];
        match older {
            0 => self.oldest = younger,
            older => self.blocks[older as usize].younger = younger,
        }
        match younger {
            0 => self.youngest = older,
            younger => self.blocks[younger as usize].older = older,
        }
        if self.hand == number {
            self.hand = younger;
        }
        if Place(self.sweeping).block() == number {
            self.sweeping = 0;
        }
        self.blocks[number as usize] = Block { older: self.free, ..ZERO };
        self.free = number;
        self.in_chain -= 1;
        let bytes = number as usize * PAGE_SIZE;
        self.ids.discard(bytes..bytes + PAGE_SIZE);
    }

    /// Makes one of two sparse neighbours, if a look at a few blocks finds some.
    fn join_some(&mut self, moved: &mut impl FnMut(EntryId, Place)) {
        let mut joined = 0;
        for _ in 0..LOOKED_AT {
            let at = if self.hand == 0 { self.oldest } else { self.hand };
            let (one, next) = (self.blocks[at as usize], self.blocks[at as usize].younger);
            self.hand = next;
            if next == 0 || next == self.youngest {
                self.hand = 0;
                return;
            }
            if one.live + self.blocks[next as usize].live <= SPARSE {
                self.hand = at;
                self.join(at, next, moved);
                joined += 1;
                if joined == JOINED {
                    return;
                }
            }
        }
    }

    /// Moves what is in `younger` behind what is in its neighbour `older`, which keeps its holes no more.
    fn join(&mut self, older: u32, younger: u32, moved: &mut impl FnMut(EntryId, Place)) {
        let mut to = 0;
        for from in [older, younger] {
            for at in 0..self.blocks[from as usize].to.into() {
                let was = Place::new(from, at);
                let id = std::mem::take(&mut self.ids[was.0 as usize]);
                if id != 0 {
                    let is = Place::new(older, to);
                    self.ids[is.0 as usize] = id;
                    if is != was {
                        moved(EntryId(id), is);
                    }
                    to += 1;
                }
            }
        }
        let (one, two) = (self.blocks[older as usize], self.blocks[younger as usize]);
        let swept = u32::from(one.swept != 0 && two.swept != 0);
        if Place(self.sweeping).block() == older {
            self.sweeping = 0;
        }
        self.blocks[older as usize] =
            Block { live: to as u32, begun: two.begun, from: 0, to: to as u16, swept, ..one };
        self.unlink(younger);
    }

    /// Walks the chain, comparing links and counts, and shows each place with its entry.
    pub fn check(&self, broken: &mut Vec<String>, each: &mut impl FnMut(Place, EntryId)) {
        let (mut number, mut older, mut live, mut blocks) = (self.oldest, 0, 0, 0);
        while number != 0 && blocks <= self.fresh as usize {
            let block = self.blocks[number as usize];
            let places = (0..usize::from(block.to).min(BLOCK)).map(|at| Place::new(number, at));
            let taken: Vec<_> =
                places.map(|p| (p, self.id(p))).filter(|(_, id)| *id != EntryId::NONE).collect();
            let passed = taken.iter().any(|(place, _)| place.at() < usize::from(block.from));
            if block.older != older || block.live as usize != taken.len() || taken.is_empty() || passed {
                broken.push(format!("order: block {number} is out of its chain, or its count is wrong"));
            }
            taken.iter().for_each(|(place, id)| each(*place, *id));
            live += taken.len();
            blocks += 1;
            (older, number) = (number, block.younger);
        }
        if (number, older) != (0, self.youngest) || live != self.live || blocks != self.in_chain {
            broken.push(format!(
                "order: {live} pages in {blocks} blocks, the counters say {} in {}",
                self.live, self.in_chain
            ));
        }
    }

    /// Takes a page out of the order alone, as stray writes would.
    #[cfg(test)]
    pub fn break_place(&mut self, place: Place) {
        self.ids[place.0 as usize] = 0;
    }
}

#[cfg(test)]
mod tests;

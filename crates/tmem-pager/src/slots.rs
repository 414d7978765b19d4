// SPDX-License-Identifier: Apache-2.0
//! Owns: the staging area's slots: which hold free frames, which a page on standby, and in what order standby
//! pages came. Callers: `fault`, `evict`, under the pager lock. Frames themselves are `tmem_sys::frames`' own.

use tmem_sys::{Errno, Table};

/// Slots of one word of a bitmap.
const WORD: usize = u64::BITS as usize;
/// The most pages of one transfer.
pub const GROUP: usize = 128;

pub struct Slots {
    /// One bit a slot: a frame is there and belongs to no page.
    free: Table<u64>,
    /// One bit a slot: no frame is there.
    holes: Table<u64>,
    /// Page + 1 on standby in the slot, or 0.
    owner: Table<u32>,
    /// Slots in the order their pages went on standby; entries of pages that went back are stale.
    queue: Table<u32>,
    /// Where in the queue a slot's own entry is: the same slot may have stale ones beside it.
    place: Table<u32>,
    head: usize,
    tail: usize,
    free_count: usize,
    standby_count: usize,
    /// Free frames that a thread is filling.
    lent_count: usize,
}

impl Slots {
    /// `slots` is a multiple of 64. All begin as holes.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(slots: usize) -> Result<Slots, Errno> {
        let mut s = Slots {
            free: Table::new(slots / WORD)?,
            holes: Table::new(slots / WORD)?,
            owner: Table::new(slots)?,
            queue: Table::new(slots * 4)?,
            place: Table::new(slots)?,
            head: 0,
            tail: 0,
            free_count: 0,
            standby_count: 0,
            lent_count: 0,
        };
        s.reset();
        Ok(s)
    }

    /// All slots are holes again (a forked child's staging area is new).
    pub fn reset(&mut self) {
        self.free.fill(0);
        self.holes.fill(u64::MAX);
        self.owner.fill(0);
        (self.head, self.tail) = (0, 0);
        (self.free_count, self.standby_count, self.lent_count) = (0, 0, 0);
    }

    pub fn free_count(&self) -> usize {
        self.free_count
    }

    pub fn standby_count(&self) -> usize {
        self.standby_count
    }

    /// Free frames, those on standby, and those that are lent.
    pub fn frame_count(&self) -> usize {
        self.free_count + self.standby_count + self.lent_count
    }

    /// A free frame for a thread to fill, until it goes into the arena or is given back; its slot.
    pub fn lend_free(&mut self) -> Option<usize> {
        let (slot, _) = self.find_free(1)?;
        self.set_free(slot, false);
        self.lent_count += 1;
        Some(slot)
    }

    /// The lent frame went into the arena, or it is `free` again.
    pub fn end_loan(&mut self, slot: usize, free: bool) {
        self.lent_count -= 1;
        if free { self.set_free(slot, true) } else { self.set_hole(slot, true) }
    }

    pub fn capacity(&self) -> usize {
        self.owner.len()
    }

    /// The page on standby in a slot.
    pub fn owner(&self, slot: usize) -> Option<usize> {
        (self.owner[slot] as usize).checked_sub(1)
    }

    /// A run of holes, as long as possible up to `want`.
    pub fn find_holes(&self, want: usize) -> Option<(usize, usize)> {
        find_run(&self.holes, want)
    }

    /// A run of free frames, as long as possible up to `want`.
    pub fn find_free(&self, want: usize) -> Option<(usize, usize)> {
        find_run(&self.free, want)
    }

    /// The frame of `page` came to a hole: the page waits on standby.
    pub fn put_standby(&mut self, slot: usize, page: usize) {
        self.set_hole(slot, false);
        self.owner[slot] = page as u32 + 1;
        self.standby_count += 1;
        if self.tail - self.head == self.queue.len() {
            self.compact_queue();
        }
        self.push(slot);
    }

    fn push(&mut self, slot: usize) {
        let at = self.tail % self.queue.len();
        self.queue[at] = slot as u32;
        self.place[slot] = self.tail as u32;
        self.tail += 1;
    }

    /// Stale entries leave the queue; live ones, at most one a slot, are at most a quarter of it.
    fn compact_queue(&mut self) {
        let (from, to) = (self.head, self.tail);
        self.tail = from;
        for i in from..to {
            if let Some(slot) = self.live(i) {
                self.push(slot);
            }
        }
    }

    /// The slot of the queue's `i`th entry, if that is still the entry of a page on standby.
    fn live(&self, i: usize) -> Option<usize> {
        let slot = self.queue[i % self.queue.len()] as usize;
        (self.owner[slot] != 0 && self.place[slot] == i as u32).then_some(slot)
    }

    /// The slot whose page has been on standby longest, taken from the queue; the page stays its owner.
    pub fn pop_oldest(&mut self) -> Option<usize> {
        while self.head < self.tail {
            let live = self.live(self.head);
            self.head += 1;
            if live.is_some() {
                return live;
            }
        }
        None
    }

    /// The slot that `pop_oldest` will take, if the next entry of the queue is not stale.
    pub fn oldest(&self) -> Option<usize> {
        if self.head < self.tail { self.live(self.head) } else { None }
    }

    /// The page's contents are elsewhere now: its frame is free.
    pub fn free_standby(&mut self, slot: usize) {
        debug_assert!(self.owner[slot] != 0);
        self.owner[slot] = 0;
        self.standby_count -= 1;
        self.set_free(slot, true);
    }

    /// The page went back to the arena with its frame: a hole stays.
    pub fn leave_standby(&mut self, slot: usize) {
        debug_assert!(self.owner[slot] != 0);
        self.owner[slot] = 0;
        self.standby_count -= 1;
        self.set_hole(slot, true);
    }

    /// Free frames went into the arena or back to the system.
    pub fn use_free(&mut self, slot: usize, n: usize) {
        for s in slot..slot + n {
            self.set_free(s, false);
            self.set_hole(s, true);
        }
    }

    /// A new frame came to a hole and belongs to no page.
    pub fn add_free(&mut self, slot: usize) {
        self.set_hole(slot, false);
        self.set_free(slot, true);
    }

    fn set_free(&mut self, slot: usize, on: bool) {
        let bit = 1u64 << (slot % WORD);
        let word = &mut self.free[slot / WORD];
        if on && *word & bit == 0 {
            *word |= bit;
            self.free_count += 1;
        } else if !on && *word & bit != 0 {
            *word &= !bit;
            self.free_count -= 1;
        }
    }

    fn set_hole(&mut self, slot: usize, on: bool) {
        let bit = 1u64 << (slot % WORD);
        if on { self.holes[slot / WORD] |= bit } else { self.holes[slot / WORD] &= !bit }
    }

    /// Every broken rule of the bookkeeping, in words.
    pub fn check(&self, filled: impl Fn(usize) -> bool) -> Vec<String> {
        let mut broken = Vec::new();
        let (mut free, mut standby) = (0, 0);
        for slot in 0..self.capacity() {
            let bit = 1u64 << (slot % WORD);
            let (is_free, is_hole) = (self.free[slot / WORD] & bit != 0, self.holes[slot / WORD] & bit != 0);
            let owned = self.owner[slot] != 0;
            if usize::from(is_free) + usize::from(is_hole) + usize::from(owned) != 1 {
                broken.push(format!(
                    "slot {slot}: free {is_free}, hole {is_hole}, owned {owned}: must be one of them"
                ));
            }
            if filled(slot) == is_hole {
                broken.push(format!("slot {slot}: a frame where a hole is noted, or the other way round"));
            }
            free += usize::from(is_free);
            standby += usize::from(owned);
        }
        if (free, standby) != (self.free_count, self.standby_count) {
            broken.push(format!(
                "counted {free} free and {standby} standby slots, noted {} and {}",
                self.free_count, self.standby_count
            ));
        }
        broken
    }
}

/// The first run of `want` set bits, else the longest there is.
fn find_run(words: &[u64], want: usize) -> Option<(usize, usize)> {
    let want = want.max(1);
    let (mut best_at, mut best_len) = (0, 0);
    // Set bits that end where the word at hand begins.
    let mut before = 0;
    for (i, &word) in words.iter().enumerate() {
        let first = i * WORD;
        if word == 0 {
            before = 0;
            continue;
        }
        let joined = before + word.trailing_ones() as usize;
        let (at, len) = longest_run(word);
        for (at, len) in [(first - before, joined), (first + at, len)] {
            if len >= want {
                return Some((at, want));
            }
            if len > best_len {
                (best_at, best_len) = (at, len);
            }
        }
        before = if word == u64::MAX { joined } else { word.leading_ones() as usize };
    }
    (best_len > 0).then_some((best_at, best_len))
}

/// Position and length of the longest run of ones.
fn longest_run(word: u64) -> (usize, usize) {
    if word == u64::MAX {
        return (0, 64);
    }
    let (mut at, mut len, mut rest) = (0, 0, word);
    let mut from = 0;
    while rest != 0 {
        let skip = rest.trailing_zeros() as usize;
        rest >>= skip;
        from += skip;
        let run = rest.trailing_ones() as usize;
        if run > len {
            (at, len) = (from, run);
        }
        rest = rest.checked_shr(run as u32).unwrap_or(0);
        from += run;
    }
    (at, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_where_they_are() {
        assert_eq!(longest_run(0b1110_0110), (5, 3));
        assert_eq!(longest_run(u64::MAX << 1), (1, 63));
        assert_eq!(find_run(&[0, 0b11, 0b1111], 3), Some((128, 3)));
        assert_eq!(find_run(&[0, 0b11, 0], 9), Some((64, 2)));
        assert_eq!(find_run(&[0, 0], 1), None);
        assert_eq!(find_run(&[1 << 63, u64::MAX, 0b1], 66), Some((63, 66)));
        assert_eq!(find_run(&[0b11 << 62, 0b1111, 0b11111], 9), Some((62, 6)));
        assert_eq!(find_run(&[u64::MAX; 3], 100), Some((0, 100)));
    }

    #[test]
    fn the_oldest_standby_page_comes_first_and_stale_entries_do_not() {
        let mut s = Slots::new(64).unwrap();
        (0..10).for_each(|i| s.put_standby(i, 100 + i));
        s.leave_standby(0);
        s.put_standby(0, 555);
        assert_eq!(s.pop_oldest(), Some(1));
        s.free_standby(1);
        for _ in 0..1000 {
            s.leave_standby(5);
            s.put_standby(5, 105);
        }
        assert_eq!(s.pop_oldest(), Some(2));
        assert_eq!((s.free_count(), s.standby_count()), (1, 9));
        assert!(s.check(|slot| slot < 10).is_empty());
    }
}

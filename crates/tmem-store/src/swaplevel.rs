// SPDX-License-Identifier: Apache-2.0
//! Owns: one file of the swap device with what is known of its slots: in use, in limbo, checksum, generation.
//! Callers: `swap` only. A fork makes every level read-only in the child, which then opens one of its own.

use crate::page_bytes;
use crate::swapfork::Children;
use tmem_sys::file::{SwapDir, SwapFile};
use tmem_sys::{Errno, Page, Table};

/// How many free runs a search looks at before it is content with the longest.
const RUNS_SEEN: usize = 64;

pub(crate) struct Level {
    pub file: SwapFile,
    pub read_only: bool,
    /// Slots there are.
    cap: usize,
    /// One bit a slot that must not be written: it holds a page of ours, or is in limbo.
    taken: Table<u64>,
    /// One bit a slot that holds no page of ours but may hold a child's.
    limbo: Table<u64>,
    /// Checksum of a slot in use; the generation of its freeing for a slot in limbo.
    words: Table<u64>,
    /// Generation in which a slot was written.
    born: Table<u32>,
    pub used: usize,
    pub in_limbo: usize,
    /// Slots from here on were never written.
    fresh: usize,
    /// Where the next search starts: next-fit keeps pages evicted together together.
    cursor: usize,
}

fn bit(table: &Table<u64>, slot: usize) -> bool {
    table[slot / 64] & (1 << (slot % 64)) != 0
}

fn set_bit(table: &mut Table<u64>, slot: usize, on: bool) {
    let mask = 1 << (slot % 64);
    if on {
        table[slot / 64] |= mask;
    } else {
        table[slot / 64] &= !mask;
    }
}

impl Level {
    pub fn create(dir: &SwapDir, cap: usize) -> Result<Level, Errno> {
        Ok(Level {
            file: SwapFile::create(dir)?,
            read_only: false,
            cap,
            taken: Table::new(cap.div_ceil(64))?,
            limbo: Table::new(cap.div_ceil(64))?,
            words: Table::new(cap)?,
            born: Table::new(cap)?,
            used: 0,
            in_limbo: 0,
            fresh: 0,
            cursor: 0,
        })
    }

    pub fn holds(&self, slot: usize) -> bool {
        slot < self.fresh && bit(&self.taken, slot) && !bit(&self.limbo, slot)
    }

    pub fn checksum(&self, slot: usize) -> u64 {
        self.words[slot]
    }

    /// A run of up to `want` free slots: the first that long from the cursor on, else the longest of those seen.
    pub fn find_run(&self, want: usize) -> Option<(usize, usize)> {
        let mut best = (0, 0);
        let mut seen = 0;
        for (from, to) in [(self.cursor, self.cap), (0, self.cursor)] {
            let mut at = from;
            while let Some(start) = self.next_free(at, to) {
                let len = (start..to.min(start + want)).take_while(|s| !bit(&self.taken, *s)).count();
                if len > best.1 {
                    best = (start, len);
                }
                seen += 1;
                if len == want || seen == RUNS_SEEN {
                    return Some(best);
                }
                at = start + len;
            }
        }
        (best.1 > 0).then_some(best)
    }

    fn next_free(&self, from: usize, to: usize) -> Option<usize> {
        let mut at = from;
        while at < to {
            let free = !self.taken[at / 64] >> (at % 64);
            if free != 0 {
                let found = at + free.trailing_zeros() as usize;
                return (found < to).then_some(found);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// Notes that a slot now holds a page.
    pub fn fill(&mut self, slot: usize, checksum: u64, generation: u32) {
        set_bit(&mut self.taken, slot, true);
        self.words[slot] = checksum;
        // Not written when it is right already: without forks this table stays untouched.
        if self.born[slot] != generation {
            self.born[slot] = generation;
        }
        self.used += 1;
        self.fresh = self.fresh.max(slot + 1);
        self.cursor = if slot + 1 == self.cap { 0 } else { slot + 1 };
    }

    /// Forgets a page. Its slot goes to limbo while a child may read it.
    pub fn free(&mut self, slot: usize, children: &Children) {
        self.used -= 1;
        if !self.read_only && children.may_read(self.born[slot], children.generation) {
            set_bit(&mut self.limbo, slot, true);
            self.words[slot] = u64::from(children.generation);
            self.in_limbo += 1;
        } else {
            set_bit(&mut self.taken, slot, false);
        }
    }

    /// Frees the slots in limbo that no child can read any more.
    pub fn leave_limbo(&mut self, children: &Children) {
        for word in 0..self.fresh.div_ceil(64) {
            let mut left = self.limbo[word];
            while left != 0 {
                let slot = word * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                if !children.may_read(self.born[slot], self.words[slot] as u32) {
                    set_bit(&mut self.limbo, slot, false);
                    set_bit(&mut self.taken, slot, false);
                    self.in_limbo -= 1;
                }
            }
        }
    }

    /// This process is a forked child: it reads what it inherited and writes elsewhere.
    pub fn inherit(&mut self) {
        self.read_only = true;
        for word in 0..self.fresh.div_ceil(64) {
            let limbo = self.limbo[word];
            if limbo != 0 {
                self.taken[word] &= !limbo;
                self.limbo[word] = 0;
            }
        }
        self.in_limbo = 0;
    }

    /// Gives the disk space of long free runs back.
    pub fn punch_free(&mut self) {
        let (mut start, words) = (0, self.fresh.div_ceil(64));
        for word in 0..=words {
            if word < words && self.taken[word] == 0 {
                continue;
            }
            if word > start {
                self.file.punch(start as u64 * 64, (word - start) as u64 * 64);
            }
            start = word + 1;
        }
    }

    pub fn write(&mut self, slot: usize, pages: &[Page]) -> Result<(), Errno> {
        self.file.write_at(slot as u64, pages)
    }

    pub fn read(&self, slot: usize, pages: &mut [Page]) -> Result<(), Errno> {
        self.file.read_at(slot as u64, pages)
    }

    /// Tables, as touched.
    pub fn footprint(&self) -> usize {
        let bits = page_bytes(self.fresh.div_ceil(8));
        2 * bits + page_bytes(self.fresh * size_of::<u64>()) + page_bytes(self.fresh * size_of::<u32>())
    }

    pub fn check(&self, number: usize, broken: &mut Vec<String>) {
        let ones = |t: &Table<u64>| {
            t[..self.fresh.div_ceil(64)].iter().map(|w| w.count_ones() as usize).sum::<usize>()
        };
        let (taken, limbo) = (ones(&self.taken), ones(&self.limbo));
        if taken != self.used + self.in_limbo || limbo != self.in_limbo {
            broken.push(format!(
                "swap level {number}: {taken} slots taken, {limbo} in limbo; the counters say {} and {}",
                self.used + self.in_limbo,
                self.in_limbo
            ));
        }
        if (0..self.fresh.div_ceil(64)).any(|w| self.limbo[w] & !self.taken[w] != 0) {
            broken.push(format!("swap level {number}: a slot in limbo is free"));
        }
        if taken > self.cap || self.fresh > self.cap || (self.cap > 0 && self.cursor >= self.cap) {
            broken.push(format!("swap level {number}: beyond its cap of {} pages", self.cap));
        }
    }

    /// Changes the count, as stray writes would.
    #[cfg(test)]
    pub fn break_count(&mut self) {
        self.used += 1;
    }
}

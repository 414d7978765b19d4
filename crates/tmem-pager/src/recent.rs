// SPDX-License-Identifier: Apache-2.0
//! Owns: the last few dozen pages that each thread faulted. Callers: `fault` notes them, `evict` spares them.
//! Law 17: one instruction may touch many pages; none of them may leave before it is through.

use tmem_sys::{Errno, Table, ThreadKey, pod};

/// Threads remembered; beyond that the one that faulted longest ago is forgotten.
const THREADS: usize = 64;
/// Pages remembered for a thread: a gather touches 16, a copy of rows a few more.
pub const DEPTH: usize = 32;

pod! {
    struct Ring {
        who: u64,
        stamp: u64,
        next: u32,
        spare: u32,
        pages: [u32; DEPTH],
    }
}

pub struct Recent {
    rings: Table<Ring>,
    /// How many rings hold the page.
    spared: Table<u8>,
    clock: u64,
    last: usize,
}

impl Recent {
    /// # Errors
    /// `ENOMEM`.
    pub fn new(pages: usize) -> Result<Recent, Errno> {
        Ok(Recent { rings: Table::new(THREADS)?, spared: Table::new(pages)?, clock: 0, last: 0 })
    }

    pub fn is_spared(&self, page: usize) -> bool {
        self.spared[page] != 0
    }

    /// Notes that a thread faulted `page`; the page it remembered longest is spared no more.
    pub fn note(&mut self, who: ThreadKey, page: usize) {
        let index = self.ring_of(who.bits());
        self.clock += 1;
        let ring = &mut self.rings[index];
        ring.stamp = self.clock;
        let at = ring.next as usize % DEPTH;
        ring.next = ring.next.wrapping_add(1);
        let old = std::mem::replace(&mut ring.pages[at], page as u32 + 1);
        self.forget(old);
        self.spared[page] = self.spared[page].saturating_add(1);
    }

    fn forget(&mut self, entry: u32) {
        if entry != 0 {
            let count = &mut self.spared[entry as usize - 1];
            *count = count.saturating_sub(1);
        }
    }

    fn ring_of(&mut self, who: u64) -> usize {
        if self.rings[self.last].who == who {
            return self.last;
        }
        let known = (0..THREADS).find(|&i| self.rings[i].who == who);
        self.last = known.unwrap_or_else(|| self.recycle(who));
        self.last
    }

    fn recycle(&mut self, who: u64) -> usize {
        let oldest = (0..THREADS).min_by_key(|&i| self.rings[i].stamp).unwrap_or(0);
        for at in 0..DEPTH {
            let entry = std::mem::take(&mut self.rings[oldest].pages[at]);
            self.forget(entry);
        }
        self.rings[oldest].who = who;
        oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_spared_until_as_many_others_were_faulted_by_that_thread() {
        let mut r = Recent::new(1000).unwrap();
        r.note(ThreadKey::of(1), 5);
        (0..DEPTH - 1).for_each(|i| r.note(ThreadKey::of(1), 100 + i));
        (0..DEPTH * 3).for_each(|i| r.note(ThreadKey::of(2), 300 + i));
        assert!(r.is_spared(5));
        r.note(ThreadKey::of(1), 900);
        assert!(!r.is_spared(5));
    }

    #[test]
    fn forgotten_threads_leave_nothing_spared() {
        let mut r = Recent::new(1000).unwrap();
        r.note(ThreadKey::of(7), 1);
        (0..THREADS as i32).for_each(|t| r.note(ThreadKey::of(100 + t), 500 + t as usize));
        assert!(!r.is_spared(1));
    }
}

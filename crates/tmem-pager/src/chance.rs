// SPDX-License-Identifier: Apache-2.0
//! Owns: how many pages a fault brings in that continues nothing known. Caller: `readahead`. Pure.
//!
//! What lies scattered is often longer than a page: records, nodes with their text. Whoever faults at the start of one faults
//! at its next page a moment later. How often that is so is counted, and the width follows: it grows while faults are continued
//! just beyond it often enough. Pages that were brought in tell nothing any more, so now and then a fault brings in one step
//! less, and what follows it is counted apart. How often is enough: a page that nobody wanted is unpacked, and another packed
//! for it, some 5 us; a fault that is spared is 3 us in the signal entry, and 6 to 30 in the thread entry.

use tmem_sys::entry::Entry;

/// Widths in pages.
const WIDTHS: [usize; 6] = [1, 2, 3, 4, 6, 8];
/// Faults that are counted before the width grows, and of narrower ones before it shrinks.
const ENOUGH: [u32; 2] = [48, 16];
/// One of so many faults is narrower.
const EVERY: u32 = 16;

/// Of a hundred faults, how many are to be continued for a page more, by what a fault costs.
pub fn enough(entry: Entry) -> u32 {
    match entry {
        Entry::Signal => 55,
        Entry::Thread => 30,
    }
}

/// How wide one fault was served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trial {
    /// Its width tells nothing.
    #[default]
    None,
    Whole,
    /// One step less.
    Narrow,
}

#[derive(Clone, Copy, Default)]
struct Count {
    trials: u32,
    hits: u32,
}

impl Count {
    fn is_at_least(self, percent: u32) -> bool {
        self.hits * 100 >= self.trials * percent
    }
}

/// What has been learned.
pub struct Chance {
    level: usize,
    turn: u32,
    counts: [Count; 2],
}

impl Chance {
    /// Of windows that are one page at first.
    pub const LONE: Chance = Chance::at(0);
    /// Of windows that are four.
    pub const AGAIN: Chance = Chance::at(3);

    const fn at(level: usize) -> Chance {
        Chance { level, turn: 0, counts: [Count { trials: 0, hits: 0 }; 2] }
    }

    /// As [`Chance::width`]; what was never written has no contents that its neighbours would go with.
    pub fn width_for(&mut self, fresh: bool, percent: u32) -> (usize, Trial) {
        if fresh { (1, Trial::None) } else { self.width(percent) }
    }

    /// The width for a fault now, where `percent` of them must be continued for a page more.
    pub fn width(&mut self, percent: u32) -> (usize, Trial) {
        self.turn = self.turn.wrapping_add(1);
        let narrow = self.level > 0 && self.turn.is_multiple_of(EVERY);
        self.counts[usize::from(narrow)].trials += 1;
        let width = WIDTHS[self.level - usize::from(narrow)];
        self.decide(percent);
        (width, if narrow { Trial::Narrow } else { Trial::Whole })
    }

    /// The page just beyond what a fault brought in was asked for.
    pub fn continued(&mut self, trial: Trial) {
        match trial {
            Trial::None => {}
            Trial::Whole => self.counts[0].hits += 1,
            Trial::Narrow => self.counts[1].hits += 1,
        }
    }

    fn decide(&mut self, percent: u32) {
        let [whole, narrow] = self.counts;
        let level = if whole.trials >= ENOUGH[0] && whole.is_at_least(percent) {
            (self.level + 1).min(WIDTHS.len() - 1)
        } else if narrow.trials >= ENOUGH[1] && !narrow.is_at_least(percent * 3 / 4) {
            self.level - 1
        } else {
            self.level
        };
        if level != self.level {
            *self = Chance { turn: self.turn, ..Chance::at(level) };
            return;
        }
        for (count, enough) in self.counts.iter_mut().zip(ENOUGH) {
            if count.trials >= enough {
                *count = Count::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The width after many records of so many pages, each read from its start.
    fn learned(chance: &mut Chance, percent: u32, records: usize, pages: impl Fn(usize) -> usize) -> usize {
        let mut last = 0;
        for i in 0..records {
            let (width, trial) = chance.width(percent);
            if pages(i) > width {
                chance.continued(trial);
            }
            last = WIDTHS[chance.level];
        }
        last
    }

    #[test]
    fn the_width_becomes_that_of_what_lies_scattered() {
        let mut chance = Chance::LONE;
        let [dear, cheap] = [Entry::Thread, Entry::Signal].map(enough);
        assert_eq!(learned(&mut chance, dear, 2000, |_| 1), 1);
        assert_eq!(learned(&mut chance, dear, 2000, |_| 3), 3);
        assert_eq!(learned(&mut chance, dear, 2000, |i| 2 + i % 2), 3, "half of them have the third page");
        assert_eq!(learned(&mut chance, dear, 2000, |i| 2 + usize::from(i % 10 == 0)), 2, "few of them have");
        assert_eq!(learned(&mut chance, cheap, 4000, |i| 2 + i % 2), 2, "half of them are not enough");
        assert_eq!(learned(&mut chance, dear, 4000, |_| 1), 1);
        assert_eq!(learned(&mut chance, cheap, 2000, |_| 100), 8);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: how many pages a fault brings in that continues nothing known. Caller: `readahead`. Pure.
//!
//! What lies scattered is often longer than a page: records, nodes with their text. Whoever faults at the start of one faults
//! at its next page a moment later. How often that is so is counted, and the width follows: it grows while a third of the
//! faults are continued just beyond it, since a fault costs about as much as three pages that nobody wanted. Pages that were
//! brought in tell nothing any more, so now and then a fault brings in one step less, and what follows it is counted apart.

/// Widths in pages.
const WIDTHS: [usize; 6] = [1, 2, 3, 4, 6, 8];
/// Faults that are counted before the width grows, and of narrower ones before it shrinks.
const ENOUGH: [u32; 2] = [48, 16];
/// One of so many faults is narrower.
const EVERY: u32 = 16;

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

/// What has been learned.
#[derive(Default)]
pub struct Chance {
    level: usize,
    turn: u32,
    counts: [Count; 2],
}

impl Chance {
    /// As [`Chance::width`]; what was never written has no contents that its neighbours would go with.
    pub fn width_for(&mut self, fresh: bool) -> (usize, Trial) {
        if fresh { (1, Trial::None) } else { self.width() }
    }

    /// The width for a fault now.
    fn width(&mut self) -> (usize, Trial) {
        self.turn = self.turn.wrapping_add(1);
        let narrow = self.level > 0 && self.turn.is_multiple_of(EVERY);
        self.counts[usize::from(narrow)].trials += 1;
        let width = WIDTHS[self.level - usize::from(narrow)];
        self.decide();
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

    fn decide(&mut self) {
        let [whole, narrow] = self.counts;
        let level = if whole.trials >= ENOUGH[0] && whole.hits * 3 >= whole.trials {
            (self.level + 1).min(WIDTHS.len() - 1)
        } else if narrow.trials >= ENOUGH[1] && narrow.hits * 4 < narrow.trials {
            self.level - 1
        } else {
            self.level
        };
        if level != self.level {
            *self = Chance { level, turn: self.turn, ..Chance::default() };
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
    fn learned(chance: &mut Chance, records: usize, pages: impl Fn(usize) -> usize) -> usize {
        let mut last = 0;
        for i in 0..records {
            let (width, trial) = chance.width();
            if pages(i) > width {
                chance.continued(trial);
            }
            last = WIDTHS[chance.level];
        }
        last
    }

    #[test]
    fn the_width_becomes_that_of_what_lies_scattered() {
        let mut chance = Chance::default();
        assert_eq!(learned(&mut chance, 2000, |_| 1), 1);
        assert_eq!(learned(&mut chance, 2000, |_| 3), 3);
        assert_eq!(learned(&mut chance, 2000, |i| 2 + i % 2), 3, "half of them have the third page");
        assert_eq!(learned(&mut chance, 2000, |i| 2 + usize::from(i % 10 == 0)), 2, "few of them have");
        assert_eq!(learned(&mut chance, 4000, |_| 1), 1);
        assert_eq!(learned(&mut chance, 2000, |_| 100), 8);
    }
}

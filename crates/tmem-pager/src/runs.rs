// SPDX-License-Identifier: Apache-2.0
//! Owns: small blocks that share pages: runs of 64 KiB, each cut into slots of one size. Pure bookkeeping, by page
//! number. Callers: `blocks`. Lock: the extents', whose part this is. Allocates from the heap.
//! Law: nothing that is known of a block lies in paged memory, so that taking and giving one never faults.

use std::collections::{BTreeMap, BTreeSet};
use tmem_sys::PAGE_SIZE;

/// Bytes of a run: one extent.
pub const RUN_BYTES: usize = 64 << 10;

/// Slot sizes: steps of a quarter between powers of two, so that at most a fifth of a slot is unused.
const SIZES: [usize; 37] = [
    16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280,
    1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 16384, 21840, 32768,
];
/// A larger block is an extent of its own.
pub const LARGEST: usize = SIZES[SIZES.len() - 1];

struct Run {
    class: usize,
    used: usize,
    /// One bit a slot.
    taken: Vec<u64>,
}

#[derive(Default)]
pub struct Runs {
    /// By first page.
    runs: BTreeMap<usize, Run>,
    /// Runs of each size with a free slot; the lowest is used first, so that the others can empty.
    partial: BTreeMap<usize, BTreeSet<usize>>,
}

fn class_of(bytes: usize) -> usize {
    SIZES.partition_point(|size| *size < bytes)
}

fn slots_in(class: usize) -> usize {
    RUN_BYTES / SIZES[class]
}

impl Runs {
    pub const fn new() -> Runs {
        Runs { runs: BTreeMap::new(), partial: BTreeMap::new() }
    }

    /// A free slot for a block, as its offset in the arena; `None` when a run must be added first.
    pub fn take(&mut self, bytes: usize) -> Option<usize> {
        let class = class_of(bytes);
        let first = *self.partial.get(&class)?.first()?;
        let run = self.runs.get_mut(&first)?;
        let word = run.taken.iter().position(|w| *w != u64::MAX)?;
        let slot = word * 64 + run.taken[word].trailing_ones() as usize;
        run.taken[word] |= 1 << (slot % 64);
        run.used += 1;
        if run.used == slots_in(class) {
            self.partial.entry(class).or_default().remove(&first);
        }
        Some(first * PAGE_SIZE + slot * SIZES[class])
    }

    /// Adds an empty run for blocks of that many bytes, from page `first`.
    pub fn add(&mut self, first: usize, bytes: usize) {
        let class = class_of(bytes);
        let slots = slots_in(class);
        let mut taken = vec![0u64; slots.div_ceil(64)];
        if !slots.is_multiple_of(64) {
            // What would lie beyond the run is never free.
            taken[slots / 64] = u64::MAX << (slots % 64);
        }
        self.runs.insert(first, Run { class, used: 0, taken });
        self.partial.entry(class).or_default().insert(first);
    }

    /// Gives the slot at an offset back. False when no block begins there.
    pub fn give(&mut self, first: usize, offset: usize) -> bool {
        let Some((class, slot)) = self.slot_at(first, offset) else { return false };
        let Some(run) = self.runs.get_mut(&first) else { return false };
        run.taken[slot / 64] &= !(1 << (slot % 64));
        run.used -= 1;
        self.partial.entry(class).or_default().insert(first);
        true
    }

    /// The bytes of the block that begins at an offset of the run at `first`.
    pub fn bytes(&self, first: usize, offset: usize) -> Option<usize> {
        self.slot_at(first, offset).map(|(class, _)| SIZES[class])
    }

    fn slot_at(&self, first: usize, offset: usize) -> Option<(usize, usize)> {
        let run = self.runs.get(&first)?;
        let inside = offset.checked_sub(first * PAGE_SIZE)?;
        let slot = inside / SIZES[run.class];
        let begins = inside.is_multiple_of(SIZES[run.class]) && slot < slots_in(run.class);
        (begins && run.taken[slot / 64] >> (slot % 64) & 1 == 1).then_some((run.class, slot))
    }

    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Blocks in all runs.
    pub fn blocks(&self) -> usize {
        self.runs.values().map(|run| run.used).sum()
    }

    /// Whether the extent at `first` is a run.
    pub fn is_run(&self, first: usize) -> bool {
        self.runs.contains_key(&first)
    }

    /// Forgets a run that holds no block, unless it is the one of its size that new blocks would go to. Whether it did.
    pub fn drop_if_spare(&mut self, first: usize) -> bool {
        let spare = self.runs.get(&first).is_some_and(|run| {
            run.used == 0 && self.partial.get(&run.class).is_some_and(|others| others.len() > 1)
        });
        spare && self.forget(first)
    }

    /// Forgets some run that holds no block; its first page.
    pub fn drop_an_empty_one(&mut self) -> Option<usize> {
        let first = *self.runs.iter().find(|(_, run)| run.used == 0)?.0;
        self.forget(first).then_some(first)
    }

    fn forget(&mut self, first: usize) -> bool {
        let Some(run) = self.runs.remove(&first) else { return false };
        self.partial.entry(run.class).or_default().remove(&first);
        true
    }

    pub fn clear(&mut self) {
        self.runs.clear();
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_size_fits_its_slot_and_wastes_little() {
        for bytes in 1..=LARGEST {
            let size = SIZES[class_of(bytes)];
            assert!(size >= bytes && size.is_multiple_of(16));
            assert!(!(64..=12288).contains(&bytes) || size - bytes <= size / 5, "{bytes} in {size}");
        }
    }

    proptest! {
        #[test]
        fn blocks_never_overlap(ops in prop::collection::vec((any::<bool>(), 1usize..=LARGEST), 1..300)) {
            let mut runs = Runs::new();
            let mut next = 0;
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (take, n) in ops {
                if take {
                    let offset = runs.take(n).unwrap_or_else(|| {
                        runs.add(next, n);
                        next += RUN_BYTES / PAGE_SIZE;
                        runs.take(n).unwrap()
                    });
                    let first = offset / RUN_BYTES * (RUN_BYTES / PAGE_SIZE);
                    prop_assert!(runs.bytes(first, offset).unwrap() >= n);
                    prop_assert!(offset % RUN_BYTES + n <= RUN_BYTES);
                    prop_assert!(held.iter().all(|(at, len)| at + len <= offset || offset + n <= *at));
                    held.push((offset, n));
                } else if !held.is_empty() {
                    let (offset, _) = held.swap_remove(n % held.len());
                    let first = offset / RUN_BYTES * (RUN_BYTES / PAGE_SIZE);
                    prop_assert!(runs.give(first, offset));
                    prop_assert!(!runs.give(first, offset));
                    runs.drop_if_spare(first);
                }
            }
            for (offset, _) in held.drain(..) {
                prop_assert!(runs.give(offset / RUN_BYTES * (RUN_BYTES / PAGE_SIZE), offset));
            }
            while runs.drop_an_empty_one().is_some() {}
            prop_assert!(runs.runs.is_empty());
            prop_assert!(runs.partial.values().all(BTreeSet::is_empty));
        }
    }
}

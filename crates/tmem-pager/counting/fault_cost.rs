// SPDX-License-Identifier: Apache-2.0
//! Serves a seeded set of faults over a userfaultfd of ordinary memory and has callgrind count the instructions of each kind, from
//! the fault function's first to its last. `python -m tools.bounds` runs it. Everything here goes through what the crate offers
//! to anybody, so that the inside of the pager may change under it. Every page is verified.

use std::cell::Cell;
use std::ffi::CStr;
use std::ops::Range;
use tmem_pager::{Backend, Choice, Config, MIN_RAM, Pager, registry};
use tmem_sys::entry::{Entry, Served};
use tmem_sys::{PAGE_SIZE, ThreadKey, fake};

/// Pages of the array: four times what the budget holds.
const PAGES: usize = 4 * MIN_RAM / PAGE_SIZE;
const WORDS: usize = PAGE_SIZE / 8;
/// Words of a page in a row that have one value: LZ4 packs it to a few hundred bytes.
const RUN: usize = 32;
/// Touches of one kind that are counted, where the kind does not say otherwise.
const TOUCHES: usize = 1000;

struct Array {
    pager: Pager,
    base: usize,
    /// What the first word of each page must be.
    first: Vec<Cell<u64>>,
    seed: Cell<u64>,
    faults: Cell<u64>,
}

impl Array {
    fn new() -> Array {
        let config = Config {
            ram: MIN_RAM,
            swap: None,
            faults: Choice::Only(Entry::Thread),
            name: "fault_cost".into(),
            background: None,
            backends: vec![Backend::Store],
            dedup: tmem_store::Dedup::Off,
            arena: tmem_pager::ARENA_BYTES,
            guarded: false,
        };
        let pager = Pager::new(config).expect("a pager of the smallest budget");
        let base = pager.allocate(PAGES * PAGE_SIZE).expect("an array of four budgets");
        let first = vec![Cell::new(0); PAGES];
        Array { pager, base, first, seed: Cell::new(0x9e37_79b9_7f4a_7c15), faults: Cell::new(0) }
    }

    fn random(&self) -> usize {
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.set(x);
        (x >> 20) as usize % PAGES
    }

    fn addr(&self, page: usize) -> usize {
        self.base + page * PAGE_SIZE
    }

    /// What the kernel and a thread do: a fault where the page is missing, then the access.
    fn touch(&self, page: usize, change: impl FnOnce(u64) -> u64) {
        let addr = self.addr(page);
        if fake::presence(addr) == Some(false) {
            self.fault(addr);
        }
        let new = Cell::new(0);
        let old = fake::swap_word(addr, |old| {
            new.set(change(old));
            new.get()
        });
        assert_eq!(old, self.first[page].get(), "page {page} came back changed");
        self.first[page].set(new.get());
    }

    fn fault(&self, addr: usize) {
        let served = fake::counted(|| registry::on_fault(addr, ThreadKey::of(1)));
        assert_eq!(served, Served::Yes);
        self.faults.set(self.faults.get() + 1);
    }

    fn fill(&self, page: usize) {
        self.touch(page, |word| word);
        let word = |i: usize| (page * WORDS + i / RUN) as u64;
        fake::write_page(self.addr(page), word);
        self.first[page].set(word(0));
    }

    /// Counts the faults of `work` under a name; the line says how many there were and how many pages were touched.
    fn count(&self, name: &CStr, work: impl FnOnce() -> usize) {
        self.faults.set(0);
        let pages = fake::count(name, work);
        println!("{} {} {pages}", name.to_str().unwrap_or_default(), self.faults.get());
    }

    fn stat(&self, name: &str) -> u64 {
        let place = tmem_pager::stats::NAMES.iter().position(|n| *n == name).expect("a counter of that name");
        self.pager.stats(|s| s.at(place)).expect("counters of an open pager")
    }
}

fn main() {
    let array = Array::new();
    // Scattered, so that nothing looks like a stream.
    let scattered = |i: usize| i * 7919 % PAGES;
    array.count(c"fresh", || {
        (0..512).for_each(|i| array.touch(scattered(i), |_| 0));
        512
    });
    (0..PAGES).for_each(|page| array.fill(page));
    // The first pages of the first pass drive out what the filling left changed, the last ones of the second find all packed.
    sequential(&array, c"sequential_dirty", 0..PAGES / 8);
    sequential(&array, c"sequential_clean", PAGES / 8 * 7..PAGES);
    (0..4 * TOUCHES).for_each(|_| array.touch(array.random(), |word| word));
    array.count(c"random_read", || {
        (0..TOUCHES).for_each(|_| array.touch(array.random(), |word| word));
        TOUCHES
    });
    standby(&array);
    (0..4 * TOUCHES).for_each(|_| array.touch(array.random(), |word| word + 1));
    array.count(c"random_write", || {
        (0..TOUCHES).for_each(|_| array.touch(array.random(), |word| word + 1));
        TOUCHES
    });
    array.count(c"resident", || {
        array.touch(0, |word| word);
        (0..100).for_each(|_| array.fault(array.addr(0)));
        100
    });
    (0..PAGES).for_each(|page| array.touch(page, |word| word));
    assert_eq!(array.pager.check(), [""; 0]);
}

/// A pass over the whole array, of which a part counts.
fn sequential(array: &Array, name: &CStr, part: Range<usize>) {
    (0..part.start).for_each(|page| array.touch(page, |word| word));
    array.count(name, || {
        part.clone().for_each(|page| array.touch(page, |word| word));
        part.len()
    });
    (part.end..PAGES).for_each(|page| array.touch(page, |word| word));
}

/// Pages that left last are still in memory, where the pager has such a state.
fn standby(array: &Array) {
    let range = array.base..array.addr(PAGES);
    let before = array.stat("standby_hits");
    let pages = fake::newest_gone(&range, 24);
    array.count(c"standby", || {
        pages.iter().for_each(|addr| array.touch((addr - array.base) / PAGE_SIZE, |word| word));
        pages.len()
    });
    println!("standby_hits {} {}", array.stat("standby_hits") - before, pages.len());
}

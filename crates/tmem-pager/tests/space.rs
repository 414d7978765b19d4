// SPDX-License-Identifier: Apache-2.0
//! The verbs of an address space against one value a page: whatever is mapped, dropped, moved and sent out in whatever order,
//! each page reads as what was written last, or zeros, or is not there to be read (laws 12 and 13). Real userfaultfd, whose
//! thread entry serves the kernel, since memory is read and written by its copies: that needs root.

use std::fs;
use std::ops::Range;
use tmem_pager::stats::Stat;
use tmem_pager::{Backend, Choice, Config, Kind, MIN_RAM, Pager, PagerError};
use tmem_store::Dedup;
use tmem_sys::entry::Entry;
use tmem_sys::{Errno, PAGE_SIZE, memory};

/// Pages of the arena.
const ARENA: usize = 64 << 10;
/// Pages in use at one time, at most: twice the budget.
const MOST: usize = 2 * MIN_RAM / PAGE_SIZE;
/// Bytes by which the budget may be passed until the next page moves: tables and the store's last chunk.
const SLACK: usize = 1 << 20;
/// Pages of one step, at most.
const STEP: usize = 700;

/// What a page is to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Unmapped,
    Reserved,
    /// It reads as what this number stands for.
    Holds(u64),
}

struct Model {
    pager: Pager,
    base: usize,
    pages: Vec<Page>,
    /// Which of them the kernel has, and which are locked.
    let_go: Vec<bool>,
    locked: Vec<bool>,
    ram: usize,
    seed: u64,
    next: u64,
}

/// A pager, or why this machine has none.
fn pager(ram: usize) -> Result<Pager, String> {
    let made = Pager::new(Config {
        ram,
        swap: Some((std::env::temp_dir(), 256 << 20)),
        faults: Choice::Only(Entry::Thread),
        name: String::new(),
        backends: vec![Backend::Store],
        background: None,
        dedup: Dedup::Off,
        arena: ARENA * PAGE_SIZE,
        guarded: true,
    });
    match made {
        Ok(pager) => Ok(pager),
        Err(PagerError::Unsupported(why)) => Err(why),
        Err(other) => panic!("{other}"),
    }
}

/// Words of a page, for each number another: zeros, noise, and what packs well.
fn contents(number: u64) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (i, word) in page.chunks_exact_mut(8).enumerate() {
        if number % 3 == 1 || i % 32 == 0 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        word.copy_from_slice(&x.to_ne_bytes());
    }
    page
}

impl Model {
    fn new(pager: Pager, seed: u64) -> Model {
        let base = pager.reserve(PAGE_SIZE, PAGE_SIZE).unwrap();
        pager.unmap(base, PAGE_SIZE).unwrap();
        Model {
            pager,
            base,
            pages: vec![Page::Unmapped; ARENA],
            let_go: vec![false; ARENA],
            locked: vec![false; ARENA],
            ram: MIN_RAM,
            seed,
            next: 1,
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 20) as usize % below
    }

    fn addr(&self, page: usize) -> usize {
        self.base + page * PAGE_SIZE
    }

    fn used(&self) -> usize {
        self.pages.iter().filter(|page| matches!(page, Page::Holds(_))).count()
    }

    /// Where anything is mapped; a little behind too.
    fn end(&self) -> usize {
        self.pages.iter().rposition(|page| *page != Page::Unmapped).map_or(0, |last| last + 1)
    }

    /// Some range near what is mapped.
    fn some(&mut self) -> Range<usize> {
        let from = self.random(self.end() + 20);
        let len = if self.random(3) == 0 { self.random(8) } else { self.random(STEP) };
        from..(from + len + 1).min(ARENA)
    }

    /// Some range of pages that are of one kind, if there is one near.
    fn some_of(&mut self, is: impl Fn(Page) -> bool) -> Option<Range<usize>> {
        let near = self.some();
        let from = (near.start..ARENA.min(near.start + 4 * STEP)).find(|&page| is(self.pages[page]))?;
        let end = (from..from + near.len()).find(|&page| page >= ARENA || !is(self.pages[page]));
        Some(from..end.unwrap_or(from + near.len()))
    }

    fn bytes(range: &Range<usize>) -> usize {
        range.len() * PAGE_SIZE
    }

    fn write(&mut self, page: usize) {
        self.next += 1;
        memory::write(self.addr(page), &contents(self.next)).unwrap();
        self.pages[page] = Page::Holds(self.next);
    }

    fn verify(&mut self, page: usize) {
        let mut found = [1; PAGE_SIZE];
        let Page::Holds(number) = self.pages[page] else {
            assert_eq!(memory::read(self.addr(page), &mut found), Err(Errno::EFAULT), "page {page}");
            return;
        };
        memory::read(self.addr(page), &mut found).unwrap();
        let expected = if number == 0 { [0; PAGE_SIZE] } else { contents(number) };
        assert!(found == expected, "page {page} is not what was written last ({number})");
    }

    fn map(&mut self, commit: bool) {
        let pages = self.random(STEP) + 1;
        if self.used() + pages > MOST {
            return;
        }
        let bytes = pages * PAGE_SIZE;
        let addr = if commit { self.pager.map(bytes) } else { self.pager.reserve(bytes, 4 * PAGE_SIZE) };
        let first = (addr.unwrap() - self.base) / PAGE_SIZE;
        let new = &mut self.pages[first..first + pages];
        assert!(new.iter().all(|page| *page == Page::Unmapped), "given out twice");
        new.fill(if commit { Page::Holds(0) } else { Page::Reserved });
    }

    fn commit(&mut self) {
        let Some(range) = self.some_of(|page| page != Page::Unmapped) else { return };
        if self.used() + range.len() > MOST {
            return;
        }
        self.pager.commit(self.addr(range.start), Model::bytes(&range)).unwrap();
        for page in &mut self.pages[range] {
            if *page == Page::Reserved {
                *page = Page::Holds(0);
            }
        }
    }

    /// Pages hold nothing any more.
    fn forget(&mut self, range: Range<usize>, now: Page) {
        for page in range {
            if now == Page::Unmapped || self.pages[page] != Page::Unmapped {
                self.pages[page] = now;
                (self.let_go[page], self.locked[page]) = (false, false);
            }
        }
    }

    fn let_go(&mut self) {
        let Some(range) = self.some_of(|page| matches!(page, Page::Holds(_))) else { return };
        match self.pager.let_go(self.addr(range.start), Model::bytes(&range)) {
            Ok(()) => self.let_go[range].fill(true),
            Err(PagerError::Budget(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn take_back(&mut self, with_contents: bool) {
        let range = self.some();
        let (addr, bytes) = (self.addr(range.start), Model::bytes(&range));
        if with_contents {
            self.pager.adopt(addr, bytes).unwrap();
            return self.let_go[range].fill(false);
        }
        self.pager.restore(addr, bytes).unwrap();
        for page in range {
            if self.let_go[page] {
                self.forget(page..page + 1, Page::Reserved);
            }
        }
    }

    fn relocate(&mut self) {
        let Some(from) = self.some_of(|page| matches!(page, Page::Holds(_))) else { return };
        if self.used() + from.len() > MOST {
            return;
        }
        let bytes = Model::bytes(&from);
        let addr = self.pager.map(bytes).unwrap();
        let first = (addr - self.base) / PAGE_SIZE;
        let to = first..first + from.len();
        self.pages[to.clone()].fill(Page::Holds(0));
        // What is there already goes: a fault beside it may have filled it ahead.
        to.clone().step_by(3).filter(|page| page % 2 == 0).for_each(|page| self.write(page));
        match self.pager.relocate(self.addr(from.start), addr, bytes) {
            Ok(()) => {
                assert!(!self.let_go[from.clone()].contains(&true));
                for (old, new) in from.zip(to) {
                    self.pages[new] = std::mem::replace(&mut self.pages[old], Page::Holds(0));
                    self.locked[new] = std::mem::take(&mut self.locked[old]);
                }
            }
            Err(PagerError::NotOurs) => assert!(self.let_go[from].contains(&true)),
            Err(other) => panic!("{other}"),
        }
    }

    fn lock(&mut self, lock: bool) {
        let Some(range) = self.some_of(|page| matches!(page, Page::Holds(_))) else { return };
        let range = range.start..range.end.min(range.start + 40);
        let (addr, bytes) = (self.addr(range.start), Model::bytes(&range));
        if !lock {
            self.pager.unlock(addr, bytes).unwrap();
            return self.locked[range].fill(false);
        }
        match self.pager.lock(addr, bytes) {
            Ok(()) => self.locked[range.clone()].fill(true),
            Err(PagerError::Budget(_)) => {}
            Err(other) => panic!("{other}"),
        }
        let mut there = vec![7; range.len()];
        self.pager.resident(addr, &mut there).unwrap();
        for (page, there) in range.zip(there) {
            let must = self.locked[page] && !self.let_go[page];
            assert!(there == 1 || there == 0 && !must, "page {page}");
        }
    }

    fn set_ram(&mut self) {
        let ram = MIN_RAM + self.random(MIN_RAM / 2);
        self.pager.set_ram(ram).unwrap();
        if self.pager.outgrown() {
            self.pager.arm_now().unwrap();
        }
        self.ram = ram;
    }

    fn drop_contents(&mut self, keep: bool) {
        let Some(range) = self.some_of(|page| page != Page::Unmapped) else { return };
        let (addr, bytes) = (self.addr(range.start), Model::bytes(&range));
        if !keep {
            self.pager.decommit(addr, bytes).unwrap();
            return self.forget(range, Page::Reserved);
        }
        if self.locked[range.clone()].contains(&true) {
            assert!(matches!(self.pager.discard(addr, bytes), Err(PagerError::Kernel(_, Errno::EINVAL))));
            return;
        }
        self.pager.discard(addr, bytes).unwrap();
        for page in range {
            if self.pages[page] != Page::Reserved && !self.let_go[page] {
                self.pages[page] = Page::Holds(0);
            }
        }
    }

    fn unmap(&mut self) {
        let range = self.some();
        self.pager.unmap(self.addr(range.start), Model::bytes(&range)).unwrap();
        self.forget(range, Page::Unmapped);
    }

    fn extend(&mut self) {
        let Some(range) = self.some_of(|page| page != Page::Unmapped) else { return };
        let more = self.random(50) + 1;
        if range.end + more > ARENA {
            return;
        }
        let (old, new) = (Model::bytes(&range), Model::bytes(&range) + more * PAGE_SIZE);
        let behind = &mut self.pages[range.end..range.end + more];
        let free = behind.iter().all(|page| *page == Page::Unmapped);
        let grown = self.pager.extend(self.base + range.start * PAGE_SIZE, old, new);
        assert_eq!(grown, free, "{range:?} by {more}");
        if grown {
            behind.fill(Page::Holds(0));
        }
    }

    fn touch(&mut self, write: bool) {
        for _ in 0..20 {
            let range = self.some();
            for page in range.take(40).filter(|page| *page < ARENA) {
                if write && matches!(self.pages[page], Page::Holds(_)) {
                    self.write(page)
                } else {
                    self.verify(page)
                }
            }
        }
    }

    fn evict(&mut self) {
        let range = self.some();
        match self.pager.evict(self.addr(range.start), Model::bytes(&range)) {
            Ok(_) | Err(PagerError::NotOurs) => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn step(&mut self) {
        match self.random(25) {
            0..3 => self.map(true),
            3 => self.map(false),
            4 => self.commit(),
            5 => self.drop_contents(false),
            6 => self.drop_contents(true),
            7 | 8 => self.unmap(),
            9 => self.extend(),
            10..12 => self.touch(false),
            12..15 => self.touch(true),
            15 => self.evict(),
            16 => self.let_go(),
            17 | 18 => self.take_back(true),
            19 => self.take_back(false),
            20 | 21 => self.relocate(),
            22 => self.lock(true),
            23 => self.lock(false),
            _ => self.set_ram(),
        }
        let broken = self.pager.check();
        assert!(broken.is_empty(), "{broken:?}");
        let (usage, plain) = (self.pager.usage().unwrap(), self.pager.outgrown());
        assert!(!plain && usage <= self.ram + SLACK, "{} KiB of {} are used", usage >> 10, self.ram >> 10);
    }

    /// The pager says of each page what it is.
    fn verify_kinds(&self) {
        let (mut at, end) = (self.base, self.addr(ARENA));
        while at < end {
            let (kind, to) = self.pager.run_of(at, end);
            assert!(to > at && to <= end);
            for page in (at - self.base) / PAGE_SIZE..(to - self.base) / PAGE_SIZE {
                let expected = match self.pages[page] {
                    Page::Unmapped => Kind::Unmapped,
                    Page::Reserved => Kind::Reserved,
                    Page::Holds(_) if self.let_go[page] => Kind::LetGo,
                    Page::Holds(_) => Kind::Managed,
                };
                assert_eq!((kind, self.pager.state_of(self.addr(page))), (expected, expected), "page {page}");
            }
            at = to;
        }
    }

    /// What may be touched is what the program has mapped.
    fn verify_access(&self) {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mut open = vec![false; ARENA];
        for line in maps.lines() {
            let (range, rest) = line.split_once(' ').unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let [from, to] = [from, to].map(|hex| usize::from_str_radix(hex, 16).unwrap());
            if rest.starts_with("rw") && from < self.addr(ARENA) && to > self.base {
                let first = from.saturating_sub(self.base) / PAGE_SIZE;
                open[first..((to - self.base) / PAGE_SIZE).min(ARENA)].fill(true);
            }
        }
        for (page, open) in open.iter().enumerate() {
            assert_eq!(
                *open,
                matches!(self.pages[page], Page::Holds(_)),
                "page {page}: {:?}",
                self.pages[page]
            );
        }
    }
}

fn walk(seed: u64, steps: usize) {
    let pager = match pager(MIN_RAM) {
        Ok(pager) => pager,
        Err(why) => return println!("skipped: {why}"),
    };
    let mut model = Model::new(pager, seed);
    for _ in 0..steps {
        model.step();
    }
    let sent_out = model.pager.stats(|stats| stats.get(Stat::Evictions)).unwrap();
    assert!(sent_out > 0, "the budget was never passed");
    model.verify_access();
    model.verify_kinds();
    (0..ARENA).for_each(|page| model.verify(page));
    model.pager.unmap(model.base, ARENA * PAGE_SIZE).unwrap();
    assert!(model.pager.check().is_empty());
    let mapped = model.pager.stats(|stats| (stats.get(Stat::Mapped), stats.get(Stat::Regions))).unwrap();
    assert_eq!(mapped, (0, 0));
}

#[test]
fn every_page_reads_as_what_was_written_last() {
    for seed in 1..=6 {
        println!("seed {seed}");
        walk(seed * 0x1234_5678_9abc_def1, 400);
    }
}

/// What was moved while memory was plain, in large and small pieces, is there once it is paged and has been out.
#[test]
fn what_moved_as_plain_memory_is_there_once_it_is_paged() {
    let pager = match pager(4 * MIN_RAM) {
        Ok(pager) => pager,
        Err(why) => return println!("skipped: {why}"),
    };
    let mut model = Model::new(pager, 1);
    for pages in [1500, 90] {
        let bytes = pages * PAGE_SIZE;
        let [from, to] = [0; 2].map(|_| (model.pager.map(bytes).unwrap() - model.base) / PAGE_SIZE);
        model.pages[from..from + pages].fill(Page::Holds(0));
        (from..from + pages).filter(|page| page % 5 != 0).for_each(|page| model.write(page));
        model.pager.relocate(model.addr(from), model.addr(to), bytes).unwrap();
        model.pages.copy_within(from..from + pages, to);
        model.pages[from..from + pages].fill(Page::Holds(0));
    }
    assert!(!model.pager.outgrown());
    (0..model.end()).for_each(|page| model.verify(page));
    model.pager.evict_all().unwrap();
    assert_eq!(model.pager.check(), Vec::<String>::new());
    (0..model.end()).for_each(|page| model.verify(page));
}

/// A budget that cannot hold is overshot, and that is counted (law 14); what is new is refused until it holds again.
#[test]
fn a_budget_that_nothing_can_leave_for_is_overshot_and_what_is_new_refused() {
    let pager = match pager(4 * MIN_RAM) {
        Ok(pager) => pager,
        Err(why) => return println!("skipped: {why}"),
    };
    let pages = 2 * MIN_RAM / PAGE_SIZE;
    let addr = pager.map(pages * PAGE_SIZE).unwrap();
    pager.arm_now().unwrap();
    pager.lock(addr, pages * PAGE_SIZE).unwrap();
    let mut there = vec![0; pages];
    pager.resident(addr, &mut there).unwrap();
    assert!(there.iter().all(|page| *page == 1));
    pager.set_ram(MIN_RAM).unwrap();
    assert!(pager.usage().unwrap() > 2 * MIN_RAM);
    assert!(pager.stats(|stats| stats.get(Stat::OvershootEvents)).unwrap() > 0);
    assert!(matches!(pager.map(PAGE_SIZE), Err(PagerError::Budget(_))));
    pager.unlock(addr, pages * PAGE_SIZE).unwrap();
    pager.set_ram(MIN_RAM).unwrap();
    assert!(pager.usage().unwrap() <= MIN_RAM);
    pager.map(PAGE_SIZE).unwrap();
    assert_eq!(pager.check(), Vec::<String>::new());
}

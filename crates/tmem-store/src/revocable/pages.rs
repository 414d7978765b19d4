// SPDX-License-Identifier: Apache-2.0
//! Owns: which pages there are, where each lies and what it must hash to, in private memory; and of each extent the order in which
//! its pages were written. Callers: `store`. Locks: the store's. No heap on the path of a page.

use super::log::{Home, MOST_EXTENTS, Spot};
use crate::entry::{Entry, Form};
use crate::nodes::NodeTable;
use crate::object::{ObjectId, Objects};
use crate::ops::Reason;
use tmem_sys::Errno;

tmem_sys::pod! {
    /// All zeros is no page.
    pub(super) struct Record {
        /// What the stored bytes hash to, or the repeated word of a page that needs none.
        sum: [u64; 2],
        index: u64,
        object: u32,
        at: u32,
        /// Neighbours in the extent.
        older: u32,
        younger: u32,
        len: u16,
        /// The extent's place in the log, and one; 0 for a page that needs no data.
        home: u16,
        spare: u32,
    }
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Same(u64),
    At { spot: Spot, len: usize, sum: [u64; 2] },
}

impl Known {
    /// The extent and the bytes there.
    pub fn place(self) -> Option<(Home, usize)> {
        match self {
            Known::Same(_) => None,
            Known::At { spot, len, .. } => Some((spot.home, len)),
        }
    }

    fn chain(self) -> usize {
        self.place().map_or(0, |(home, _)| home.0 as usize + 1)
    }
}

impl Record {
    const NONE: Record =
        Record { sum: [0; 2], index: 0, object: 0, at: 0, older: 0, younger: 0, len: 0, home: 0, spare: 0 };

    fn set(&mut self, known: Known) {
        match known {
            Known::Same(word) => (self.sum, self.home) = ([word, 0], 0),
            Known::At { spot, len, sum } => {
                (self.sum, self.at, self.len, self.home) = (sum, spot.at, len as u16, spot.home.0 + 1);
            }
        }
    }

    fn known(&self) -> Known {
        match self.home {
            0 => Known::Same(self.sum[0]),
            home => {
                let spot = Spot { home: Home(home - 1), at: self.at };
                Known::At { spot, len: self.len as usize, sum: self.sum }
            }
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Chain {
    oldest: u32,
    youngest: u32,
}

pub(super) struct Pages {
    pub(super) objects: Objects,
    records: NodeTable<Record>,
    /// Of pages without data, and of each extent.
    chains: Box<[Chain; MOST_EXTENTS + 1]>,
}

fn number_of(entry: Entry) -> Option<u32> {
    match entry.form() {
        Form::Same(number) => u32::try_from(number).ok(),
        _ => None,
    }
}

impl Pages {
    /// # Errors
    /// `ENOMEM` when the address space cannot hold the reserves.
    pub fn new(max_pages: usize) -> Result<Pages, Errno> {
        // Eight times the leaves of a dense index: room for objects that are small or have holes.
        let objects = Objects::new(max_pages, max_pages.div_ceil(8).saturating_add(64))?;
        let chains = Box::new([Chain::default(); MOST_EXTENTS + 1]);
        Ok(Pages { objects, records: NodeTable::new(max_pages)?, chains })
    }

    pub fn find(&self, pool: u32, object: ObjectId, index: u64) -> Option<(u32, Known)> {
        let number = number_of(self.objects.get(pool, object, index))?;
        Some((number, self.records[number].known()))
    }

    /// Notes a page that is not there yet.
    pub fn add(&mut self, pool: u32, object: ObjectId, index: u64, known: Known) -> Result<(), Reason> {
        let number = self.records.alloc().ok_or(Reason::IndexFull)?;
        match self.objects.insert(pool, object, index, Entry::same(number.into())) {
            Ok(inserted) => {
                let record = &mut self.records[number];
                (record.object, record.index) = (inserted.object, index);
                record.set(known);
                self.link(number);
                Ok(())
            }
            Err(reason) => {
                self.records.free(number);
                Err(reason)
            }
        }
    }

    /// Forgets a page; where it was.
    pub fn remove(&mut self, pool: u32, object: ObjectId, index: u64) -> Option<Known> {
        let number = number_of(self.objects.remove(pool, object, index))?;
        Some(self.drop_record(number))
    }

    /// Forgets the page that was written first to an extent, or of those without data; whose it was.
    pub fn remove_oldest(&mut self, home: Option<Home>) -> Option<(u32, Known)> {
        let number = self.chains[home.map_or(0, |home| home.0 as usize + 1)].oldest;
        if number == 0 {
            return None;
        }
        let Record { object, index, .. } = self.records[number];
        let taken = self.objects.take(object, index);
        debug_assert!(taken.is_some_and(|(_, entry)| number_of(entry) == Some(number)));
        let known = self.drop_record(number);
        taken.map(|(pool, _)| (pool, known))
    }

    pub fn remove_object(&mut self, pool: u32, object: ObjectId, mut each: impl FnMut(Known)) {
        let Pages { objects, records, chains } = self;
        objects.remove_object(pool, object, &mut |entry| {
            if let Some(number) = number_of(entry) {
                each(forget(records, chains, number));
            }
        });
    }

    pub fn remove_pool(&mut self, pool: u32, mut each: impl FnMut(Known)) {
        let Pages { objects, records, chains } = self;
        objects.remove_pool(pool, &mut |entry| {
            if let Some(number) = number_of(entry) {
                each(forget(records, chains, number));
            }
        });
    }

    /// A page lies elsewhere now, and is the youngest there.
    pub fn relocate(&mut self, number: u32, known: Known) {
        unlink(&mut self.records, &mut self.chains[..], number);
        self.records[number].set(known);
        self.link(number);
    }

    fn link(&mut self, number: u32) {
        let chain = &mut self.chains[self.records[number].known().chain()];
        let before = std::mem::replace(&mut chain.youngest, number);
        if before == 0 {
            chain.oldest = number;
        } else {
            self.records[before].younger = number;
        }
        let record = &mut self.records[number];
        (record.older, record.younger) = (before, 0);
    }

    fn drop_record(&mut self, number: u32) -> Known {
        forget(&mut self.records, &mut self.chains, number)
    }

    pub fn live(&self) -> usize {
        self.records.live()
    }

    /// Gives back all memory, where there is no page.
    pub fn reset_if_empty(&mut self) {
        if self.records.live() == 0 {
            self.records.reset_if_empty();
            self.objects.reset_if_empty();
        }
    }

    pub fn footprint(&self) -> usize {
        self.objects.touched_bytes() + self.records.touched_bytes() + size_of_val(&*self.chains)
    }

    /// Compares index, records and chains; tells of each page.
    pub fn check(&self, broken: &mut Vec<String>, each: &mut impl FnMut(u32, Known)) {
        let (mut met, mut lost) = (0, 0);
        self.objects.check(broken, &mut |pool, _, index, entry, _| match number_of(entry)
            .filter(|number| self.records.is_live(*number))
        {
            Some(number) if self.records[number].index == index => {
                met += 1;
                each(pool, self.records[number].known());
            }
            _ => lost += 1,
        });
        if lost > 0 || met != self.records.live() {
            let live = self.records.live();
            broken.push(format!("{met} pages are found and {lost} are not, of {live} records"));
        }
        let mut linked = 0;
        for (place, chain) in self.chains.iter().enumerate() {
            let (mut number, mut before) = (chain.oldest, 0);
            while number != 0 && linked <= met {
                let record = &self.records[number];
                if record.known().chain() != place || record.older != before {
                    broken.push(format!("record {number} is in a list that is not its own"));
                }
                (before, number, linked) = (number, record.younger, linked + 1);
            }
            if before != chain.youngest {
                broken.push(format!("the list of extent {place} does not end where it says"));
            }
        }
        if linked != met {
            broken.push(format!("{linked} pages are in lists, of {met}"));
        }
        self.records.check("records", broken);
    }
}

fn unlink(records: &mut NodeTable<Record>, chains: &mut [Chain], number: u32) {
    let Record { older, younger, .. } = records[number];
    let chain = &mut chains[records[number].known().chain()];
    match older {
        0 => chain.oldest = younger,
        _ => records[older].younger = younger,
    }
    match younger {
        0 => chain.youngest = older,
        _ => records[younger].older = older,
    }
}

fn forget(records: &mut NodeTable<Record>, chains: &mut [Chain; MOST_EXTENTS + 1], number: u32) -> Known {
    let known = records[number].known();
    unlink(records, chains, number);
    records[number] = Record::NONE;
    records.free(number);
    known
}

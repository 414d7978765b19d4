// SPDX-License-Identifier: Apache-2.0
//! Owns: the order of age of ephemeral pages: one record a page, in a list for each guest, oldest first. Callers:
//! `pool` links and unlinks, `room` asks who is oldest. Locks: the store's.
//! Law: stamps rise along each list, so the oldest page of all is the oldest of the lists' heads. They come from the
//! board, so that pages of several shards can be compared, and each head's is shown there.

use crate::board::Seat;
use crate::entry::Entry;
use crate::guests::{GuestId, MAX_GUESTS};
use crate::nodes::NodeTable;
use tmem_sys::Errno;

tmem_sys::pod! {
    /// Where an ephemeral page is in the index, and between whom in age.
    pub(crate) struct Record {
        /// When it was last young: no two records have the same.
        pub stamp: u64,
        pub index: u64,
        /// Number of the object's record.
        pub object: u32,
        /// Record numbers of the neighbours, 0 for none.
        younger: u32,
        older: u32,
        pub guest: u32,
    }
}

const ZERO: Record = Record { stamp: 0, index: 0, object: 0, younger: 0, older: 0, guest: 0 };

pub(crate) struct Ages {
    records: NodeTable<Record>,
    /// Record numbers of each guest's oldest and youngest page, 0 for none.
    oldest: [u32; MAX_GUESTS],
    youngest: [u32; MAX_GUESTS],
    seat: Seat,
    in_use: bool,
}

impl Ages {
    /// Room for `max_pages` ephemeral pages.
    pub fn new(max_pages: usize, seat: Seat) -> Result<Ages, Errno> {
        Ok(Ages {
            records: NodeTable::new(max_pages.min(Entry::RECORDS - 2))?,
            oldest: [0; MAX_GUESTS],
            youngest: [0; MAX_GUESTS],
            seat,
            in_use: max_pages > 0,
        })
    }

    /// A record for a page about to be stored, on no list yet; `None` when all are in use.
    pub fn reserve(&mut self) -> Option<u32> {
        self.records.alloc()
    }

    /// Takes back a record that [`Ages::reserve`] gave and nobody linked.
    pub fn cancel(&mut self, record: u32) {
        self.records.free(record);
    }

    /// Makes a reserved record the youngest of its guest.
    pub fn link(&mut self, record: u32, guest: GuestId, object: u32, index: u64) {
        self.records[record] = Record { index, object, guest: guest.0.into(), ..ZERO };
        self.push(record);
    }

    /// Makes a page the youngest of its guest.
    pub fn touch(&mut self, record: u32) {
        self.unlink(record);
        self.push(record);
    }

    /// Takes a page off its list and frees its record.
    pub fn remove(&mut self, record: u32) {
        self.unlink(record);
        self.records[record] = ZERO;
        self.records.free(record);
    }

    /// Whether a number names a page's record; an overwritten entry may name anything.
    pub fn is_live(&self, record: u32) -> bool {
        self.records.is_live(record)
    }

    pub fn oldest_of(&self, guest: GuestId) -> Option<(u32, Record)> {
        let record = self.oldest[guest.slot()];
        (record != 0).then(|| (record, self.records[record]))
    }

    /// Whether there can be ephemeral pages at all.
    pub fn in_use(&self) -> bool {
        self.in_use
    }

    /// Gives back all memory, where there is no page.
    pub fn reset_if_empty(&mut self) {
        self.records.reset_if_empty();
    }

    /// Bytes of memory taken; none where there are no ephemeral pools.
    pub fn touched_bytes(&self) -> usize {
        if self.in_use { self.records.touched_bytes() } else { 0 }
    }

    fn push(&mut self, record: u32) {
        let guest = self.records[record].guest as usize;
        let stamp = self.seat.board.tick();
        let older = std::mem::replace(&mut self.youngest[guest], record);
        let this = &mut self.records[record];
        (this.stamp, this.older, this.younger) = (stamp, older, 0);
        if older == 0 {
            self.set_oldest(guest, record);
        } else {
            self.records[older].younger = record;
        }
    }

    fn unlink(&mut self, record: u32) {
        let Record { younger, older, guest, .. } = self.records[record];
        match older {
            0 => self.set_oldest(guest as usize, younger),
            older => self.records[older].younger = younger,
        }
        match younger {
            0 => self.youngest[guest as usize] = older,
            younger => self.records[younger].older = older,
        }
    }

    fn set_oldest(&mut self, guest: usize, record: u32) {
        self.oldest[guest] = record;
        let stamp = if record == 0 { 0 } else { self.records[record].stamp };
        self.seat.show_oldest(GuestId(guest as u8), stamp);
    }

    /// Walks every list, comparing links and stamps, and shows each record with its number.
    pub fn check(&self, broken: &mut Vec<String>, each: &mut impl FnMut(u32, &Record)) {
        self.records.check("records of age", broken);
        let mut listed = 0;
        for guest in 0..MAX_GUESTS {
            let (mut at, mut older, mut stamp) = (self.oldest[guest], 0, 0);
            while at != 0 && listed <= self.records.live() {
                let record = &self.records[at];
                if !self.records.is_live(at)
                    || record.older != older
                    || record.guest as usize != guest
                    || record.stamp <= stamp
                {
                    broken.push(format!("record {at}: not live, or out of the order of guest {guest}"));
                    break;
                }
                each(at, record);
                listed += 1;
                (older, stamp, at) = (at, record.stamp, record.younger);
            }
            let oldest = self.oldest_of(GuestId(guest as u8)).map_or(0, |(_, record)| record.stamp);
            if self.seat.shows(GuestId(guest as u8)).1 != oldest {
                broken.push(format!("guest {guest}: the board shows another oldest page"));
            }
            if self.youngest[guest] != older && at == 0 {
                broken.push(format!("guest {guest}: the youngest page is not the end of the list"));
            }
        }
        if listed != self.records.live() {
            broken.push(format!("{listed} records are listed, {} are live", self.records.live()));
        }
    }

    /// Swaps the stamps of two records, as stray writes would.
    #[cfg(test)]
    pub fn break_order(&mut self, record: u32) {
        self.records[record].stamp = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(ages: &Ages, guest: u8) -> Vec<u64> {
        let (mut broken, mut order) = (Vec::new(), Vec::new());
        ages.check(&mut broken, &mut |_, r| {
            if r.guest == u32::from(guest) {
                order.push(r.index);
            }
        });
        assert!(broken.is_empty(), "{broken:?}");
        order
    }

    #[test]
    fn pages_age_in_the_order_they_were_last_young() {
        let mut ages = Ages::new(8, Seat::alone()).unwrap();
        let records: Vec<u32> = (0..8).map(|_| ages.reserve().unwrap()).collect();
        assert_eq!(ages.reserve(), None);
        for (index, &record) in records.iter().enumerate() {
            ages.link(record, GuestId((index % 2) as u8), 7, index as u64);
        }
        ages.touch(records[0]);
        ages.touch(records[4]);
        ages.remove(records[2]);
        ages.touch(records[7]);
        assert_eq!((order(&ages, 0), order(&ages, 1)), (vec![6, 0, 4], vec![1, 3, 5, 7]));
        assert_eq!(ages.oldest_of(GuestId(1)).map(|(_, r)| (r.index, r.object)), Some((1, 7)));
        for &record in records.iter().filter(|r| **r != records[2]) {
            ages.remove(record);
        }
        assert!(ages.oldest_of(GuestId(0)).is_none());
        assert_eq!(order(&ages, 0), []);
    }
}

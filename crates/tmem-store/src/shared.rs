// SPDX-License-Identifier: Apache-2.0
//! Owns: shares: data that several pages of one guest have in common, each with its place in the slab, how many pages refer
//! to it and which. Callers: `dedup` makes and joins them, `pool` and `compact` read, leave and move them. Locks: the
//! store's. Between operations a share has at least two pages: when all but one have left, that one gets its data back at
//! once, and costs what a page costs that never was shared.
//! Law 10: all pages of a share are of one guest. Law 11: the data is charged once, with the page that leaves last.
//!
//! The way back to the last page needs no list: a share keeps the ids of its pages, each of 32 bits, added up without carry.
//! Who leaves takes its id off; what is left in the end is the id of who stayed.

use crate::entry::{Entry, EntryId, Form};
use crate::guests::{GuestId, slot_bytes};
use crate::held::count;
use crate::nodes::NodeTable;
use crate::pool::PageStore;
use crate::slab::Slab;
use crate::stats::Holdings;
use std::collections::HashMap;
use tmem_sys::Errno;

tmem_sys::pod! {
    /// The data of several pages.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Share {
        /// The entry that one page alone would have.
        data: Entry,
        pages: u32,
        /// The pages' ids, added up without carry.
        ids: u32,
        /// Under which tag it is a candidate.
        tag: u32,
        /// The next share that has lost all pages but one.
        next: u32,
        guest: u16,
        /// 1 where the pages are ephemeral, which count apart: no share has both.
        ephemeral: u16,
    }
}

const NONE: Share = Share { data: Entry::EMPTY, pages: 0, ids: 0, tag: 0, next: 0, guest: 0, ephemeral: 0 };

/// Who may share with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Circle {
    pub guest: GuestId,
    pub ephemeral: bool,
}

impl Share {
    fn circle(&self) -> Circle {
        Circle { guest: GuestId(self.guest as u8), ephemeral: self.ephemeral != 0 }
    }
}

/// Bytes of an entry's data, before rounding to a slot.
pub(crate) fn data_len(data: Entry) -> u64 {
    let mut held = Holdings::default();
    count(&mut held, data, u64::wrapping_add);
    held.data_bytes
}

pub(crate) struct Shares {
    all: NodeTable<Share>,
    /// The last share that lost all pages but one in the operation under way, 0 for none.
    lonely: u32,
    /// Bytes of slots that the pages would take in addition if each had its own.
    saved: u64,
}

impl Shares {
    /// Room for the shares of so many pages.
    pub fn new(max_pages: usize) -> Result<Shares, Errno> {
        Ok(Shares { all: NodeTable::new((max_pages / 2 + 1).min(EntryId::SHARES - 2))?, lonely: 0, saved: 0 })
    }

    pub fn has_room(&self) -> bool {
        self.all.has_room(1)
    }

    pub fn live(&self) -> usize {
        self.all.live()
    }

    pub fn saved_bytes(&self) -> u64 {
        self.saved
    }

    pub fn touched_bytes(&self) -> usize {
        if self.all.fresh() > 1 { self.all.touched_bytes() } else { 0 }
    }

    /// The data behind an entry: its own, or what it shares. Of a share that there is not it stays as it is.
    #[inline]
    pub fn plain(&self, entry: Entry) -> Entry {
        match entry.form() {
            Form::Shared(share) => self.get(share).map_or(entry, |(data, _)| data),
            _ => entry,
        }
    }

    /// A share's data, and who may join.
    #[inline]
    pub fn get(&self, share: u32) -> Option<(Entry, Circle)> {
        self.all.is_live(share).then(|| (self.all[share].data, self.all[share].circle()))
    }

    /// A share's data, to say where it lies now.
    pub fn data_mut(&mut self, share: u32) -> Option<&mut Entry> {
        self.all.is_live(share).then(|| &mut self.all[share].data)
    }

    /// Makes a share of one page, the first; `None` when all are in use, or for a page without data of its own.
    fn make(&mut self, first: EntryId, data: Entry, circle: Circle, tag: u32) -> Option<u32> {
        if !matches!(data.form(), Form::Packed(..) | Form::Raw(_)) {
            return None;
        }
        let share = self.all.alloc()?;
        let (guest, ephemeral) = (circle.guest.0.into(), circle.ephemeral.into());
        let data = data.with_record(0);
        self.all[share] = Share { data, pages: 1, ids: first.0, tag, next: 0, guest, ephemeral };
        Some(share)
    }

    /// Adds a page whose entry has this id.
    fn join(&mut self, share: u32, id: EntryId, slab: &Slab) {
        self.saved += slot_bytes(slab, self.all[share].data) as u64;
        self.all[share].pages += 1;
        self.all[share].ids ^= id.0;
    }

    /// A page's entry has another id now.
    fn rename(&mut self, share: u32, old: EntryId, new: EntryId) {
        if self.all.is_live(share) {
            self.all[share].ids ^= old.0 ^ new.0;
        }
    }

    /// Takes an entry out that is in the index no more. The entry whose data goes with it: itself, or the share's with the
    /// last page, or the empty one while others stay.
    pub fn leave(&mut self, slab: &Slab, held: &mut Holdings, entry: Entry) -> Entry {
        let Form::Shared(number) = entry.form() else { return entry };
        if !self.all.is_live(number) {
            return Entry::EMPTY;
        }
        let share = &mut self.all[number];
        let data = share.data;
        // Wrapping: where stray writes changed an entry, `check` tells, and a put must not panic.
        share.pages = share.pages.wrapping_sub(1);
        share.ids ^= entry.id().0;
        match share.pages {
            0 => {
                held.data_bytes = held.data_bytes.wrapping_sub(data_len(data));
                return data;
            }
            1 => self.set_lonely(number),
            _ => {}
        }
        self.saved = self.saved.wrapping_sub(slot_bytes(slab, data) as u64);
        Entry::EMPTY
    }

    fn set_lonely(&mut self, share: u32) {
        self.all[share].next = std::mem::replace(&mut self.lonely, share);
    }

    fn free(&mut self, share: u32) {
        self.all[share] = NONE;
        self.all.free(share);
    }
}

impl PageStore {
    /// Makes a share of a page's data, with that page as the first.
    pub(crate) fn make_share(&mut self, id: EntryId, circle: Circle, tag: u32) -> Option<u32> {
        let entry = self.objects.entry_mut(id)?;
        let data = *entry;
        let share = self.dedup.shares.make(id, data, circle, tag)?;
        *entry = Entry::shared(share, id).with_record(data.record());
        count(&mut self.held, data, u64::wrapping_sub);
        count(&mut self.held, *entry, u64::wrapping_add);
        self.held.data_bytes += data_len(data);
        self.set_slot_owner(data, EntryId::share(share));
        Some(share)
    }

    /// Gives an entry that was just stored as shared its id, and its share the page.
    pub(crate) fn join_share(&mut self, share: u32, id: EntryId) {
        if let Some(entry) = self.objects.entry_mut(id) {
            *entry = Entry::shared(share, id).with_record(entry.record());
            self.dedup.shares.join(share, id, &self.slab);
        }
    }

    /// A shared entry has another id now.
    pub(crate) fn rename_in_share(&mut self, share: u32, old: Entry, id: EntryId) {
        if let Some(entry) = self.objects.entry_mut(id) {
            *entry = Entry::shared(share, id).with_record(old.record());
            self.dedup.shares.rename(share, old.id(), id);
        }
    }

    /// What a share is while its second page is on its way, which then does not come.
    pub(crate) fn unmake_share(&mut self, share: u32) {
        if self.dedup.shares.all[share].pages == 1 {
            self.dedup.shares.set_lonely(share);
            self.settle_shares();
        }
    }

    /// Ends the shares that have no page left, or one: that gets its data back. For the end of every operation in which
    /// entries went, and not before: the entry that stays may be about to go.
    #[inline]
    pub(crate) fn settle_shares(&mut self) {
        while self.dedup.shares.lonely != 0 {
            self.settle_share();
        }
    }

    #[cold]
    fn settle_share(&mut self) {
        let shares = &mut self.dedup.shares;
        let number = shares.lonely;
        let share = shares.all[number];
        shares.lonely = share.next;
        shares.free(number);
        let id = EntryId(share.ids);
        let entry = if share.pages == 1 { self.objects.entry_mut(id) } else { None };
        let stays = match entry {
            Some(entry) if entry.form() == Form::Shared(number) => {
                let shared = std::mem::replace(entry, share.data.with_record(entry.record()));
                count(&mut self.held, shared, u64::wrapping_sub);
                self.held.data_bytes = self.held.data_bytes.wrapping_sub(data_len(share.data));
                count(&mut self.held, share.data, u64::wrapping_add);
                self.set_slot_owner(share.data, id);
                Some(id)
            }
            _ => None,
        };
        self.dedup.renamed(share.tag, number, stays);
    }

    fn set_slot_owner(&mut self, data: Entry, owner: EntryId) {
        if let Form::Packed(loc, _) | Form::Raw(loc) = data.form() {
            self.slab.set_owner(loc, owner);
        }
    }
}

/// What `check` found of each share: its pages, and their ids added up.
#[derive(Default)]
pub(crate) struct Met(HashMap<u32, (u32, u32)>);

impl Met {
    /// Counts a shared entry that has this id. The data, where it is the first of its share; the empty entry, where it is
    /// not; any other entry is its own data.
    pub fn meet(
        &mut self,
        shares: &Shares,
        entry: Entry,
        id: EntryId,
        circle: Circle,
        broken: &mut Vec<String>,
    ) -> Entry {
        let Form::Shared(number) = entry.form() else { return entry };
        let Some((data, of)) = shares.get(number) else {
            broken.push(format!("{id:?}: shares what there is not, {number}"));
            return Entry::EMPTY;
        };
        if of != circle || entry.id() != id {
            broken.push(format!("{id:?} of {circle:?} says it is {:?}: in a share of {of:?}", entry.id()));
        }
        let (pages, ids) = self.0.entry(number).or_default();
        (*pages, *ids) = (*pages + 1, *ids ^ id.0);
        if *pages == 1 { data } else { Entry::EMPTY }
    }

    /// Compares what was met with what the shares say of themselves.
    pub fn compare(&self, shares: &Shares, slab: &Slab, broken: &mut Vec<String>) {
        shares.all.check("shares", broken);
        let mut saved = 0;
        for (number, (pages, ids)) in &self.0 {
            let share = &shares.all[*number];
            if (share.pages, share.ids) != (*pages, *ids) || *pages < 2 {
                broken.push(format!("share {number} is of {pages} pages, and says {share:?}"));
            }
            saved += slot_bytes(slab, share.data) as u64 * u64::from(pages - 1);
        }
        if (self.0.len(), 0) != (shares.live(), shares.lonely) || saved != shares.saved {
            broken.push(format!(
                "{} shares that save {saved} bytes; the counters say {} and {}",
                self.0.len(),
                shares.live(),
                shares.saved
            ));
        }
    }
}

#[cfg(test)]
impl Shares {
    /// Changes a share's count, as stray writes would.
    pub fn break_count(&mut self, share: u32) {
        self.all[share].pages += 1;
    }
}

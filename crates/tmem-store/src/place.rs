// SPDX-License-Identifier: Apache-2.0
//! Owns: a page's way into the store, from its form to its place in slab, index and order of age. Callers: `pool` on
//! a put, which has forgotten by then what the handle held (law 3). Locks: the store's. Law 1: what has no place is
//! refused, and changes nothing.

use crate::codec::Coded;
use crate::config::Dedup;
use crate::dedup::Search;
use crate::entry::{Entry, EntryId, Form};
use crate::guests::slot_bytes;
use crate::held::{count, free};
use crate::object::{Inserted, ObjectId};
use crate::ops::Reason;
use crate::order::Place;
use crate::pool::{PageStore, Pool, PoolConfig, PoolKind};
use crate::room::Effort;
use tmem_sys::{PAGE_SIZE, Page};

/// The form in which a page asks for room. Packed bytes lie in the codec meanwhile, or with the caller.
#[derive(Clone, Copy)]
enum Offer {
    Same(u64),
    Packed(usize),
    Raw,
    /// In a share that has its data already.
    Shared(u32),
}

impl Offer {
    /// What becomes of a page that does not shrink is its pool's affair.
    fn of(coded: &Coded<'_>, config: PoolConfig) -> Result<Offer, Reason> {
        match coded {
            Coded::Same(word) => Ok(Offer::Same(*word)),
            Coded::Packed(bytes) => Ok(Offer::Packed(bytes.len())),
            Coded::Incompressible if config.raw => Ok(Offer::Raw),
            Coded::Incompressible => Err(Reason::Incompressible),
        }
    }

    /// Bytes of data.
    fn len(self) -> usize {
        match self {
            Offer::Same(_) | Offer::Shared(_) => 0,
            Offer::Packed(len) => len,
            Offer::Raw => PAGE_SIZE,
        }
    }
}

impl PageStore {
    /// Stores a page under a handle that holds none, making room as far as that can be done.
    pub(crate) fn place(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        page: &Page,
    ) -> Result<(), Reason> {
        let Pool { config, stats, .. } = self.pools[slot];
        if stats.frozen {
            return Err(Reason::Frozen);
        }
        self.place_new(slot, object, index, page, |store| {
            Ok((Offer::of(&store.codec.encode(page, config.pack), config)?, None))
        })
    }

    /// As `place`, in the form that another codec made of the page.
    pub(crate) fn place_coded(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        page: &Page,
        coded: &Coded<'_>,
    ) -> Result<(), Reason> {
        let Pool { config, stats, .. } = self.pools[slot];
        if stats.frozen {
            return Err(Reason::Frozen);
        }
        self.place_new(slot, object, index, page, |_| {
            let packed = if let Coded::Packed(bytes) = coded { Some(*bytes) } else { None };
            Ok((Offer::of(coded, config)?, packed))
        })
    }

    /// Stores a page with its twin where it has one, else in the form that is made of it.
    #[inline]
    fn place_new<'a>(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        page: &Page,
        offer: impl FnOnce(&mut PageStore) -> Result<(Offer, Option<&'a [u8]>), Reason>,
    ) -> Result<(), Reason> {
        let search = match self.pools[slot].config.dedup {
            Dedup::Off => Search::Unseen,
            _ => self.look_up(slot, object, index, page),
        };
        if search == Search::Shared {
            return Ok(());
        }
        let (offer, packed) = offer(self)?;
        let id = self.place_offer(slot, object, index, page, offer, packed)?;
        if let Search::New(tag) = search {
            self.remember(id, tag);
        }
        Ok(())
    }

    /// Stores a page in a share, if there is room as things are; changes nothing if not.
    pub(crate) fn insert_shared(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        page: &Page,
        share: u32,
    ) -> Result<EntryId, Reason> {
        self.insert(slot, object, index, page, Offer::Shared(share), None)
    }

    fn place_offer(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        page: &Page,
        offer: Offer,
        packed: Option<&[u8]>,
    ) -> Result<EntryId, Reason> {
        let (guest, len) = (self.pools[slot].guest, offer.len());
        let mut effort = Effort::default();
        loop {
            let placed =
                self.admit(guest, len).and_then(|()| self.insert(slot, object, index, page, offer, packed));
            match placed {
                Err(reason) if self.make_room(guest, len, reason, &mut effort) => {}
                done => return done,
            }
        }
    }

    /// Stores an offered page if there is room as things are; changes nothing if not.
    fn insert(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        page: &Page,
        offer: Offer,
        packed: Option<&[u8]>,
    ) -> Result<EntryId, Reason> {
        let Pool { guest, kind, .. } = self.pools[slot];
        let entry = match offer {
            Offer::Same(word) => Some(Entry::same(word)),
            Offer::Packed(len) => {
                let bytes = packed.unwrap_or_else(|| self.codec.packed(len));
                self.slab.store(bytes).map(|loc| Entry::packed(loc, len))
            }
            Offer::Raw => self.slab.store(page).map(Entry::raw),
            Offer::Shared(share) => Some(Entry::shared(share, EntryId::NONE)),
        };
        let mut entry = entry.ok_or(Reason::StoreFull)?;
        let bytes = slot_bytes(&self.slab, entry);
        let mut done = self.admit_slot(guest, bytes).map(|()| 0);
        if kind.is_ephemeral() {
            entry = entry.with_record(self.ages.reserve().unwrap_or(0));
            if entry.record() == 0 {
                done = done.and(Err(Reason::IndexFull));
            }
        }
        let done = done.and_then(|_| self.objects.insert(slot as u32, object, index, entry));
        match done {
            Ok(inserted) => {
                self.pools[slot].stats.pages += 1;
                count(&mut self.held, entry, u64::wrapping_add);
                self.guests.charge(guest, bytes, kind.is_ephemeral());
                if kind.is_ephemeral() {
                    self.ages.link(entry.record(), guest, inserted.object, index);
                }
                self.settle(inserted, entry, kind);
                Ok(inserted.id)
            }
            Err(reason) => {
                if entry.record() != 0 {
                    self.ages.cancel(entry.record());
                }
                free(&mut self.slab, entry);
                Err(reason)
            }
        }
    }

    /// Tells a stored page's slot whose it is, and gives a persistent page its place in the order.
    #[inline]
    fn settle(&mut self, inserted: Inserted, entry: Entry, kind: PoolKind) {
        if let Some(moved) = inserted.moved {
            self.renumber(EntryId::lone(inserted.object), moved);
        }
        match entry.form() {
            Form::Packed(loc, _) | Form::Raw(loc) => self.slab.set_owner(loc, inserted.id),
            Form::Shared(share) => self.join_share(share, inserted.id),
            _ => return,
        }
        if !kind.is_ephemeral() {
            self.push(inserted.id);
        }
    }

    /// An entry has another number now.
    #[cold]
    fn renumber(&mut self, old: EntryId, id: EntryId) {
        let Some(entry) = self.objects.entry_mut(id).copied() else { return };
        match entry.form() {
            Form::Packed(loc, _) | Form::Raw(loc) => self.slab.set_owner(loc, id),
            Form::Shared(share) => self.rename_in_share(share, entry, id),
            _ => return,
        }
        let Some((pool, ..)) = self.objects.handle(id) else { return };
        if !self.pools[pool as usize].kind.is_ephemeral() {
            self.order.rename(Place(entry.record()), id);
        }
        self.rename_candidate(pool as usize, entry, old, id);
    }
}

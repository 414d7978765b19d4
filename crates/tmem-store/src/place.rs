// SPDX-License-Identifier: Apache-2.0
//! Owns: a page's way into the store, from its form to its place in slab, index and order of age. Callers: `pool` on
//! a put, which has forgotten by then what the handle held (law 3), and a host's puts, in steps. Locks: the store's. Law 1:
//! what has no place is refused, and changes nothing. Law 8: a put that lets the lock go before it is done has changed
//! nothing by then, so that the old page is there until the new one is, or is refused.

use crate::codec::Coded;
use crate::config::Dedup;
use crate::dedup::Search;
use crate::entry::{Entry, EntryId, Form};
use crate::guests::{GuestId, slot_bytes};
use crate::held::{count, free};
use crate::object::{Inserted, ObjectId};
use crate::ops::{Outcome, Reason};
use crate::order::Place;
use crate::pool::{PageStore, Pool, PoolConfig, PoolKind, StoreError};
use crate::room::{Effort, Need, Room};
use crate::shard::Handle;
use tmem_sys::{PAGE_SIZE, Page};

/// The form in which a page asks for room. Packed bytes lie in the codec meanwhile, or with the caller.
#[derive(Clone, Copy)]
enum Offer {
    Same(u64),
    Packed(usize),
    Raw,
    /// As it is, in leased memory alone.
    Leased,
    /// In a share that has its data already.
    Shared(u32),
}

impl Offer {
    /// What becomes of a page that does not shrink is its pool's affair.
    fn of(coded: &Coded<'_>, config: PoolConfig, on_lease: bool) -> Result<Offer, Reason> {
        match coded {
            Coded::Same(word) => Ok(Offer::Same(*word)),
            Coded::Packed(bytes) => Ok(Offer::Packed(bytes.len())),
            Coded::Incompressible if config.raw => Ok(Offer::Raw),
            Coded::Incompressible if on_lease => Ok(Offer::Leased),
            Coded::Incompressible => Err(Reason::Incompressible),
        }
    }

    /// Bytes of data.
    fn len(self) -> usize {
        match self {
            Offer::Same(_) | Offer::Shared(_) => 0,
            Offer::Packed(len) => len,
            Offer::Raw | Offer::Leased => PAGE_SIZE,
        }
    }
}

fn bytes_of<'a>(coded: &Coded<'a>) -> Option<&'a [u8]> {
    if let Coded::Packed(bytes) = coded { Some(*bytes) } else { None }
}

/// How far a host's put got under one hold of the lock.
pub(crate) enum Step {
    Done(Outcome),
    /// Nothing was changed; to be tried again when others have got on.
    Shortly,
    /// Nothing was changed: other shards have to give first.
    Elsewhere(Need),
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
        self.place_new(slot, object, index, page, None, |store| {
            let on_lease = store.keeps_on_lease(slot);
            Ok((Offer::of(&store.codec.encode(page, config.pack), config, on_lease)?, None))
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
        // Packed by somebody who does not know that this pool is not to.
        let as_it_is = matches!(coded, Coded::Packed(_)) && !config.pack;
        let coded = if as_it_is { &Coded::Incompressible } else { coded };
        let on_lease = self.keeps_on_lease(slot);
        let offer = |_: &mut PageStore| Ok((Offer::of(coded, config, on_lease)?, bytes_of(coded)));
        self.place_new(slot, object, index, page, None, offer)
    }

    /// Whether a pool keeps pages that do not shrink in leased memory, and there may be some.
    pub(crate) fn keeps_on_lease(&self, slot: usize) -> bool {
        self.pools[slot].raw_on_lease && self.slab.mailbox().is_some()
    }

    /// As [`PageStore::put_coded`], of a shard: as far as one hold of its lock is to go.
    ///
    /// # Errors
    /// As [`PageStore::put`].
    pub(crate) fn put_step(
        &mut self,
        handle: Handle,
        page: &Page,
        coded: &Coded<'_>,
        effort: &mut Effort,
    ) -> Result<Step, StoreError> {
        let Handle { pool, object, index } = handle;
        let slot = self.live_slot(pool)?;
        let Pool { mut config, stats, guest, .. } = self.pools[slot];
        config.raw |= effort.keeps_raw;
        let offer = if stats.frozen { Err(Reason::Frozen) } else { Offer::of(coded, config, false) };
        let offer = match offer {
            Ok(offer) => offer,
            Err(reason) => {
                self.forget_old(slot, object, index);
                return Ok(Step::Done(self.count_put(slot, Err(reason))));
            }
        };
        loop {
            let old = self.objects.get(slot as u32, object, index);
            let tried = if old.is_empty() {
                self.put_new(slot, handle, page, (offer, bytes_of(coded)), effort)
            } else {
                self.has_room(guest, offer.len(), old).map(|()| false)
            };
            let reason = match tried {
                Ok(true) => return Ok(Step::Done(self.count_put(slot, Ok(())))),
                Ok(false) => {
                    self.forget_old(slot, object, index);
                    let placed = self.put_instead(slot, handle, page, (offer, bytes_of(coded)), effort);
                    return Ok(Step::Done(self.count_put(slot, placed)));
                }
                Err(reason) => reason,
            };
            match self.make_room(guest, offer.len(), reason, effort) {
                Room::Made => {}
                Room::Shortly => return Ok(Step::Shortly),
                Room::Elsewhere(need) => return Ok(Step::Elsewhere(need)),
                Room::None => break,
            }
        }
        // Nothing can be made room of but the old page.
        self.forget_old(slot, object, index);
        let made = |_: &mut PageStore| Ok((offer, bytes_of(coded)));
        let placed = self.place_new(slot, object, index, page, effort.search, made);
        Ok(Step::Done(self.count_put(slot, placed)))
    }

    /// Tries to store a page under a handle that holds none, as things are. True, or why not.
    fn put_new(
        &mut self,
        slot: usize,
        handle: Handle,
        page: &Page,
        (offer, packed): (Offer, Option<&[u8]>),
        effort: &mut Effort,
    ) -> Result<bool, Reason> {
        let Handle { object, index, .. } = handle;
        let search = self.search(slot, object, index, page, effort.search);
        effort.search = Some(search);
        if search != Search::Shared {
            self.admit(self.pools[slot].guest, offer.len(), None)?;
            let id = self.insert(slot, object, index, page, offer, packed)?;
            self.found(search, id);
        }
        Ok(true)
    }

    /// Stores a page in the place of one that was just forgotten for it. Not asked about limits again: another shard may
    /// just have passed them.
    fn put_instead(
        &mut self,
        slot: usize,
        handle: Handle,
        page: &Page,
        (offer, packed): (Offer, Option<&[u8]>),
        effort: &Effort,
    ) -> Result<(), Reason> {
        let Handle { object, index, .. } = handle;
        let search = self.search(slot, object, index, page, effort.search);
        if search != Search::Shared {
            let id = self.insert(slot, object, index, page, offer, packed)?;
            self.found(search, id);
        }
        Ok(())
    }

    /// Whether a page that packs to `len` bytes surely finds room where another is forgotten for it.
    fn has_room(&mut self, guest: GuestId, len: usize, old: Entry) -> Result<(), Reason> {
        let freed = slot_bytes(&self.slab, old);
        self.admit(guest, len, Some(freed))?;
        let fits = len == 0 || crate::class::slot_for(len) == freed || self.slab.has_room(len);
        if fits { Ok(()) } else { Err(Reason::StoreFull) }
    }

    /// Looks a page up whose handle holds none, unless that was done.
    #[inline]
    fn search(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        page: &Page,
        done: Option<Search>,
    ) -> Search {
        match (done, self.pools[slot].config.dedup) {
            (Some(search), _) => search,
            (None, Dedup::Off) => Search::Unseen,
            // The first of all takes memory whatever comes of it.
            (None, _) if self.dedup.is_new() && !self.has_margin() => Search::Unseen,
            (None, _) => self.look_up(slot, object, index, page),
        }
    }

    #[inline]
    fn found(&mut self, search: Search, id: EntryId) {
        if let Search::New(tag) = search {
            self.remember(id, tag);
        }
    }

    /// Stores a page with its twin where it has one, else in the form that is made of it.
    #[inline]
    fn place_new<'a>(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        page: &Page,
        done: Option<Search>,
        offer: impl FnOnce(&mut PageStore) -> Result<(Offer, Option<&'a [u8]>), Reason>,
    ) -> Result<(), Reason> {
        let search = self.search(slot, object, index, page, done);
        if search == Search::Shared {
            return Ok(());
        }
        let (offer, packed) = offer(self)?;
        let id = self.place_offer(slot, object, index, page, offer, packed)?;
        self.found(search, id);
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
        // Under one hold of the lock: no other shard can be asked.
        let mut effort = Effort::alone();
        loop {
            let placed = (self.admit(guest, len, None))
                .and_then(|()| self.insert(slot, object, index, page, offer, packed));
            match placed {
                Err(reason) if self.make_room(guest, len, reason, &mut effort).is_to_try_again() => {}
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
            // The store's own memory is for pages that shrink: there such a page is refused, full or not.
            Offer::Leased => {
                Some(self.slab.store_leased(page).map(Entry::raw).ok_or(Reason::Incompressible)?)
            }
            Offer::Shared(share) => Some(Entry::shared(share, EntryId::NONE)),
        };
        let mut entry = entry.ok_or(Reason::StoreFull)?;
        let bytes = slot_bytes(&self.slab, entry);
        let reserved = self.guests.reserve(guest, bytes);
        let mut done = if reserved { Ok(0) } else { Err(Reason::OverCap) };
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
                if reserved {
                    self.guests.cancel(guest, bytes);
                }
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

// SPDX-License-Identifier: Apache-2.0
//! Owns: a page's way into the store, from its form to its place in slab, index and order of age. Callers: `pool` on
//! a put, which has forgotten by then what the handle held (law 3), and a host's puts, in steps. Locks: the store's. Law 1:
//! what has no place is refused, and changes nothing. Law 8: a put that lets the lock go before it is done has changed
//! nothing by then, so that the old page is there until the new one is, or is refused.

use crate::codec::Coded;
use crate::entry::Entry;
use crate::guests::{GuestId, slot_bytes};
use crate::object::ObjectId;
use crate::ops::{Outcome, Reason};
use crate::pool::{PageStore, Pool, PoolConfig, StoreError, count, free};
use crate::room::{Effort, Need, Room};
use crate::shard::Handle;
use tmem_sys::{PAGE_SIZE, Page};

/// The form in which a page asks for room. Packed bytes lie in the codec meanwhile, or with the caller.
#[derive(Clone, Copy)]
enum Offer {
    Same(u64),
    Packed(usize),
    Raw,
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
            Offer::Same(_) => 0,
            Offer::Packed(len) => len,
            Offer::Raw => PAGE_SIZE,
        }
    }
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
        let offer = Offer::of(&self.codec.encode(page, config.pack), config)?;
        self.place_offer(slot, object, index, page, offer, None)
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
        let packed = if let Coded::Packed(bytes) = coded { Some(*bytes) } else { None };
        self.place_offer(slot, object, index, page, Offer::of(coded, config)?, packed)
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
        let Pool { config, stats, guest, .. } = self.pools[slot];
        if let (false, Ok(offer)) = (stats.frozen, Offer::of(coded, config)) {
            let packed = if let Coded::Packed(bytes) = coded { Some(*bytes) } else { None };
            loop {
                let old = self.objects.get(slot as u32, object, index);
                let tried = if old.is_empty() {
                    let placed = self.try_offer(slot, object, index, page, offer, packed);
                    placed.map(|()| Some(Outcome::Stored))
                } else {
                    self.has_room(guest, offer.len(), old).map(|()| None)
                };
                let reason = match tried {
                    Ok(Some(_)) => return Ok(Step::Done(self.count_put(slot, Ok(())))),
                    Ok(None) => {
                        self.forget_old(slot, object, index);
                        // Not asked about limits again: another shard may just have passed them.
                        let placed = self.insert(slot, object, index, page, offer, packed);
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
        }
        // Nothing can be made room of but the old page.
        self.forget_old(slot, object, index);
        let placed = self.place_coded(slot, object, index, page, coded);
        Ok(Step::Done(self.count_put(slot, placed)))
    }

    /// Whether a page that packs to `len` bytes surely finds room where another is forgotten for it.
    fn has_room(&mut self, guest: GuestId, len: usize, old: Entry) -> Result<(), Reason> {
        let freed = slot_bytes(&self.slab, old);
        self.admit(guest, len, Some(freed))?;
        let fits = len == 0 || crate::class::slot_for(len) == freed || self.slab.has_room(len);
        if fits { Ok(()) } else { Err(Reason::StoreFull) }
    }

    fn place_offer(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        page: &Page,
        offer: Offer,
        packed: Option<&[u8]>,
    ) -> Result<(), Reason> {
        let (guest, len) = (self.pools[slot].guest, offer.len());
        // Under one hold of the lock: no other shard can be asked.
        let mut effort = Effort::alone();
        loop {
            match self.try_offer(slot, object, index, page, offer, packed) {
                Err(reason)
                    if matches!(
                        self.make_room(guest, len, reason, &mut effort),
                        Room::Made | Room::Shortly
                    ) => {}
                done => return done,
            }
        }
    }

    fn try_offer(
        &mut self,
        slot: usize,
        object: ObjectId,
        index: u64,
        page: &Page,
        offer: Offer,
        packed: Option<&[u8]>,
    ) -> Result<(), Reason> {
        self.admit(self.pools[slot].guest, offer.len(), None)?;
        self.insert(slot, object, index, page, offer, packed)
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
    ) -> Result<(), Reason> {
        let Pool { guest, kind, .. } = self.pools[slot];
        let entry = match offer {
            Offer::Same(word) => Some(Entry::same(word)),
            Offer::Packed(len) => {
                let bytes = packed.unwrap_or_else(|| self.codec.packed(len));
                self.slab.store(bytes).map(|loc| Entry::packed(loc, len))
            }
            Offer::Raw => self.slab.store(page).map(Entry::raw),
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
            Ok(number) => {
                self.pools[slot].stats.pages += 1;
                count(&mut self.held, entry, u64::wrapping_add);
                self.guests.charge(guest, bytes, kind.is_ephemeral());
                if entry.record() != 0 {
                    self.ages.link(entry.record(), guest, number, index);
                }
                Ok(())
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
}

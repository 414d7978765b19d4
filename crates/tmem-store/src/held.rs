// SPDX-License-Identifier: Apache-2.0
//! Owns: the accounts of what a store holds: what an entry's page takes comes on its pool's, its guest's and the store's counts,
//! and goes off them. Callers: `pool`, `place`, `room`, `cold`, `check`. Locks: the store's. Law 11: exact after every
//! operation.

use crate::age::Ages;
use crate::candidates::STEPS;
use crate::class::LARGEST_PACKED;
use crate::entry::{Entry, EntryId, Form};
use crate::guests::{Guests, slot_bytes};
use crate::order::{Order, Place};
use crate::pool::{PageStore, Pool};
use crate::shared::Shares;
use crate::slab::Slab;
use crate::stats::Holdings;
use tmem_sys::PAGE_SIZE;

impl PageStore {
    pub(crate) fn release(&mut self, slot: usize, entry: Entry) {
        let PageStore { slab, held, ages, order, guests, pools, dedup, .. } = self;
        release(slab, held, ages, order, guests, &mut dedup.shares, &mut pools[slot], entry);
        self.settle_shares();
        self.fit_candidates(STEPS);
    }

    /// After pages went, many at once.
    pub(crate) fn settle_all(&mut self) {
        self.settle_shares();
        self.fit_candidates(usize::MAX);
    }

    /// Accounts for an entry that takes another's place, and frees what the old one held.
    pub(crate) fn exchange(&mut self, id: EntryId, old: Entry, new: Entry) {
        let Some((pool, ..)) = self.objects.handle(id) else { return };
        let Pool { guest, kind, .. } = self.pools[pool as usize];
        let (was, is) = (slot_bytes(&self.slab, old), slot_bytes(&self.slab, new));
        self.guests.discharge(guest, was, kind.is_ephemeral());
        self.guests.reserve_anyway(guest, is);
        self.guests.charge(guest, is, kind.is_ephemeral());
        count(&mut self.held, old, u64::wrapping_sub);
        count(&mut self.held, new, u64::wrapping_add);
        free(&mut self.slab, old);
    }
}

/// Frees what an entry held and takes it off the counts. The entry is out of the index already. When all have gone that are
/// to go, [`PageStore::settle_all`] is next.
#[allow(clippy::too_many_arguments)]
pub(crate) fn release(
    slab: &mut Slab,
    held: &mut Holdings,
    ages: &mut Ages,
    order: &mut Order,
    guests: &mut Guests,
    shares: &mut Shares,
    pool: &mut Pool,
    entry: Entry,
) {
    pool.stats.pages -= 1;
    count(held, entry, u64::wrapping_sub);
    let record = entry.record();
    let entry = shares.leave(slab, held, entry);
    guests.discharge(pool.guest, slot_bytes(slab, entry), pool.kind.is_ephemeral());
    if !pool.kind.is_ephemeral() {
        order.remove(Place(record));
    } else if ages.is_live(record) {
        ages.remove(record);
    }
    free(slab, entry);
}

pub(crate) fn free(slab: &mut Slab, entry: Entry) {
    match entry.form() {
        Form::Packed(loc, _) | Form::Raw(loc) => slab.free(loc),
        Form::Empty | Form::Same(_) | Form::Shared(_) | Form::Broken(_) => {}
    }
}

/// Adds an entry to the counts of what is held, or takes it off.
pub(crate) fn count(held: &mut Holdings, entry: Entry, op: fn(u64, u64) -> u64) {
    let (kind, bytes) = match entry.form() {
        Form::Same(_) => (&mut held.same_pages, 0),
        Form::Packed(_, len) => (&mut held.packed_pages, len.min(LARGEST_PACKED)),
        Form::Raw(_) => (&mut held.raw_pages, PAGE_SIZE),
        // The data is counted with the share.
        Form::Shared(_) => (&mut held.shared_pages, 0),
        Form::Empty | Form::Broken(_) => return,
    };
    *kind = op(*kind, 1);
    held.cold_pages = op(held.cold_pages, entry.is_cold().into());
    held.data_bytes = op(held.data_bytes, bytes as u64);
}

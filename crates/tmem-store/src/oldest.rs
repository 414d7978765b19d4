// SPDX-License-Identifier: Apache-2.0
//! Owns: the order of persistent pages as the store's callers see it: who is oldest, who became young. Callers: `place` on
//! a put, `backend` for the pager. Locks: the store's. Law: the order is that of the puts; a page of one repeated word
//! takes no room and is in no order.

use crate::entry::{EntryId, Form};
use crate::object::{ObjectId, Objects};
use crate::ops::Blob;
use crate::order::Place;
use crate::pool::{PageStore, PoolId};
use tmem_sys::PAGE_SIZE;

impl PageStore {
    /// The oldest persistent page but for those up to a place: its own place, its handle, and what is stored.
    pub(crate) fn oldest(&self, after: Place) -> Option<(Place, (u32, ObjectId, u64), Blob<'_>)> {
        let mut after = after;
        loop {
            let (place, id) = self.order.next(after)?;
            after = place;
            let held = match self.dedup.shares.plain(self.objects.entry(id)?).form() {
                Form::Packed(loc, len) => self.slab.read(loc, len).map(Blob::Packed),
                Form::Raw(loc) => {
                    self.slab.read(loc, PAGE_SIZE).and_then(|bytes| bytes.as_array()).map(Blob::Page)
                }
                // Stray writes broke it: a get will say so.
                _ => None,
            };
            if let (Some(held), Some(handle)) = (held, self.objects.handle(id)) {
                return Some((place, handle, held));
            }
        }
    }

    /// Makes a persistent page the youngest.
    pub(crate) fn renew(&mut self, pool: PoolId, object: ObjectId, index: u64) {
        let Ok(slot) = self.live_slot(pool) else { return };
        if let Some(id) = self.objects.id(slot as u32, object, index)
            && let Some(place) =
                self.objects.entry(id).map(|e| Place(e.record())).filter(|p| *p != Place::NONE)
            && !self.pools[slot].kind.is_ephemeral()
        {
            self.order.remove(place);
            self.push(id);
        }
    }

    /// Gives the entry of that number a place at the young end.
    #[inline]
    pub(crate) fn push(&mut self, id: EntryId) {
        let PageStore { order, objects, .. } = self;
        let place = order.push(id, &mut |id, place| note(objects, id, place));
        note(objects, id, place);
    }
}

#[inline]
fn note(objects: &mut Objects, id: EntryId, place: Place) {
    if let Some(entry) = objects.entry_mut(id) {
        *entry = entry.with_record(place.0);
    }
}

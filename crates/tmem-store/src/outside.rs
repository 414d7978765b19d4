// SPDX-License-Identifier: Apache-2.0
//! Owns: what a store does for callers that pack and unpack without its lock: a page copied out as it is stored, and
//! a put that needs no packing to be refused. Callers: `host`, and `backend` for the pager. Locks: the store's. Laws 6 and 7.

use crate::entry::Form;
use crate::object::ObjectId;
use crate::ops::{Copied, Corrupt, Outcome, Reason};
use crate::pool::{PageStore, PoolId, StoreError};
use tmem_sys::{PAGE_SIZE, Page};

/// What a get found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Absent,
    /// One word, repeated.
    Same(u64),
    /// So many packed bytes, at the start of the target.
    Packed(usize),
    /// A whole page, there.
    Raw,
}

impl Taken {
    /// Bytes of the target.
    pub fn len(self) -> usize {
        match self {
            Taken::Absent | Taken::Same(_) => 0,
            Taken::Packed(len) => len,
            Taken::Raw => PAGE_SIZE,
        }
    }
}

impl PageStore {
    /// Copies a persistent page's packed bytes, or its word. `None` for a page in another form, and where there is none.
    ///
    /// # Errors
    /// As [`PageStore::get`].
    pub fn copy_packed(
        &mut self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        into: &mut Page,
    ) -> Result<Option<Copied>, StoreError> {
        let slot = self.live_slot(pool)?;
        let entry = self.objects.get(slot as u32, object, index);
        let copied = match entry.form() {
            _ if entry.record() != 0 => return Ok(None),
            Form::Same(word) => Copied::Same(word),
            Form::Packed(loc, len) => {
                let bytes = self.slab.read(loc, len).ok_or(StoreError::Corrupt(Corrupt::Misplaced))?;
                into[..len].copy_from_slice(bytes);
                Copied::Packed(len)
            }
            Form::Empty | Form::Raw(_) => return Ok(None),
            Form::Broken(_) => return Err(StoreError::Corrupt(Corrupt::Misplaced)),
        };
        self.count_get(slot, true);
        Ok(Some(copied))
    }

    /// As [`PageStore::get`], but the page is copied as it is stored. `into` has room for a page.
    ///
    /// # Errors
    /// As [`PageStore::get`].
    pub(crate) fn take(
        &mut self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        into: &mut [u8],
    ) -> Result<Taken, StoreError> {
        let slot = self.live_slot(pool)?;
        let entry = self.objects.get(slot as u32, object, index);
        let taken = match entry.form() {
            Form::Empty => Taken::Absent,
            Form::Same(word) => Taken::Same(word),
            Form::Packed(_, len) => Taken::Packed(len),
            Form::Raw(_) => Taken::Raw,
            Form::Broken(_) => return Err(StoreError::Corrupt(Corrupt::Misplaced)),
        };
        if let Form::Packed(loc, _) | Form::Raw(loc) = entry.form() {
            let stored = self.slab.read(loc, taken.len()).filter(|bytes| bytes.len() <= into.len());
            let stored = stored.ok_or(StoreError::Corrupt(Corrupt::Misplaced))?;
            into[..stored.len()].copy_from_slice(stored);
        }
        if entry.record() != 0 {
            self.age(slot, object, index, entry)?;
        }
        self.count_get(slot, taken != Taken::Absent);
        Ok(taken)
    }

    /// A put to a frozen pool: what the handle held is gone, and the page is not asked for. `None` where the pool is not
    /// frozen, and nothing happened.
    ///
    /// # Errors
    /// As [`PageStore::put`].
    pub(crate) fn put_frozen(
        &mut self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
    ) -> Result<Option<Outcome>, StoreError> {
        let slot = self.live_slot(pool)?;
        if !self.pools[slot].stats.frozen {
            return Ok(None);
        }
        self.forget_old(slot, object, index);
        Ok(Some(self.count_put(slot, Err(Reason::Frozen))))
    }
}

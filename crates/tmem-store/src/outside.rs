// SPDX-License-Identifier: Apache-2.0
//! Owns: what a store does for callers that pack and unpack without its lock: a page copied out as it is stored, and
//! a put that needs no packing to be refused. Callers: `host`. Locks: the store's. Laws 6 and 7.

use crate::entry::Form;
use crate::object::ObjectId;
use crate::ops::{Corrupt, Outcome, Reason};
use crate::pool::{PageStore, PoolId, StoreError};
use tmem_sys::PAGE_SIZE;

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
        let plain = self.dedup.shares.plain(entry).form();
        let taken = match plain {
            Form::Empty => Taken::Absent,
            Form::Same(word) => Taken::Same(word),
            Form::Packed(_, len) => Taken::Packed(len),
            Form::Raw(_) => Taken::Raw,
            Form::Shared(_) | Form::Broken(_) => return Err(StoreError::Corrupt(Corrupt::Misplaced)),
        };
        if let Form::Packed(loc, _) | Form::Raw(loc) = plain {
            let stored = self.slab.read(loc, taken.len()).filter(|bytes| bytes.len() <= into.len());
            let stored = stored.ok_or(StoreError::Corrupt(Corrupt::Misplaced))?;
            into[..stored.len()].copy_from_slice(stored);
        }
        if !entry.is_empty() && self.pools[slot].kind.is_ephemeral() {
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

// SPDX-License-Identifier: Apache-2.0
//! Owns: what a put or a get will read that is in no cache. Callers: `backend`, before the call itself, while there is other
//! work to do. Locks: the store's. Law: asking changes nothing, and where there is nothing to ask for, nothing happens.

use crate::entry::Form;
use crate::object::ObjectId;
use crate::ops::Soon;
use crate::pool::{PageStore, PoolId};

impl PageStore {
    /// Asks for the memory that a put or a get of a page will read.
    #[inline]
    pub fn expect(&self, pool: PoolId, object: ObjectId, index: u64, soon: Soon) {
        let Ok(slot) = self.live_slot(pool) else { return };
        match soon {
            Soon::Entry => self.objects.expect(slot as u32, object, index),
            Soon::Bytes => {
                let entry = self.objects.get(slot as u32, object, index);
                if let Form::Packed(loc, len) = self.dedup.shares.plain(entry).form() {
                    self.slab.expect(loc, len);
                }
            }
        }
    }
}

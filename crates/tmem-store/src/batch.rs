// SPDX-License-Identifier: Apache-2.0
//! Owns: a host's batches: pages are packed, or copied out, a few at a time, so that every hold of the store's lock is
//! short. Callers: users' pools, through the bindings. Locks: a codec's for one run, the store's for each few pages.
//! Law 17: the caller's small arrays may be paged, so that under a lock only copies of them are touched.

use crate::coders::{Coder, Staged};
use crate::host::{Host, RUN};
use crate::object::ObjectId;
use crate::outside::Taken;
use crate::pool::{PoolId, StoreError};
use crate::room::Effort;
use crate::shard::Handle;
use tmem_sys::Page;

impl Host {
    /// Offers a page for each index, and writes the code of each outcome. The three are of one length.
    ///
    /// # Errors
    /// As [`Host::put`]; codes of pages that were not offered any more stay as they are.
    pub fn put_many(
        &self,
        pool: PoolId,
        object: ObjectId,
        indexes: &[u64],
        pages: &[Page],
        codes: &mut [u8],
    ) -> Result<(), StoreError> {
        let runs = indexes.chunks(RUN).zip(pages.chunks(RUN)).zip(codes.chunks_mut(RUN));
        for (n, ((indexes, pages), codes)) in runs.enumerate() {
            if n > 0 {
                self.shards.give_way(self.at(Handle { pool, object, index: indexes[0] }));
            }
            let (mut at, mut made) = ([0; RUN], [0; RUN]);
            at[..indexes.len()].copy_from_slice(indexes);
            self.put_run(pool, object, &at[..indexes.len()], pages, &mut made)?;
            codes.copy_from_slice(&made[..codes.len()]);
        }
        Ok(())
    }

    fn put_run(
        &self,
        pool: PoolId,
        object: ObjectId,
        indexes: &[u64],
        pages: &[Page],
        made: &mut [u8; RUN],
    ) -> Result<(), StoreError> {
        let handle = |index| Handle { pool, object, index };
        let mut done = 0;
        while done < indexes.len() {
            let shard = self.at(handle(indexes[done]));
            if self.facts.is_frozen(pool) || self.facts.seeks(pool, shard) {
                made[done] = self.put(pool, object, indexes[done], &pages[done])?.code();
                done += 1;
                continue;
            }
            let mut coder = self.coder();
            let (mut staged, mut count) = ([Staged::Incompressible; RUN], 0);
            for index in &indexes[done..] {
                if !coder.has_room() || self.at(handle(*index)) != shard {
                    break;
                }
                staged[count] = coder.stage(&pages[done + count], self.facts.packs(pool));
                count += 1;
            }
            let mut store = self.shards.lock(shard);
            for (staged, n) in staged[..count].iter().zip(done..) {
                let coded = coder.coded(*staged);
                let outcome;
                let mut effort = Effort::default();
                (store, outcome) = self.put_in(store, handle(indexes[n]), &pages[n], &coded, &mut effort)?;
                made[n] = outcome.code();
            }
            done += count;
        }
        Ok(())
    }

    /// Copies out the page of each index that is stored, and writes for each whether it was, as 0 or 1. The three are
    /// of one length.
    ///
    /// # Errors
    /// As [`Host::get`]; answers for pages that were not asked for any more stay as they are.
    pub fn get_many(
        &self,
        pool: PoolId,
        object: ObjectId,
        indexes: &[u64],
        into: &mut [Page],
        found: &mut [u8],
    ) -> Result<(), StoreError> {
        let runs = indexes.chunks(RUN).zip(into.chunks_mut(RUN)).zip(found.chunks_mut(RUN));
        for (n, ((indexes, into), found)) in runs.enumerate() {
            if n > 0 {
                self.shards.give_way(self.at(Handle { pool, object, index: indexes[0] }));
            }
            let (mut at, mut there) = ([0; RUN], [0; RUN]);
            at[..indexes.len()].copy_from_slice(indexes);
            self.get_run(pool, object, &at[..indexes.len()], into, &mut there)?;
            found.copy_from_slice(&there[..found.len()]);
        }
        Ok(())
    }

    fn get_run(
        &self,
        pool: PoolId,
        object: ObjectId,
        indexes: &[u64],
        into: &mut [Page],
        there: &mut [u8; RUN],
    ) -> Result<(), StoreError> {
        let mut coder = self.coder();
        let mut done = 0;
        while done < indexes.len() {
            let mut taken = [(Taken::Absent, 0); RUN];
            let count = self.take_some(pool, object, &indexes[done..], &mut coder, &mut taken)?;
            for ((taken, at), n) in taken[..count].iter().zip(done..) {
                let hit = coder.unpack(*taken, *at, &mut into[n]).map_err(StoreError::Corrupt)?;
                there[n] = u8::from(hit);
            }
            done += count;
        }
        Ok(())
    }

    /// Copies pages of one shard as they are stored, while the coder has room; how many, and where each begins.
    fn take_some(
        &self,
        pool: PoolId,
        object: ObjectId,
        indexes: &[u64],
        coder: &mut Coder,
        taken: &mut [(Taken, usize); RUN],
    ) -> Result<usize, StoreError> {
        coder.clear();
        let handle = |index| Handle { pool, object, index };
        let shard = self.at(handle(indexes[0]));
        let mut count = 0;
        let mut store = self.shards.lock(shard);
        for (index, taken) in indexes.iter().zip(taken) {
            if !coder.has_room() || self.at(handle(*index)) != shard {
                break;
            }
            let (room, at) = coder.room();
            *taken = (store.take(pool, object, *index, room)?, at);
            coder.keep(taken.0);
            count += 1;
        }
        Ok(count)
    }
}

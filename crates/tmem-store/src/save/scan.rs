// SPDX-License-Identifier: Apache-2.0
//! Owns: the walk over the pages of a pool in the order of their handles, a run at a time, over all shards. Callers: `saver`.
//! Locks: the shards', all of them, which are let go between two runs: a place is a handle, so it does not matter what goes
//! meanwhile.
//! Nothing is changed, counted or made young.

use crate::PoolId;
use crate::class::LARGEST_PACKED;
use crate::entry::{Entry, Form};
use crate::host::{Host, RUN};
use crate::object::ObjectId;
use crate::ops::Corrupt;
use crate::pool::PageStore;
use crate::shard::{Guard, Handle, are_together};
use tmem_sys::{Errno, Page, Table};

/// Steps of the walk under one hold of the lock: a step gives a page, or passes over the end of an object.
const STEPS: usize = 2 * RUN;
/// Numbers of objects looked at under one hold of the lock.
const NUMBERS: usize = 8 * RUN;

/// The form in which a page was copied out.
#[derive(Clone, Copy)]
pub(crate) enum Taken {
    Same(u64),
    /// So many packed bytes that say all about the page.
    Packed(usize),
    Raw,
    /// It is stored in a form that needs the store to be read.
    Unpacked,
}

#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub object: ObjectId,
    pub index: u64,
    pub taken: Taken,
}

/// The pages of one run, with their bytes in memory of their own.
pub(crate) struct Run {
    pub pages: Table<Page>,
    found: [Found; RUN],
    len: usize,
}

impl Run {
    pub fn new() -> Result<Run, Errno> {
        let none = Found { object: ObjectId([0; 3]), index: 0, taken: Taken::Raw };
        Ok(Run { pages: Table::new(RUN)?, found: [none; RUN], len: 0 })
    }

    pub fn found(&self) -> &[Found] {
        &self.found[..self.len]
    }
}

/// How far a walk has come: an object by its place among the ids, and the index to go on from.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place {
    pub object: usize,
    index: u64,
}

/// A page that cannot be copied.
pub(crate) struct Lost(pub ObjectId, pub u64, pub Corrupt);

impl Host {
    /// Copies out the next pages from a place on; none, and the place behind all ids, at the end. `lasts` says whether
    /// packed bytes may be kept. `None` when the hold on the pool is over.
    pub(crate) fn scan(
        &self,
        (pool, number): (PoolId, u64),
        ids: &[ObjectId],
        place: &mut Place,
        run: &mut Run,
        lasts: fn(&[u8]) -> bool,
    ) -> Option<Result<(), Lost>> {
        let mut shards = self.shards.lock_all();
        shards[0].as_ref()?.held_slot(pool, number)?;
        run.len = 0;
        for _ in 0..STEPS {
            let (Some(&object), true) = (ids.get(place.object), run.len < RUN) else { break };
            let Some((index, at, entry)) = self.next(&shards, Handle { pool, object, index: place.index })
            else {
                *place = Place { object: place.object + 1, index: 0 };
                continue;
            };
            match shards[at].as_mut()?.copy_out(entry, &mut run.pages[run.len], lasts) {
                Ok(taken) => run.found[run.len] = Found { object, index, taken },
                Err(corrupt) => return Some(Err(Lost(object, index, corrupt))),
            }
            run.len += 1;
            match index.checked_add(1) {
                Some(next) => place.index = next,
                None => *place = Place { object: place.object + 1, index: 0 },
            }
        }
        Some(Ok(()))
    }

    /// The first page of an object from an index on: index, shard, entry.
    fn next(&self, shards: &[Option<Guard<'_>>], from: Handle) -> Option<(u64, usize, Entry)> {
        let Handle { pool, object, index } = from;
        let next = |at: usize| {
            let found = shards[at].as_ref()?.objects.next(pool.slot() as u32, object, index);
            found.map(|(index, entry)| (index, at, entry))
        };
        // What is together with the place is in its shard and in no other.
        let own = next(self.at(from)).filter(|(found, ..)| are_together(*found, index));
        own.or_else(|| (0..self.shards.count()).filter_map(next).min_by_key(|(index, ..)| *index))
    }
}

impl PageStore {
    /// Adds the ids of some objects of a pool; `at` is 0 at the first call and after the last. `None` when the hold on
    /// the pool is over. The caller has made room for [`PageStore::IDS`] more.
    pub(crate) fn add_ids(
        &self,
        pool: PoolId,
        number: u64,
        at: &mut u32,
        ids: &mut Vec<ObjectId>,
    ) -> Option<()> {
        let slot = self.held_slot(pool, number)?;
        let mut found = [ObjectId([0; 3]); Self::IDS];
        let count = self.objects.ids(slot as u32, at, NUMBERS, &mut found);
        ids.extend_from_slice(&found[..count]);
        Some(())
    }

    pub(crate) const IDS: usize = RUN;

    fn copy_out(
        &mut self,
        entry: Entry,
        into: &mut Page,
        lasts: fn(&[u8]) -> bool,
    ) -> Result<Taken, Corrupt> {
        // What pages share is saved with each.
        let entry = self.dedup.shares.plain(entry);
        match entry.form() {
            Form::Same(word) => return Ok(Taken::Same(word)),
            Form::Packed(loc, len) if len <= LARGEST_PACKED => {
                let bytes = self.slab.read(loc, len).ok_or(Corrupt::Misplaced)?;
                if lasts(bytes) {
                    into[..len].copy_from_slice(bytes);
                    return Ok(Taken::Packed(len));
                }
            }
            _ => {}
        }
        let _ = self.read(entry, into)?;
        let raw = matches!(entry.form(), Form::Raw(_));
        Ok(if raw { Taken::Raw } else { Taken::Unpacked })
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: a membership in a shared pool, and the verbs on its pages. Callers: `pool`, under its lock. Laws 3, 4, 6, 7, 12: see the
//! module's text.

use super::format::{
    BOARD, Board, ENTRIES, Entry, Keys, LONGEST, MOST_MEMBERS, Name, RECORD, SECRET, Said, Slot, bucket_at,
    is_record_of, seal_record,
};
use super::look::{Blind, TRIES, head_of};
use super::others::Others;
use super::part::{Bucket, Part, entry_at};
use crate::codec::Coded;
use crate::lease::Mailbox;
use crate::object::ObjectId;
use crate::ops::{Outcome, Reason};
use crate::outside::Taken;
use crate::stats::Traffic;
use std::sync::Arc;
use tmem_sys::lease::LeaseFd;
use tmem_sys::{PAGE_SIZE, Page};

/// What a member knows of a shared pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedStats {
    /// This member's.
    pub traffic: Traffic,
    /// Pages that this member put, as far as its own index says.
    pub pages: u64,
    /// Bytes of its records, those of pages that are gone included.
    pub data_bytes: u64,
    pub extents: u64,
    /// Bytes of its extents.
    pub leased_bytes: u64,
    /// Members, this one included.
    pub members: u64,
    /// Extents of others that it reads.
    pub others_extents: u64,
    /// Gets that missed because a member's index is not known or not there.
    pub blind: u64,
    /// Records that were whole and did not decode.
    pub damaged: u64,
    pub footprint_bytes: u64,
    pub frozen: bool,
    /// Whether the host knows it as a member.
    pub joined: bool,
}

struct Membership {
    pool: u64,
    member: usize,
    board: LeaseFd,
}

/// How a put went.
pub(super) enum Put {
    Done(Outcome),
    Wait,
}

pub(super) struct State {
    pub keys: Keys,
    membership: Option<Membership>,
    pub part: Part,
    pub others: Others,
    frozen: bool,
    host_frozen: bool,
    compress: bool,
    stats: SharedStats,
    record: Box<[u8; LONGEST]>,
    /// A get missed up to then because this guest was no member: what is older stays gone, to it (law 4).
    pub blind_until: u64,
}

impl State {
    pub fn new(secret: &[u8; SECRET], data: Arc<Mailbox>, index: Arc<Mailbox>, max_bytes: usize) -> State {
        State {
            keys: Keys::new(secret),
            membership: None,
            part: Part::new(data, index, max_bytes),
            others: Others::new(),
            frozen: false,
            host_frozen: false,
            compress: true,
            stats: SharedStats::default(),
            record: Box::new([0; LONGEST]),
            blind_until: 0,
        }
    }

    /// The host took this guest in.
    pub fn enter(&mut self, pool: u64, member: usize, board: LeaseFd) {
        self.membership = Some(Membership { pool, member, board });
    }

    /// This guest is no member any more: what it had and saw of the pool is gone.
    pub fn leave(&mut self) -> Option<u64> {
        self.part.clear();
        self.others.clear();
        self.membership.take().map(|membership| membership.pool)
    }

    pub fn pool(&self) -> Option<u64> {
        self.membership.as_ref().map(|membership| membership.pool)
    }

    pub fn has_index(&mut self) -> bool {
        self.part.has_index(&self.keys)
    }

    pub fn packs(&self) -> bool {
        self.compress
    }

    pub fn set(&mut self, frozen: bool, compress: bool) {
        (self.host_frozen, self.compress) = (frozen, compress);
    }

    pub fn set_frozen(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    pub fn name(&self, object: ObjectId, index: u64) -> Name {
        Name { object: self.keys.object(object), index }
    }

    pub fn board(&self) -> Option<Board> {
        let mut bytes = [0; BOARD];
        let read = self.membership.as_ref()?.board.read_at(0, &mut bytes);
        Board::decode(&bytes).filter(|_| read == Ok(BOARD))
    }

    pub fn member(&self) -> usize {
        self.membership.as_ref().map_or(0, |membership| membership.member)
    }

    /// Offers a page, with what a codec made of it. With `wait` the answer may be that a wait is worth it.
    pub fn put(&mut self, object: ObjectId, index: u64, page: &Page, coded: &Coded<'_>, wait: bool) -> Put {
        let name = self.name(object, index);
        let outcome = match self.place(&name, object, page, coded, wait) {
            Ok(true) => Outcome::Stored,
            Ok(false) => return Put::Wait,
            Err(reason) => {
                // Law 3: what any member put there is gone.
                self.flush(&name);
                Outcome::Refused(reason)
            }
        };
        self.stats.traffic.count_put(outcome);
        Put::Done(outcome)
    }

    fn place(
        &mut self,
        name: &Name,
        object: ObjectId,
        page: &Page,
        coded: &Coded<'_>,
        wait: bool,
    ) -> Result<bool, Reason> {
        if self.frozen || self.host_frozen {
            return Err(Reason::Frozen);
        }
        let member = self.membership.as_ref().ok_or(Reason::BackendFailed)?.member;
        if !self.has_index() {
            return Err(Reason::StoreFull);
        }
        let stamp = self.part.stamp(member);
        let data: &[u8] = match coded {
            Coded::Same(word) => {
                self.write(&Entry { name: *name, stamp, said: Said::Same(*word) })?;
                return Ok(true);
            }
            Coded::Packed(bytes) => bytes,
            Coded::Incompressible => page,
        };
        let record = &mut self.record[..RECORD + data.len()];
        record[RECORD..].copy_from_slice(data);
        seal_record(record, object, name.index, stamp, &self.keys);
        let Some((extent, at)) = self.part.append(record, wait)? else { return Ok(false) };
        let said = Said::At { extent, at, len: data.len() as u16 };
        self.write(&Entry { name: *name, stamp, said })?;
        Ok(true)
    }

    fn write(&mut self, entry: &Entry) -> Result<(), Reason> {
        let floor = self.part.floor().max(self.board().map_or(0, |board| board.floor));
        let Some(had) = self.part.write(entry, floor, &self.keys) else {
            self.part.owe(entry.stamp);
            return Err(Reason::StoreFull);
        };
        if entry.said != Said::Flushed {
            self.stats.traffic.duplicates += u64::from(had);
        }
        Ok(())
    }

    /// Notes that a page is gone, where it may be there; whether it was.
    fn flush(&mut self, name: &Name) -> bool {
        let there = match self.look(name) {
            Ok(look) => look.newest.is_some_and(|(_, entry)| entry.said != Said::Flushed),
            // Not known: so that it is not there later.
            Err(Blind) => true,
        };
        if there {
            self.bury(name);
        }
        there
    }

    /// Notes that a page is gone. Where there is no index, all others miss until there is one, whose floor is above this.
    fn bury(&mut self, name: &Name) {
        let stamp = self.part.stamp(self.member());
        let _ = self.write(&Entry { name: *name, stamp, said: Said::Flushed });
    }

    /// `None` where this guest is no member, and cannot tell the others.
    pub fn flush_page(&mut self, object: ObjectId, index: u64) -> Option<bool> {
        self.membership.as_ref()?;
        let was_there = self.flush(&self.name(object, index));
        self.stats.traffic.flushed += u64::from(was_there);
        Some(was_there)
    }

    /// Flushes every page of an object that any member has; how many. `None` as for `flush_page`.
    pub fn flush_object(&mut self, object: ObjectId) -> Option<u64> {
        self.membership.as_ref()?;
        let (object, before, mut bytes) =
            (self.keys.object(object), self.stats.traffic.flushed, [0; PAGE_SIZE]);
        for member in 0..MOST_MEMBERS {
            let mut bucket = 0;
            while self.read_bucket(member, bucket, &mut bytes) {
                for place in 0..ENTRIES {
                    if let Slot::Entry(entry) = Entry::decode(entry_at(&bytes, place), &self.keys)
                        && entry.name.object == object
                        && entry.said != Said::Flushed
                    {
                        let was_there = self.flush(&entry.name);
                        self.stats.traffic.flushed += u64::from(was_there);
                    }
                }
                bucket += 1;
            }
        }
        Some(self.stats.traffic.flushed - before)
    }

    /// A bucket of a member's index; false where there is none.
    fn read_bucket(&mut self, member: usize, bucket: usize, into: &mut Bucket) -> bool {
        if self.membership.as_ref().is_some_and(|membership| membership.member == member) {
            return bucket < self.part.buckets() && self.part.read_bucket(bucket, into);
        }
        let index = self.others.index(member, &self.keys).filter(|index| bucket < index.buckets());
        index.is_some_and(|index| index.read(bucket_at(bucket), into))
    }

    pub fn contains(&mut self, object: ObjectId, index: u64) -> bool {
        let name = self.name(object, index);
        self.look(&name).is_ok_and(|look| look.newest.is_some_and(|(_, entry)| entry.said != Said::Flushed))
    }

    /// Copies a page out as it is stored. `into` has room for a page.
    pub fn take(&mut self, object: ObjectId, index: u64, into: &mut [u8]) -> Taken {
        let name = self.name(object, index);
        let taken = match self.find(&name, object, into) {
            Ok(taken) => taken,
            Err(Blind) => {
                self.stats.blind += 1;
                None
            }
        };
        let taken = taken.unwrap_or_else(|| {
            self.miss_for_good(&name);
            Taken::Absent
        });
        self.stats.traffic.gets += 1;
        self.stats.traffic.hits += u64::from(taken != Taken::Absent);
        taken
    }

    /// Law 4: what missed although it may be there misses until the next put.
    fn miss_for_good(&mut self, name: &Name) {
        if self.membership.is_some() {
            self.bury(name);
        } else {
            self.blind_until = self.part.stamp(0);
        }
    }

    /// What is stored for a page. `None` where an entry says that there is one, and it cannot be had.
    fn find(&mut self, name: &Name, object: ObjectId, into: &mut [u8]) -> Result<Option<Taken>, Blind> {
        let mut last = 0;
        for _ in 0..TRIES {
            let look = self.look(name)?;
            let Some((member, entry)) = look.newest else { return Ok(Some(Taken::Absent)) };
            let taken = match entry.said {
                Said::Flushed => return Ok(Some(Taken::Absent)),
                Said::Same(word) => Some(Taken::Same(word)),
                Said::At { extent, at, len } => {
                    self.read(member, (extent, at, len as usize), object, &entry, into)
                }
            };
            match taken {
                Some(taken) if self.stands(&look, entry.stamp) => return Ok(Some(taken)),
                // The same entry twice, and its data is not there: written over, cut off, or in an extent not known yet.
                None if last == entry.stamp => return Ok(None),
                _ => last = entry.stamp,
            }
        }
        Ok(None)
    }

    /// Reads a record, if it is whole and that of the entry.
    fn read(
        &mut self,
        member: usize,
        (extent, at, len): (u64, u32, usize),
        object: ObjectId,
        entry: &Entry,
        into: &mut [u8],
    ) -> Option<Taken> {
        if len == 0 || len > PAGE_SIZE {
            return None;
        }
        let record = &mut self.record[..RECORD + len];
        let there = if self.membership.as_ref().is_some_and(|membership| membership.member == member) {
            self.part.read(extent, at, record)
        } else {
            self.others.read(member, extent, at as usize * super::super::log::UNIT, record)
        };
        if !there || !is_record_of(record, object, entry.name.index, entry.stamp, &self.keys) {
            return None;
        }
        into[..len].copy_from_slice(&record[RECORD..]);
        Some(if len == PAGE_SIZE { Taken::Raw } else { Taken::Packed(len) })
    }

    pub fn count_damaged(&mut self) {
        self.stats.damaged += 1;
        self.stats.traffic.hits -= 1;
    }

    /// Looks through this member's index: takes as long as reading it does.
    pub fn stats(&mut self) -> SharedStats {
        let board = self.board();
        let (me, mut bytes, mut pages) = (self.member(), [0; PAGE_SIZE], 0);
        let floor = self.part.floor().max(board.map_or(0, |board| board.floor));
        let mut bucket = 0;
        while self.membership.is_some() && self.read_bucket(me, bucket, &mut bytes) {
            let floor = head_of(&bytes, bucket, &self.keys).map_or(floor, |head| head.floor.max(floor));
            pages += count_pages(&bytes, floor, &self.keys);
            bucket += 1;
        }
        SharedStats {
            pages,
            data_bytes: self.part.data_bytes() as u64,
            extents: self.part.extents() as u64,
            leased_bytes: self.part.leased() as u64,
            members: board.map_or(0, |board| board.members.count_ones().into()),
            others_extents: self.others.count() as u64,
            footprint_bytes: (self.part.footprint() + self.others.footprint() + size_of::<State>() + LONGEST)
                as u64,
            frozen: self.frozen || self.host_frozen,
            joined: self.membership.is_some(),
            ..self.stats
        }
    }

    /// As far as is counted already.
    pub fn quick_stats(&self) -> SharedStats {
        SharedStats { data_bytes: self.part.data_bytes() as u64, ..self.stats }
    }
}

/// Pages of a bucket that count, one for each name.
fn count_pages(bytes: &Bucket, floor: u64, keys: &Keys) -> u64 {
    let entries = || {
        (0..ENTRIES).filter_map(|place| match Entry::decode(entry_at(bytes, place), keys) {
            Slot::Entry(entry) if entry.stamp > floor => Some(entry),
            _ => None,
        })
    };
    let is_newest = |one: &Entry| !entries().any(|other| other.name == one.name && other.stamp > one.stamp);
    entries().filter(|one| one.said != Said::Flushed && is_newest(one)).count() as u64
}

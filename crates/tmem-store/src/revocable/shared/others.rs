// SPDX-License-Identifier: Apache-2.0
//! Owns: the extents of the other members of a shared pool, for reading. Callers: `pool`. Locks: the pool's. Law 12: a member may
//! write anything at any time, and the host may cut anything off; every offset is compared with the bytes there are.

use super::super::log::host_id;
use super::format::{ENTRY, Keys, MOST_MEMBERS, buckets_in, index_floor};
use crate::lease::Kind;
use tmem_sys::lease::LeaseFd;

/// Extents of data of one member that are kept track of; pages in others are misses.
const MOST_DATA: usize = 128;
/// A host may give a member more than it uses.
const MOST_INDEXES: usize = 4;
/// What says that it is longer is not believed.
const LONGEST_EXTENT: usize = 64 << 20;

struct Other {
    id: u64,
    fd: LeaseFd,
    bytes: usize,
}

/// The index of a member, once its head is there.
pub(super) struct OtherIndex {
    other: Other,
    floor: Option<u64>,
}

struct Member {
    indexes: [Option<OtherIndex>; MOST_INDEXES],
    data: [Option<Other>; MOST_DATA],
}

/// In place: the connection's thread, which adds to them, may have no heap.
pub(super) struct Others(Vec<Member>);

impl OtherIndex {
    pub fn buckets(&self) -> usize {
        buckets_in(self.other.bytes)
    }

    /// Pages that are not younger are gone.
    pub fn floor(&self) -> u64 {
        self.floor.unwrap_or(u64::MAX)
    }

    /// Whether it is in use: its head is written once, before its first entry.
    fn is_begun(&mut self, keys: &Keys) -> bool {
        let mut head = [0; ENTRY];
        if self.floor.is_none() && self.read(0, &mut head) {
            self.floor = index_floor(&head, keys);
        }
        self.floor.is_some()
    }

    pub fn read(&self, at: usize, into: &mut [u8]) -> bool {
        self.other.read(at, into)
    }
}

impl Other {
    fn new(id: u64, fd: LeaseFd) -> Option<Other> {
        let bytes = fd.size().ok().filter(|bytes| (1..=LONGEST_EXTENT).contains(bytes))?;
        Some(Other { id: host_id(id), fd, bytes })
    }

    fn read(&self, at: usize, into: &mut [u8]) -> bool {
        at.checked_add(into.len()).is_some_and(|end| end <= self.bytes)
            && self.fd.read_at(at, into) == Ok(into.len())
    }

    fn is_empty(&self) -> bool {
        self.fd.size() == Ok(0)
    }
}

impl Member {
    const NONE: Member =
        Member { indexes: [const { None }; MOST_INDEXES], data: [const { None }; MOST_DATA] };

    fn forget(&mut self, mut is_gone: impl FnMut(&Other) -> bool) {
        let indexes = self.indexes.iter_mut();
        indexes.filter(|p| p.as_ref().is_some_and(|i| is_gone(&i.other))).for_each(|p| *p = None);
        self.data.iter_mut().filter(|p| p.as_ref().is_some_and(&mut is_gone)).for_each(|p| *p = None);
    }
}

impl Others {
    pub fn new() -> Others {
        Others((0..MOST_MEMBERS).map(|_| Member::NONE).collect())
    }

    /// Another member has an extent.
    pub fn add(&mut self, member: usize, id: u64, kind: Kind, fd: LeaseFd) {
        let (Some(member), Some(other)) = (self.0.get_mut(member), Other::new(id, fd)) else { return };
        member.forget(|known| known.id == other.id || known.is_empty());
        match kind {
            Kind::SharedIndex => {
                if let Some(place) = member.indexes.iter_mut().find(|place| place.is_none()) {
                    *place = Some(OtherIndex { other, floor: None });
                }
            }
            Kind::SharedData => {
                if let Some(place) = member.data.iter_mut().find(|place| place.is_none()) {
                    *place = Some(other);
                }
            }
            Kind::Persistent | Kind::Ephemeral => {}
        }
    }

    pub fn remove(&mut self, member: usize) {
        if let Some(member) = self.0.get_mut(member) {
            member.forget(|_| true);
        }
    }

    /// Lets go of extents that are empty.
    pub fn forget(&mut self, ids: &[u64]) {
        let gone = |other: &Other| ids.iter().any(|id| host_id(*id) == other.id);
        self.0.iter_mut().for_each(|member| member.forget(gone));
    }

    /// The index that a member writes to.
    pub fn index(&mut self, member: usize, keys: &Keys) -> Option<&mut OtherIndex> {
        let indexes = self.0.get_mut(member)?.indexes.iter_mut().flatten();
        // One that was cut off says no more where it ends than the one before: whoever reads finds that out.
        indexes.filter_map(|index| index.is_begun(keys).then_some(index)).max_by_key(|index| index.other.id)
    }

    /// Reads bytes of a member's extent; whether they are there.
    pub fn read(&self, member: usize, id: u64, at: usize, into: &mut [u8]) -> bool {
        let extents = self.0.get(member).map(|member| member.data.iter().flatten());
        let found = extents.and_then(|mut extents| extents.find(|other| other.id == id));
        found.is_some_and(|other| other.read(at, into))
    }

    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(|member| member.forget(|_| true));
    }

    /// Extents known.
    pub fn count(&self) -> usize {
        let of = |m: &Member| m.data.iter().flatten().count() + m.indexes.iter().flatten().count();
        self.0.iter().map(of).sum()
    }

    pub fn footprint(&self) -> usize {
        self.0.len() * size_of::<Member>()
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the extents of the other members of a shared pool, for reading. Callers: `pool`. Locks: the pool's. Law 12: a member may
//! write anything at any time, and the host may cut anything off; every offset is compared with the bytes there are.

use super::super::log::host_id;
use super::format::{ENTRY, Keys, MOST_MEMBERS, buckets_in, index_floor};
use crate::lease::Kind;
use tmem_sys::lease::LeaseFd;

/// Extents of data of one member that are kept track of; pages in others are misses.
const MOST_DATA: usize = 256;
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

#[derive(Default)]
struct Member {
    index: Option<OtherIndex>,
    data: Vec<Other>,
}

#[derive(Default)]
pub(super) struct Others([Member; MOST_MEMBERS]);

impl OtherIndex {
    pub fn buckets(&self) -> usize {
        buckets_in(self.other.bytes)
    }

    /// Pages that are not younger are gone.
    pub fn floor(&mut self, keys: &Keys) -> Option<u64> {
        if self.floor.is_none() {
            let mut head = [0; ENTRY];
            // It is written once, before the first entry.
            self.floor = self.read(0, &mut head).then(|| index_floor(&head, keys)).flatten();
        }
        self.floor
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
}

impl Others {
    /// Another member has an extent.
    pub fn add(&mut self, member: usize, id: u64, kind: Kind, fd: LeaseFd) {
        let (Some(member), Some(other)) = (self.0.get_mut(member), Other::new(id, fd)) else { return };
        match kind {
            // A host numbers upwards: an older one is cut off, or will be.
            Kind::SharedIndex if member.index.as_ref().is_none_or(|known| known.other.id < other.id) => {
                member.index = Some(OtherIndex { other, floor: None });
            }
            Kind::SharedData => {
                member.data.retain(|known| known.id != other.id);
                if member.data.len() < MOST_DATA {
                    member.data.push(other);
                }
            }
            _ => {}
        }
    }

    pub fn remove(&mut self, member: usize) {
        if let Some(member) = self.0.get_mut(member) {
            *member = Member::default();
        }
    }

    /// Lets go of extents that are empty.
    pub fn forget(&mut self, ids: &[u64]) {
        let gone = |other: &Other| ids.iter().any(|id| host_id(*id) == other.id);
        for member in &mut self.0 {
            member.data.retain(|other| !gone(other));
            if member.index.as_ref().is_some_and(|index| gone(&index.other)) {
                member.index = None;
            }
        }
    }

    pub fn index(&mut self, member: usize) -> Option<&mut OtherIndex> {
        self.0.get_mut(member)?.index.as_mut()
    }

    /// Reads bytes of a member's extent; whether they are there.
    pub fn read(&self, member: usize, id: u64, at: usize, into: &mut [u8]) -> bool {
        let data = self.0.get(member).and_then(|member| member.data.iter().find(|other| other.id == id));
        data.is_some_and(|other| other.read(at, into))
    }

    pub fn clear(&mut self) {
        *self = Others::default();
    }

    /// Extents known.
    pub fn count(&self) -> usize {
        self.0.iter().map(|member| member.data.len() + usize::from(member.index.is_some())).sum()
    }
}

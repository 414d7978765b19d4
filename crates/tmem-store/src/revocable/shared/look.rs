// SPDX-License-Identifier: Apache-2.0
//! Owns: what all members' indexes say of a page, and whether it still is so once its data was read. Caller: `state`. Locks: the
//! pool's; other members write meanwhile. Law 4: what may hide something newer is no answer.

use super::format::{ENTRIES, ENTRY, Entry, Head, Keys, MOST_MEMBERS, Name, Slot, bucket_at};
use super::part::{Bucket, entry_at};
use super::state::State;
use tmem_sys::PAGE_SIZE;

/// How often a get begins again because somebody wrote where it read.
pub(super) const TRIES: usize = 8;

/// By so much the clocks of two processors may differ, and stamps run ahead that are made fast.
const SKEW_NS: u64 = 10_000;

/// Somebody's index cannot be read.
pub(super) struct Blind;

/// What all indexes say of a page.
pub(super) struct Look {
    /// Heads of the buckets that were read, by member.
    heads: [Option<(usize, Head)>; MOST_MEMBERS],
    floor: u64,
    pub newest: Option<(usize, Entry)>,
}

impl State {
    /// Reads a page's bucket of each member.
    pub(super) fn look(&mut self, name: &Name) -> Result<Look, Blind> {
        let (me, mut bytes) = (self.member(), [0; PAGE_SIZE]);
        let board = self.board().filter(|board| board.has(me)).ok_or(Blind)?;
        if !self.has_index() {
            return Err(Blind);
        }
        let floor = self.part.floor().max(self.blind_until);
        let mut look = Look { heads: [None; MOST_MEMBERS], floor, newest: None };
        for member in (0..MOST_MEMBERS).filter(|n| board.has(*n)) {
            if member == me {
                let bucket = self.keys.bucket(name, self.part.buckets());
                self.part.read_bucket(bucket, &mut bytes).then_some(()).ok_or(Blind)?;
                look.floor = look.floor.max(head_of(&bytes, bucket, &self.keys).ok_or(Blind)?.floor);
            } else {
                let index = self.others.index(member, &self.keys).ok_or(Blind)?;
                let floor = index.floor();
                let bucket = self.keys.bucket(name, index.buckets());
                let head = read_head(|at, into| index.read(at, into), bucket, &self.keys).ok_or(Blind)?;
                index.read(bucket_at(bucket), &mut bytes).then_some(()).ok_or(Blind)?;
                look.floor = look.floor.max(floor).max(head.floor);
                look.heads[member] = Some((bucket, head));
            }
            let upto = self.part.now() + SKEW_NS;
            look.consider(member, &bytes, name, (upto, &self.keys));
        }
        look.newest = look.newest.filter(|(_, entry)| entry.stamp > look.floor.max(board.floor));
        Ok(look)
    }

    /// Whether what a look saw still is so: nothing was written over, and nobody's floor rose above it.
    pub(super) fn stands(&mut self, look: &Look, stamp: u64) -> bool {
        for (member, seen) in look.heads.iter().enumerate() {
            let Some((bucket, head)) = *seen else { continue };
            let index = self.others.index(member, &self.keys);
            let now = index.and_then(|index| read_head(|at, into| index.read(at, into), bucket, &self.keys));
            if now != Some(head) {
                return false;
            }
        }
        // Last of all: it rises before anything of a member that dies is gone.
        self.board().is_some_and(|board| stamp > board.floor)
    }
}

impl Look {
    /// What says that it is of later than `upto`, after it was read, is not there yet: nobody could put or flush over it.
    fn consider(&mut self, member: usize, bytes: &Bucket, name: &Name, (upto, keys): (u64, &Keys)) {
        for place in 0..ENTRIES {
            let bytes = entry_at(bytes, place);
            if Entry::is_about(bytes, name)
                && let Slot::Entry(entry) = Entry::decode(bytes, keys)
                && entry.stamp <= upto
                && self.newest.is_none_or(|(_, newest)| newest.stamp < entry.stamp)
            {
                self.newest = Some((member, entry));
            }
        }
    }
}

pub(super) fn head_of(bytes: &Bucket, bucket: usize, keys: &Keys) -> Option<Head> {
    Head::decode(&bytes[..ENTRY], bucket, keys)
}

/// The head of another member's bucket, which it may be writing just now.
fn read_head(read: impl Fn(usize, &mut [u8]) -> bool, bucket: usize, keys: &Keys) -> Option<Head> {
    let mut bytes = [0; ENTRY];
    (0..TRIES).find_map(|_| {
        read(bucket_at(bucket), &mut bytes).then(|| Head::decode(&bytes, bucket, keys)).flatten()
    })
}

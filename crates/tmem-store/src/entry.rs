// SPDX-License-Identifier: Apache-2.0
//! Owns: what the index says about one stored page, in 16 bytes. Callers: `tree` keeps them, `pool` reads them.

use crate::slab::Loc;
use crate::tree::{Root, WAYS};

const EMPTY: u16 = 0;
const SAME: u16 = 1;
const PACKED: u16 = 2;
const RAW: u16 = 3;
const TREE: u16 = 4;
const SHARED: u16 = 5;
/// Marks a page that was looked at for a colder form and has it, or gains nothing by one.
const SETTLED: u64 = 1 << 31;

tmem_sys::pod! {
    /// All zeros is the empty entry.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Entry {
        /// The repeated word, or where in the slab.
        word: u64,
        /// From the lowest bit on: length (16 bits), kind (16), and the page's place in the order of age (32), which
        /// is 0 for a page that has none. Two words in all, so that an entry travels in registers: put together in
        /// memory from parts, it could not be read again before the page stored just before it has left the
        /// processor's store buffer, which takes as long as half the copy.
        rest: u64,
    }
}

/// Names an entry: for its slot in the slab, and its place in the order of age. The slot of data that several pages share
/// has the name of the share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EntryId(pub u32);

/// Marks the number of an object that has one page, and its entry with it.
const LONE: u32 = 1 << 30;
/// Marks, together with it, the number of a share.
const SHARE: u32 = LONE | 1 << 29;

impl EntryId {
    /// No entry's.
    pub const NONE: EntryId = EntryId(0);
    /// Leaves of the index are numbered below this.
    pub const LEAVES: usize = (LONE / WAYS as u32) as usize;
    /// Objects are numbered below this.
    pub const OBJECTS: usize = (SHARE ^ LONE) as usize;
    /// Shares, too.
    pub const SHARES: usize = EntryId::OBJECTS;

    #[inline]
    pub fn in_leaf(leaf: u32, way: usize) -> EntryId {
        EntryId(leaf * WAYS as u32 + way as u32)
    }

    pub fn lone(object: u32) -> EntryId {
        EntryId(LONE | object)
    }

    pub fn share(number: u32) -> EntryId {
        EntryId(SHARE | number)
    }

    /// Which entry of which leaf, which object's only one, or which share.
    #[inline]
    pub fn place(self) -> EntryPlace {
        match self.0 {
            id if id & SHARE == SHARE => EntryPlace::Share(id & !SHARE),
            id if id & LONE != 0 => EntryPlace::Lone(id & !LONE),
            id => EntryPlace::InLeaf(id / WAYS as u32, id as usize % WAYS),
        }
    }
}

/// What an [`EntryId`] says.
pub(crate) enum EntryPlace {
    InLeaf(u32, usize),
    Lone(u32),
    Share(u32),
}

const fn rest(len: usize, kind: u16) -> u64 {
    len as u16 as u64 | (kind as u64) << 16
}

/// An entry, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Empty,
    /// One word repeated: no data.
    Same(u64),
    Packed(Loc, usize),
    Raw(Loc),
    /// One of several pages that have the same bytes: the number of their share.
    Shared(u32),
    /// No kind that this code writes: the metadata was overwritten.
    Broken(u16),
}

impl Entry {
    pub const EMPTY: Entry = Entry { word: 0, rest: rest(0, EMPTY) };

    pub fn same(word: u64) -> Entry {
        Entry { word, rest: rest(0, SAME) }
    }

    pub fn packed(loc: Loc, len: usize) -> Entry {
        Entry { word: loc.0, rest: rest(len, PACKED) }
    }

    pub fn raw(loc: Loc) -> Entry {
        Entry { word: loc.0, rest: rest(0, RAW) }
    }

    /// The id is the entry's own: who lets go of a share says which entry did.
    pub fn shared(share: u32, id: EntryId) -> Entry {
        Entry { word: u64::from(share) | u64::from(id.0) << 32, rest: rest(0, SHARED) }
    }

    /// A shared entry's own id.
    #[inline]
    pub fn id(&self) -> EntryId {
        EntryId((self.word >> 32) as u32)
    }

    /// Stands in an object's record in place of the entry of its only page.
    pub fn tree(root: Root) -> Entry {
        Entry { word: u64::from(root.node) | u64::from(root.height) << 32, rest: rest(0, TREE) }
    }

    /// The tree, where there is one.
    #[inline]
    pub fn root(&self) -> Option<Root> {
        (self.kind() == TREE).then_some(Root { node: self.word as u32, height: (self.word >> 32) as u32 })
    }

    #[must_use]
    pub fn with_record(self, record: u32) -> Entry {
        Entry { rest: self.rest & u64::from(u32::MAX) | u64::from(record) << 32, ..self }
    }

    /// The page's number in the order of age; 0 where it has none.
    #[inline]
    pub fn record(&self) -> u32 {
        (self.rest >> 32) as u32
    }

    /// With another's place in the order of age, and its mark.
    #[must_use]
    pub fn like(self, other: Entry) -> Entry {
        Entry { rest: self.with_record(other.record()).rest | other.rest & SETTLED, ..self }
    }

    /// As it is, with the mark.
    #[must_use]
    pub fn settled(self) -> Entry {
        Entry { rest: self.rest | SETTLED, ..self }
    }

    #[inline]
    pub fn is_settled(&self) -> bool {
        self.rest & SETTLED != 0
    }

    #[inline]
    fn kind(&self) -> u16 {
        ((self.rest & !SETTLED) >> 16) as u16
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.kind() == EMPTY
    }

    #[inline]
    pub fn form(&self) -> Form {
        match self.kind() {
            EMPTY => Form::Empty,
            SAME => Form::Same(self.word),
            PACKED => Form::Packed(Loc(self.word), (self.rest & 0xffff) as usize),
            RAW => Form::Raw(Loc(self.word)),
            SHARED => Form::Shared(self.word as u32),
            kind => Form::Broken(kind),
        }
    }

    /// Overwrites the kind, as stray writes would.
    #[cfg(test)]
    pub fn break_kind(&mut self) {
        self.rest = self.rest & !0xffff_0000 | 77 << 16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_what_was_put_in() {
        assert_eq!(size_of::<Entry>(), 16);
        assert_eq!(Entry::EMPTY.form(), Form::Empty);
        assert_eq!(Entry::same(9).form(), Form::Same(9));
        assert_eq!(Entry::packed(Loc(5), 1234).form(), Form::Packed(Loc(5), 1234));
        assert_eq!(Entry::raw(Loc(u64::MAX)).form(), Form::Raw(Loc(u64::MAX)));
        let shared = Entry::shared(7, EntryId(u32::MAX));
        assert_eq!((shared.form(), shared.id()), (Form::Shared(7), EntryId(u32::MAX)));
        let young = Entry::packed(Loc(5), 1234).with_record(u32::MAX);
        assert_eq!((young.form(), young.record()), (Form::Packed(Loc(5), 1234), u32::MAX));
        let mut e = Entry::same(1);
        e.break_kind();
        assert_eq!(e.form(), Form::Broken(77));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: what the index says about one stored page, in 16 bytes. Callers: `tree` keeps them, `pool` reads them.

use crate::slab::Loc;
use crate::tree::{Root, WAYS};

const EMPTY: u32 = 0;
const SAME: u32 = 1;
const PACKED: u32 = 2;
const RAW: u32 = 3;
const TREE: u32 = 4;
const COLD: u32 = 5;
const SHARED: u32 = 6;

/// Where the kind is in the last word, above the page's place in an order of age.
const KIND: u32 = 29;
/// Where the length is in the middle word, above the rest of the location.
const LEN: u32 = 8;
const LEN_MASK: u32 = 0xfff;
/// Marks a page that was looked at for a colder form and has it, or gains nothing by one. In the middle word.
const SETTLED: u32 = 1 << 31;

tmem_sys::pod! {
    /// All zeros is the empty entry.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Entry {
        /// The repeated word, or where in the slab: low half.
        low: u32,
        /// High half, or the rest of where, the length (12 bits), and a mark.
        high: u32,
        /// The page's place in the order of age (29 bits), which is 0 for a page that has none; and the kind (3 bits).
        /// Three words in all, each written and read as a whole: put together in memory from smaller parts, an entry could
        /// not be read again before the page stored just before it has left the processor's store buffer, which takes as
        /// long as half the copy.
        rest: u32,
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
    pub const EMPTY: Entry = Entry { low: 0, high: 0, rest: EMPTY };
    /// Places in orders of age are below this.
    pub const RECORDS: usize = 1 << KIND;

    pub fn same(word: u64) -> Entry {
        Entry { low: word as u32, high: (word >> 32) as u32, rest: SAME << KIND }
    }

    pub fn packed(loc: Loc, len: usize) -> Entry {
        Entry { low: loc.0 as u32, high: (loc.0 >> 32) as u32 | (len as u32) << LEN, rest: PACKED << KIND }
    }

    pub fn raw(loc: Loc) -> Entry {
        Entry { low: loc.0 as u32, high: (loc.0 >> 32) as u32, rest: RAW << KIND }
    }

    /// A page packed in a form for pages that stay cold.
    pub fn cold(loc: Loc, len: usize) -> Entry {
        Entry { rest: COLD << KIND, ..Entry::packed(loc, len) }
    }

    /// The id is the entry's own: who lets go of a share says which entry did.
    pub fn shared(share: u32, id: EntryId) -> Entry {
        Entry { low: share, high: id.0, rest: SHARED << KIND }
    }

    /// A shared entry's own id.
    #[inline]
    pub fn id(&self) -> EntryId {
        EntryId(self.high)
    }

    /// Stands in an object's record in place of the entry of its only page.
    pub fn tree(root: Root) -> Entry {
        Entry { low: root.node, high: root.height, rest: TREE << KIND }
    }

    /// The tree, where there is one.
    #[inline]
    pub fn root(&self) -> Option<Root> {
        (self.kind() == TREE).then_some(Root { node: self.low, height: self.high })
    }

    #[must_use]
    pub fn with_record(self, record: u32) -> Entry {
        debug_assert!((record as usize) < Entry::RECORDS);
        Entry { rest: self.kind() << KIND | record, ..self }
    }

    /// The page's number in the order of age; 0 where it has none.
    #[inline]
    pub fn record(&self) -> u32 {
        self.rest & ((1 << KIND) - 1)
    }

    /// The same page's entry when its data has moved: all but where.
    #[must_use]
    pub fn moved(self, loc: Loc) -> Entry {
        let high = self.high & !((1 << LEN) - 1) | (loc.0 >> 32) as u32;
        Entry { low: loc.0 as u32, high, ..self }
    }

    /// As it is, with the mark.
    #[must_use]
    pub fn settled(self) -> Entry {
        Entry { high: self.high | SETTLED, ..self }
    }

    #[inline]
    pub fn is_settled(&self) -> bool {
        self.kind() != SHARED && self.high & SETTLED != 0
    }

    #[inline]
    pub fn is_cold(&self) -> bool {
        self.kind() == COLD
    }

    #[inline]
    fn kind(&self) -> u32 {
        self.rest >> KIND
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.kind() == EMPTY
    }

    #[inline]
    pub fn form(&self) -> Form {
        let loc = Loc(u64::from(self.low) | u64::from(self.high & ((1 << LEN) - 1)) << 32);
        match self.kind() {
            EMPTY => Form::Empty,
            SAME => Form::Same(u64::from(self.low) | u64::from(self.high) << 32),
            PACKED | COLD => Form::Packed(loc, (self.high >> LEN & LEN_MASK) as usize),
            RAW => Form::Raw(loc),
            SHARED => Form::Shared(self.low),
            kind => Form::Broken(kind as u16),
        }
    }

    /// Overwrites the kind, as stray writes would.
    #[cfg(test)]
    pub fn break_kind(&mut self) {
        self.rest |= 7 << KIND;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_what_was_put_in() {
        assert_eq!(size_of::<Entry>(), 12);
        assert_eq!(Entry::EMPTY.form(), Form::Empty);
        assert_eq!(Entry::same(u64::MAX - 9).form(), Form::Same(u64::MAX - 9));
        assert_eq!(Entry::packed(Loc(5), 1234).form(), Form::Packed(Loc(5), 1234));
        let shared = Entry::shared(7, EntryId(u32::MAX)).with_record(3);
        assert_eq!((shared.form(), shared.id()), (Form::Shared(7), EntryId(u32::MAX)));
        let far = Loc((1 << 40) - 1);
        assert_eq!(Entry::raw(far).form(), Form::Raw(far));
        let young = Entry::packed(far, 3584).with_record((1 << 29) - 1);
        assert_eq!((young.form(), young.record()), (Form::Packed(far, 3584), (1 << 29) - 1));
        let settled = Entry::cold(Loc(5), 1234).with_record(9).settled();
        assert_eq!((settled.form(), settled.record()), (Form::Packed(Loc(5), 1234), 9));
        let moved = settled.moved(far);
        assert_eq!((moved.form(), moved.record()), (Form::Packed(far, 1234), 9));
        assert!(moved.is_settled() && moved.is_cold() && !young.is_settled() && !young.is_cold());
        let mut e = Entry::same(1);
        e.break_kind();
        assert_eq!(e.form(), Form::Broken(7));
    }
}

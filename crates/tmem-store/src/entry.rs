// SPDX-License-Identifier: Apache-2.0
//! Owns: what the index says about one stored page, in 16 bytes. Callers: `tree` keeps them, `pool` reads them.

use crate::slab::Loc;

const EMPTY: u16 = 0;
const SAME: u16 = 1;
const PACKED: u16 = 2;
const RAW: u16 = 3;
const SHARED: u16 = 4;

tmem_sys::pod! {
    /// All zeros is the empty entry.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Entry {
        /// The repeated word, or where in the slab.
        word: u64,
        /// From the lowest bit on: length (16 bits), kind (16), and the page's place in the order of age (32), which
        /// is 0 for a persistent page. Two words in all, so that an entry travels in registers: put together in
        /// memory from parts, it could not be read again before the page stored just before it has left the
        /// processor's store buffer, which takes as long as half the copy.
        rest: u64,
    }
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
    pub fn shared(share: u32, id: u32) -> Entry {
        Entry { word: u64::from(share) | u64::from(id) << 32, rest: rest(0, SHARED) }
    }

    /// A shared entry's own id.
    #[inline]
    pub fn id(&self) -> u32 {
        (self.word >> 32) as u32
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

    #[inline]
    fn kind(&self) -> u16 {
        (self.rest >> 16) as u16
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
        let shared = Entry::shared(7, u32::MAX);
        assert_eq!((shared.form(), shared.id()), (Form::Shared(7), u32::MAX));
        let young = Entry::packed(Loc(5), 1234).with_record(u32::MAX);
        assert_eq!((young.form(), young.record()), (Form::Packed(Loc(5), 1234), u32::MAX));
        let mut e = Entry::same(1);
        e.break_kind();
        assert_eq!(e.form(), Form::Broken(77));
    }
}

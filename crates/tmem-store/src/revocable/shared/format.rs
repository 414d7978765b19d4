// SPDX-License-Identifier: Apache-2.0
//! Owns: what members of a shared pool read of each other: index entries, bucket heads, data records, the board; and the hashes that
//! follow from the pool's secret. Callers: `part` writes its own, `others` and `pool` read all. Pure. Law 12: nothing that another
//! process wrote is believed before its check holds and its bounds are known.
//!
//! An index is a head page and buckets of a page. A bucket has a head and 63 entries of 64 bytes. The entry of a page has the hash of
//! its object, 128 bits; the object itself is in the record of the data.

use super::super::log::UNIT;
use crate::object::ObjectId;
use tmem_sys::PAGE_SIZE;
use xxhash_rust::xxh3::{xxh3_64_with_secret, xxh3_128_with_secret};

pub const SECRET: usize = 16;
pub(super) const ENTRY: usize = 64;
/// Entries of a bucket, after its head.
pub(super) const ENTRIES: usize = PAGE_SIZE / ENTRY - 1;
/// Bytes before the data of a page.
pub(super) const RECORD: usize = 64;
const _: () = assert!(RECORD.is_multiple_of(UNIT));
/// A page with its head.
pub(super) const LONGEST: usize = RECORD + PAGE_SIZE;
/// Members of a pool; their number is the end of each stamp.
pub const MOST_MEMBERS: usize = 16;

const INDEX_MAGIC: u64 = 0x7865_646e_6d65_6d74;
const VERSION: u64 = 1;
const BOARD_MAGIC: u64 = 0x746d_656d_626f_6172;
fn word(bytes: &[u8], n: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[n * 8 + i]))
}

fn set_word(bytes: &mut [u8], n: usize, value: u64) {
    bytes[n * 8..n * 8 + 8].copy_from_slice(&value.to_le_bytes());
}

/// The hashes of one pool.
pub(super) struct Keys([u8; 192]);

/// A page's handle, as indexes have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub object: [u64; 2],
    pub index: u64,
}

impl Keys {
    pub fn new(secret: &[u8; SECRET]) -> Keys {
        let mut key = [0; 192];
        for (n, place) in key.chunks_exact_mut(8).enumerate() {
            let word = xxhash_rust::xxh3::xxh3_64_with_seed(secret, n as u64);
            place.copy_from_slice(&word.to_le_bytes());
        }
        Keys(key)
    }

    fn hash(&self, bytes: &[u8]) -> u64 {
        xxh3_64_with_secret(bytes, &self.0)
    }

    fn hash_wide(&self, bytes: &[u8]) -> [u64; 2] {
        let hash = xxh3_128_with_secret(bytes, &self.0);
        [hash as u64, (hash >> 64) as u64]
    }

    pub fn object(&self, object: ObjectId) -> [u64; 2] {
        let mut bytes = [0; 24];
        object.0.iter().enumerate().for_each(|(n, w)| set_word(&mut bytes, n, *w));
        self.hash_wide(&bytes)
    }

    /// The bucket of a page, of so many.
    pub fn bucket(&self, name: &Name, buckets: usize) -> usize {
        let mut bytes = [0; 16];
        set_word(&mut bytes, 0, name.object[0]);
        set_word(&mut bytes, 1, name.index);
        // By the high half: a remainder of the whole would do as well, and cost more.
        ((u128::from(self.hash(&bytes)) * buckets as u128) >> 64) as usize
    }
}

/// What an entry says of its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Flushed,
    /// One word, repeated.
    Same(u64),
    /// In which extent, where there in units, how many bytes of data.
    At {
        extent: u64,
        at: u32,
        len: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: Name,
    /// When, and by which member: no two are the same.
    pub stamp: u64,
    pub said: Said,
}

/// What is in an entry's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Free,
    /// Half written, or never an entry.
    Torn,
    Entry(Entry),
}

const FLUSHED: u64 = 1;
const SAME: u64 = 2;
const AT: u64 = 3;

impl Entry {
    pub fn encode(&self, keys: &Keys) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let (kind, data, place) = match self.said {
            Said::Flushed => (FLUSHED, 0, 0),
            Said::Same(word) => (SAME, word, 0),
            Said::At { extent, at, len } => (AT, extent, u64::from(at) | u64::from(len) << 32),
        };
        let words =
            [self.name.object[0], self.name.object[1], self.name.index, self.stamp, kind, data, place];
        words.iter().enumerate().for_each(|(n, w)| set_word(&mut bytes, n, *w));
        let check = keys.hash(&bytes[..ENTRY - 8]);
        set_word(&mut bytes, 7, check);
        bytes
    }

    /// Whether the bytes are about that page, as far as they are an entry at all.
    pub fn is_about(bytes: &[u8], name: &Name) -> bool {
        word(bytes, 2) == name.index && [word(bytes, 0), word(bytes, 1)] == name.object
    }

    pub fn decode(bytes: &[u8], keys: &Keys) -> Slot {
        if bytes.iter().all(|byte| *byte == 0) {
            return Slot::Free;
        }
        let said = match word(bytes, 4) {
            FLUSHED => Said::Flushed,
            SAME => Said::Same(word(bytes, 5)),
            AT => {
                let place = word(bytes, 6);
                Said::At { extent: word(bytes, 5), at: place as u32, len: (place >> 32) as u16 }
            }
            _ => return Slot::Torn,
        };
        if keys.hash(&bytes[..ENTRY - 8]) != word(bytes, 7) {
            return Slot::Torn;
        }
        let name = Name { object: [word(bytes, 0), word(bytes, 1)], index: word(bytes, 2) };
        Slot::Entry(Entry { name, stamp: word(bytes, 3), said })
    }
}

/// A bucket's head: all pages of the bucket that are not younger than the floor are gone, in every member's part; `changes`
/// counts what was written over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub changes: u64,
    pub floor: u64,
}

impl Head {
    pub fn encode(&self, bucket: usize, keys: &Keys) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let words = [self.changes, self.floor, bucket as u64];
        words.iter().enumerate().for_each(|(n, w)| set_word(&mut bytes, n, *w));
        let check = keys.hash(&bytes[..24]);
        set_word(&mut bytes, 3, check);
        bytes
    }

    /// `None` for one that is being written.
    pub fn decode(bytes: &[u8], bucket: usize, keys: &Keys) -> Option<Head> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Some(Head::default());
        }
        let whole = word(bytes, 2) == bucket as u64 && keys.hash(&bytes[..24]) == word(bytes, 3);
        whole.then(|| Head { changes: word(bytes, 0), floor: word(bytes, 1) })
    }
}

/// The head of an index, written before its first entry: what is not younger than its floor is gone.
pub(super) fn index_head(floor: u64, keys: &Keys) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    [INDEX_MAGIC, VERSION, floor].iter().enumerate().for_each(|(n, w)| set_word(&mut bytes, n, *w));
    let check = keys.hash(&bytes[..24]);
    set_word(&mut bytes, 3, check);
    bytes
}

/// The floor of an index; `None` where it has no head yet.
pub(super) fn index_floor(bytes: &[u8], keys: &Keys) -> Option<u64> {
    let ours = word(bytes, 0) == INDEX_MAGIC && word(bytes, 1) == VERSION;
    (ours && keys.hash(&bytes[..24]) == word(bytes, 3)).then(|| word(bytes, 2))
}

/// Buckets of an index of so many bytes.
pub(super) fn buckets_in(bytes: usize) -> usize {
    (bytes / PAGE_SIZE).saturating_sub(1)
}

/// Where a bucket begins.
pub(super) fn bucket_at(bucket: usize) -> usize {
    (bucket + 1) * PAGE_SIZE
}

/// Writes a record's head before its data, which is there.
pub(super) fn seal_record(record: &mut [u8], object: ObjectId, index: u64, stamp: u64, keys: &Keys) {
    let len = (record.len() - RECORD) as u64;
    let words = [object.0[0], object.0[1], object.0[2], index, stamp, len];
    words.iter().enumerate().for_each(|(n, w)| set_word(record, n + 2, *w));
    let [a, b] = keys.hash_wide(&record[16..]);
    set_word(record, 0, a);
    set_word(record, 1, b);
}

/// Whether a record is whole and that of the page.
pub(super) fn is_record_of(record: &[u8], object: ObjectId, index: u64, stamp: u64, keys: &Keys) -> bool {
    let len = (record.len() - RECORD) as u64;
    let words = [object.0[0], object.0[1], object.0[2], index, stamp, len];
    words.iter().enumerate().all(|(n, w)| word(record, n + 2) == *w)
        && keys.hash_wide(&record[16..]) == [word(record, 0), word(record, 1)]
}

/// The part of a board that is read: a host's word on who is a member, and what is gone.
pub(super) const BOARD: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Board {
    pub floor: u64,
    pub members: u16,
}

impl Board {
    pub fn has(&self, member: usize) -> bool {
        self.members >> member & 1 == 1
    }

    pub fn decode(bytes: &[u8; BOARD]) -> Option<Board> {
        (word(bytes, 0) == BOARD_MAGIC)
            .then(|| Board { floor: word(bytes, 1), members: word(bytes, 2) as u16 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_heads_come_back_and_half_of_one_does_not() {
        let keys = Keys::new(b"0123456789abcdef");
        let name = Name { object: keys.object(ObjectId([1, 2, 3])), index: 9 };
        for said in [Said::Flushed, Said::Same(u64::MAX), Said::At { extent: 7, at: u32::MAX, len: 4096 }] {
            let (one, other) =
                (Entry { name, stamp: 77, said }, Entry { name, stamp: 78, said: Said::Same(1) });
            let (old, new) = (one.encode(&keys), other.encode(&keys));
            assert_eq!(Entry::decode(&old, &keys), Slot::Entry(one));
            for cut in (1..ENTRY).filter(|cut| old[*cut..] != new[*cut..] && old[..*cut] != new[..*cut]) {
                let mut torn = new;
                torn[cut..].copy_from_slice(&old[cut..]);
                assert_eq!(Entry::decode(&torn, &keys), Slot::Torn, "cut at {cut}");
            }
        }
        let head = Head { changes: 3, floor: 4 };
        assert_eq!(Head::decode(&head.encode(5, &keys), 5, &keys), Some(head));
        assert_eq!(Head::decode(&head.encode(5, &keys), 6, &keys), None);
        assert_eq!(Head::decode(&[0; ENTRY], 6, &keys), Some(Head::default()));
        assert_eq!(index_floor(&index_head(12, &keys), &keys), Some(12));
        assert_eq!(index_floor(&index_head(12, &keys), &Keys::new(&[0; 16])), None, "another pool's");
        assert_eq!(Entry::decode(&[0; ENTRY], &keys), Slot::Free);
    }

    #[test]
    fn a_record_is_that_of_its_page_alone() {
        let keys = Keys::new(b"0123456789abcdef");
        let mut record = [7; RECORD + 100];
        seal_record(&mut record, ObjectId([1, 2, 3]), 4, 5, &keys);
        assert!(is_record_of(&record, ObjectId([1, 2, 3]), 4, 5, &keys));
        assert!(!is_record_of(&record, ObjectId([1, 2, 4]), 4, 5, &keys));
        assert!(!is_record_of(&record, ObjectId([1, 2, 3]), 5, 5, &keys));
        assert!(!is_record_of(&record, ObjectId([1, 2, 3]), 4, 6, &keys));
        assert!(!is_record_of(&record[..RECORD + 99], ObjectId([1, 2, 3]), 4, 5, &keys));
        for at in 0..record.len() {
            record[at] ^= 1;
            assert!(!is_record_of(&record, ObjectId([1, 2, 3]), 4, 5, &keys));
            record[at] ^= 1;
        }
    }
}

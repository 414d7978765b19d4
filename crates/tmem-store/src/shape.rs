// SPDX-License-Identifier: Apache-2.0
//! Owns: how an entry of a cache lies on the pages of its object: a head, the key, the value, and zeros to the end of the
//! last page. Callers: `cache`. Pure.

use std::ops::Range;
use tmem_sys::page::pages_for;
use tmem_sys::{PAGE_SIZE, Page};

/// Bytes of a head.
pub(crate) const HEAD: usize = 24;
const WHOLE: u32 = 1;

/// What an entry's first page begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which put of the cache made it: no two entries have the same.
    pub number: u64,
    pub value_len: usize,
    pub key_len: usize,
    /// All pages were put. Until then it is nobody's but the thread's that puts it.
    pub whole: bool,
}

impl Head {
    /// The head of a first page; `None` where none is, or one that makes no sense.
    pub(crate) fn parse(page: &Page) -> Option<Head> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| page[at + i]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| page[at + i]));
        let head = Head {
            number: word(0),
            value_len: usize::try_from(word(8)).ok()?,
            key_len: half(16) as usize,
            whole: half(20) == WHOLE,
        };
        (head.number != 0).then_some(())?;
        HEAD.checked_add(head.key_len)?.checked_add(head.value_len)?;
        Some(head)
    }

    fn bytes(&self) -> [u8; HEAD] {
        let mut made = [0; HEAD];
        made[..8].copy_from_slice(&self.number.to_le_bytes());
        made[8..16].copy_from_slice(&(self.value_len as u64).to_le_bytes());
        made[16..20].copy_from_slice(&(self.key_len as u32).to_le_bytes());
        made[20..].copy_from_slice(&(if self.whole { WHOLE } else { 0 }).to_le_bytes());
        made
    }

    /// Where the value is among the entry's bytes.
    pub(crate) fn value(&self) -> Range<usize> {
        let from = HEAD + self.key_len;
        from..from + self.value_len
    }

    pub(crate) fn pages(&self) -> usize {
        pages_for(self.value().end)
    }

    /// Writes the entry's page of that number, whole.
    pub(crate) fn lay(&self, key: &[u8], value: &[u8], number: usize, page: &mut Page) {
        page.fill(0);
        let mut from = 0;
        for part in [&self.bytes()[..], key, value] {
            copy_overlap(part, from, page, number * PAGE_SIZE);
            from += part.len();
        }
    }
}

/// Copies what two stretches of one line of bytes have in common: `part` lies at `from`, `into` at `at`.
pub(crate) fn copy_overlap(part: &[u8], from: usize, into: &mut [u8], at: usize) {
    let (begin, end) = (from.max(at), (from + part.len()).min(at + into.len()));
    if begin < end {
        into[begin - at..end - at].copy_from_slice(&part[begin - from..end - from]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_from_its_pages_whatever_its_lengths() {
        for (key_len, value_len) in
            [(0, 0), (1, PAGE_SIZE - HEAD - 1), (1, PAGE_SIZE - HEAD), (5000, 3), (9, 20_000)]
        {
            let key: Vec<u8> = (0..key_len).map(|i| i as u8 ^ 0x5a).collect();
            let value: Vec<u8> = (0..value_len).map(|i| (i / 7) as u8).collect();
            let head = Head { number: 7, value_len, key_len, whole: true };
            let mut all = Vec::new();
            for n in 0..head.pages() {
                let mut page = [0xff; PAGE_SIZE];
                head.lay(&key, &value, n, &mut page);
                all.extend(page);
            }
            let first: &Page = all[..PAGE_SIZE].try_into().unwrap();
            assert_eq!(Head::parse(first), Some(head));
            assert_eq!((&all[HEAD..HEAD + key_len], &all[head.value()]), (&key[..], &value[..]));
            assert!(all[head.value().end..].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn what_is_no_head_is_none() {
        assert_eq!(Head::parse(&[0; PAGE_SIZE]), None);
        assert_eq!(Head::parse(&[0xff; PAGE_SIZE]), None);
    }
}

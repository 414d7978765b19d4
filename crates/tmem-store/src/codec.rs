// SPDX-License-Identifier: Apache-2.0
//! Owns: the forms a page can take: one repeated word, LZ4, or as it is. Callers: `pool`, for every put and get.
//! Law: what `encode` made, `decode` gives back byte for byte; what does not shrink to 7/8 is not packed.

use crate::class::LARGEST_PACKED;
use tmem_sys::lz4::{self, Lz4State};
use tmem_sys::{Errno, PAGE_SIZE, Page, Table};

/// A page on its way into the slab. Packed bytes lie in the codec's buffer until the next call.
pub(crate) enum Coded<'a> {
    Same(u64),
    Packed(&'a [u8]),
    Incompressible,
}

pub(crate) struct Codec {
    lz4: Lz4State,
    packed: Table<u8>,
}

impl Codec {
    pub fn new() -> Result<Codec, Errno> {
        Ok(Codec { lz4: Lz4State::new()?, packed: Table::new(LARGEST_PACKED)? })
    }

    /// Without `pack`, only a repeated word is seen.
    pub fn encode(&mut self, page: &Page, pack: bool) -> Coded<'_> {
        if let Some(word) = same_filled(page) {
            return Coded::Same(word);
        }
        if !pack {
            return Coded::Incompressible;
        }
        match self.lz4.compress(page, &mut self.packed) {
            Some(len) => Coded::Packed(&self.packed[..len]),
            None => Coded::Incompressible,
        }
    }

    /// The packed bytes of the last page that was encoded.
    #[inline]
    pub fn packed(&self, len: usize) -> &[u8] {
        &self.packed[..len]
    }

    /// The compressor's table and the buffer.
    pub const FOOTPRINT: usize = (16 << 10) + 2 * PAGE_SIZE;
}

/// False when the bytes are no packed page; `into` is then garbage.
#[must_use]
pub(crate) fn decode(packed: &[u8], into: &mut Page) -> bool {
    lz4::decompress(packed, into)
}

/// The word a page repeats, if it does. Most pages are told from their first words.
pub(crate) fn same_filled(page: &Page) -> Option<u64> {
    let word_at = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| page[at + i]));
    let word = word_at(0);
    // The neighbour first: it comes with the same cache line, the end of the page does not.
    if word != word_at(8) || word != word_at(PAGE_SIZE - 8) {
        return None;
    }
    let same = page.chunks_exact(64).all(|line| {
        // Eight words at once, without a branch between them.
        line.chunks_exact(8)
            .fold(0, |diff, bytes| diff | (word ^ u64::from_ne_bytes(std::array::from_fn(|i| bytes[i]))))
            == 0
    });
    same.then_some(word)
}

pub(crate) fn fill(word: u64, into: &mut Page) {
    for bytes in into.chunks_exact_mut(8) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_filled_wants_every_word() {
        let mut page = [0u8; PAGE_SIZE];
        fill(0x1122_3344_5566_7788, &mut page);
        assert_eq!(same_filled(&page), Some(0x1122_3344_5566_7788));
        for at in 0..PAGE_SIZE {
            page[at] ^= 1;
            assert_eq!(same_filled(&page), None, "byte {at}");
            page[at] ^= 1;
        }
        assert_eq!(same_filled(&[0; PAGE_SIZE]), Some(0));
    }

    #[test]
    fn noise_is_incompressible_and_text_is_not() {
        let mut codec = Codec::new().unwrap();
        let mut page = [0u8; PAGE_SIZE];
        tmem_sys::random::random_bytes(&mut page).unwrap();
        assert!(matches!(codec.encode(&page, true), Coded::Incompressible));
        page.iter_mut().enumerate().for_each(|(i, b)| *b = (i / 9) as u8);
        let Coded::Packed(bytes) = codec.encode(&page, true) else { panic!("must shrink") };
        let bytes = bytes.to_vec();
        let mut back = [0; PAGE_SIZE];
        assert!(decode(&bytes, &mut back));
        assert_eq!(back, page);
        assert!(!decode(&bytes[..bytes.len() - 1], &mut back));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: what the swap device writes of a page, where it lies in the file, and how the page is put together again.
//! Pure data. Callers: `swap` and the modules below it, the pager. Law 12: what cannot be put together is no page.

use crate::codec::Decoder;
use crate::ops::Blob;
use std::ops::Range;
use tmem_sys::{PAGE_SIZE, Page};

impl<'a> Blob<'a> {
    /// What is written.
    pub fn bytes(&self) -> &'a [u8] {
        match *self {
            Blob::Page(page) => page,
            Blob::Packed(bytes) => bytes,
            Blob::Same(_) => &[],
        }
    }

    /// Whether a record can describe it.
    pub(crate) fn is_sound(&self) -> bool {
        !matches!(self, Blob::Packed(bytes) if bytes.is_empty() || bytes.len() >= PAGE_SIZE)
    }
}

const START_BITS: u32 = 40;
const LEN_BITS: u32 = 13;
/// The length of what takes nothing of the file.
const NOTHING: u64 = (1 << LEN_BITS) - 1;

/// Where a blob lies, in one word: its first byte (40 bits), then its length (13 bits), which also tells its form. All
/// zeros is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(pub u64);

impl Place {
    pub const NONE: Place = Place(0);
    pub const SAME: Place = Place(NOTHING << START_BITS);

    pub fn new(start: usize, len: usize) -> Place {
        Place(start as u64 | (len as u64) << START_BITS)
    }

    pub fn is_none(self) -> bool {
        self == Place::NONE
    }

    pub fn is_same(self) -> bool {
        self == Place::SAME
    }

    /// Bytes of the file.
    pub fn len(self) -> usize {
        let len = self.0 >> START_BITS;
        if len == NOTHING { 0 } else { len as usize }
    }

    /// The first byte.
    pub fn start(self) -> usize {
        (self.0 & ((1 << START_BITS) - 1)) as usize
    }

    /// The block in which it begins.
    pub fn block(self) -> usize {
        self.start() / PAGE_SIZE
    }

    /// The blocks it touches: none, one or two.
    pub fn blocks(self) -> Range<usize> {
        self.block()..(self.start() + self.len()).div_ceil(PAGE_SIZE).max(self.block())
    }
}

/// The page that was stored as `bytes`: they are it, or it is put together in `beside`. `None` when they are no packed page.
pub(crate) fn unpack<'b>(decoder: &mut Decoder, bytes: &'b [u8], beside: &'b mut Page) -> Option<&'b Page> {
    match <&Page>::try_from(bytes) {
        Ok(page) => Some(page),
        Err(_) => decoder.decode(bytes, beside).then_some(beside),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Dictionaries;

    #[test]
    fn places_say_what_was_put_in() {
        let at = Place::new((1 << 40) - 4096, 4096);
        assert_eq!((at.start(), at.len(), at.blocks()), ((1 << 40) - 4096, 4096, (1 << 28) - 1..1 << 28));
        assert_eq!(Place::new(4095, 2).blocks(), 0..2);
        assert_eq!(Place::new(0, 1).blocks(), 0..1);
        assert!(Place::SAME.blocks().is_empty() && Place::SAME.is_same() && Place::SAME.len() == 0);
        assert!(Place::NONE.is_none() && !Place::new(0, 1).is_none() && !at.is_same());
    }

    #[test]
    fn what_no_codec_made_is_no_page() {
        let mut decoder = Decoder::new(Dictionaries::new()).unwrap();
        assert!(unpack(&mut decoder, &[0xff, 1, 2], &mut [0; PAGE_SIZE]).is_none());
        assert!(!Blob::Packed(&[]).is_sound() && !Blob::Packed(&[1; PAGE_SIZE]).is_sound());
        assert!(Blob::Page(&[1; PAGE_SIZE]).is_sound() && Blob::Same(0).bytes().is_empty());
    }
}

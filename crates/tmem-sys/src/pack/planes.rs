// SPDX-License-Identifier: Apache-2.0
//! Owns: bit planes. Of each group of 64 words only those bits are kept that are not the same in all of them, a plane
//! of 64 bits for each: exponents, high halves of pointers and small numbers, low zeros cost next to nothing.
//! Callers: the store's codec. Law: as `pack`. Packed: one byte with a bit for each group that has a head of its own,
//! the heads (first word, mask of the bits that vary), the planes of each group, lowest bit first.
//!
//! Within a plane the bits stand in the order in which byte interleaving leaves them in 512-bit registers:
//! bit 16L + 2k + h is of word 8k + 2L + h.

use super::{Form, GROUP, GROUPS, Sketch, forms, planes512, row, word_at};
use crate::page::Page;

const HEAD: usize = 16;

/// The heads under which a page is packed: where a group's own would save less than it takes, the one before's.
pub(super) struct Heads {
    pub own: u8,
    pub first: [u64; GROUPS],
    pub vary: [u64; GROUPS],
}

impl Heads {
    fn of(sketch: &Sketch) -> Heads {
        let mut heads = Heads { own: 1, first: sketch.first, vary: sketch.vary };
        for g in 1..GROUPS {
            let (first, vary) = (heads.first[g - 1], heads.vary[g - 1]);
            let covered = (sketch.vary[g] | (sketch.first[g] ^ first)) & !vary == 0;
            if covered && vary.count_ones() <= sketch.vary[g].count_ones() + HEAD as u32 / 8 {
                (heads.first[g], heads.vary[g]) = (first, vary);
            } else {
                heads.own |= 1 << g;
            }
        }
        heads
    }

    fn size(&self) -> usize {
        let planes: u32 = self.vary.iter().map(|v| v.count_ones()).sum();
        1 + self.own.count_ones() as usize * HEAD + planes as usize * 8
    }

    /// Reads heads back; `None` unless the bytes are as long as they say.
    fn read(packed: &[u8]) -> Option<(Heads, &[u8])> {
        let own = *packed.first()?;
        let data = packed.get(1 + own.count_ones() as usize * HEAD..)?;
        if own & 1 == 0 {
            return None;
        }
        let mut heads = Heads { own, first: [0; GROUPS], vary: [0; GROUPS] };
        let mut at = 1;
        for g in 0..GROUPS {
            if own & (1 << g) != 0 {
                heads.first[g] = word_at(packed, at);
                heads.vary[g] = word_at(packed, at + 8);
                at += HEAD;
            } else {
                (heads.first[g], heads.vary[g]) = (heads.first[g - 1], heads.vary[g - 1]);
            }
        }
        (heads.size() == packed.len()).then_some((heads, data))
    }
}

/// Bytes that [`pack`] makes of the page that was looked at.
pub fn size(sketch: &Sketch) -> usize {
    Heads::of(sketch).size()
}

/// Packs a page into `out` and gives the length, or `None` when it does not fit. The sketch must be of this page:
/// with another's, other contents come back.
pub fn pack(form: Form, page: &Page, sketch: &Sketch, out: &mut [u8]) -> Option<usize> {
    let heads = Heads::of(sketch);
    let size = heads.size();
    let out = out.get_mut(..size)?;
    out[0] = heads.own;
    let mut at = 1;
    for g in (0..GROUPS).filter(|g| heads.own & (1 << g) != 0) {
        out[at..at + 8].copy_from_slice(&heads.first[g].to_le_bytes());
        out[at + 8..at + HEAD].copy_from_slice(&heads.vary[g].to_le_bytes());
        at += HEAD;
    }
    match form.sound() {
        // SAFETY: `sound` gives no form that the processor lacks.
        Form::Avx512 => unsafe { planes512::pack(page, &heads.vary, &mut out[at..]) },
        form => pack_planes(form, page, &heads.vary, &mut out[at..]),
    }
    Some(size)
}

/// Unpacks into a page; false when the bytes are no packed page.
#[must_use]
pub fn unpack(form: Form, packed: &[u8], page: &mut Page) -> bool {
    let Some((heads, data)) = Heads::read(packed) else { return false };
    match form.sound() {
        // SAFETY: `sound` gives no form that the processor lacks.
        Form::Avx512 => unsafe { planes512::unpack(data, &heads.first, &heads.vary, page) },
        form => unpack_planes(form, data, &heads.first, &heads.vary, page),
    }
    true
}

/// Turns a 64 × 64 matrix of bits, of which word i is row i, about its diagonal.
#[inline(always)]
fn transpose(m: &mut [u64; GROUP]) {
    let mut step = 32;
    let mut mask = u64::MAX >> 32;
    while step > 0 {
        let mut block = 0;
        while block < GROUP {
            for i in block..block + step {
                let swap = ((m[i] >> step) ^ m[i + step]) & mask;
                m[i] ^= swap << step;
                m[i + step] ^= swap;
            }
            block += 2 * step;
        }
        step /= 2;
        mask ^= mask << step;
    }
}

#[inline(always)]
fn pack_body(page: &Page, vary: &[u64; GROUPS], out: &mut [u8]) {
    let mut out = out.chunks_exact_mut(8);
    for (g, &vary) in vary.iter().enumerate() {
        if vary == 0 {
            continue;
        }
        let mut bits = [0; GROUP];
        for k in 0..8 {
            let words = row(page, g * 8 + k);
            for lane in 0..4 {
                bits[lane * 16 + 2 * k] = words[2 * lane];
                bits[lane * 16 + 2 * k + 1] = words[2 * lane + 1];
            }
        }
        transpose(&mut bits);
        let planes = bits.iter().enumerate().filter(|(b, _)| vary & (1 << b) != 0);
        for ((_, plane), into) in planes.zip(&mut out) {
            into.copy_from_slice(&plane.to_le_bytes());
        }
    }
}

#[inline(always)]
fn unpack_body(data: &[u8], first: &[u64; GROUPS], vary: &[u64; GROUPS], page: &mut Page) {
    let mut data = data.chunks_exact(8);
    for g in 0..GROUPS {
        let mut bits = [0; GROUP];
        if vary[g] != 0 {
            for b in (0..64).filter(|b| vary[g] & (1 << b) != 0) {
                bits[b] = data.next().map_or(0, |bytes| word_at(bytes, 0));
            }
            transpose(&mut bits);
        }
        let fixed = first[g] & !vary[g];
        for k in 0..8 {
            let words = std::array::from_fn(|i| bits[i / 2 * 16 + 2 * k + i % 2] | fixed);
            super::set_row(page, g * 8 + k, &words);
        }
    }
}

forms! { fn pack_planes(page: &Page, vary: &[u64; GROUPS], out: &mut [u8]) = pack_body }
forms! {
    fn unpack_planes(data: &[u8], first: &[u64; GROUPS], vary: &[u64; GROUPS], page: &mut Page) = unpack_body
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the byte transposition of 64 words in 512-bit registers, and the shuffle made of it.
//! Callers: `planes512`, `shuffle`. Law: byte 16L + 2k + h of place p is byte p of word 8k + 2L + h; unpacking works
//! within 128-bit lanes, and this order is what three rounds of it leave.

use super::{GROUP, GROUPS};
use crate::page::Page;
use std::arch::x86_64::*;

/// One register for each byte place of 64 words.
pub(super) type Group = [__m512i; 8];

/// Puts the same byte of two neighbouring words side by side; with the later word first where `swap`.
const fn pair_bytes(swap: bool) -> [u8; 16] {
    let mut at = [0; 16];
    let mut i = 0;
    while i < 16 {
        let word = if swap { 1 - i % 2 } else { i % 2 };
        at[i] = (word * 8 + i / 2) as u8;
        i += 1;
    }
    at
}
const PAIR: [u8; 16] = pair_bytes(false);
const PAIR_SWAPPED: [u8; 16] = pair_bytes(true);

/// Where the bytes of a place stand in the order of words, and back.
const NATURAL: [u8; 64] = order(false);
const INTERLEAVED: [u8; 64] = order(true);

const fn order(back: bool) -> [u8; 64] {
    let mut order = [0; 64];
    let mut word = 0;
    while word < 64 {
        let at = 16 * (word / 2 % 4) + 2 * (word / 8) + word % 2;
        if back {
            order[at] = word as u8;
        } else {
            order[word] = at as u8;
        }
        word += 1;
    }
    order
}

/// Splits 64 words by byte place. Where `REVERSED`, the bytes stand in falling order within each eight.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn gather<const REVERSED: bool>(words: &[u8; GROUP * 8]) -> Group {
    let pair = if REVERSED { &PAIR_SWAPPED } else { &PAIR };
    // SAFETY: 16 bytes of constants.
    let pair = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(pair.as_ptr().cast()) });
    let mut r: Group = std::array::from_fn(|k| {
        let k = if REVERSED { k ^ 3 } else { k };
        // SAFETY: row k of eight, 64 bytes each.
        unsafe { _mm512_loadu_si512(words.as_ptr().add(k * 64).cast()) }
    });
    for v in &mut r {
        *v = _mm512_shuffle_epi8(*v, pair);
    }
    for step in [4, 2, 1] {
        for a in (0..8).filter(|a| a & step == 0) {
            let (x, y) = (r[a], r[a + step]);
            r[a] = _mm512_unpacklo_epi16(x, y);
            r[a + step] = _mm512_unpackhi_epi16(x, y);
        }
    }
    r
}

/// Puts 64 words together again from their byte places, each with the bits of `fixed` set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn scatter(places: Group, fixed: __m512i, words: &mut [u8; GROUP * 8]) {
    let mut r = places;
    for step in [4, 2, 1] {
        for a in (0..8).filter(|a| a & step == 0) {
            let (x, y) = (r[a], r[a + step]);
            r[a] = _mm512_unpacklo_epi8(x, y);
            r[a + step] = _mm512_unpackhi_epi8(x, y);
        }
    }
    for (k, v) in r.into_iter().enumerate() {
        // SAFETY: row k of eight, 64 bytes each.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().add(k * 64).cast(), _mm512_or_si512(v, fixed)) };
    }
}

/// Bytes by place: all first bytes of the page's words, then all second ones, and so on.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn shuffle(page: &Page, into: &mut Page) {
    // SAFETY: 64 bytes of constants.
    let order = unsafe { _mm512_loadu_si512(NATURAL.as_ptr().cast()) };
    for (g, words) in page.as_chunks::<{ GROUP * 8 }>().0.iter().enumerate() {
        for (p, place) in gather::<false>(words).into_iter().enumerate() {
            let at = p * GROUP * GROUPS + g * GROUP;
            let into = &mut into[at..at + GROUP];
            // SAFETY: the slice has 64 bytes.
            unsafe { _mm512_storeu_si512(into.as_mut_ptr().cast(), _mm512_permutexvar_epi8(order, place)) };
        }
    }
}

/// The inverse of [`shuffle`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn unshuffle(from: &Page, page: &mut Page) {
    // SAFETY: 64 bytes of constants.
    let order = unsafe { _mm512_loadu_si512(INTERLEAVED.as_ptr().cast()) };
    for (g, words) in page.as_chunks_mut::<{ GROUP * 8 }>().0.iter_mut().enumerate() {
        let places = std::array::from_fn(|p| {
            let at = p * GROUP * GROUPS + g * GROUP;
            let from = &from[at..at + GROUP];
            // SAFETY: the slice has 64 bytes.
            _mm512_permutexvar_epi8(order, unsafe { _mm512_loadu_si512(from.as_ptr().cast()) })
        });
        scatter(places, _mm512_setzero_si512(), words);
    }
}

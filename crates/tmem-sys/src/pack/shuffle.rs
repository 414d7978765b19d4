// SPDX-License-Identifier: Apache-2.0
//! Owns: the shuffle, which puts the bytes of one place in their words side by side: LZ4 then finds in pages of
//! pointers and records what it cannot see word by word. Callers: the store's codec.
//! Law: as `pack`; `unshuffle` gives back what `shuffle` took.

use super::{Form, WORDS, shuffle512};
use crate::page::Page;
use std::arch::x86_64::*;

/// Bytes by place: all first bytes of the page's words, then all second ones, and so on.
pub fn shuffle(form: Form, page: &Page, into: &mut Page) {
    match form.sound() {
        // SAFETY: `sound` gives no form that the processor lacks.
        Form::Avx512 => unsafe { shuffle512::shuffle(page, into) },
        // SAFETY: every x86-64 has SSE2.
        _ => unsafe { shuffle128(page, into) },
    }
}

/// The inverse of [`shuffle`].
pub fn unshuffle(form: Form, from: &Page, page: &mut Page) {
    match form.sound() {
        // SAFETY: `sound` gives no form that the processor lacks.
        Form::Avx512 => unsafe { shuffle512::unshuffle(from, page) },
        // SAFETY: every x86-64 has SSE2.
        _ => unsafe { unshuffle128(from, page) },
    }
}

/// Sixteen words at a time, two a register: each round moves one bit of a byte's word number into its place.
#[target_feature(enable = "sse2")]
fn shuffle128(page: &Page, into: &mut Page) {
    for (block, words) in page.as_chunks::<128>().0.iter().enumerate() {
        // SAFETY: eight loads of 16 bytes, from 128.
        let mut r: [__m128i; 8] =
            std::array::from_fn(|j| unsafe { _mm_loadu_si128(words.as_ptr().add(16 * j).cast()) });
        for step in [4, 2, 1, 4] {
            for a in (0..8).filter(|a| a & step == 0) {
                let (x, y) = (r[a], r[a + step]);
                r[a] = _mm_unpacklo_epi8(x, y);
                r[a + step] = _mm_unpackhi_epi8(x, y);
            }
        }
        for (j, v) in r.into_iter().enumerate() {
            // The rounds leave the lowest bit of the place highest in the register's number.
            let place = (j & 3) << 1 | j >> 2;
            let at = place * WORDS + block * 16;
            let into = &mut into[at..at + 16];
            // SAFETY: the slice has 16 bytes.
            unsafe { _mm_storeu_si128(into.as_mut_ptr().cast(), v) };
        }
    }
}

#[target_feature(enable = "sse2")]
fn unshuffle128(from: &Page, page: &mut Page) {
    for (block, words) in page.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let mut r: [__m128i; 8] = std::array::from_fn(|place| {
            let at = place * WORDS + block * 16;
            let from = &from[at..at + 16];
            // SAFETY: the slice has 16 bytes.
            unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
        });
        for step in [4, 2, 1] {
            for a in (0..8).filter(|a| a & step == 0) {
                let (x, y) = (r[a], r[a + step]);
                r[a] = _mm_unpacklo_epi8(x, y);
                r[a + step] = _mm_unpackhi_epi8(x, y);
            }
        }
        for (j, v) in r.into_iter().enumerate() {
            // SAFETY: eight stores of 16 bytes, into 128.
            unsafe { _mm_storeu_si128(words.as_mut_ptr().add(16 * j).cast(), v) };
        }
    }
}

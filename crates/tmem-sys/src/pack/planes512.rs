// SPDX-License-Identifier: Apache-2.0
//! Owns: bit planes in 512-bit registers: 64 words become eight registers of one byte place each, in these bit
//! matrices are turned by the Galois-field instructions, and planes that do not vary are squeezed out.
//! Callers: `planes`, which has checked every length. Law: the bytes are those of `planes`' own loops.

use super::shuffle512::{Group, gather, scatter};
use super::{GROUP, GROUPS, Sketch};
use crate::page::Page;
use std::arch::x86_64::*;

/// Where byte 8q + r goes when the 8 × 8 bytes of a register are turned about their diagonal.
const TURN: [u8; 64] = turn(false);
/// The same with the planes in falling order, as the bit matrices are to be turned back.
const TURN_BACK: [u8; 64] = turn(true);
/// Row i of the unit matrix is bit i: with the data as the matrix, the product is the data turned.
const UNIT: i64 = i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]);

const fn turn(falling: bool) -> [u8; 64] {
    let mut turn = [0; 64];
    let mut at = 0;
    while at < 64 {
        let plane = if falling { 7 - at % 8 } else { at % 8 };
        turn[at] = (8 * plane + at / 8) as u8;
        at += 1;
    }
    turn
}

#[inline(always)]
fn lanes(n: u32) -> __mmask8 {
    ((1u32 << n) - 1) as __mmask8
}

/// Looks at a page once.
#[target_feature(enable = "avx512f")]
pub(super) fn sketch(page: &Page) -> Sketch {
    let mut sketch = Sketch { first: [0; GROUPS], vary: [0; GROUPS] };
    for (g, words) in page.as_chunks::<{ GROUP * 8 }>().0.iter().enumerate() {
        // SAFETY: eight rows of 64 bytes.
        let rows: [__m512i; 8] =
            std::array::from_fn(|k| unsafe { _mm512_loadu_si512(words.as_ptr().add(k * 64).cast()) });
        let first = _mm512_broadcastq_epi64(_mm512_castsi512_si128(rows[0]));
        // One instruction for "what was seen, and what differs here": 0xf6 is a | (b ^ c).
        let seen = rows
            .iter()
            .fold(_mm512_setzero_si512(), |seen, row| _mm512_ternarylogic_epi64::<0xf6>(seen, *row, first));
        sketch.first[g] = _mm_cvtsi128_si64(_mm512_castsi512_si128(first)) as u64;
        sketch.vary[g] = _mm512_reduce_or_epi64(seen) as u64;
    }
    sketch
}

/// Writes the planes of all groups: as many words as `vary` has bits, which `out` must have room for.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,gfni,popcnt")]
pub(super) fn pack(page: &Page, vary: &[u64; GROUPS], out: &mut [u8]) {
    assert!(out.len() == 8 * vary.iter().map(|v| v.count_ones() as usize).sum::<usize>());
    let (unit, mut at) = (_mm512_set1_epi64(UNIT), 0);
    // SAFETY: 64 bytes of constants.
    let turn = unsafe { _mm512_loadu_si512(TURN.as_ptr().cast()) };
    for (g, &vary) in vary.iter().enumerate() {
        if vary == 0 {
            continue;
        }
        let bytes: &[u8; GROUP * 8] = page[g * 512..].first_chunk().unwrap_or(&[0; 512]);
        // Within eight bytes the product wants the last first.
        let planes = gather::<true>(bytes);
        for (p, &plane) in planes.iter().enumerate() {
            let mask = (vary >> (8 * p)) as u8;
            if mask == 0 {
                continue;
            }
            let bits = _mm512_permutexvar_epi8(turn, _mm512_gf2p8affine_epi64_epi8::<0>(unit, plane));
            let n = mask.count_ones();
            let kept = if mask == 0xff { bits } else { _mm512_maskz_compress_epi64(mask, bits) };
            if at + 64 <= out.len() {
                // SAFETY: checked; what is written beyond `n` words is written again by the planes that follow.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), kept) };
            } else {
                // SAFETY: `n` words from `at`, no more than are left of the sum asserted above.
                unsafe { _mm512_mask_storeu_epi64(out.as_mut_ptr().add(at).cast(), lanes(n), kept) };
            }
            at += 8 * n as usize;
        }
    }
}

/// Reads the planes of all groups: as many words as `vary` has bits, which `data` must be.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,gfni,popcnt")]
pub(super) fn unpack(data: &[u8], first: &[u64; GROUPS], vary: &[u64; GROUPS], page: &mut Page) {
    assert!(data.len() == 8 * vary.iter().map(|v| v.count_ones() as usize).sum::<usize>());
    let (unit, mut at) = (_mm512_set1_epi64(UNIT), 0);
    // SAFETY: 64 bytes of constants.
    let turn = unsafe { _mm512_loadu_si512(TURN_BACK.as_ptr().cast()) };
    for ((bytes, first), vary) in page.as_chunks_mut::<{ GROUP * 8 }>().0.iter_mut().zip(first).zip(vary) {
        let mut planes: Group = [_mm512_setzero_si512(); 8];
        for (p, plane) in planes.iter_mut().enumerate() {
            let mask = (vary >> (8 * p)) as u8;
            if mask == 0 {
                continue;
            }
            let n = mask.count_ones();
            let kept = if at + 64 <= data.len() {
                // SAFETY: checked.
                unsafe { _mm512_loadu_si512(data.as_ptr().add(at).cast()) }
            } else {
                // SAFETY: `n` words from `at`, no more than are left of the sum asserted above.
                unsafe { _mm512_maskz_loadu_epi64(lanes(n), data.as_ptr().add(at).cast()) }
            };
            let bits = if mask == 0xff { kept } else { _mm512_maskz_expand_epi64(mask, kept) };
            *plane = _mm512_gf2p8affine_epi64_epi8::<0>(unit, _mm512_permutexvar_epi8(turn, bits));
            at += 8 * n as usize;
        }
        scatter(planes, _mm512_set1_epi64((first & !vary) as i64), bytes);
    }
}

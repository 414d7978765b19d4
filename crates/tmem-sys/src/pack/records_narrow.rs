// SPDX-License-Identifier: Apache-2.0
//! Owns: records by loops over words: how they are packed is told here, other forms do the same. Bytes are gathered and
//! spread within a word, with AVX2 by one permutation from a table.
//! Callers: `records`, which has checked sizes and lengths. Law: as `pack`.

use super::records::{Flags, SIZES, sampled};
use super::{Form, WORDS, forms, word_at};
use crate::page::Page;
use std::arch::x86_64::{_mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_shuffle_epi8};
use std::ops::Range;

/// For each set of a word's bytes, where they stand when gathered, and back; an index with its top bit gives zero.
static GATHER: [[u8; 8]; 256] = permutations(false);
static SPREAD: [[u8; 8]; 256] = permutations(true);

const fn permutations(back: bool) -> [[u8; 8]; 256] {
    let (mut all, mut set) = ([[0x80; 8]; 256], 0);
    while set < 256 {
        let (mut n, mut byte) = (0, 0);
        while byte < 8 {
            if set >> byte & 1 != 0 {
                let (from, to) = if back { (n, byte) } else { (byte, n) };
                all[set][to] = from as u8;
                n += 1;
            }
            byte += 1;
        }
        set += 1;
    }
    all
}

#[inline(always)]
fn alike_body(page: &Page, rows: Range<usize>, alike: &mut [u32; SIZES.len()]) {
    for at in rows.map(|n| sampled(n) * 8) {
        let row = &page[at..at + 64];
        for (sum, record) in alike.iter_mut().zip(SIZES) {
            let before = &page[at - record as usize * 8..][..64];
            let count: u8 = row.iter().zip(before).map(|(a, b)| u8::from(a == b)).sum();
            *sum += u32::from(count);
        }
    }
}

#[inline(always)]
fn look_body(page: &Page, record: usize, flags: &mut Flags, changes: &mut [u8; WORDS]) -> usize {
    let mut bytes = [0; WORDS];
    for (n, byte) in bytes.iter_mut().enumerate() {
        let before = n.checked_sub(record).map_or(0, |n| word_at(page, n * 8));
        *byte = differing(word_at(page, n * 8) ^ before);
    }
    *flags = std::array::from_fn(|k| word_at(&bytes, k * 8));
    *changes = bytes;
    for (byte, before) in changes[record..].iter_mut().zip(&bytes) {
        *byte ^= before;
    }
    let changed = |row: &[u8; 64]| row.iter().map(|byte| u8::from(*byte != 0)).sum::<u8>() as usize;
    changes.as_chunks().0.iter().map(changed).sum::<usize>() + ones_body(flags)
}

/// One bit for each byte of a word that is not zero.
#[inline(always)]
fn differing(word: u64) -> u8 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let tops = (((word & LOW) + LOW) | word) & !LOW;
    // Gathers the bits 7, 15, ... 63 in the highest byte.
    ((tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

#[inline(always)]
fn ones_body(words: &[u64]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

/// The bytes of a set, side by side, and zeros; without a branch on the data.
#[inline(always)]
fn gather(word: u64, set: u8) -> u64 {
    let (mut gathered, mut n) = (0, 0);
    for byte in 0..8 {
        let kept = u64::from(set >> byte & 1);
        gathered |= (word >> (8 * byte) & 0xff & kept.wrapping_neg()) << (8 * n);
        n += kept;
    }
    gathered
}

/// The inverse of [`gather`]; what is beyond the set is passed over.
#[inline(always)]
fn spread(mut gathered: u64, set: u8) -> u64 {
    let mut word = 0;
    for byte in 0..8 {
        let kept = u64::from(set >> byte & 1);
        word |= (gathered & 0xff & kept.wrapping_neg()) << (8 * byte);
        gathered >>= 8 * kept;
    }
    word
}

/// What [`gather`] and [`spread`] do, by a row of their tables.
#[inline]
#[target_feature(enable = "avx2")]
fn permute(word: u64, row: [u8; 8]) -> u64 {
    let row = _mm_cvtsi64_si128(i64::from_le_bytes(row));
    _mm_cvtsi128_si64(_mm_shuffle_epi8(_mm_cvtsi64_si128(word as i64), row)) as u64
}

#[inline(always)]
fn pack_body(
    page: &Page,
    record: usize,
    flags: &Flags,
    changes: &[u8; WORDS],
    out: &mut [u8],
    gather: impl Fn(u64, u8) -> u64,
) {
    let (bits, out) = out.split_at_mut(WORDS / 8);
    let mut at = 0;
    let mut keep = |word: u64, set: u8| {
        let (bytes, n) = (gather(word, set).to_le_bytes(), set.count_ones() as usize);
        match out[at..].first_chunk_mut() {
            // What is beyond `n` is written again by those that follow.
            Some(into) => *into = bytes,
            None => out[at..at + n].copy_from_slice(&bytes[..n]),
        }
        at += n;
    };
    for (bits, row) in bits.iter_mut().zip(changes.as_chunks().0) {
        let row = u64::from_le_bytes(*row);
        *bits = differing(row);
        keep(row, *bits);
    }
    for (n, set) in flags.iter().flat_map(|word| word.to_le_bytes()).enumerate() {
        let before = n.checked_sub(record).map_or(0, |n| word_at(page, n * 8));
        keep(word_at(page, n * 8) ^ before, set);
    }
}

/// The next word to spread; zeros after the last byte.
#[inline(always)]
fn next(data: &[u8], at: usize) -> u64 {
    let data = data.get(at..).unwrap_or(&[]);
    match data.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => data.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

#[inline(always)]
fn read_flags_body(
    record: usize,
    changed: &[u64; WORDS / 64],
    changes: &[u8],
    spread: impl Fn(u64, u8) -> u64,
) -> Flags {
    let (mut bytes, mut flags, mut at) = ([0; WORDS], [0; WORDS / 8], 0);
    for (set, into) in changed.iter().flat_map(|word| word.to_le_bytes()).zip(bytes.as_chunks_mut().0) {
        *into = spread(next(changes, at), set).to_le_bytes();
        at += set.count_ones() as usize;
    }
    for n in record..WORDS {
        bytes[n] ^= bytes[n - record];
    }
    for (flags, bytes) in flags.iter_mut().zip(bytes.as_chunks().0) {
        *flags = u64::from_le_bytes(*bytes);
    }
    flags
}

#[inline(always)]
fn unpack_body(record: usize, flags: &Flags, data: &[u8], page: &mut Page, spread: impl Fn(u64, u8) -> u64) {
    let mut at = 0;
    for (n, set) in flags.iter().flat_map(|word| word.to_le_bytes()).enumerate() {
        let before = n.checked_sub(record).map_or(0, |n| word_at(page, n * 8));
        let word = spread(next(data, at), set) ^ before;
        page[n * 8..n * 8 + 8].copy_from_slice(&word.to_le_bytes());
        at += set.count_ones() as usize;
    }
}

forms! { pub(super) fn alike(page: &Page, rows: Range<usize>, alike: &mut [u32; SIZES.len()]) = alike_body }
forms! {
    pub(super) fn look(page: &Page, record: usize, flags: &mut Flags, changes: &mut [u8; WORDS]) -> usize = look_body
}
forms! { pub(super) fn ones(words: &[u64]) -> usize = ones_body }

/// Like `forms`, for bodies that are told how to gather or spread bytes.
macro_rules! permuting {
    ($v:vis fn $name:ident($($a:ident: $t:ty),*) $(-> $r:ty)? = $body:path, $plain:path, $table:path) => {
        #[inline]
        $v fn $name(form: Form, $($a: $t),*) $(-> $r)? {
            #[target_feature(enable = "avx2")]
            fn avx2($($a: $t),*) $(-> $r)? {
                $body($($a,)* |word, set| permute(word, $table[usize::from(set)]))
            }
            match form.sound() {
                Form::Baseline => $body($($a,)* $plain),
                // SAFETY: `sound` gives no form that the processor lacks.
                _ => unsafe { avx2($($a),*) },
            }
        }
    };
}
permuting! {
    pub(super) fn pack(page: &Page, record: usize, flags: &Flags, changes: &[u8; WORDS], out: &mut [u8])
        = pack_body, gather, GATHER
}
permuting! {
    pub(super) fn read_flags(record: usize, changed: &[u64; WORDS / 64], changes: &[u8]) -> Flags
        = read_flags_body, spread, SPREAD
}
permuting! {
    pub(super) fn unpack(record: usize, flags: &Flags, data: &[u8], page: &mut Page) = unpack_body, spread, SPREAD
}

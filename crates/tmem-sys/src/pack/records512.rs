// SPDX-License-Identifier: Apache-2.0
//! Owns: records in 512-bit registers: bytes that do not differ are squeezed out of eight words at once.
//! Callers: `records`, which has checked sizes and lengths; they are asserted once more where memory depends on them.
//! Law: the bytes are those of `records`' own loops.

use super::WORDS;
use super::records::{Flags, LEAST, MOST, SIZES, sampled};
use crate::page::Page;
use std::arch::x86_64::*;
use std::ops::Range;

/// A row more than there is, so that rows may be read wherever they begin.
const PAD: usize = 64;

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8], at: usize) -> __m512i {
    let row = &bytes[at..at + 64];
    // SAFETY: the slice has 64 bytes.
    unsafe { _mm512_loadu_si512(row.as_ptr().cast()) }
}

/// Row k of what differs from a record before.
#[inline]
#[target_feature(enable = "avx512f")]
fn difference(page: &Page, record: usize, k: usize) -> __m512i {
    let words = load(page, k * 64);
    let missing = record.saturating_sub(k * 8);
    let before = match missing {
        0 => load(page, (k * 8 - record) * 8),
        1..8 => _mm512_maskz_expand_epi64(0xff << missing, load(page, 0)),
        _ => return words,
    };
    _mm512_xor_si512(words, before)
}

/// Adds how many bytes of some rows of the sample are as a record before, for each size of record.
#[target_feature(enable = "avx512f,avx512bw,popcnt")]
pub(super) fn alike(page: &Page, rows: Range<usize>, alike: &mut [u32; SIZES.len()]) {
    for n in rows {
        let row = load(page, sampled(n) * 8);
        for (sum, record) in alike.iter_mut().zip(SIZES) {
            let before = load(page, (sampled(n) - record as usize) * 8);
            *sum += _mm512_cmpeq_epi8_mask(row, before).count_ones();
        }
    }
}

/// The bytes that are not as a record before; into `changes`, of each word those that are not as a record before.
/// Gives how many there are of both.
#[target_feature(enable = "avx512f,avx512bw,popcnt")]
pub(super) fn look(page: &Page, record: usize, flags: &mut Flags, changes: &mut [u8; WORDS]) -> usize {
    assert!((LEAST..=MOST).contains(&record));
    let mut count = 0;
    // Zeros before the first record.
    let mut padded = [0u64; WORDS / 8 + MOST / 8];
    for (k, (flags, copy)) in flags.iter_mut().zip(&mut padded[MOST / 8..]).enumerate() {
        let difference = difference(page, record, k);
        *flags = _mm512_test_epi8_mask(difference, difference);
        *copy = *flags;
        count += flags.count_ones();
    }
    for (k, into) in changes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        // SAFETY: row k of the flags, and a row up to `MOST` bytes before, which is what the zeros make room for.
        let (row, before) = unsafe {
            let row = padded.as_ptr().cast::<u8>().add(MOST + k * 64);
            (_mm512_loadu_si512(row.cast()), _mm512_loadu_si512(row.sub(record).cast()))
        };
        let change = _mm512_xor_si512(row, before);
        // SAFETY: 64 bytes.
        unsafe { _mm512_storeu_si512(into.as_mut_ptr().cast(), change) };
        count += _mm512_test_epi8_mask(change, change).count_ones();
    }
    count as usize
}

/// How many bits are set.
#[target_feature(enable = "popcnt")]
pub(super) fn ones(words: &[u64]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

/// Writes those bytes of a row that are flagged, and gives where the next ones go.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
fn squeeze(row: __m512i, flags: u64, out: &mut [u8], at: usize) -> usize {
    let kept = _mm512_maskz_compress_epi8(flags, row);
    let n = flags.count_ones() as usize;
    if at + 64 <= out.len() {
        // SAFETY: checked; what is written beyond `n` bytes is written again by those that follow.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), kept) };
    } else {
        let out = &mut out[at..at + n];
        // SAFETY: the slice has `n` bytes.
        unsafe { _mm512_mask_storeu_epi8(out.as_mut_ptr().cast(), low(n), kept) };
    }
    at + n
}

/// The other way: bytes of `data` where flags are, zeros elsewhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
fn spread(data: &[u8], at: usize, flags: u64) -> (__m512i, usize) {
    let n = flags.count_ones() as usize;
    let kept = if at + 64 <= data.len() {
        // SAFETY: checked.
        unsafe { _mm512_loadu_si512(data.as_ptr().add(at).cast()) }
    } else {
        let data = &data[at..at + n];
        // SAFETY: the slice has `n` bytes.
        unsafe { _mm512_maskz_loadu_epi8(low(n), data.as_ptr().cast()) }
    };
    (_mm512_maskz_expand_epi8(flags, kept), at + n)
}

/// The lowest `n` bits of 64.
#[inline(always)]
fn low(n: usize) -> u64 {
    if n == 0 { 0 } else { u64::MAX >> (64 - n) }
}

/// Writes all that follows the size of a record, in as many bytes as it takes.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
pub(super) fn pack(page: &Page, record: usize, flags: &Flags, changes: &[u8; WORDS], out: &mut [u8]) {
    let (bits, out) = out.split_at_mut(WORDS / 8);
    let mut at = 0;
    for (k, bits) in bits.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let row = load(changes, k * 64);
        let changed = _mm512_test_epi8_mask(row, row);
        *bits = changed.to_le_bytes();
        at = squeeze(row, changed, out, at);
    }
    for (k, flags) in flags.iter().enumerate() {
        at = squeeze(difference(page, record, k), *flags, out, at);
    }
}

/// Reads the flags back: `changes` has as many bytes as `changed` has bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
pub(super) fn read_flags(record: usize, changed: &[u64; WORDS / 64], changes: &[u8]) -> Flags {
    assert!((LEAST..=MOST).contains(&record));
    let (mut bytes, mut at) = ([0; WORDS + PAD], 0);
    for (k, changed) in changed.iter().enumerate() {
        let row;
        (row, at) = spread(changes, at, *changed);
        // SAFETY: row k of eight, 64 bytes each.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().add(k * 64).cast(), row) };
    }
    let mut flags = [0u64; (WORDS + PAD) / 8];
    let (mut sum, mut at) = (_mm512_setzero_si512(), 0);
    while at < WORDS {
        sum = _mm512_xor_si512(sum, load(&bytes, at));
        // SAFETY: a row from within the page's flags ends within the pad; what is beyond the record is written again.
        unsafe { _mm512_storeu_si512(flags.as_mut_ptr().cast::<u8>().add(at).cast(), sum) };
        at += record;
    }
    std::array::from_fn(|k| flags[k])
}

/// Unpacks a page of `data`, which has as many bytes as there are flags.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
pub(super) fn unpack(record: usize, flags: &Flags, data: &[u8], page: &mut Page) {
    assert!((LEAST..=MOST).contains(&record));
    let mut at = 0;
    for (row, flags) in page.as_chunks_mut::<64>().0.iter_mut().zip(flags) {
        let words;
        (words, at) = spread(data, at, *flags);
        // SAFETY: 64 bytes.
        unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), words) };
    }
    // Eight words of all records, then the next eight: the sum stays in a register.
    for column in (0..record).step_by(8) {
        let words = (record - column).min(8);
        let mut sum = _mm512_setzero_si512();
        for at in (column..WORDS).step_by(record) {
            let n = words.min(WORDS - at);
            let (words, mask) = (&mut page[at * 8..(at + n) * 8], (0xff >> (8 - n)) as u8);
            // SAFETY: the slice has `n` words.
            unsafe {
                sum = _mm512_xor_si512(sum, _mm512_maskz_loadu_epi64(mask, words.as_ptr().cast()));
                _mm512_mask_storeu_epi64(words.as_mut_ptr().cast(), mask, sum);
            }
        }
    }
}

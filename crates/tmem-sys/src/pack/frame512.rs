// SPDX-License-Identifier: Apache-2.0
//! Owns: ranges and sequences in 512-bit registers, a row of eight words at a time.
//! Callers: `frame`, which has checked widths and lengths; they are asserted once more where memory depends on them.
//! Law: the bytes are those of `frame`'s own loops.

use super::frame::{Extent, ROWS, WIDEST};
use super::word_at;
use crate::page::Page;
use std::arch::x86_64::*;

/// What a step from eight words to the next eight adds, and the eight themselves.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn ramp(first: u64, step: u64) -> (__m512i, __m512i) {
    let numbers = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    let words = _mm512_mullo_epi64(numbers, _mm512_set1_epi64(step as i64));
    (_mm512_add_epi64(words, _mm512_set1_epi64(first as i64)), _mm512_set1_epi64(step.wrapping_mul(8) as i64))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(page: &Page, k: usize) -> __m512i {
    let row = &page[k * 64..k * 64 + 64];
    // SAFETY: the slice has 64 bytes.
    unsafe { _mm512_loadu_si512(row.as_ptr().cast()) }
}

/// The words before those of row k; before the first word stands `none`.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_before(page: &Page, k: usize, none: u64) -> __m512i {
    if k == 0 {
        return _mm512_alignr_epi64::<7>(load(page, 0), _mm512_set1_epi64(none as i64));
    }
    let row = &page[k * 64 - 8..k * 64 + 56];
    // SAFETY: the slice has 64 bytes.
    unsafe { _mm512_loadu_si512(row.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(page: &mut Page, k: usize, words: __m512i) {
    let row = &mut page[k * 64..k * 64 + 64];
    // SAFETY: the slice has 64 bytes.
    unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), words) };
}

#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn follows(page: &Page, step: u64) -> bool {
    let (mut want, next) = ramp(word_at(page, 0), step);
    let mut differ = _mm512_setzero_si512();
    for k in 0..ROWS {
        differ = _mm512_ternarylogic_epi64::<0xf6>(differ, load(page, k), want);
        want = _mm512_add_epi64(want, next);
    }
    _mm512_test_epi64_mask(differ, differ) == 0
}

#[target_feature(enable = "avx512f")]
pub(super) fn extent(page: &Page) -> Extent {
    let (first, second) = (word_at(page, 0), word_at(page, 8));
    let none = first.wrapping_sub(second.wrapping_sub(first));
    let mut low = load(page, 0);
    let mut low_step = _mm512_sub_epi64(low, load_before(page, 0, none));
    let (mut high, mut high_step) = (low, low_step);
    for k in 1..ROWS {
        let words = load(page, k);
        let steps = _mm512_sub_epi64(words, load_before(page, k, none));
        low = _mm512_min_epi64(low, words);
        high = _mm512_max_epi64(high, words);
        low_step = _mm512_min_epi64(low_step, steps);
        high_step = _mm512_max_epi64(high_step, steps);
    }
    Extent {
        min: _mm512_reduce_min_epi64(low),
        max: _mm512_reduce_max_epi64(high),
        min_step: _mm512_reduce_min_epi64(low_step),
        max_step: _mm512_reduce_max_epi64(high_step),
    }
}

/// Sets the bits of 64 rows one after the other into eight columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn columns(width: u32, out: &mut [u8], row: impl Fn(usize) -> __m512i) {
    assert!(width <= WIDEST && out.len() == width as usize * 64);
    let (mut open, mut filled, mut at) = (_mm512_setzero_si512(), 0, 0);
    for k in 0..ROWS {
        let values = row(k);
        open = _mm512_or_si512(open, _mm512_sll_epi64(values, _mm_cvtsi32_si128(filled as i32)));
        filled += width;
        if filled >= 64 {
            filled -= 64;
            // SAFETY: every 64 bits filled are one row, and 64 rows of `width` bits fill `width` of them.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), open) };
            at += 64;
            // What is left over; a shift by all of the width, or more, leaves nothing.
            open = _mm512_srl_epi64(values, _mm_cvtsi32_si128((width - filled) as i32));
        }
    }
}

#[target_feature(enable = "avx512f")]
pub(super) fn pack_range(page: &Page, least: u64, shift: u32, width: u32, out: &mut [u8]) {
    let (least, shift) = (_mm512_set1_epi64(least as i64), _mm_cvtsi32_si128(shift as i32));
    let mask = _mm512_set1_epi64(((1u64 << width) - 1) as i64);
    columns(width, out, |k| {
        let far = _mm512_srl_epi64(_mm512_sub_epi64(load(page, k), least), shift);
        _mm512_and_si512(far, mask)
    });
}

#[target_feature(enable = "avx512f")]
pub(super) fn pack_steps(page: &Page, least: u64, width: u32, out: &mut [u8]) {
    let none = word_at(page, 0).wrapping_sub(least);
    let least = _mm512_set1_epi64(least as i64);
    let mask = _mm512_set1_epi64(((1u64 << width) - 1) as i64);
    columns(width, out, |k| {
        let steps = _mm512_sub_epi64(load(page, k), load_before(page, k, none));
        _mm512_and_si512(_mm512_sub_epi64(steps, least), mask)
    });
}

/// Gives the 64 rows of columns of `width` bits, which is not 0.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
fn rows(data: &[u8], width: u32, mut each: impl FnMut(usize, __m512i)) {
    let width = width as usize;
    assert!((1..=WIDEST as usize).contains(&width) && data.len() == width * 64);
    let mask = _mm512_set1_epi64(((1u64 << width) - 1) as i64);
    for k in 0..ROWS {
        let (at, shift) = (k * width / 64, k * width % 64);
        let next = (at + 1).min(width - 1);
        // SAFETY: k is below 64, hence `at` below the width, which counts the rows of 64 bytes.
        let low = unsafe { _mm512_loadu_si512(data.as_ptr().add(at * 64).cast()) };
        // SAFETY: as above.
        let high = unsafe { _mm512_loadu_si512(data.as_ptr().add(next * 64).cast()) };
        let bits = _mm512_shrdv_epi64(low, high, _mm512_set1_epi64(shift as i64));
        each(k, _mm512_and_si512(bits, mask));
    }
}

#[target_feature(enable = "avx512f,avx512vbmi2")]
pub(super) fn range_from(data: &[u8], least: u64, shift: u32, width: u32, page: &mut Page) {
    let (least, shift) = (_mm512_set1_epi64(least as i64), _mm_cvtsi32_si128(shift as i32));
    if width == 0 {
        (0..ROWS).for_each(|k| store(page, k, least));
        return;
    }
    rows(data, width, |k, far| store(page, k, _mm512_add_epi64(least, _mm512_sll_epi64(far, shift))));
}

#[target_feature(enable = "avx512f,avx512vbmi2")]
pub(super) fn steps_from(data: &[u8], first: u64, least: u64, width: u32, page: &mut Page) {
    let none = _mm512_setzero_si512();
    let step = _mm512_set1_epi64(least as i64);
    let end = _mm512_set1_epi64(7);
    // The word before the first, so that every word is a step away from one.
    let skipped = word_at(data, 0) & ((1 << width) - 1);
    let mut last = _mm512_set1_epi64(first.wrapping_sub(least).wrapping_sub(skipped) as i64);
    rows(data, width, |k, far| {
        let mut sum = _mm512_add_epi64(far, step);
        sum = _mm512_add_epi64(sum, _mm512_alignr_epi64::<7>(sum, none));
        sum = _mm512_add_epi64(sum, _mm512_alignr_epi64::<6>(sum, none));
        sum = _mm512_add_epi64(sum, _mm512_alignr_epi64::<4>(sum, none));
        // The sum of the row goes on by itself: the next row waits for one addition only.
        let whole = _mm512_permutexvar_epi64(end, sum);
        store(page, k, _mm512_add_epi64(sum, last));
        last = _mm512_add_epi64(last, whole);
    });
}

#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn sequence(first: u64, step: u64, page: &mut Page) {
    let (mut words, next) = ramp(first, step);
    for k in 0..ROWS {
        store(page, k, words);
        words = _mm512_add_epi64(words, next);
    }
}

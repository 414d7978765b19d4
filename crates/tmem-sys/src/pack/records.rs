// SPDX-License-Identifier: Apache-2.0
//! Owns: records. Where objects of one size lie side by side, as in the heap of an interpreter or in the rows of a
//! table, a word is much like the one a record before it: types, counts, high parts of pointers, lengths, padding. Only
//! the bytes in which they differ are kept, and which those are, again only where that is not as a record before.
//! Callers: the store's codec. Law: as `pack`. Packed: a byte with the words of a record; 512 bits, one for each word
//! whose byte of flags differs from that of a record before; what they differ in, where they do; the page's bytes
//! that differ (all of them as exclusive or). Before the first record stand zeros.
//!
//! Flags of a page are 64 words: bit b of word k is for byte 64k + b.

use super::{Form, WORDS, forms, records512, word_at};
use crate::page::{PAGE_SIZE, Page};
use std::ops::Range;

/// Words of a record, from and to. Smaller ones are taken several at a time.
pub(super) const LEAST: usize = 8;
pub(super) const MOST: usize = 64;
/// Rows of eight words at which records of each size are tried, and how many words they are apart.
const SAMPLES: usize = 4;
const APART: usize = 125;
/// So many of these rows tell most pages that have no records.
const FEW: usize = 2;
/// So many bytes of the sample more or less say nothing.
const CLOSE: u32 = (SAMPLES * 64 / 16) as u32;
/// Words of a record that are tried; beyond 32 only what allocators have.
pub(super) const SIZES: [u8; 30] = sizes();
/// The record's size and the bits for the words.
const HEAD: usize = 1 + WORDS / 8;

/// One bit for each byte of a page.
pub(super) type Flags = [u64; WORDS / 8];

const fn sizes() -> [u8; 30] {
    let (mut sizes, mut n) = ([0; 30], 0);
    while n < 25 {
        sizes[n] = (LEAST + n) as u8;
        n += 1;
    }
    [sizes[25], sizes[26], sizes[27], sizes[28], sizes[29]] = [36, 40, 44, 48, 64];
    sizes
}

/// Row n of the sample begins at this word. There is a record of any size before it.
#[inline(always)]
pub(super) fn sampled(n: usize) -> usize {
    MOST + n * APART
}

/// How a page is packed.
pub struct Plan {
    record: usize,
    /// The bytes that are not as a record before.
    flags: Flags,
    /// Of each word the flags, as they differ from those of a record before.
    changes: [u8; WORDS],
    size: usize,
}

impl Plan {
    /// Bytes that [`pack`] makes of the page that was looked at.
    pub fn size(&self) -> usize {
        self.size
    }

    fn of(form: Form, page: &Page, record: usize) -> Plan {
        let mut plan = Plan { record, flags: [0; WORDS / 8], changes: [0; WORDS], size: 0 };
        let (flags, changes) = (&mut plan.flags, &mut plan.changes);
        plan.size = HEAD
            + match form.sound() {
                // SAFETY: `sound` gives no form that the processor lacks.
                Form::Avx512 => unsafe { records512::look(page, record, flags, changes) },
                form => look_narrow(form, page, record, flags, changes),
            };
        plan
    }
}

/// How many bits are set.
#[inline]
fn ones(form: Form, words: &[u64]) -> usize {
    match form.sound() {
        // SAFETY: `sound` gives no form that the processor lacks.
        Form::Avx512 => unsafe { records512::ones(words) },
        form => ones_narrow(form, words),
    }
}

#[inline(always)]
fn ones_body(words: &[u64]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

/// The size of record by which least is left of the page, and the plan for it; `None` when a sample shows that it is
/// not `below` so many bytes.
pub fn plan(form: Form, page: &Page, below: usize) -> Option<Plan> {
    let mut alike = [0; SIZES.len()];
    count_alike(form, page, 0..FEW, &mut alike);
    // A few rows may err to either side by an eighth and more.
    if estimate(&alike, FEW) / 8 * 7 >= below {
        return None;
    }
    count_alike(form, page, FEW..SAMPLES, &mut alike);
    if estimate(&alike, SAMPLES) >= below {
        return None;
    }
    // The two best of the sample; of equals the smaller record, whose first has less weight.
    let (mut best, mut second) = ((0, 0), (0, 0));
    for (alike, record) in alike.iter().zip(SIZES) {
        if *alike > best.0 {
            (best, second) = ((*alike, record), best);
        } else if *alike > second.0 {
            second = (*alike, record);
        }
    }
    if best.1 == 0 {
        return None;
    }
    let plan = Plan::of(form, page, best.1.into());
    // Where the sample has no clear winner, the page decides.
    if second.1 > 0 && best.0 - second.0 <= CLOSE {
        let other = Plan::of(form, page, second.1.into());
        if other.size < plan.size {
            return Some(other);
        }
    }
    Some(plan)
}

fn count_alike(form: Form, page: &Page, rows: Range<usize>, alike: &mut [u32; SIZES.len()]) {
    match form.sound() {
        // SAFETY: `sound` gives no form that the processor lacks.
        Form::Avx512 => unsafe { records512::alike(page, rows, alike) },
        form => alike_narrow(form, page, rows, alike),
    }
}

/// Bytes to which a page may get, by so many rows of its sample.
fn estimate(alike: &[u32; SIZES.len()], rows: usize) -> usize {
    let most = alike.iter().fold(0, |most, n| most.max(*n)) as usize;
    HEAD + (rows * 64 - most) * PAGE_SIZE / (rows * 64)
}

/// Packs a page into `out` and gives the length, or `None` when it does not fit. The plan must be of this page: with
/// another's, other contents come back.
pub fn pack(form: Form, page: &Page, plan: &Plan, out: &mut [u8]) -> Option<usize> {
    let out = out.get_mut(..plan.size)?;
    let (record, out) = out.split_first_mut()?;
    *record = plan.record as u8;
    match form.sound() {
        // SAFETY: `sound` gives no form that the processor lacks.
        Form::Avx512 => unsafe { records512::pack(page, plan.record, &plan.flags, &plan.changes, out) },
        form => pack_narrow(form, page, plan, out),
    }
    Some(plan.size)
}

/// Unpacks into a page; false when the bytes are no packed page.
#[must_use]
pub fn unpack(form: Form, packed: &[u8], page: &mut Page) -> bool {
    let Some((head, data)) = packed.split_at_checked(HEAD) else { return false };
    let record = head[0] as usize;
    if !(LEAST..=MOST).contains(&record) {
        return false;
    }
    let changed: [u64; WORDS / 64] = std::array::from_fn(|k| word_at(head, 1 + 8 * k));
    let Some((changes, data)) = data.split_at_checked(ones(form, &changed)) else { return false };
    let form = form.sound();
    let flags = match form {
        // SAFETY: `sound` gives no form that the processor lacks.
        Form::Avx512 => unsafe { records512::read_flags(record, &changed, changes) },
        form => read_flags_narrow(form, record, &changed, changes),
    };
    if ones(form, &flags) != data.len() {
        return false;
    }
    match form {
        // SAFETY: `sound` gives no form that the processor lacks.
        Form::Avx512 => unsafe { records512::unpack(record, &flags, data, page) },
        form => unpack_narrow(form, record, &flags, data, page),
    }
    true
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
fn pack_body(page: &Page, plan: &Plan, out: &mut [u8]) {
    let (bits, out) = out.split_at_mut(WORDS / 8);
    for (bits, row) in bits.iter_mut().zip(plan.changes.as_chunks().0) {
        *bits = differing(u64::from_le_bytes(*row));
    }
    let mut at = 0;
    let mut keep = |byte: u8| {
        // Written always, counted when it stays: no branch on the data. Past the end there is nothing to keep.
        if let Some(into) = out.get_mut(at) {
            *into = byte;
            at += usize::from(byte != 0);
        }
    };
    plan.changes.iter().for_each(|byte| keep(*byte));
    let first = plan.record * 8;
    page[..first].iter().for_each(|byte| keep(*byte));
    page[first..].iter().zip(&page[..]).for_each(|(byte, before)| keep(byte ^ before));
}

#[inline(always)]
fn read_flags_body(record: usize, changed: &[u64; WORDS / 64], changes: &[u8]) -> Flags {
    let mut bytes = [0; WORDS];
    spread(changed, changes, &mut bytes);
    for i in record..WORDS {
        bytes[i] ^= bytes[i - record];
    }
    std::array::from_fn(|k| word_at(&bytes, 8 * k))
}

#[inline(always)]
fn unpack_body(record: usize, flags: &Flags, data: &[u8], page: &mut Page) {
    spread(flags, data, page);
    for at in record * 8..PAGE_SIZE {
        page[at] ^= page[at - record * 8];
    }
}

/// Puts the bytes of `data` where `flags` has a bit, zeros elsewhere.
#[inline(always)]
fn spread(flags: &[u64], data: &[u8], into: &mut [u8]) {
    let mut at = 0;
    for (row, flags) in into.chunks_exact_mut(64).zip(flags) {
        for (b, byte) in row.iter_mut().enumerate() {
            let kept = (flags >> b) as usize & 1;
            *byte = data.get(at).copied().unwrap_or(0) & (kept as u8).wrapping_neg();
            at += kept;
        }
    }
}

forms! { fn alike_narrow(page: &Page, rows: Range<usize>, alike: &mut [u32; SIZES.len()]) = alike_body }
forms! {
    fn look_narrow(page: &Page, record: usize, flags: &mut Flags, changes: &mut [u8; WORDS]) -> usize = look_body
}
forms! { fn ones_narrow(words: &[u64]) -> usize = ones_body }
forms! { fn pack_narrow(page: &Page, plan: &Plan, out: &mut [u8]) = pack_body }
forms! {
    fn read_flags_narrow(record: usize, changed: &[u64; WORDS / 64], changes: &[u8]) -> Flags = read_flags_body
}
forms! { fn unpack_narrow(record: usize, flags: &Flags, data: &[u8], page: &mut Page) = unpack_body }

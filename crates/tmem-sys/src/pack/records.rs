// SPDX-License-Identifier: Apache-2.0
//! Owns: records. Where objects of one size lie side by side, as in the heap of an interpreter or in the rows of a
//! table, a word is much like the one a record before it: types, counts, high parts of pointers, lengths, padding. Only
//! the bytes in which they differ are kept, and which those are, again only where that is not as a record before.
//! Callers: the store's codec. Law: as `pack`. Packed: a byte with the words of a record; 512 bits, one for each word
//! whose byte of flags differs from that of a record before; what they differ in, where they do; the page's bytes
//! that differ (all of them as exclusive or). Before the first record stand zeros.
//!
//! Flags of a page are 64 words: bit b of word k is for byte 64k + b.

use super::{Form, WORDS, records_narrow as narrow, records512, word_at};
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
                form => narrow::look(form, page, record, flags, changes),
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
        form => narrow::ones(form, words),
    }
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
        form => narrow::alike(form, page, rows, alike),
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
        form => narrow::pack(form, page, plan.record, &plan.flags, &plan.changes, out),
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
        form => narrow::read_flags(form, record, &changed, changes),
    };
    if ones(form, &flags) != data.len() {
        return false;
    }
    match form {
        // SAFETY: `sound` gives no form that the processor lacks.
        Form::Avx512 => unsafe { records512::unpack(record, &flags, data, page) },
        form => narrow::unpack(form, record, &flags, data, page),
    }
    true
}

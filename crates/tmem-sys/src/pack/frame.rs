// SPDX-License-Identifier: Apache-2.0
//! Owns: integers as distances. A range keeps how far each word is above the least; a sequence keeps how far each
//! step from word to word is above the least step, which for an arithmetic sequence is nothing at all.
//! Callers: the store's codec. Law: as `pack`. Packed: width of a distance in bits; for a range how many low bits all
//! words share; the least word or first word; for a sequence the least step; then 8 columns of bits, row after row.

use super::{Form, Row, forms, frame512, row, set_row, word_at};
use crate::page::{PAGE_SIZE, Page};

/// As `forms`, with the kernel of the same name in `frame512` as the widest.
macro_rules! widest {
    ($(#[$m:meta])* $v:vis fn $name:ident($($a:ident: $t:ty),*) $(-> $r:ty)? = $body:path) => {
        $(#[$m])*
        #[inline]
        $v fn $name(form: Form, $($a: $t),*) $(-> $r)? {
            forms! { fn narrow($($a: $t),*) $(-> $r)? = $body }
            match form.sound() {
                // SAFETY: `sound` gives no form that the processor lacks.
                Form::Avx512 => unsafe { frame512::$name($($a),*) },
                form => narrow(form, $($a),*),
            }
        }
    };
}

pub(super) const ROWS: usize = 64;
const RANGE_HEAD: usize = 10;
const STEPS_HEAD: usize = 17;

/// The extremes of a page's words and of the steps between them, all as signed numbers that wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub min: i64,
    pub max: i64,
    pub min_step: i64,
    pub max_step: i64,
}

/// How a page is packed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    Range { least: u64, shift: u32, width: u32 },
    Steps { first: u64, least: u64, width: u32 },
}

/// Distances of more bits than this do not pay.
pub const WIDEST: u32 = 55;

impl Frame {
    /// The best range for words that agree with the first in all bits but `differ`, with the extremes given.
    pub fn range(extent: &Extent, differ: u64) -> Frame {
        let shift = differ.trailing_zeros().min(63);
        let span = (extent.max.wrapping_sub(extent.min) as u64) >> shift;
        Frame::Range { least: extent.min as u64, shift, width: 64 - span.leading_zeros() }
    }

    pub fn steps(extent: &Extent, page: &Page) -> Frame {
        let span = extent.max_step.wrapping_sub(extent.min_step) as u64;
        Frame::Steps {
            first: word_at(page, 0),
            least: extent.min_step as u64,
            width: 64 - span.leading_zeros(),
        }
    }

    /// Bytes that [`pack`] makes.
    pub fn size(&self) -> usize {
        match *self {
            Frame::Range { width, .. } => RANGE_HEAD + width as usize * 64,
            Frame::Steps { width, .. } => STEPS_HEAD + width as usize * 64,
        }
    }

    pub fn width(&self) -> u32 {
        let (Frame::Range { width, .. } | Frame::Steps { width, .. }) = *self;
        width
    }
}

/// Whether the page is an arithmetic sequence, and then its step. Most that are not are told by their ends.
#[inline]
pub fn arithmetic(form: Form, page: &Page) -> Option<u64> {
    let step = word_at(page, 8).wrapping_sub(word_at(page, 0));
    let ends = [16, 24, PAGE_SIZE / 2, PAGE_SIZE - 8];
    let like = ends.iter().all(|&at| word_at(page, at).wrapping_sub(word_at(page, at - 8)) == step);
    (like && follows(form, page, step)).then_some(step)
}

#[inline(always)]
fn follows_body(page: &Page, step: u64) -> bool {
    let mut want: Row = std::array::from_fn(|i| word_at(page, 0).wrapping_add(step.wrapping_mul(i as u64)));
    let mut differ = [0; 8];
    for k in 0..ROWS {
        let words = row(page, k);
        for i in 0..8 {
            differ[i] |= words[i] ^ want[i];
            want[i] = want[i].wrapping_add(step.wrapping_mul(8));
        }
    }
    differ.iter().all(|d| *d == 0)
}

/// The words before those of a row.
#[inline(always)]
fn shifted(row: &Row, before: u64) -> Row {
    std::array::from_fn(|i| if i == 0 { before } else { row[i - 1] })
}

#[inline(always)]
fn extent_body(page: &Page) -> Extent {
    let first = word_at(page, 0) as i64;
    let step = (word_at(page, 8) as i64).wrapping_sub(first);
    let mut low = [first; 8];
    let mut high = [first; 8];
    let mut low_step = [step; 8];
    let mut high_step = [step; 8];
    for k in 0..ROWS {
        let words = row(page, k);
        // The first word has no step: the second's stands for it.
        let before = if k > 0 {
            row(&page[64 - 8..], k - 1)
        } else {
            shifted(&words, first.wrapping_sub(step) as u64)
        };
        for i in 0..8 {
            let word = words[i] as i64;
            let step = word.wrapping_sub(before[i] as i64);
            low[i] = low[i].min(word);
            high[i] = high[i].max(word);
            low_step[i] = low_step[i].min(step);
            high_step[i] = high_step[i].max(step);
        }
    }
    let least = |of: [i64; 8]| of.into_iter().fold(of[0], i64::min);
    let most = |of: [i64; 8]| of.into_iter().fold(of[0], i64::max);
    Extent { min: least(low), max: most(high), min_step: least(low_step), max_step: most(high_step) }
}

/// Packs a page into `out` and gives the length, or `None` when it does not fit or would not pay. The frame must be
/// of this page: with another's, other contents come back.
pub fn pack(form: Form, page: &Page, frame: Frame, out: &mut [u8]) -> Option<usize> {
    if frame.width() > WIDEST {
        return None;
    }
    let out = out.get_mut(..frame.size())?;
    match frame {
        Frame::Range { least, shift, width } => {
            out[0] = width as u8;
            out[1] = shift as u8;
            out[2..RANGE_HEAD].copy_from_slice(&least.to_le_bytes());
            pack_range(form, page, least, shift, width, &mut out[RANGE_HEAD..]);
        }
        Frame::Steps { first, least, width } => {
            out[0] = width as u8;
            out[1..9].copy_from_slice(&first.to_le_bytes());
            out[9..STEPS_HEAD].copy_from_slice(&least.to_le_bytes());
            if width > 0 {
                pack_steps(form, page, least, width, &mut out[STEPS_HEAD..]);
            }
        }
    }
    Some(frame.size())
}

/// Unpacks a range into a page; false when the bytes are no packed range.
#[must_use]
pub fn unpack_range(form: Form, packed: &[u8], page: &mut Page) -> bool {
    let Some((head, data)) = packed.split_at_checked(RANGE_HEAD) else { return false };
    let (width, shift, least) = (u32::from(head[0]), u32::from(head[1]), word_at(head, 2));
    if width > WIDEST || shift > 63 || data.len() != width as usize * 64 {
        return false;
    }
    range_from(form, data, least, shift, width, page);
    true
}

/// Unpacks a sequence into a page; false when the bytes are no packed sequence.
#[must_use]
pub fn unpack_steps(form: Form, packed: &[u8], page: &mut Page) -> bool {
    let Some((head, data)) = packed.split_at_checked(STEPS_HEAD) else { return false };
    let (width, first, least) = (u32::from(head[0]), word_at(head, 1), word_at(head, 9));
    if width > WIDEST || data.len() != width as usize * 64 {
        return false;
    }
    if width == 0 {
        sequence(form, first, least, page);
    } else {
        steps_from(form, data, first, least, width, page);
    }
    true
}

/// Sets the bits of rows one after the other into eight columns.
struct Columns<'a> {
    out: std::slice::ChunksExactMut<'a, u8>,
    open: Row,
    filled: u32,
}

impl Columns<'_> {
    fn new(out: &mut [u8]) -> Columns<'_> {
        Columns { out: out.chunks_exact_mut(64), open: [0; 8], filled: 0 }
    }

    #[inline(always)]
    fn push(&mut self, values: &Row, width: u32) {
        let at = self.filled;
        for (open, value) in self.open.iter_mut().zip(values) {
            *open |= value << at;
        }
        self.filled += width;
        if self.filled >= 64 {
            if let Some(into) = self.out.next() {
                set_row(into, 0, &self.open);
            }
            self.filled -= 64;
            // Shifted in two parts: what filled the word to its end leaves nothing over.
            for (open, value) in self.open.iter_mut().zip(values) {
                *open = value >> 1 >> (63 - at);
            }
        }
    }
}

/// Row k of columns of `width` bits, by two rows of words that hold it; the width is not 0.
#[inline(always)]
fn distances(data: &[u8], k: usize, width: u32) -> Row {
    let bit = k * width as usize;
    let (at, shift) = (bit / 64, (bit % 64) as u32);
    let next = (at + 1).min(width as usize - 1);
    let mask = u64::MAX >> (64 - width);
    let (low, high) = (row(data, at), row(data, next));
    std::array::from_fn(|i| (low[i] >> shift | high[i] << 1 << (63 - shift)) & mask)
}

#[inline(always)]
fn pack_range_body(page: &Page, least: u64, shift: u32, width: u32, out: &mut [u8]) {
    let mut columns = Columns::new(out);
    for k in 0..ROWS {
        let words = row(page, k);
        columns.push(&std::array::from_fn(|i| words[i].wrapping_sub(least) >> shift), width);
    }
}

#[inline(always)]
fn pack_steps_body(page: &Page, least: u64, width: u32, out: &mut [u8]) {
    let mut columns = Columns::new(out);
    for k in 0..ROWS {
        let words = row(page, k);
        // The first word has no step: it is given the least, of which nothing is left.
        let before =
            if k > 0 { row(&page[64 - 8..], k - 1) } else { shifted(&words, words[0].wrapping_sub(least)) };
        columns.push(&std::array::from_fn(|i| words[i].wrapping_sub(before[i]).wrapping_sub(least)), width);
    }
}

#[inline(always)]
fn range_from_body(data: &[u8], least: u64, shift: u32, width: u32, page: &mut Page) {
    for k in 0..ROWS {
        let far = if width == 0 { [0; 8] } else { distances(data, k, width) };
        set_row(page, k, &std::array::from_fn(|i| least.wrapping_add(far[i] << shift)));
    }
}

#[inline(always)]
fn steps_from_body(data: &[u8], first: u64, least: u64, width: u32, page: &mut Page) {
    // The word before the first, so that every word is a step away from one.
    let mut last = first.wrapping_sub(least).wrapping_sub(distances(data, 0, width)[0]);
    for k in 0..ROWS {
        let mut sum = distances(data, k, width).map(|far| far.wrapping_add(least));
        for by in [1, 2, 4] {
            let before: Row = std::array::from_fn(|i| if i < by { 0 } else { sum[i - by] });
            for i in 0..8 {
                sum[i] = sum[i].wrapping_add(before[i]);
            }
        }
        for word in &mut sum {
            *word = word.wrapping_add(last);
        }
        last = sum[7];
        set_row(page, k, &sum);
    }
}

#[inline(always)]
fn sequence_body(first: u64, step: u64, page: &mut Page) {
    let mut words: Row = std::array::from_fn(|i| first.wrapping_add(step.wrapping_mul(i as u64)));
    for k in 0..ROWS {
        set_row(page, k, &words);
        for word in &mut words {
            *word = word.wrapping_add(step.wrapping_mul(8));
        }
    }
}

widest! { fn follows(page: &Page, step: u64) -> bool = follows_body }
widest! { /// The extremes of a page's words and steps.
pub fn extent(page: &Page) -> Extent = extent_body }
widest! { fn pack_range(page: &Page, least: u64, shift: u32, width: u32, out: &mut [u8]) = pack_range_body }
widest! { fn pack_steps(page: &Page, least: u64, width: u32, out: &mut [u8]) = pack_steps_body }
widest! { fn range_from(data: &[u8], least: u64, shift: u32, width: u32, page: &mut Page) = range_from_body }
widest! { fn steps_from(data: &[u8], first: u64, least: u64, width: u32, page: &mut Page) = steps_from_body }
widest! { fn sequence(first: u64, step: u64, page: &mut Page) = sequence_body }

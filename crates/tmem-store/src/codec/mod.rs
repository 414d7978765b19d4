// SPDX-License-Identifier: Apache-2.0
//! Owns: the forms a page can take: one repeated word; integers as a range or a sequence; bit planes; records; LZ4, of
//! the page or of its shuffle; or as it is. Callers: `pool`, for every put and get. No locks, nothing allocated.
//! Law: what `encode` made, `decode` gives back byte for byte; what does not shrink to 7/8 is not packed; the choice
//! follows from the pages alone, in their order. The first packed byte names the codec.
//!
//! The typed packers tell their size to the byte after one look at the page, and cost a tenth of LZ4. So do records once
//! their size is found, and LZ4 seldom makes so much less of them that it is worth its time. It is tried on what is
//! left where it may save enough (`gate`).

mod cold;
mod decode;
mod dictionaries;
mod gate;

pub use cold::Recoder;
pub use decode::Decoder;
pub use dictionaries::{Dictionaries, MAX_DICTIONARIES};

use crate::class::LARGEST_PACKED;
use gate::Gate;
use std::sync::Arc;
use tmem_sys::lz4::Lz4State;
use tmem_sys::pack::frame::{self, Frame, WIDEST};
use tmem_sys::pack::records::{self, Plan};
use tmem_sys::pack::shuffle::shuffle;
use tmem_sys::pack::{self, Form, Sketch, WORDS, planes};
use tmem_sys::{Errno, PAGE_SIZE, Page, Table};

const LZ4: u8 = 1;
const SHUFFLED: u8 = 2;
const PLANES: u8 = 3;
const RANGE: u8 = 4;
const STEPS: u8 = 5;
const RECORDS: u8 = 6;
// Cold forms from here on. A dictionary's number follows the codes that need one.
const ZSTD: u8 = 7;
const ZSTD_SHUFFLED: u8 = 8;
const DICTIONARY: u8 = 9;
const DICTIONARY_SHUFFLED: u8 = 10;

const HEAD: u8 = 11;

/// A head of up to so many bytes is kept as it is: bit planes make no less of any page that is no sequence.
const SHORT: usize = 448;
/// What is looked at at once.
const LINE: usize = 64;
const _: () = assert!((PAGE_SIZE - SHORT).is_multiple_of(LINE));

/// What is packed as tightly as this needs no LZ4.
const TIGHT: usize = PAGE_SIZE / 6;
/// So many pages in a row without records, and they are looked for in one of so many.
const PATIENCE: u32 = 8;
const SELDOM: u32 = 4;
/// LZ4 must save this much beyond a typed packer, and an eighth, to be worth its time both ways.
const WORTH: usize = 200;

/// A page on its way into the slab. Packed bytes lie in the codec's buffer until the next call.
pub enum Coded<'a> {
    Same(u64),
    Packed(&'a [u8]),
    Incompressible,
}

/// What a typed packer would make of a page.
#[derive(Clone, Copy)]
enum Typed {
    Planes,
    Frame(Frame),
}

pub struct Codec {
    lz4: Lz4State,
    gate: Gate,
    /// Pages in a row of which records made nothing.
    recordless: u32,
    /// Two buffers for packed bytes, and one for the shuffled page.
    buffers: Table<Page>,
    /// Which of them has the packed bytes.
    used: usize,
    form: Form,
    decoder: Decoder,
}

const MIXED: usize = 2;

impl Codec {
    /// A codec with dictionaries of its own.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Codec, Errno> {
        Codec::sharing(Dictionaries::new())
    }

    /// A codec for pages packed with these dictionaries too.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn sharing(dictionaries: Arc<Dictionaries>) -> Result<Codec, Errno> {
        let (lz4, buffers) = (Lz4State::new()?, Table::new(3)?);
        let decoder = Decoder::new(dictionaries)?;
        Ok(Codec { lz4, gate: Gate::new(), recordless: 0, buffers, used: 0, form: Form::best(), decoder })
    }

    /// The dictionaries that its pages may be packed with.
    pub fn dictionaries(&self) -> &Arc<Dictionaries> {
        self.decoder.dictionaries()
    }

    /// As [`Decoder::decode`].
    #[must_use]
    pub fn decode(&mut self, packed: &[u8], into: &mut Page) -> bool {
        self.decoder.decode(packed, into)
    }

    /// Without `pack`, only a repeated word is seen.
    pub fn encode(&mut self, page: &Page, pack: bool) -> Coded<'_> {
        if let Some(word) = same_filled(page) {
            return Coded::Same(word);
        }
        if !pack {
            return Coded::Incompressible;
        }
        if let Some(len) = self.pack_head(page) {
            return Coded::Packed(&self.buffers[self.used][..len]);
        }
        let sketch = pack::sketch(self.form, page);
        let (typed, size) = self.best_typed(page, &sketch);
        let plan = self.plan(page, &sketch, typed, size);
        if let Some(len) = plan.and_then(|plan| self.pack_records(page, &plan)) {
            return Coded::Packed(&self.buffers[self.used][..len]);
        }
        let len = match self.lz4_below(page, size) {
            Some(len) => Some(len),
            None if size <= LARGEST_PACKED => self.pack_typed(page, &sketch, typed),
            None => None,
        };
        match len {
            Some(len) => Coded::Packed(&self.buffers[self.used][..len]),
            None => Coded::Incompressible,
        }
    }

    /// The packed bytes of the last page that was encoded.
    #[inline]
    pub fn packed(&self, len: usize) -> &[u8] {
        &self.buffers[self.used][..len]
    }

    /// The typed packer that makes least of the page, and how much, with the byte that names it.
    fn best_typed(&self, page: &Page, sketch: &Sketch) -> (Typed, usize) {
        if let Some(step) = frame::arithmetic(self.form, page) {
            let frame = Frame::Steps { first: sketch.first[0], least: step, width: 0 };
            return (Typed::Frame(frame), 1 + frame.size());
        }
        let size = 1 + planes::size(sketch);
        let differ = sketch.differ();
        if !may_be_narrow(page, differ, size) {
            return (Typed::Planes, size);
        }
        let extent = frame::extent(self.form, page);
        let frames = [Frame::range(&extent, differ), Frame::steps(&extent, page)];
        let mut best = (Typed::Planes, size);
        for frame in frames {
            if frame.width() <= WIDEST && 1 + frame.size() < best.1 {
                best = (Typed::Frame(frame), 1 + frame.size());
            }
        }
        best
    }

    /// How to pack the page as records, where that makes clearly less of it than `size`. LZ4 might save a third more of
    /// many such pages, but at ten times the price, and is not tried.
    fn plan(&mut self, page: &Page, sketch: &Sketch, typed: Typed, size: usize) -> Option<Plan> {
        let numbers = matches!(typed, Typed::Frame(_)) && size <= PAGE_SIZE / 2;
        if size <= TIGHT || numbers || is_text(sketch) {
            return None;
        }
        // Among pages of another kind a look now and then is enough.
        self.recordless = self.recordless.wrapping_add(1);
        if self.recordless > PATIENCE && !self.recordless.is_multiple_of(SELDOM) {
            return None;
        }
        let most = (size / 8 * 7).min(LARGEST_PACKED);
        let plan = records::plan(self.form, page, most).filter(|plan| plan.size() < most)?;
        self.recordless = 0;
        Some(plan)
    }

    /// Keeps a short head; `None` where the page has more than that.
    fn pack_head(&mut self, page: &Page) -> Option<usize> {
        // From the end: most pages have something there.
        let is_zero = |line: &[u8]| line.iter().fold(0, |any, byte| any | byte) == 0;
        if !page[SHORT..].rchunks_exact(LINE).all(is_zero) {
            return None;
        }
        let len = page[..SHORT].iter().rposition(|byte| *byte != 0)? + 1;
        self.used = 0;
        let (code, out) = self.buffers[0].split_first_mut()?;
        *code = HEAD;
        out[..2].copy_from_slice(&(len as u16).to_le_bytes());
        out[2..2 + len].copy_from_slice(&page[..len]);
        Some(3 + len)
    }

    fn pack_records(&mut self, page: &Page, plan: &Plan) -> Option<usize> {
        self.used = 0;
        let (code, out) = self.buffers[0][..LARGEST_PACKED].split_first_mut()?;
        *code = RECORDS;
        Some(1 + records::pack(self.form, page, plan, out)?)
    }

    fn pack_typed(&mut self, page: &Page, sketch: &Sketch, typed: Typed) -> Option<usize> {
        self.used = 0;
        let (code, out) = self.buffers[0][..LARGEST_PACKED].split_first_mut()?;
        let (name, len) = match typed {
            Typed::Planes => (PLANES, planes::pack(self.form, page, sketch, out)),
            Typed::Frame(frame) => {
                let name = if matches!(frame, Frame::Range { .. }) { RANGE } else { STEPS };
                (name, frame::pack(self.form, page, frame, out))
            }
        };
        *code = name;
        Some(1 + len?)
    }

    /// Packs by LZ4 where that is worth it beside a typed packer's `size`.
    fn lz4_below(&mut self, page: &Page, size: usize) -> Option<usize> {
        if size <= TIGHT {
            return None;
        }
        let most = match size {
            // Not packed otherwise: any gain counts.
            _ if size > LARGEST_PACKED => LARGEST_PACKED,
            _ => (size - WORTH).min(size / 8 * 7),
        };
        let try_it = self.gate.ask(page, size <= LARGEST_PACKED, most)?;
        let mut len = self.lz4(page, try_it.shuffled, most, 0);
        self.used = 0;
        let mut shuffled = try_it.shuffled;
        if try_it.both {
            let other = self.lz4(page, !shuffled, len.map_or(most, |len| len - 1), 1);
            if other.is_some() {
                (len, shuffled, self.used) = (other, !shuffled, 1);
            }
        }
        self.gate.tell(&try_it, len.map(|_| shuffled));
        len
    }

    /// Packs by LZ4 into one of the buffers, in at most so many bytes.
    fn lz4(&mut self, page: &Page, shuffled: bool, most: usize, buffer: usize) -> Option<usize> {
        let (out, mixed) = self.buffers.split_at_mut(MIXED);
        let (code, out) = out[buffer][..most].split_first_mut()?;
        *code = if shuffled { SHUFFLED } else { LZ4 };
        let source = if shuffled {
            shuffle(self.form, page, &mut mixed[0]);
            &mixed[0]
        } else {
            page
        };
        Some(1 + self.lz4.compress(source, out)?)
    }

    /// The compressor's table, the buffers and the decoder. What cold forms take comes to it.
    pub const FOOTPRINT: usize = (16 << 10) + 4 * PAGE_SIZE + Decoder::FOOTPRINT;
}

/// Whether a page that is packed by this code is in a cold form.
pub fn is_cold(code: u8) -> bool {
    (ZSTD..=DICTIONARY_SHUFFLED).contains(&code)
}

/// Whether packed bytes can only be read with a dictionary.
pub(crate) fn needs_dictionary(packed: &[u8]) -> bool {
    matches!(packed.first(), Some(&(DICTIONARY | DICTIONARY_SHUFFLED)))
}

/// Whether all bytes are ASCII, with letters and others in every place. Records find little in text, LZ4 much.
fn is_text(sketch: &Sketch) -> bool {
    const TOP: u64 = 0x8080_8080_8080_8080;
    const LETTER: u64 = TOP >> 1;
    let (first, differ) = (sketch.first[0], sketch.differ());
    (first | differ) & TOP == 0 && differ & LETTER == LETTER
}

/// Whether a range or a sequence may make less of the page than `size`: by a few words and steps, which can only be
/// closer together than all are.
fn may_be_narrow(page: &Page, differ: u64, size: usize) -> bool {
    const SAMPLES: usize = 8;
    let word = |n: usize| u64::from_le_bytes(std::array::from_fn(|b| page[n * 8 + b])) as i64;
    let (first, step) = (word(0), word(1).wrapping_sub(word(0)));
    let mut extremes = [first, first, step, step];
    for n in 1..SAMPLES {
        let at = n * (WORDS - 2) / (SAMPLES - 1);
        let (word, next) = (word(at), word(at + 1));
        let step = next.wrapping_sub(word);
        extremes[0] = extremes[0].min(word);
        extremes[1] = extremes[1].max(word);
        extremes[2] = extremes[2].min(step);
        extremes[3] = extremes[3].max(step);
    }
    let bits = |low: i64, high: i64| 64 - (high.wrapping_sub(low) as u64).leading_zeros();
    let range = bits(extremes[0], extremes[1]).saturating_sub(differ.trailing_zeros());
    let width = range.min(bits(extremes[2], extremes[3]));
    width <= WIDEST && (width as usize + 1) * WORDS / 8 < size / 16 * 15
}

/// The codecs whose packed bytes are all that `decode` needs. Saved pools hold pages of these, so a number keeps its
/// meaning for good.
pub const LASTING: std::ops::RangeInclusive<u8> = LZ4..=RECORDS;

/// Whether packed bytes say all about their page, to any later version as well.
pub fn lasts(packed: &[u8]) -> bool {
    packed.first().is_some_and(|code| LASTING.contains(code))
}

/// The word a page repeats, if it does. Most pages are told from their first words.
pub(crate) fn same_filled(page: &Page) -> Option<u64> {
    let word_at = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| page[at + i]));
    let word = word_at(0);
    // The neighbour first: it comes with the same cache line, the end of the page does not.
    if word != word_at(8) || word != word_at(PAGE_SIZE - 8) {
        return None;
    }
    let same = page.chunks_exact(64).all(|line| {
        // Eight words at once, without a branch between them.
        line.chunks_exact(8)
            .fold(0, |diff, bytes| diff | (word ^ u64::from_ne_bytes(std::array::from_fn(|i| bytes[i]))))
            == 0
    });
    same.then_some(word)
}

pub fn fill(word: u64, into: &mut Page) {
    for bytes in into.chunks_exact_mut(8) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
}

#[cfg(test)]
mod coldtests;
#[cfg(test)]
mod hostile;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0
//! Owns: the forms of pages that stay cold: ZSTD of the page or of its shuffle, with or without a dictionary. Callers:
//! whoever packs stored pages again in the background, with a recoder of its own; never a put. Locks: none.
//! Law: as the codec's. Nothing is allocated but in constructors, `train` and `adopt`.
//!
//! LZ4 and the typed packers unpack in 0.5 to 2.5 microseconds, ZSTD in 2.5 to 5: a page that comes back pays some 3
//! more, and the thread that packs it 20 to 60. An eighth of its slot and one step of the slots' sizes are worth that: with a
//! sixteenth as the bound, a table of flights took 0.6 % less for a seventh more pages that are slow to come back. Levels
//! beyond this one take three to ten times as long for a twentieth; ZSTD of bit planes saves 3 % of that table, and of the
//! differences of words 5 % of a Python heap where no dictionary does more.

use super::dictionaries::Dictionaries;
use super::{Codec, Coded, DICTIONARY, DICTIONARY_SHUFFLED, ZSTD, ZSTD_SHUFFLED, is_cold};
use crate::class::{LARGEST_PACKED, class_of, slot_size};
use std::sync::Arc;
use tmem_sys::pack::Form;
use tmem_sys::pack::shuffle::shuffle;
use tmem_sys::zstd::{self, Compressor, Dictionary, Digest};
use tmem_sys::{Errno, PAGE_SIZE, Page, Table};

const LEVEL: i32 = 6;
/// A new form must save this many bytes of the slot, and this part.
const LEAST_SAVED: usize = 64;
const PART_SAVED: usize = 8;
/// Dictionaries have this many bytes for each page they are for, within these bounds: what a page gains by a larger one
/// falls fast.
const SIZE_PER_PAGE: usize = 16;
const SMALLEST: usize = 16 << 10;
/// One sample in so many is kept back to judge by.
const HELD_BACK: usize = 4;
/// Fewer pages of one order teach nothing.
const LEAST_SAMPLES: usize = 64;
/// A dictionary must save its own size so many times over.
const WORTH: usize = 2;
/// Pages of one form that fared better in one order of bytes, until the other is tried only now and then.
const SURE: i8 = 8;
const SELDOM: u32 = 16;
/// Present forms that are told apart: raw, and the codes of the codec.
const FORMS: usize = ZSTD as usize;

/// Pages of one form in a row for which it was not worth it, until others of that form are passed over; ever more of them, up
/// to 2 to the last.
const PATIENCE: u32 = 8;
const LONGEST: u32 = 4;

/// What pages of one present form prefer.
#[derive(Clone, Copy, Default)]
struct Leaning {
    /// Above zero for the shuffle.
    shuffled: i8,
    pages: u32,
    /// Pages in a row that stayed as they were.
    fails: u32,
    /// Pages left to pass over.
    rest: u32,
}

impl Leaning {
    /// Whether to try the page as it is, and its shuffle; `None` for a page to pass over.
    fn ask(&mut self) -> Option<[bool; 2]> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        self.pages = self.pages.wrapping_add(1);
        let both = self.shuffled.abs() < SURE || self.pages.is_multiple_of(SELDOM);
        Some([both || self.shuffled < 0, both || self.shuffled > 0])
    }

    fn prefer(&mut self, shuffled: bool) {
        self.shuffled = (self.shuffled + if shuffled { 1 } else { -1 }).clamp(-SURE, SURE);
    }

    fn tell(&mut self, worth: bool) {
        self.fails = if worth { 0 } else { self.fails.saturating_add(1) };
        self.rest = match self.fails.checked_sub(PATIENCE) {
            Some(beyond) => 1 << beyond.min(LONGEST),
            None => 0,
        };
    }
}

/// A dictionary to pack with, and its name.
struct Ready {
    id: u8,
    digest: Digest,
}

/// Packs pages in cold forms.
pub struct Recoder {
    compressor: Compressor,
    dictionaries: Arc<Dictionaries>,
    /// For pages as they are, and for their shuffles.
    ready: [Option<Ready>; 2],
    leanings: [Leaning; FORMS],
    /// A buffer for each order's packed bytes, and the shuffled page.
    buffers: Table<Page>,
    form: Form,
    /// What is counted with the dictionaries.
    charged: usize,
}

const MIXED: usize = 2;

impl Recoder {
    /// A recoder that packs with the newest dictionaries there are.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(dictionaries: Arc<Dictionaries>) -> Result<Recoder, Errno> {
        let mut made = Recoder {
            compressor: Compressor::new(LEVEL)?,
            dictionaries,
            ready: [None, None],
            leanings: [Leaning::default(); FORMS],
            buffers: Table::new(MIXED + 1)?,
            form: Form::best(),
            charged: 0,
        };
        made.adopt()?;
        Ok(made)
    }

    /// Takes up the newest dictionaries.
    ///
    /// # Errors
    /// `ENOMEM`; it then packs with those it has.
    pub fn adopt(&mut self) -> Result<(), Errno> {
        let made = (|| {
            for shuffled in [false, true] {
                let Some((id, dictionary)) = self.dictionaries.newest(shuffled) else { continue };
                let ready = &mut self.ready[usize::from(shuffled)];
                if ready.as_ref().is_none_or(|ready| ready.id != id) {
                    *ready = Some(Ready { id, digest: Digest::new(dictionary, LEVEL)? });
                }
            }
            Ok(())
        })();
        let digests = self.ready.iter().flatten().map(|ready| ready.digest.footprint());
        let now = self.compressor.footprint() + (MIXED + 1) * PAGE_SIZE + digests.sum::<usize>();
        self.dictionaries.charge(now);
        self.dictionaries.discharge(std::mem::replace(&mut self.charged, now));
        made
    }

    /// The page in a cold form, if that is worth it. `packed` is its present form, `None` where it is kept as it is. A page in a
    /// cold form is left in it.
    pub fn recode(&mut self, page: &Page, packed: Option<&[u8]>) -> Option<&[u8]> {
        let (code, len) =
            packed.map_or((0, PAGE_SIZE), |packed| (packed.first().copied().unwrap_or(0), packed.len()));
        if is_cold(code) || len == 0 {
            return None;
        }
        let most = worth(len)?;
        let orders = self.leanings.get_mut(usize::from(code))?.ask()?;
        let sizes = [false, true]
            .map(|shuffled| if orders[usize::from(shuffled)] { self.pack(page, shuffled) } else { None });
        let shuffled = better(sizes);
        let len = sizes[usize::from(shuffled)].filter(|len| *len <= most);
        let leaning = &mut self.leanings[usize::from(code)];
        if orders == [true, true] && sizes != [None, None] {
            leaning.prefer(shuffled);
        }
        leaning.tell(len.is_some());
        Some(&self.buffers[usize::from(shuffled)][..len?])
    }

    /// Makes dictionaries of a sample of cold pages, and keeps those that pay for themselves on so many `pages` like them. How
    /// many were kept. Takes memory from the heap, for a tenth of a second or so of work.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn train(&mut self, samples: &[Page], pages: usize) -> Result<usize, Errno> {
        let (mut kept, mut codec) = (0, Codec::new()?);
        // How each page is packed by a put, and its better order where a cold form is worth it.
        let known: Vec<(usize, Option<bool>)> =
            samples.iter().map(|page| self.judge(&mut codec, page)).collect();
        for shuffled in [false, true] {
            if !self.dictionaries.has_room() {
                break;
            }
            let (mut learn, mut judge) = (Vec::new(), Vec::new());
            for (n, (page, (len, order))) in samples.iter().zip(&known).enumerate() {
                match *order == Some(shuffled) {
                    true if n % HELD_BACK == 0 => judge.push((self.ordered(page, shuffled), *len)),
                    true => learn.push(self.ordered(page, shuffled)),
                    false => {}
                }
            }
            let size = (pages * SIZE_PER_PAGE).clamp(SMALLEST, zstd::LARGEST_DICTIONARY);
            if learn.len() < LEAST_SAMPLES {
                continue;
            }
            let made = zstd::train(&learn, size).and_then(|bytes| Dictionary::new(&bytes).ok());
            let Some(dictionary) = made.map(Arc::new) else { continue };
            let saved = self.saving(&judge, shuffled, &dictionary)? / samples.len().div_ceil(HELD_BACK);
            if saved * pages >= WORTH * dictionary.footprint() {
                kept += usize::from(self.dictionaries.add(dictionary, shuffled).is_some());
            }
        }
        self.adopt()?;
        Ok(kept)
    }

    /// A page's size as a put packs it, and in which order of bytes it packs better in a cold form that is worth it.
    fn judge(&mut self, codec: &mut Codec, page: &Page) -> (usize, Option<bool>) {
        let len = match codec.encode(page, true) {
            Coded::Same(_) => return (0, None),
            Coded::Packed(bytes) => bytes.len(),
            Coded::Incompressible => PAGE_SIZE,
        };
        let Some(most) = worth(len) else { return (len, None) };
        let sizes = [false, true].map(|shuffled| self.pack(page, shuffled));
        let shuffled = better(sizes);
        (len, sizes[usize::from(shuffled)].filter(|len| *len <= most).map(|_| shuffled))
    }

    /// Bytes of slots that a dictionary saves on pages in this order, beside what is ready.
    fn saving(
        &mut self,
        pages: &[(Page, usize)],
        shuffled: bool,
        dictionary: &Arc<Dictionary>,
    ) -> Result<usize, Errno> {
        let digest = Digest::new(dictionary.clone(), LEVEL)?;
        let mut out = [0; LARGEST_PACKED];
        let present = self.ready[usize::from(shuffled)].as_ref().map(|ready| &ready.digest);
        let mut slot = |digest: Option<&Digest>, page: &Page, len: usize| {
            let packed = self.compressor.compress(page, digest, &mut out).map(|len| len + 2);
            slot_size(class_of(
                packed.filter(|packed| worth(len).is_some_and(|most| *packed <= most)).unwrap_or(len),
            ))
        };
        let saves = |(page, len): &(Page, usize)| {
            slot(present, page, *len).saturating_sub(slot(Some(&digest), page, *len))
        };
        Ok(pages.iter().map(saves).sum())
    }

    fn ordered(&self, page: &Page, shuffled: bool) -> Page {
        let mut ordered = *page;
        if shuffled {
            shuffle(self.form, page, &mut ordered);
        }
        ordered
    }

    /// Packs a page in one order into that order's buffer; the length.
    fn pack(&mut self, page: &Page, shuffled: bool) -> Option<usize> {
        let (out, mixed) = self.buffers.split_at_mut(MIXED);
        let source = if shuffled {
            shuffle(self.form, page, &mut mixed[0]);
            &mixed[0]
        } else {
            page
        };
        let out = &mut out[usize::from(shuffled)][..LARGEST_PACKED];
        let ready = self.ready[usize::from(shuffled)].as_ref();
        let head = match (ready, shuffled) {
            (None, false) => [ZSTD, 0],
            (None, true) => [ZSTD_SHUFFLED, 0],
            (Some(ready), false) => [DICTIONARY, ready.id],
            (Some(ready), true) => [DICTIONARY_SHUFFLED, ready.id],
        };
        let names = 1 + usize::from(ready.is_some());
        out[..names].copy_from_slice(&head[..names]);
        let len = self.compressor.compress(source, ready.map(|ready| &ready.digest), &mut out[names..])?;
        Some(names + len)
    }
}

#[cfg(test)]
impl Recoder {
    /// The page in both orders, whether that pays or not.
    pub(super) fn pack_both(&mut self, page: &Page) -> Vec<Vec<u8>> {
        let mut both = [false, true].map(|shuffled| {
            self.pack(page, shuffled).map(|len| self.buffers[usize::from(shuffled)][..len].to_vec())
        });
        both.iter_mut().filter_map(Option::take).collect()
    }
}

impl Drop for Recoder {
    fn drop(&mut self) {
        self.dictionaries.discharge(self.charged);
    }
}

/// Of the page's sizes as it is and shuffled, whether the second is better.
fn better(sizes: [Option<usize>; 2]) -> bool {
    match sizes {
        [Some(plain), Some(shuffled)] => shuffled < plain,
        [plain, _] => plain.is_none(),
    }
}

/// The most bytes that a form may have to be worth it beside a present one of `len`.
fn worth(len: usize) -> Option<usize> {
    let slot = slot_size(class_of(len));
    let most = slot.checked_sub(LEAST_SAVED.max(slot / PART_SAVED))?;
    // Down to a whole slot: what is between two takes the larger.
    let class = class_of(most.clamp(1, LARGEST_PACKED));
    let fits = if slot_size(class) <= most { slot_size(class) } else { slot_size(class.checked_sub(1)?) };
    Some(fits)
}

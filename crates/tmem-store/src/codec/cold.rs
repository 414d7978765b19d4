// SPDX-License-Identifier: Apache-2.0
//! Owns: the forms of pages that stay cold: ZSTD of the page or of its shuffle, with or without a dictionary. Callers:
//! whoever packs stored pages again in the background, with a recoder of its own; never a put. Locks: none.
//! Law: as the codec's. Nothing is allocated but in constructors, `train` and `adopt`.
//!
//! LZ4 and the typed packers unpack in 0.5 to 2.5 microseconds, ZSTD in 2.5 to 5: a page that comes back pays some 3
//! more, once, and the thread that packs it 20 to 60. That is worth a sixteenth of the page's slot, and one step of the slots'
//! sizes: less would be lost in rounding. Higher levels than this take ten times as long for a twentieth.

use super::dictionaries::Dictionaries;
use super::{DICTIONARY, DICTIONARY_SHUFFLED, ZSTD, ZSTD_SHUFFLED, is_cold};
use crate::class::{LARGEST_PACKED, class_of, slot_size};
use std::sync::Arc;
use tmem_sys::pack::Form;
use tmem_sys::pack::shuffle::shuffle;
use tmem_sys::zstd::{self, Compressor, Dictionary, Digest};
use tmem_sys::{Errno, PAGE_SIZE, Page, Table};

const LEVEL: i32 = 6;
/// A new form must save this many bytes of the slot, and this part.
const LEAST_SAVED: usize = 64;
const PART_SAVED: usize = 16;
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

/// What pages of one present form prefer.
#[derive(Clone, Copy, Default)]
struct Leaning {
    /// Above zero for the shuffle.
    shuffled: i8,
    pages: u32,
}

impl Leaning {
    /// Whether to try the page as it is, and its shuffle.
    fn orders(&mut self) -> [bool; 2] {
        self.pages = self.pages.wrapping_add(1);
        let both = self.shuffled.abs() < SURE || self.pages.is_multiple_of(SELDOM);
        [both || self.shuffled < 0, both || self.shuffled > 0]
    }

    fn tell(&mut self, shuffled: bool) {
        self.shuffled = (self.shuffled + if shuffled { 1 } else { -1 }).clamp(-SURE, SURE);
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
        made.dictionaries.begin();
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
        let leaning = self.leanings.get_mut(usize::from(code))?;
        let orders = leaning.orders();
        let sizes = [false, true]
            .map(|shuffled| if orders[usize::from(shuffled)] { self.pack(page, shuffled) } else { None });
        let shuffled = match sizes {
            [Some(plain), Some(other)] => other < plain,
            [plain, _] => plain.is_none(),
        };
        if orders == [true, true] && sizes != [None, None] {
            self.leanings[usize::from(code)].tell(shuffled);
        }
        let len = sizes[usize::from(shuffled)].filter(|len| *len <= most)?;
        Some(&self.buffers[usize::from(shuffled)][..len])
    }

    /// Makes dictionaries of a sample of cold pages, and keeps those that pay for themselves on so many `pages` like them. How
    /// many were kept. Takes memory from the heap, for a tenth of a second or so of work.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn train(&mut self, samples: &[Page], pages: usize) -> Result<usize, Errno> {
        let mut kept = 0;
        let prefers = self.preferences(samples);
        let held_back = samples.len().div_ceil(HELD_BACK).max(1);
        for shuffled in [false, true] {
            let mut sets = [Vec::new(), Vec::new()];
            for (n, _) in prefers.iter().enumerate().filter(|(_, prefers)| **prefers == Some(shuffled)) {
                sets[usize::from(n % HELD_BACK == 0)].push(self.ordered(&samples[n], shuffled));
            }
            let [learn, judge] = sets;
            if learn.len() < LEAST_SAMPLES || !self.dictionaries.has_room() {
                continue;
            }
            let size = (pages * SIZE_PER_PAGE).clamp(SMALLEST, zstd::LARGEST_DICTIONARY);
            let Some(dictionary) = zstd::train(&learn, size).and_then(|bytes| Dictionary::new(&bytes).ok())
            else {
                continue;
            };
            let dictionary = Arc::new(dictionary);
            let saved = self.saving(&judge, shuffled, &dictionary)?;
            if saved / held_back * pages >= WORTH * dictionary.footprint() {
                kept += usize::from(self.dictionaries.add(dictionary, shuffled).is_some());
            }
        }
        self.adopt()?;
        Ok(kept)
    }

    /// In which order of bytes each page packs better, if it packs.
    fn preferences(&mut self, pages: &[Page]) -> Vec<Option<bool>> {
        let of = |page: &Page| match [false, true].map(|shuffled| self.pack(page, shuffled)) {
            [None, None] => None,
            [Some(plain), Some(other)] => Some(other < plain),
            [plain, _] => Some(plain.is_none()),
        };
        pages.iter().map(of).collect()
    }

    /// Bytes of slots that a dictionary saves on pages in this order, beside what is ready.
    fn saving(
        &mut self,
        pages: &[Page],
        shuffled: bool,
        dictionary: &Arc<Dictionary>,
    ) -> Result<usize, Errno> {
        let digest = Digest::new(dictionary.clone(), LEVEL)?;
        let mut out = [0; LARGEST_PACKED];
        let mut slot = |digest: Option<&Digest>, page: &Page| {
            let len = self.compressor.compress(page, digest, &mut out).map_or(PAGE_SIZE, |len| len + 2);
            slot_size(class_of(len))
        };
        let present = self.ready[usize::from(shuffled)].as_ref().map(|ready| &ready.digest);
        Ok(pages.iter().map(|page| slot(present, page).saturating_sub(slot(Some(&digest), page))).sum())
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

/// The most bytes that a form may have to be worth it beside a present one of `len`.
fn worth(len: usize) -> Option<usize> {
    let slot = slot_size(class_of(len));
    let most = slot.checked_sub(LEAST_SAVED.max(slot / PART_SAVED))?;
    // Down to a whole slot: what is between two takes the larger.
    let class = class_of(most.clamp(1, LARGEST_PACKED));
    let fits = if slot_size(class) <= most { slot_size(class) } else { slot_size(class.checked_sub(1)?) };
    Some(fits)
}

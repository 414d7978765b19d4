// SPDX-License-Identifier: Apache-2.0
//! Owns: whether LZ4 is tried on a page, and in which order of bytes. Callers: `codec`. Law: what it answers follows
//! from the pages it was asked about and nothing else.
//!
//! LZ4 finds repeated bytes. Where a sample of a byte place shows nearly as many values as it has bytes, there is
//! nothing to find, and an attempt would cost a microsecond or more for nothing. Places of few values may repeat, and
//! so may bytes that equal their neighbours, however many values they have.
//! A sample can be wrong either way, so outcomes count too: pages are put into classes by how many places look like
//! noise, neighbours are of one class and fare alike. A class that fails rests, ever longer; one that was
//! not promising is tried all the same now and then.

use tmem_sys::Page;
use tmem_sys::pack::{Sketch, WORDS};

const PLACES: usize = 8;
const SAMPLES: usize = 32;
/// Values among 32 bytes at random are 30; fewer than 24 only once in many thousands of pages.
const NOISE: u32 = 24;
/// Values from which on a place looks like text.
const MANY: u32 = 7;
/// An unpromising page in so many is tried.
const PROBE: u8 = 64;
/// A successful attempt in so many is made in both orders.
const COMPARE: u8 = 16;
/// The longest rest: 2 to this many pages.
const LONGEST: u32 = 5;
/// Of the sample's bytes, so many equal a neighbour or lie in a word that repeats: a page like that may shrink. In
/// noise it is one.
const REPEATS: u32 = (SAMPLES * PLACES / 12) as u32;
const KINDS: usize = 3;
const CLASSES: usize = 2 * KINDS * (PLACES + 1);

/// What is known of a class of pages.
#[derive(Clone, Copy, Default)]
struct Class {
    /// Failures in a row.
    fails: u8,
    /// Pages left to pass over.
    rest: u8,
    /// Unpromising pages since one was tried.
    unpromising: u8,
    /// Attempts since both orders were compared.
    attempts: u8,
    /// An unpromising page was packed: the sample misses something.
    trusted: bool,
    known: bool,
    shuffled: bool,
}

/// An attempt to make.
pub(super) struct Try {
    class: usize,
    pub shuffled: bool,
    /// In both orders, the shorter counts.
    pub both: bool,
    /// In the other order, if this fails.
    pub or_else: bool,
}

pub(super) struct Gate {
    classes: [Class; CLASSES],
}

impl Gate {
    pub fn new() -> Gate {
        Gate { classes: [Class::default(); CLASSES] }
    }

    /// Whether to try LZ4 on a page of which it must make `most` bytes or less; `packed` where a typed packer can do
    /// without it. That LZ4 was not better than another says nothing of pages that no other packs.
    pub fn ask(&mut self, page: &Page, sketch: &Sketch, packed: bool, most: usize) -> Option<Try> {
        let (values, repeats) = sample(page, sketch);
        let noise = values.iter().filter(|v| **v >= NOISE).count();
        let text = values.iter().all(|v| *v >= MANY);
        let unlike = estimate(&values) > most;
        let kind = if unlike && repeats >= REPEATS { 2 } else { usize::from(text) };
        let at = noise + (kind + usize::from(packed) * KINDS) * (PLACES + 1);
        let class = &mut self.classes[at];
        if class.rest > 0 {
            class.rest -= 1;
            return None;
        }
        if unlike && kind != 2 && !class.trusted {
            class.unpromising += 1;
            if class.unpromising < PROBE {
                return None;
            }
            class.unpromising = 0;
        }
        if !class.known {
            (class.known, class.shuffled) = (true, kind == 0);
        }
        class.attempts += 1;
        let both = class.attempts >= COMPARE;
        if both {
            class.attempts = 0;
        }
        Some(Try { class: at, shuffled: class.shuffled, both, or_else: class.fails == 0 })
    }

    /// The outcome of an attempt: the order of bytes that was kept, if any was.
    pub fn tell(&mut self, made: &Try, kept: Option<bool>) {
        let class = &mut self.classes[made.class];
        class.trusted = kept.is_some();
        match kept {
            Some(shuffled) => {
                class.shuffled = shuffled;
                class.fails = 0;
            }
            None => {
                // One failure among successes is no reason to rest.
                class.rest = ((1u32 << u32::from(class.fails).min(LONGEST)) - 1) as u8;
                class.fails = class.fails.saturating_add(1);
            }
        }
    }
}

/// How many values each byte place has in a sample of words, and how many of their bytes equal the one before or lie
/// in a word that equals one of the two before. The distances are odd, so that records of any even length show all
/// their fields.
fn sample(page: &Page, sketch: &Sketch) -> ([u32; PLACES], u32) {
    let words = page.as_chunks::<8>().0;
    let word = |at: usize| u64::from_le_bytes(words[at % WORDS]);
    let mut seen = [[0u64; 4]; PLACES];
    let (mut values, mut repeats) = ([1; PLACES], 0);
    for n in 0..SAMPLES {
        let at = (n * 207) % WORDS;
        let sampled = word(at);
        let same = sampled == word(at + WORDS - 1) || sampled == word(at + WORDS - 2);
        repeats += if same { PLACES as u32 } else { zero_bytes(sampled ^ sampled.rotate_left(8)) };
        for (byte, seen) in sampled.to_le_bytes().into_iter().zip(&mut seen) {
            seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }
    let differ = sketch.differ();
    for place in (0..PLACES).filter(|place| differ >> (8 * place) & 0xff != 0) {
        values[place] = seen[place].iter().map(|w| w.count_ones()).sum();
    }
    (values, repeats)
}

fn zero_bytes(word: u64) -> u32 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    (!(((word & LOW) + LOW) | word | LOW)).count_ones()
}

/// Bytes to which LZ4 may get the page at best, were all values of a place equally frequent.
fn estimate(values: &[u32; PLACES]) -> usize {
    values.iter().map(|v| if *v >= NOISE { WORDS } else { (v.ilog2() as usize * WORDS).div_ceil(8) }).sum()
}

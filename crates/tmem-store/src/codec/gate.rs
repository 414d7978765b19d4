// SPDX-License-Identifier: Apache-2.0
//! Owns: whether LZ4 is tried on a page, and in which order of bytes. Callers: `codec`. Law: what it answers follows
//! from the pages it was asked about and nothing else.
//!
//! LZ4 finds repeated bytes. Where a sample of a byte place shows nearly as many values as it has bytes, there is
//! nothing to find, and an attempt would cost a microsecond or more for nothing. Places of few values may repeat.
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
const CLASSES: usize = 2 * (PLACES + 1);

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

#[derive(Default)]
pub(super) struct Gate {
    classes: [Class; CLASSES],
}

impl Gate {
    /// Whether to try LZ4 on a page of which it must make `most` bytes or less.
    pub fn ask(&mut self, page: &Page, sketch: &Sketch, most: usize) -> Option<Try> {
        let values = sample(page, sketch);
        let noise = values.iter().filter(|v| **v >= NOISE).count();
        let text = values.iter().all(|v| *v >= MANY);
        let at = noise + if text { PLACES + 1 } else { 0 };
        let class = &mut self.classes[at];
        if class.rest > 0 {
            class.rest -= 1;
            return None;
        }
        if estimate(&values) > most && !class.trusted {
            class.unpromising += 1;
            if class.unpromising < PROBE {
                return None;
            }
            class.unpromising = 0;
        }
        if !class.known {
            (class.known, class.shuffled) = (true, !text);
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

/// How many values each byte place has in a sample of words, taken at odd distances so that records of any even
/// length show all their fields.
fn sample(page: &Page, sketch: &Sketch) -> [u32; PLACES] {
    let mut seen = [[0u64; 4]; PLACES];
    let differ = sketch.differ();
    let mut values = [1; PLACES];
    let varying = |place: &usize| differ >> (8 * place) & 0xff != 0;
    for n in 0..SAMPLES {
        let at = (n * 207) % WORDS * 8;
        for (place, seen) in seen.iter_mut().enumerate() {
            let byte = page[at + place];
            seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }
    for place in (0..PLACES).filter(varying) {
        values[place] = seen[place].iter().map(|w| w.count_ones()).sum();
    }
    values
}

/// Bytes to which LZ4 may get the page at best, were all values of a place equally frequent.
fn estimate(values: &[u32; PLACES]) -> usize {
    values.iter().map(|v| if *v >= NOISE { WORDS } else { (v.ilog2() as usize * WORDS).div_ceil(8) }).sum()
}

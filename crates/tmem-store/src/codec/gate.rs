// SPDX-License-Identifier: Apache-2.0
//! Owns: whether LZ4 is tried on a page, and in which order of bytes. Callers: `codec`. Law: what it answers follows
//! from the pages it was asked about and nothing else.
//!
//! LZ4 finds repeated bytes. Where hardly two bytes of a sample of one byte place are alike, there is nothing to find,
//! and an attempt would cost a microsecond or more for nothing. Places of few values may repeat, and so may bytes
//! that equal their neighbours, however many values they have.
//! A sample can be wrong either way, so outcomes count too: pages are put into classes by how many places look like
//! noise, neighbours are of one class and fare alike. A class that fails rests, ever longer; one that was
//! not promising is tried all the same now and then.

use tmem_sys::Page;
use tmem_sys::pack::WORDS;

const PLACES: usize = 8;
const SAMPLES: usize = 32;
/// Each sample is compared with so many others.
const OTHERS: usize = 8;
/// Of the pairs of a place, one is alike in noise; more than this only once in ten thousand.
const NOISE: u32 = 6;
/// Pairs up to which a place looks like text, in which one pair in fifteen is alike.
const TEXT: u32 = 64;
/// An unpromising page in so many is tried.
const PROBE: u8 = 64;
/// A successful attempt in so many is made in both orders.
const COMPARE: u8 = 64;
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
    pub fn ask(&mut self, page: &Page, packed: bool, most: usize) -> Option<Try> {
        let alike = alike(page);
        let noise = alike.iter().filter(|a| **a <= NOISE).count();
        let unlike = estimate(&alike) > most;
        let kind = if unlike && repeats(page) >= REPEATS {
            2
        } else {
            usize::from(alike.iter().all(|a| *a <= TEXT))
        };
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
        Some(Try { class: at, shuffled: class.shuffled, both })
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
                // The other order may do; one failure among successes is no reason to rest.
                class.shuffled ^= class.fails == 0;
                class.rest = ((1u32 << u32::from(class.fails).min(LONGEST)) - 1) as u8;
                class.fails = class.fails.saturating_add(1);
            }
        }
    }
}

/// Where the samples are: at odd distances, so that records of any even length show all their fields.
#[inline(always)]
fn sampled(n: usize) -> usize {
    n * 207 % WORDS
}

/// How many pairs of bytes are alike in a sample of words, by byte place.
fn alike(page: &Page) -> [u32; PLACES] {
    const BYTES: usize = SAMPLES * PLACES;
    let words = page.as_chunks::<PLACES>().0;
    let mut bytes = [0; BYTES + OTHERS * PLACES];
    for (n, into) in bytes.as_chunks_mut().0.iter_mut().enumerate() {
        *into = words[sampled(n % SAMPLES)];
    }
    // Plain loops over bytes: sixteen at a time on any x86-64.
    let mut counts = [0u8; BYTES];
    for other in 1..=OTHERS {
        let others = &bytes[other * PLACES..other * PLACES + BYTES];
        for ((count, byte), other) in counts.iter_mut().zip(&bytes).zip(others) {
            *count += u8::from(byte == other);
        }
    }
    let mut alike = [0; PLACES];
    for counts in counts.as_chunks::<PLACES>().0 {
        for (sum, count) in alike.iter_mut().zip(counts) {
            *sum += u32::from(*count);
        }
    }
    alike
}

/// How many bytes of a sample of words equal the one before, or lie in a word that equals one of the two before.
fn repeats(page: &Page) -> u32 {
    let words = page.as_chunks().0;
    let word = |at: usize| u64::from_le_bytes(words[at % WORDS]);
    let of = |n: usize| {
        let (at, one) = (sampled(n), word(sampled(n)));
        let same = one == word(at + WORDS - 1) || one == word(at + WORDS - 2);
        if same { PLACES as u32 } else { zero_bytes(one ^ one.rotate_left(8)) }
    };
    (0..SAMPLES).map(of).sum()
}

fn zero_bytes(word: u64) -> u32 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    (!(((word & LOW) + LOW) | word | LOW)).count_ones()
}

/// Bytes to which LZ4 may get the page at best, were all values of a place equally frequent: then as many pairs are
/// alike as there are pairs to each value.
fn estimate(alike: &[u32; PLACES]) -> usize {
    let pairs = (SAMPLES * OTHERS) as u32;
    let bits = |alike: &u32| if *alike <= NOISE { 8 } else { (pairs / alike).ilog2() as usize };
    alike.iter().map(bits).sum::<usize>() * WORDS / 8
}

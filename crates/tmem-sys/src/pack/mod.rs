// SPDX-License-Identifier: Apache-2.0
//! Owns: packers for pages of numbers and pointers, and the choice of the instructions they run on.
//! Callers: the store's codec, with no lock of its own held here and nothing allocated.
//! Law: every form gives the same bytes, so what one processor packed another unpacks; `unpack` of any bytes
//! whatever stays inside source and page, and is false when they are not what `pack` makes.
//!
//! A page is 512 little-endian words in 8 groups of 64, or 64 rows of 8. `sketch` looks at it once; from that
//! follows to the byte what [`planes`] would take. [`frame`] is for integers: ranges and sequences. [`records`] are for
//! objects and rows of one size.

pub mod frame;
mod frame512;
pub mod planes;
mod planes512;
pub mod records;
mod records512;
mod records_narrow;
pub mod shuffle;
mod shuffle512;

use crate::page::{PAGE_SIZE, Page};
use std::sync::atomic::{AtomicU8, Ordering};

/// Words of a page.
pub const WORDS: usize = PAGE_SIZE / 8;
/// Words of a group, for which [`planes`] keeps one mask.
pub const GROUP: usize = 64;
pub const GROUPS: usize = WORDS / GROUP;

/// The instructions a packer runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Form {
    /// What every x86-64 has.
    Baseline = 1,
    Avx2 = 2,
    /// AVX-512 with the byte permutations (VBMI), funnel shifts (VBMI2) and bit matrices (GFNI) of Ice Lake and Zen 4.
    Avx512 = 3,
}

static BEST: AtomicU8 = AtomicU8::new(0);

impl Form {
    /// The widest form this processor has. Asked once; codecs are made outside the path of a page and ask first.
    #[inline]
    pub fn best() -> Form {
        match BEST.load(Ordering::Relaxed) {
            1 => Form::Baseline,
            2 => Form::Avx2,
            3 => Form::Avx512,
            _ => Form::ask(),
        }
    }

    #[cold]
    fn ask() -> Form {
        let avx2 = is_x86_feature_detected!("avx2");
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("gfni");
        let form = if wide && avx2 {
            Form::Avx512
        } else if avx2 {
            Form::Avx2
        } else {
            Form::Baseline
        };
        BEST.store(form as u8, Ordering::Relaxed);
        form
    }

    /// All forms that this processor can run, for tests and measurements.
    pub fn all() -> impl Iterator<Item = Form> {
        [Form::Baseline, Form::Avx2, Form::Avx512].into_iter().filter(|form| *form <= Form::best())
    }

    /// A form asked for by the caller, lowered to what the processor has: running it is sound whoever asked.
    #[inline]
    fn sound(self) -> Form {
        self.min(Form::best())
    }
}

/// Compiles one safe function body for the baseline and AVX2, and a function that picks by form: what it knows as the
/// widest is AVX2, since the compiler makes little of 512 bits by itself.
macro_rules! forms {
    ($(#[$m:meta])* $v:vis fn $name:ident($($a:ident: $t:ty),*) $(-> $r:ty)? = $body:path) => {
        $(#[$m])*
        #[inline]
        $v fn $name(form: $crate::pack::Form, $($a: $t),*) $(-> $r)? {
            #[target_feature(enable = "avx2")]
            fn avx2($($a: $t),*) $(-> $r)? { $body($($a),*) }
            match form.sound() {
                $crate::pack::Form::Baseline => $body($($a),*),
                // SAFETY: `sound` gives no form that the processor lacks.
                _ => unsafe { avx2($($a),*) },
            }
        }
    };
}
use forms;

/// Eight words of a page.
pub(crate) type Row = [u64; 8];

/// Row k of a page's 64, or of the 64-byte rows of packed bytes.
#[inline(always)]
pub(crate) fn row(bytes: &[u8], k: usize) -> Row {
    let words = bytes[k * 64..k * 64 + 64].as_chunks::<8>().0;
    std::array::from_fn(|i| u64::from_le_bytes(words[i]))
}

#[inline(always)]
pub(crate) fn set_row(bytes: &mut [u8], k: usize, row: &Row) {
    for (into, word) in bytes[k * 64..k * 64 + 64].as_chunks_mut::<8>().0.iter_mut().zip(row) {
        *into = word.to_le_bytes();
    }
}

/// A word of a page or of packed bytes; `at` counts bytes.
#[inline(always)]
pub(crate) fn word_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// What one look at a page tells: per group its first word and the bits in which others differ from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sketch {
    pub first: [u64; GROUPS],
    pub vary: [u64; GROUPS],
}

impl Sketch {
    /// The word that the page repeats, if it does.
    pub fn same(&self) -> Option<u64> {
        let first = self.first[0];
        let differ = (0..GROUPS).fold(0, |d, g| d | self.vary[g] | (self.first[g] ^ first));
        (differ == 0).then_some(first)
    }

    /// Bits in which any two words of the page differ.
    pub fn differ(&self) -> u64 {
        (0..GROUPS).fold(0, |d, g| d | self.vary[g] | (self.first[g] ^ self.first[0]))
    }
}

#[inline(always)]
fn sketch_body(page: &Page) -> Sketch {
    let mut sketch = Sketch { first: [0; GROUPS], vary: [0; GROUPS] };
    for g in 0..GROUPS {
        let first = word_at(page, g * 512);
        let mut differ = [0; 8];
        for k in 0..8 {
            let words = row(page, g * 8 + k);
            for i in 0..8 {
                differ[i] |= words[i] ^ first;
            }
        }
        sketch.first[g] = first;
        sketch.vary[g] = differ.iter().fold(0, |d, w| d | w);
    }
    sketch
}

/// Looks at a page once.
#[inline]
pub fn sketch(form: Form, page: &Page) -> Sketch {
    match form.sound() {
        // SAFETY: `sound` gives no form that the processor lacks.
        Form::Avx512 => unsafe { planes512::sketch(page) },
        form => sketch_narrow(form, page),
    }
}

forms! { fn sketch_narrow(page: &Page) -> Sketch = sketch_body }

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

// SPDX-License-Identifier: Apache-2.0
//! Pages to test with, each made from its kind and a seed alone, so that a model need only remember those.
#![allow(dead_code)] // each test binary uses some

use proptest::prelude::*;
use tmem_sys::{PAGE_SIZE, Page};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Zero,
    Same,
    /// All the same but for one byte somewhere.
    NearlySame,
    /// Packs to a few hundred bytes.
    Text,
    /// Packs to about the given number of bytes.
    Partly(u16),
    /// Does not pack.
    Noise,
}

pub fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

pub fn page(kind: Kind, seed: u64) -> Page {
    let mut next = noise(seed);
    let word = seed.wrapping_mul(0x0101_0101_0101_0101).to_ne_bytes();
    let mut page = std::array::from_fn(|i| word[i % 8]);
    match kind {
        Kind::Zero => page = [0; PAGE_SIZE],
        Kind::Same => {}
        Kind::NearlySame => page[seed as usize % PAGE_SIZE] ^= 0x80,
        Kind::Text => page.iter_mut().enumerate().for_each(|(i, b)| *b = (i as u64 / 16 * (seed + 1)) as u8),
        Kind::Partly(n) => page[..n as usize].iter_mut().for_each(|b| *b = next() as u8),
        Kind::Noise => page.iter_mut().for_each(|b| *b = next() as u8),
    }
    page
}

pub fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Zero),
        Just(Kind::Same),
        Just(Kind::NearlySame),
        Just(Kind::Text),
        (64u16..3500).prop_map(Kind::Partly),
        (64u16..3500).prop_map(Kind::Partly),
        Just(Kind::Noise),
    ]
}

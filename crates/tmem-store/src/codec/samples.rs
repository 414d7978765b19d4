// SPDX-License-Identifier: Apache-2.0
//! Pages of known kinds for the codec's tests, from a seed.

use tmem_sys::pack::WORDS;
use tmem_sys::{PAGE_SIZE, Page};

pub fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }
}

pub fn page_of(mut word: impl FnMut(usize) -> u64) -> Box<Page> {
    let mut page = Box::new([0; PAGE_SIZE]);
    for n in 0..WORDS {
        page[n * 8..n * 8 + 8].copy_from_slice(&word(n).to_le_bytes());
    }
    page
}

pub fn text(seed: u64) -> Box<Page> {
    let mut next = noise(seed);
    let words =
        ["the ", "page ", "of ", "a ", "memory, ", "store ", "and ", "packed ", "it ", "holds ", "when "];
    let mut page = Box::new([0; PAGE_SIZE]);
    let mut text =
        std::iter::repeat_with(|| words[(next() >> 32) as usize % words.len()]).flat_map(str::bytes);
    page.fill_with(|| text.next().unwrap());
    page
}

/// Objects of six words, as an interpreter has them: counts, types, links into one heap.
pub fn heap(seed: u64) -> Box<Page> {
    let mut next = noise(seed);
    page_of(|n| match n % 6 {
        0 => 1 + (next() >> 60 == 0) as u64,
        1 => 0x7f12_3456_7a80,
        2 => 0x7f12_0000_0000 + (next() >> 44 << 4),
        3 => next() >> 60,
        4 => u64::MAX,
        _ => next() * (n as u64 % 4 / 3),
    })
}

/// Pages of every form the codecs give, by number.
pub fn of_kind(kind: u64, seed: u64) -> Box<Page> {
    let mut next = noise(seed);
    match kind % 8 {
        0 => text(seed),
        1 => heap(seed),
        2 => page_of(|_| next() >> 50),
        3 => page_of(|_| next() >> 20 & 0x00ff_ff0f_f0ff),
        4 => page_of(|n| 1_700_000_000_000_000 * (n as u64 + 3) + next() % 500_000),
        5 => page_of(|_| (next() % 1000).wrapping_sub(500)),
        6 => page_of(|n| (5 - 7 * n as i64) as u64),
        _ => page_of(|n| if n % 15 < 12 { (n as u64 % 15) << 40 } else { next() >> 40 }),
    }
}

/// Text whose words are many, so that a page of it has few of them twice.
pub fn sentences(seed: u64) -> Box<Page> {
    let (mut next, mut page) = (noise(seed), Box::new([b' '; PAGE_SIZE]));
    let mut at = 0;
    while at < PAGE_SIZE {
        let word = format!("{:x}, ", (next() >> 32) % 900 * 0x1357_9bdf_0246);
        let len = word.len().min(PAGE_SIZE - at);
        page[at..at + len].copy_from_slice(&word.as_bytes()[..len]);
        at += len;
    }
    page
}

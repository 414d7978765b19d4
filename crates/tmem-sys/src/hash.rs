// SPDX-License-Identifier: Apache-2.0
//! Owns: the keyed 128-bit hash of a page, by which an unchanged page is known again. Callers: the pager, which
//! keeps the hash of what is stored. Law: two pages that differ, whatever their contents, chosen without knowledge of
//! the key, hash alike with a probability of at most 2^-126 over the keys.
//!
//! Made of carry-less products, that is of polynomials over the field of two elements. With a page's words in pairs
//! (a, b), each with its two words of key (k, l), the sum of all (a + k)(b + l) is CLNH (Lemire and Kaser, "Faster
//! 64-bit universal hashing using carry-less multiplications", 2016). Take the last pair in which two pages differ,
//! say in b: all other keys given, the sums are equal only if k is the one root of a linear equation, or there is
//! none: probability 2^-64. A second sum uses the key moved by four pairs. That pair's key there is one that the first
//! sum uses later or not at all, where both pages have the same, so that both sums are equal with 2^-128 (the Toeplitz
//! construction of UMAC). Each sum of 128 bits is then taken to 64 by two more key words,
//! low times one plus high times the other in the field of 2^64 elements: unequal sums give equal halves with 2^-64.
//! So both halves are equal with at most (2^-64 + 2^-64)^2 = 2^-126.
//!
//! Without the instruction it is XXH3, keyed by its secret: well mixed, but nothing is proved.

use crate::errno::Errno;
use crate::pack::word_at;
use crate::page::{PAGE_SIZE, Page};
use crate::random::random_bytes;
use std::arch::x86_64::*;

/// By how much the key is moved for the second sum: a register, so that all loads stay within cache lines.
const MOVED: usize = 64;
/// A word of key for each of the page, those for the second sum, two words to end each sum.
const KEY: usize = ENDS + 32;
const ENDS: usize = PAGE_SIZE + MOVED;
/// XXH3 wants a secret of at least 136 bytes; more make no better hash.
const SECRET: usize = 192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Xxh3,
    Narrow,
    Wide,
}

#[repr(align(64))]
struct Key([u8; KEY]);

/// A hash with a key of its own. Hashes of different keys have nothing to do with each other.
pub struct PageHash {
    key: Box<Key>,
    form: Form,
}

impl PageHash {
    /// A hash with a new random key.
    ///
    /// # Errors
    /// That of `getrandom`.
    pub fn new() -> Result<PageHash, Errno> {
        let mut key = Box::new(Key([0; KEY]));
        random_bytes(&mut key.0)?;
        Ok(PageHash { key, form: PageHash::best() })
    }

    /// Narrow and wide give the same.
    fn best() -> Form {
        if !is_x86_feature_detected!("pclmulqdq") {
            Form::Xxh3
        } else if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("vpclmulqdq") {
            Form::Wide
        } else {
            Form::Narrow
        }
    }

    #[inline]
    pub fn hash(&self, page: &Page) -> [u64; 2] {
        match self.form {
            Form::Xxh3 => self.hash_bytes(page),
            // SAFETY: `best` found the instructions.
            Form::Narrow => unsafe { narrow(&self.key.0, page) },
            // SAFETY: as above.
            Form::Wide => unsafe { wide(&self.key.0, page) },
        }
    }
}

impl PageHash {
    /// The hash of bytes of any length: XXH3 keyed by its secret, of which nothing is proved. Who finds by it compares the bytes.
    pub fn hash_bytes(&self, bytes: &[u8]) -> [u64; 2] {
        let h = xxhash_rust::xxh3::xxh3_128_with_secret(bytes, &self.key.0[..SECRET]);
        [h as u64, (h >> 64) as u64]
    }
}

#[target_feature(enable = "sse2,pclmulqdq")]
fn narrow(key: &[u8; KEY], page: &Page) -> [u64; 2] {
    let (mut one, mut two) = (_mm_setzero_si128(), _mm_setzero_si128());
    for at in (0..PAGE_SIZE).step_by(16) {
        // SAFETY: a pair of the page, of its key, and of the key moved: the key is longer by as much.
        let (words, k, next) = unsafe {
            (
                _mm_loadu_si128(page.as_ptr().add(at).cast()),
                _mm_loadu_si128(key.as_ptr().add(at).cast()),
                _mm_loadu_si128(key.as_ptr().add(at + MOVED).cast()),
            )
        };
        let (a, b) = (_mm_xor_si128(words, k), _mm_xor_si128(words, next));
        one = _mm_xor_si128(one, _mm_clmulepi64_si128::<0x10>(a, a));
        two = _mm_xor_si128(two, _mm_clmulepi64_si128::<0x10>(b, b));
    }
    [end(key, ENDS, one), end(key, ENDS + 16, two)]
}

#[target_feature(enable = "sse2,pclmulqdq,avx512f,vpclmulqdq")]
fn wide(key: &[u8; KEY], page: &Page) -> [u64; 2] {
    // Sums of their own for even and odd steps: a product takes longer than the next may wait.
    let mut one = [_mm512_setzero_si512(); 2];
    let mut two = one;
    for at in (0..PAGE_SIZE).step_by(128) {
        for (half, (one, two)) in one.iter_mut().zip(&mut two).enumerate() {
            let at = at + half * 64;
            // SAFETY: four pairs of the page, of their keys, and of the key moved: the key is longer by as much.
            let (words, k, next) = unsafe {
                (
                    _mm512_loadu_si512(page.as_ptr().add(at).cast()),
                    _mm512_loadu_si512(key.as_ptr().add(at).cast()),
                    _mm512_loadu_si512(key.as_ptr().add(at + MOVED).cast()),
                )
            };
            let (a, b) = (_mm512_xor_si512(words, k), _mm512_xor_si512(words, next));
            *one = _mm512_xor_si512(*one, _mm512_clmulepi64_epi128::<0x10>(a, a));
            *two = _mm512_xor_si512(*two, _mm512_clmulepi64_epi128::<0x10>(b, b));
        }
    }
    let [one, two] = [one, two].map(|[even, odd]| fold(_mm512_xor_si512(even, odd)));
    [end(key, ENDS, one), end(key, ENDS + 16, two)]
}

/// The sum of four.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold(sums: __m512i) -> __m128i {
    let left = _mm_xor_si128(_mm512_extracti32x4_epi32::<0>(sums), _mm512_extracti32x4_epi32::<1>(sums));
    let right = _mm_xor_si128(_mm512_extracti32x4_epi32::<2>(sums), _mm512_extracti32x4_epi32::<3>(sums));
    _mm_xor_si128(left, right)
}

/// Low times one word of key plus high times the next, modulo x^64 + x^4 + x^3 + x + 1.
#[inline]
#[target_feature(enable = "sse2,pclmulqdq")]
fn end(key: &[u8; KEY], at: usize, sum: __m128i) -> u64 {
    let keys = _mm_set_epi64x(word_at(key, at + 8) as i64, word_at(key, at) as i64);
    let low = _mm_clmulepi64_si128::<0x00>(sum, keys);
    let high = _mm_clmulepi64_si128::<0x11>(sum, keys);
    let product = _mm_xor_si128(low, high);
    // x^64 is x^4 + x^3 + x + 1 here: what is above goes down, and the few bits then above once more.
    let modulus = _mm_set_epi64x(0, 0b1_1011);
    let once = _mm_clmulepi64_si128::<0x01>(product, modulus);
    let twice = _mm_clmulepi64_si128::<0x01>(once, modulus);
    _mm_cvtsi128_si64(_mm_xor_si128(_mm_xor_si128(product, once), twice)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Product of two polynomials, bit by bit.
    fn times(a: u64, b: u64) -> u128 {
        (0..64).filter(|i| b & (1 << i) != 0).fold(0, |sum, i| sum ^ (u128::from(a) << i))
    }

    fn modulo(mut p: u128) -> u64 {
        for bit in (64..128).rev().filter(|bit| *bit < 128) {
            if p & (1 << bit) != 0 {
                p ^= (1 << bit) | 0b1_1011 << (bit - 64);
            }
        }
        p as u64
    }

    /// The definition, as the module's text has it.
    fn plain(key: &[u8; KEY], page: &Page) -> [u64; 2] {
        [(0, 0), (MOVED, 16)].map(|(moved, end)| {
            let sum = (0..PAGE_SIZE).step_by(16).fold(0, |sum, at| {
                let factor = |at| word_at(page, at) ^ word_at(key, at + moved);
                sum ^ times(factor(at), factor(at + 8))
            });
            let ends = [0, 8].map(|by| word_at(key, ENDS + end + by));
            modulo(times(sum as u64, ends[0])) ^ modulo(times((sum >> 64) as u64, ends[1]))
        })
    }

    #[test]
    fn all_forms_are_the_definition() {
        let mut hash = PageHash::new().unwrap();
        let mut page = [0; PAGE_SIZE];
        for round in 0..20 {
            let want = plain(&hash.key.0, &page);
            for form in
                [Form::Narrow, Form::Wide].iter().filter(|f| **f == PageHash::best() || **f == Form::Narrow)
            {
                if PageHash::best() != Form::Xxh3 {
                    hash.form = *form;
                    assert_eq!(hash.hash(&page), want, "{form:?}, round {round}");
                }
            }
            random_bytes(&mut page).unwrap();
            page[..round * 200].fill(0);
        }
    }

    #[test]
    fn every_bit_counts_and_every_key() {
        for form in [Form::Xxh3, PageHash::best()] {
            let hash = PageHash { form, ..PageHash::new().unwrap() };
            let mut page = [0; PAGE_SIZE];
            let zeros = hash.hash(&page);
            assert_ne!(PageHash::new().unwrap().hash(&page), zeros);
            let mut seen = std::collections::HashSet::from([zeros[0], zeros[1]]);
            for bit in 0..PAGE_SIZE * 8 {
                page[bit / 8] ^= 1 << (bit % 8);
                let [one, two] = hash.hash(&page);
                assert!(seen.insert(one) && seen.insert(two), "bit {bit} does not count");
                page[bit / 8] ^= 1 << (bit % 8);
            }
            assert_eq!(hash.hash(&page), zeros);
        }
    }
}

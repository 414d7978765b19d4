// SPDX-License-Identifier: Apache-2.0
//! Checks the cold forms: what they save, when a dictionary is kept, and that each decoder reads what any recoder made.

use super::samples::{heap, noise, of_kind, page_of, sentences, text};
use super::*;
use crate::class::{class_of, slot_size};

fn warm(codec: &mut Codec, page: &Page) -> Option<Vec<u8>> {
    match codec.encode(page, true) {
        Coded::Packed(bytes) => Some(bytes.to_vec()),
        _ => None,
    }
}

#[test]
fn a_cold_form_saves_what_it_must_and_comes_back() {
    let mut codec = Codec::new().unwrap();
    let mut recoder = Recoder::new(codec.dictionaries().clone()).unwrap();
    let mut taken = 0;
    for seed in 0..80 {
        let page = of_kind(seed, seed);
        let present = warm(&mut codec, &page);
        let before = present.as_ref().map_or(PAGE_SIZE, Vec::len);
        let Some(cold) = recoder.recode(&page, present.as_deref()).map(<[u8]>::to_vec) else { continue };
        taken += 1;
        let [before, after] = [before, cold.len()].map(|len| slot_size(class_of(len)));
        assert!(before - after >= 64 && before - after >= before / 8, "{before} bytes, then {after}");
        let mut back = [0; PAGE_SIZE];
        assert!(is_cold(cold[0]) && codec.decode(&cold, &mut back) && back == *page);
        assert!(!codec.decode(&cold[..cold.len() - 1], &mut back), "cut short");
        assert!(recoder.recode(&page, Some(&cold)).is_none(), "it is in a cold form already");
    }
    assert!(taken >= 20, "{taken} pages of 80");
}

#[test]
fn the_choice_follows_from_the_pages() {
    let run = || {
        let mut codec = Codec::new().unwrap();
        let mut recoder = Recoder::new(codec.dictionaries().clone()).unwrap();
        let samples: Vec<Page> = (0..300).map(|seed| *sentences(seed)).collect();
        recoder.train(&samples, 10_000).unwrap();
        let pages = (300..500).map(|seed| if seed % 3 == 0 { sentences(seed) } else { of_kind(seed, seed) });
        let recode = |page: Box<Page>| {
            let present = warm(&mut codec, &page);
            recoder.recode(&page, present.as_deref()).map(<[u8]>::to_vec)
        };
        pages.map(recode).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn noise_and_what_is_small_stay_as_they_are() {
    let mut codec = Codec::new().unwrap();
    let mut recoder = Recoder::new(codec.dictionaries().clone()).unwrap();
    let mut next = noise(3);
    assert!(recoder.recode(&page_of(|_| next()), None).is_none());
    let sequence = page_of(|n| n as u64);
    let present = warm(&mut codec, &sequence).unwrap();
    assert!(recoder.recode(&sequence, Some(&present)).is_none());
    assert!(recoder.recode(&sequence, Some(&[])).is_none(), "no page has no bytes");
    assert!(recoder.recode(&sequence, Some(&[200; 900])).is_none(), "no form has this name");
}

#[test]
fn a_dictionary_is_kept_where_it_pays_and_every_decoder_has_it() {
    let mut codec = Codec::new().unwrap();
    let shared = codec.dictionaries().clone();
    let mut decoder = Decoder::new(shared.clone()).unwrap();
    let mut recoder = Recoder::new(shared.clone()).unwrap();
    let samples: Vec<Page> = (0..400).map(|seed| *sentences(seed)).collect();
    assert_eq!(recoder.train(&samples, 20), Ok(0), "twenty pages save less than it takes");
    let before = shared.footprint();
    assert_eq!(recoder.train(&samples, 100_000), Ok(1));
    assert!(shared.footprint() > before + (16 << 10), "it is counted");
    let page = sentences(1000);
    let present = warm(&mut codec, &page).unwrap();
    let cold = recoder.recode(&page, Some(&present)).unwrap().to_vec();
    assert_eq!(cold[..2], [DICTIONARY, 0]);
    let without = Recoder::new(Dictionaries::new()).unwrap().recode(&page, Some(&present)).map(<[u8]>::len);
    assert!(without.is_none_or(|len| cold.len() < len - 64), "{} bytes and {without:?} without", cold.len());
    let mut back = [0; PAGE_SIZE];
    assert!(decoder.decode(&cold, &mut back) && back == *page);
    let mut stranger = Decoder::new(Dictionaries::new()).unwrap();
    assert!(!stranger.decode(&cold, &mut back), "another store's dictionaries are not this one's");
    assert_eq!(recoder.train(&samples, 100_000), Ok(0), "a second one of the same pages saves nothing more");
}

#[test]
fn pages_of_several_generations_come_back() {
    let dictionaries = Dictionaries::new();
    let mut recoder = Recoder::new(dictionaries.clone()).unwrap();
    let mut codec = Codec::sharing(dictionaries.clone()).unwrap();
    let mut kept = Vec::new();
    for generation in 0..3 {
        let samples: Vec<Page> = (0..300).map(|seed| *records(generation, seed)).collect();
        recoder.train(&samples, 1 << 20).unwrap();
        for seed in 300..310 {
            let page = records(generation, seed);
            let present = warm(&mut codec, &page);
            kept.extend(recoder.recode(&page, present.as_deref()).map(|cold| (page, cold.to_vec())));
        }
    }
    let mut later = Recoder::new(dictionaries.clone()).unwrap();
    let (page, _) = kept.last().unwrap();
    let again = later.recode(page, None).map(<[u8]>::to_vec);
    assert_eq!(
        again.as_ref().map(|cold| cold[..2].to_vec()),
        kept.last().map(|(_, cold)| cold[..2].to_vec())
    );
    assert!(dictionaries.count() >= 2, "{} dictionaries", dictionaries.count());
    let mut back = [0; PAGE_SIZE];
    for (page, cold) in kept {
        assert!(codec.decode(&cold, &mut back) && back == *page);
    }
}

#[test]
fn what_cold_forms_take_is_counted_while_it_is_taken() {
    let codec = Codec::new().unwrap();
    let dictionaries = codec.dictionaries().clone();
    assert_eq!(dictionaries.footprint(), 0);
    let recoder = Recoder::new(dictionaries.clone()).unwrap();
    let with = dictionaries.footprint();
    let mut other = Decoder::new(dictionaries.clone()).unwrap();
    assert_eq!(dictionaries.footprint(), with, "a decoder that met no cold page has not touched its memory");
    assert!(!other.decode(&[ZSTD, 1, 2, 3], &mut [0; PAGE_SIZE]));
    assert!(dictionaries.footprint() > with);
    drop((recoder, other));
    assert_eq!(dictionaries.footprint(), 0);
}

/// What element sizes known to the packers gain over LZ4: a quarter of its bytes for ranges of int64, 0.85 for sums of
/// normally distributed float64, both in the forms of a put.
#[test]
fn numbers_take_a_part_of_what_lz4_makes_of_them() {
    let mut next = noise(11);
    let mut unit = move || ((next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let mut normal = move || (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
    let (mut sum, mut count) = (0.0, 0u64);
    let ranges = parts_of_lz4(|| {
        count += 1;
        count
    });
    let sums = parts_of_lz4(|| {
        sum += normal();
        sum.to_bits()
    });
    assert!(ranges <= 0.25, "ranges: {ranges:.3} of LZ4's bytes");
    assert!(sums <= 0.85, "sums: {sums:.3} of LZ4's bytes");
}

/// Bytes of 2000 pages as the codec packs them, over those that LZ4 takes.
fn parts_of_lz4(mut word: impl FnMut() -> u64) -> f64 {
    let (mut codec, mut lz4) = (Codec::new().unwrap(), Lz4State::new().unwrap());
    let (mut ours, mut theirs) = (0, 0);
    for _ in 0..2000 {
        let page = page_of(|_| word());
        ours += warm(&mut codec, &page).map_or(PAGE_SIZE, |bytes| bytes.len());
        theirs += lz4.compress(&page, &mut [0; PAGE_SIZE]).unwrap_or(PAGE_SIZE);
    }
    ours as f64 / theirs as f64
}

/// Records whose fields have few values, other ones in each generation.
fn records(generation: u64, seed: u64) -> Box<Page> {
    let mut next = noise(seed);
    let value = move |n: u64| noise(generation * 1000 + n)();
    page_of(|n| if n % 3 == 2 { heap_of(&text(seed), n) } else { value(next() >> 32 & 0x7f) })
}

fn heap_of(text: &Page, n: usize) -> u64 {
    u64::from(text[n]) << 8 | u64::from(heap(0)[n])
}

// SPDX-License-Identifier: Apache-2.0
//! Checks the laws of `codec` on pages of every kind, and the choice it makes for each.

use super::samples::{heap, noise, page_of, text};
use super::*;
use proptest::prelude::*;

fn packed(codec: &mut Codec, page: &Page) -> Option<Vec<u8>> {
    let Coded::Packed(bytes) = codec.encode(page, true) else { return None };
    let bytes = bytes.to_vec();
    assert_eq!(codec.packed(bytes.len()), &bytes[..]);
    let mut back = [0x5a; PAGE_SIZE];
    assert!(codec.decode(&bytes, &mut back) && back == *page);
    assert!(!codec.decode(&bytes[..bytes.len() - 1], &mut back));
    Some(bytes)
}

#[test]
fn a_short_head_is_kept_as_it_is() {
    let (mut codec, mut next) = (Codec::new().unwrap(), noise(3));
    let mut page = [0; PAGE_SIZE];
    for len in 1..=SHORT + 1 {
        page[..len].fill_with(|| next() as u8 | 1);
        let bytes = packed(&mut codec, &page).unwrap();
        assert_eq!((bytes[0], bytes.len()) == (HEAD, len + 3), len <= SHORT, "{len}");
    }
    page[SHORT..].fill(0);
    page[PAGE_SIZE - 1] = 1;
    assert!(packed(&mut codec, &page).is_none_or(|bytes| bytes[0] != HEAD));
}

#[test]
fn same_filled_wants_every_word() {
    let mut page = [0u8; PAGE_SIZE];
    fill(0x1122_3344_5566_7788, &mut page);
    assert_eq!(same_filled(&page), Some(0x1122_3344_5566_7788));
    for at in 0..PAGE_SIZE {
        page[at] ^= 1;
        assert_eq!(same_filled(&page), None, "byte {at}");
        page[at] ^= 1;
    }
    assert_eq!(same_filled(&[0; PAGE_SIZE]), Some(0));
}

#[test]
fn every_kind_of_page_gets_its_codec() {
    let mut codec = Codec::new().unwrap();
    let mut next = noise(1);
    for (name, code, most, page) in [
        ("a sequence", STEPS, 18, page_of(|n| (5 - 7 * n as i64) as u64)),
        ("32-bit integers in sequence", STEPS, 18, page_of(|n| ((2 * n as u64 + 1) << 32) | (2 * n as u64))),
        ("times", STEPS, 1300, page_of(|n| 1_700_000_000_000_000 * (n as u64 + 3) + next() % 500_000)),
        ("small integers", PLANES, 660, page_of(|_| next() % 1000)),
        ("integers about zero", RANGE, 660, page_of(|_| (next() % 1000).wrapping_sub(500))),
        (
            "floats of either sign",
            PLANES,
            3500,
            page_of(|_| (1.25 + (next() >> 15) as f64 / 1e15).to_bits() ^ next() << 63),
        ),
        (
            "32-bit floats",
            PLANES,
            3500,
            page_of(|_| (1.5f32.to_bits() as u64) << 32 | 0x3f80_0000 | next() >> 41),
        ),
        (
            "rows of 15 words",
            RECORDS,
            1400,
            page_of(|n| if n % 15 < 12 { (n as u64 % 15) << 40 } else { next() >> 40 }),
        ),
        ("text", LZ4, 2300, text(1)),
        ("a heap", RECORDS, 2200, heap(1)),
    ] {
        let bytes = packed(&mut codec, &page).unwrap_or_else(|| panic!("{name} must shrink"));
        assert_eq!(bytes[0], code, "{name}: {} bytes", bytes.len());
        assert!(bytes.len() <= most, "{name}: {} bytes", bytes.len());
    }
}

#[test]
fn noise_is_refused_and_lz4_not_wasted_on_it() {
    let mut codec = Codec::new().unwrap();
    let mut next = noise(7);
    let mut tried = 0;
    for _ in 0..1000 {
        let page = page_of(|_| next());
        tried += u32::from(codec.gate.ask(&page, false, LARGEST_PACKED).is_some());
        assert!(packed(&mut codec, &page).is_none());
    }
    // Of two thousand, every other of them by the codec.
    assert!((1..=32).contains(&tried), "LZ4 was let through {tried} times in 1000 pages of noise");
}

#[test]
fn what_the_sample_misses_is_found_by_trying() {
    let mut codec = Codec::new().unwrap();
    let mut next = noise(9);
    let mut shrunk = 0;
    for _ in 0..400 {
        // Noise twice over: every byte place looks like noise.
        let half: Vec<u64> = (0..WORDS / 2).map(|_| next()).collect();
        shrunk += u32::from(packed(&mut codec, &page_of(|n| half[n % half.len()])).is_some());
    }
    assert!(shrunk > 300, "{shrunk} of 400");
}

#[test]
fn the_choice_follows_from_the_pages() {
    let pages: Vec<_> = (0..200).map(|n| if n % 3 == 0 { text(n) } else { heap(n) }).collect();
    let run = || {
        let mut codec = Codec::new().unwrap();
        pages.iter().map(|page| packed(&mut codec, page)).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pages_of_any_bytes_come_back(runs in prop::collection::vec((any::<u8>(), 1usize..200, any::<bool>()), 1..80)) {
        let (mut codec, mut page, mut at) = (Codec::new().unwrap(), [0; PAGE_SIZE], 0);
        for (byte, len, rising) in runs.iter().cycle().take(4096) {
            let to = (at + len).min(PAGE_SIZE);
            for (n, into) in page[at..to].iter_mut().enumerate() {
                *into = if *rising { byte.wrapping_add((n * n) as u8) } else { *byte };
            }
            at = to;
        }
        let mut decoder = Decoder::new(Dictionaries::new()).unwrap();
        match codec.encode(&page, true) {
            Coded::Same(word) => prop_assert!(page.chunks_exact(8).all(|b| b == word.to_ne_bytes())),
            Coded::Packed(bytes) => {
                let mut back = [0; PAGE_SIZE];
                prop_assert!(bytes.len() <= LARGEST_PACKED && decoder.decode(bytes, &mut back));
                prop_assert_eq!(back, page);
            }
            Coded::Incompressible => {}
        }
    }
}

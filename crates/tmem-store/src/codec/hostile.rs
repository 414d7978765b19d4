// SPDX-License-Identifier: Apache-2.0
//! Law 12 for bytes that nobody packed: every decoder, of any bytes whatever, gives false or some page, and harms nothing.
//! A short run is with every test; `make fuzz` runs it for as long as it is told, by [`for_as_long_as_told`].

use super::samples::{noise, of_kind};
use super::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};

const CODES: std::ops::RangeInclusive<u8> = LZ4..=DICTIONARY_SHUFFLED;

/// A decoder with a dictionary for each order, and true packed pages of every code.
struct Bench {
    decoder: Decoder,
    packed: Vec<(Box<Page>, Vec<u8>)>,
    next: Box<dyn FnMut() -> u64>,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        let dictionaries = Dictionaries::new();
        let mut codec = Codec::sharing(dictionaries.clone()).unwrap();
        let mut recoder = Recoder::new(dictionaries.clone()).unwrap();
        let mut packed = Vec::new();
        for trained in [false, true] {
            if trained {
                teach(&dictionaries);
                recoder.adopt().unwrap();
            }
            for n in 0..64 {
                let page = of_kind(n, seed ^ n);
                if let Coded::Packed(bytes) = codec.encode(&page, true) {
                    packed.push((page.clone(), bytes.to_vec()));
                }
                // Both orders, whether they pay or not.
                packed.extend(recoder.pack_both(&page).into_iter().map(|bytes| (page.clone(), bytes)));
                packed.extend(codec.lz4(&page, true, LARGEST_PACKED, 0).map(|len| {
                    codec.used = 0;
                    (page, codec.packed(len).to_vec())
                }));
            }
        }
        for code in CODES {
            assert!(packed.iter().any(|(_, bytes)| bytes[0] == code), "no page of code {code} to begin with");
        }
        Bench { decoder: Decoder::new(dictionaries).unwrap(), packed, next: Box::new(noise(seed)) }
    }

    /// Bytes of a true page, changed in one of several ways; rarely not at all.
    fn mutant(&mut self) -> Vec<u8> {
        let next = &mut self.next;
        let mut below = |n: usize| (next() >> 20) as usize % n.max(1);
        let mut bytes = self.packed[below(self.packed.len())].1.clone();
        for _ in 0..below(4) {
            let (len, at) = (bytes.len(), below(bytes.len()));
            match below(8) {
                0 => bytes.truncate(at),
                1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << below(8)),
                2 => bytes.iter_mut().skip(at).take(1 + below(8)).for_each(|byte| *byte = below(256) as u8),
                3 => {
                    bytes.iter_mut().take(12).skip(at % 12).take(2).for_each(|byte| *byte = below(256) as u8)
                }
                4 => bytes.extend((0..below(64)).map(|_| below(256) as u8)),
                5 => {
                    let other = &self.packed[below(self.packed.len())].1;
                    bytes.truncate(at);
                    bytes.extend(&other[at.min(other.len())..]);
                }
                6 => bytes.iter_mut().take(1).for_each(|code| *code = below(13) as u8),
                _ => bytes.copy_within(at..len, at / 2),
            }
        }
        bytes
    }

    fn try_one(&mut self) -> bool {
        // In a box of its own size, so that a look past the end is one past the allocation.
        let bytes = self.mutant().into_boxed_slice();
        let mut page = Box::new([0; PAGE_SIZE]);
        let good = self.decoder.decode(&bytes, &mut page);
        assert!(!good || CODES.contains(&bytes[0]));
        good
    }

    /// What was tried left the decoder as good as new.
    fn true_pages_come_back(&mut self) {
        let mut back = [0; PAGE_SIZE];
        for (page, bytes) in &self.packed {
            assert!(self.decoder.decode(bytes, &mut back) && back == **page, "code {}", bytes[0]);
        }
    }
}

/// Adds a dictionary for each order, whether it pays or not.
fn teach(dictionaries: &Dictionaries) {
    for shuffled in [false, true] {
        let samples: Vec<Page> = (0..200).map(|n| *of_kind(n * u64::from(shuffled) * 2, n)).collect();
        let bytes = tmem_sys::zstd::train(&samples, 16 << 10).unwrap();
        let made = tmem_sys::zstd::Dictionary::new(&bytes).unwrap();
        dictionaries.add(Arc::new(made), shuffled).unwrap();
    }
}

#[test]
fn changed_pages_of_every_code_never_harm() {
    let mut bench = Bench::new(1);
    let good = (0..20_000).filter(|_| bench.try_one()).count();
    assert!(
        (1000..19_000).contains(&good),
        "{good} of 20,000 were pages: the changes are too tame, or too wild"
    );
    bench.true_pages_come_back();
}

#[test]
fn every_true_page_cut_short_is_told() {
    let mut bench = Bench::new(2);
    let mut page = [0; PAGE_SIZE];
    for (_, bytes) in bench.packed.iter().step_by(3) {
        for len in 0..bytes.len() {
            let cut = bytes[..len].to_vec().into_boxed_slice();
            assert!(
                !bench.decoder.decode(&cut, &mut page),
                "code {}, {len} bytes of {}",
                bytes[0],
                bytes.len()
            );
        }
    }
    bench.true_pages_come_back();
}

#[test]
#[ignore = "runs for FUZZ_SECONDS, 60 if that is not set: make fuzz"]
fn for_as_long_as_told() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut tried, mut good) = (0u64, 0u64);
    while Instant::now() < end {
        let mut seed = [0; 8];
        tmem_sys::random::random_bytes(&mut seed).unwrap();
        let seed = u64::from_le_bytes(seed);
        eprintln!("seed {seed}: {tried} tried before, {good} of them pages");
        let mut bench = Bench::new(seed);
        for _ in 0..200_000 {
            good += u64::from(bench.try_one());
            tried += 1;
        }
        bench.true_pages_come_back();
    }
    println!(
        "{tried} packed pages were changed and decoded, {good} of them still to a page: nothing was harmed"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_under_any_name_never_harm(code in 0u8..13, mut bytes in prop::collection::vec(any::<u8>(), 0..900)) {
        let dictionaries = Dictionaries::new();
        let mut decoder = Decoder::new(dictionaries).unwrap();
        let mut page = [0; PAGE_SIZE];
        let _ = decoder.decode(&bytes, &mut page);
        if let Some(first) = bytes.first_mut() {
            *first = code;
        }
        let good = decoder.decode(&bytes.into_boxed_slice(), &mut page);
        prop_assert!(!good || CODES.contains(&code));
    }
}

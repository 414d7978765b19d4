// SPDX-License-Identifier: Apache-2.0
//! What the store's choice of codecs costs and saves, page by page, beside LZ4 alone.
//!
//! `cargo run --release -p tmem-store --example codecs -- [--json] [--pages N] [FILE ...]`
//!
//! Numbers of known kinds are made here from a fixed seed; files add images of what else is of interest (a table's
//! columns, text, the heap of a program). Three rounds each, alternating; medians. Every page that comes back is compared. The
//! ratio counts a page that is not packed as a page, and one of a repeated word as its word.
#![forbid(unsafe_code)]

use std::time::Instant;
use tmem_store::codec::{Codec, Coded, Decoder, Dictionaries};
use tmem_sys::lz4::{self, Lz4State};
use tmem_sys::{PAGE_SIZE, Page};

const ROUNDS: usize = 3;
/// Of the codes that a put may give; the last is for a repeated word.
const NAMES: [&str; 8] = ["raw", "lz4", "shuffled", "planes", "range", "steps", "records", "same"];

/// Packed pages one after the other: code, start, length.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    pages: Vec<(usize, usize, usize)>,
    word: u64,
}

struct Cost {
    pack: f64,
    unpack: f64,
    ratio: f64,
    rounds: [[f64; 2]; ROUNDS],
}

impl Cost {
    fn json(&self) -> String {
        let way = |way: usize| self.rounds.map(|ns| format!("{:.1}", ns[way])).join(", ");
        format!(
            "{{\"pack_ns\": {:.1}, \"unpack_ns\": {:.1}, \"ratio\": {:.3}, \"pack_rounds\": [{}], \"unpack_rounds\": [{}]}}",
            self.pack,
            self.unpack,
            self.ratio,
            way(0),
            way(1)
        )
    }
}

fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed;
    move || {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let y = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let y = (y ^ (y >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        y ^ (y >> 31)
    }
}

fn normals(mut next: impl FnMut() -> u64) -> impl FnMut() -> f64 {
    let mut unit = move || ((next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    move || (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()
}

fn pages_of(pages: usize, mut word: impl FnMut(u64) -> u64) -> Vec<Page> {
    (0..pages as u64)
        .map(|p| {
            let mut page = [0; PAGE_SIZE];
            for (n, into) in page.chunks_exact_mut(8).enumerate() {
                into.copy_from_slice(&word(p * 512 + n as u64).to_le_bytes());
            }
            page
        })
        .collect()
}

fn with_lz4(lz4: &mut Lz4State, pages: &[Page], kept: &mut Kept) {
    let mut out = [0; PAGE_SIZE / 8 * 7];
    for page in pages {
        let same = page[..8] == page[8..16] && page.chunks_exact(8).all(|word| word == &page[..8]);
        let start = kept.bytes.len();
        if same {
            kept.pages.push((7, start, 8));
            kept.bytes.extend_from_slice(&page[..8]);
        } else if let Some(len) = lz4.compress(page, &mut out) {
            kept.pages.push((1, start, len));
            kept.bytes.extend_from_slice(&out[..len]);
        } else {
            kept.pages.push((0, start, PAGE_SIZE));
            kept.bytes.extend_from_slice(page);
        }
    }
}

fn with_codec(codec: &mut Codec, pages: &[Page], kept: &mut Kept) {
    for page in pages {
        let start = kept.bytes.len();
        let (code, bytes) = match codec.encode(page, true) {
            Coded::Same(word) => {
                kept.word = word;
                (7, &page[..8])
            }
            Coded::Packed(bytes) => (bytes[0] as usize, bytes),
            Coded::Incompressible => (0, &page[..]),
        };
        kept.pages.push((code, start, bytes.len()));
        kept.bytes.extend_from_slice(bytes);
    }
}

/// Packs and unpacks all pages; nanoseconds a page both ways.
fn round(
    pages: &[Page],
    kept: &mut Kept,
    mut pack: impl FnMut(&mut Kept),
    mut unpack: impl FnMut(&[u8], &mut Page) -> bool,
) -> [f64; 2] {
    kept.bytes.clear();
    kept.pages.clear();
    let start = Instant::now();
    pack(kept);
    let packing = start.elapsed();
    let mut into = [0; PAGE_SIZE];
    let start = Instant::now();
    let mut whole = true;
    for &(code, at, len) in &kept.pages {
        let bytes = &kept.bytes[at..at + len];
        match code {
            7 => into.as_chunks_mut::<8>().0.iter_mut().for_each(|word| word.copy_from_slice(bytes)),
            0 => into.copy_from_slice(bytes),
            _ => whole &= unpack(bytes, &mut into),
        }
        std::hint::black_box(&mut into);
    }
    let unpacking = start.elapsed();
    assert!(whole);
    for (page, &(code, at, len)) in pages.iter().zip(&kept.pages).filter(|(_, kept)| !matches!(kept.0, 0 | 7))
    {
        assert!(
            unpack(&kept.bytes[at..at + len], &mut into) && into == *page,
            "{} did not come back",
            NAMES[code]
        );
    }
    [packing, unpacking].map(|time| time.as_nanos() as f64 / pages.len() as f64)
}

fn measure(name: &str, pages: &[Page], json: bool) {
    let mut kept = Kept { bytes: vec![1; pages.len() * PAGE_SIZE], ..Kept::default() };
    let mut lz4 = Lz4State::new().expect("address space");
    let mut decoder = Decoder::new(Dictionaries::new()).expect("address space");
    let mut times = [[[0.0; 2]; ROUNDS]; 2];
    let mut bytes = [0; 2];
    let mut counts = [0; 8];
    let [alone, ours] = &mut times;
    for (alone, ours) in alone.iter_mut().zip(ours) {
        *alone = round(pages, &mut kept, |kept| with_lz4(&mut lz4, pages, kept), lz4::decompress);
        bytes[0] = kept.bytes.len();
        let mut codec = Codec::new().expect("address space");
        *ours = round(
            pages,
            &mut kept,
            |kept| with_codec(&mut codec, pages, kept),
            |packed, into| decoder.decode(packed, into),
        );
        bytes[1] = kept.bytes.len();
        counts = [0; 8];
        kept.pages.iter().for_each(|(code, _, _)| counts[*code] += 1);
    }
    let [alone, ours] = [0, 1].map(|who| {
        let median = |way: usize| {
            let mut all: Vec<f64> = times[who].iter().map(|t| t[way]).collect();
            all.sort_by(f64::total_cmp);
            all[ROUNDS / 2]
        };
        let ratio = (pages.len() * PAGE_SIZE) as f64 / bytes[who] as f64;
        Cost { pack: median(0), unpack: median(1), ratio, rounds: times[who] }
    });
    let share =
        |(name, n): (&&str, &usize)| format!("{name} {:.0} %", *n as f64 * 100.0 / pages.len() as f64);
    let shares: Vec<String> = NAMES.iter().zip(&counts).filter(|(_, n)| **n > 0).map(share).collect();
    if json {
        let shares = shares.join(", ");
        println!(
            "{{\"data\": \"{name}\", \"lz4\": {}, \"ours\": {}, \"of_them\": \"{shares}\"}}",
            alone.json(),
            ours.json()
        );
        return;
    }
    println!(
        "| {name} | {:.0} / {:.0} / {:.2} | {:.0} / {:.0} / {:.2} | {} |",
        alone.pack,
        alone.unpack,
        alone.ratio,
        ours.pack,
        ours.unpack,
        ours.ratio,
        shares.join(", ")
    );
}

fn main() {
    let mut args = std::env::args().skip(1).peekable();
    let json = args.next_if_eq("--json").is_some();
    let mut count = 4096;
    if args.next_if_eq("--pages").is_some() {
        count = args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).unwrap_or_else(|| {
            eprintln!("codecs: --pages takes a number, at least 1");
            std::process::exit(125);
        });
    }
    if !json {
        println!(
            "| ns packed / unpacked / ratio | LZ4 alone | the store's choice | of them |\n| --- | --- | --- | --- |"
        );
    }
    let measure = |name: &str, pages: &[Page]| measure(name, pages, json);
    let mut normal = normals(random(1));
    measure("float64 normal", &pages_of(count, |_| normal().to_bits()));
    let (mut normal, mut sum) = (normals(random(2)), 0.0);
    measure(
        "float64 cumsum",
        &pages_of(count, |_| {
            sum += normal();
            f64::to_bits(sum)
        }),
    );
    measure("int64 arange", &pages_of(count, |n| n));
    let mut next = random(3);
    measure("int64 0..999", &pages_of(count, |_| next() % 1000));
    let mut next = random(4);
    measure("int32 0..999", &pages_of(count, |_| ((next() % 1000) << 32) | (next() % 1000)));
    let (mut next, mut time) = (random(5), 1_700_000_000_000_000_000);
    measure(
        "times, 1 ms apart or so",
        &pages_of(count, |_| {
            time += 1_000_000 + next() % 10_000;
            time
        }),
    );
    let mut next = random(6);
    measure("random", &pages_of(count, |_| next()));
    measure("zeros", &pages_of(count, |_| 0));
    for file in args {
        let bytes = std::fs::read(&file).unwrap_or_else(|error| {
            eprintln!("codecs: {file}: {error}");
            std::process::exit(1);
        });
        measure(file.rsplit('/').next().unwrap_or(&file), bytes.as_chunks().0);
    }
}

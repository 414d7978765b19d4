// SPDX-License-Identifier: Apache-2.0
//! What pages take on the swap device, and what cleaning it costs: bytes of the file for a page, and bytes written for a
//! byte stored, while pages of a device that is 50, 80 or 90 % full are overwritten at random.
//!
//! `cargo run --release -p tmem-store --example swap_log -- [--json] [--dir DIR] [--pages N] FILE ...`
//!
//! The files give the pages (text, an image of a heap). They are written as their codec made them, and once more as they
//! are. Batches are of 64. Every page is compared at the end.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Instant;
use tmem_store::codec::{Codec, Coded};
use tmem_store::{Blob, SwapConfig, SwapDevice, SwapSlot};
use tmem_sys::{PAGE_SIZE, Page};

const BATCH: usize = 64;
const PERCENTS: [u64; 3] = [50, 80, 90];
/// How often everything is overwritten before counting begins, and after.
const ROUNDS: [usize; 2] = [3, 3];

struct Options {
    json: bool,
    dir: PathBuf,
    cap: u64,
    files: Vec<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { json: false, dir: ".".into(), cap: 1 << 14, files: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => options.json = true,
            "--dir" => options.dir = args.next().ok_or("--dir: a directory on a disk")?.into(),
            "--pages" => {
                let n = args.next().and_then(|n| n.parse().ok()).filter(|n| *n >= 1024);
                options.cap = n.ok_or("--pages: a number, at least 1024")?;
            }
            file => options.files.push(file.into()),
        }
    }
    if options.files.is_empty() { Err("name files to take pages from".into()) } else { Ok(options) }
}

/// Pages, each with what the codec made of it; nothing where that is the page.
type Source = Vec<(Page, Vec<u8>)>;

fn source(files: &[PathBuf], pack: bool) -> std::io::Result<Source> {
    let mut codec = Codec::new().expect("memory for a codec");
    let mut source = Source::new();
    for file in files {
        for chunk in std::fs::read(file)?.chunks_exact(PAGE_SIZE) {
            let page: Page = chunk.try_into().expect("a page");
            match codec.encode(&page, true) {
                Coded::Packed(bytes) if pack => source.push((page, bytes.to_vec())),
                Coded::Same(_) => {}
                _ => source.push((page, Vec::new())),
            }
        }
    }
    Ok(source)
}

fn blob((page, packed): &(Page, Vec<u8>)) -> Blob<'_> {
    if packed.is_empty() { Blob::Page(page) } else { Blob::Packed(packed) }
}

fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed;
    move || {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let y = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        y ^ (y >> 29)
    }
}

struct Found {
    percent: u64,
    pages: usize,
    file_per_page: f64,
    amplification: f64,
    cleaned: u64,
    refused: usize,
    write_us: f64,
    read_us: f64,
}

/// Writes pages drawn at random; the slots with the pages' places in the source.
fn write(
    d: &mut SwapDevice,
    source: &Source,
    n: usize,
    next: &mut impl FnMut() -> u64,
) -> Vec<(SwapSlot, usize)> {
    let drawn: Vec<usize> = (0..n).map(|_| next() as usize % source.len()).collect();
    let blobs: Vec<Blob<'_>> = drawn.iter().map(|i| blob(&source[*i])).collect();
    let mut slots = vec![SwapSlot::NONE; n];
    let batch = d.write_batch(&blobs, &mut slots);
    slots.into_iter().zip(drawn).take(batch.stored).collect()
}

fn measure(options: &Options, source: &Source, percent: u64) -> Found {
    let config = SwapConfig { dir: options.dir.clone(), cap_pages: options.cap, allow_memory: true };
    let mut d = SwapDevice::new(&config).expect("a swap file");
    let mut next = random(percent);
    let mut held = Vec::new();
    while d.stats().used_bytes < options.cap * PAGE_SIZE as u64 / 100 * percent {
        held.extend(write(&mut d, source, BATCH, &mut next));
    }
    let file_per_page = d.stats().file_bytes as f64 / held.len() as f64;
    let (mut refused, mut before, mut start, pages) = (0, d.stats(), Instant::now(), held.len());
    for (phase, rounds) in ROUNDS.into_iter().enumerate() {
        (refused, before, start) =
            if phase == 1 { (0, d.stats(), Instant::now()) } else { (refused, before, start) };
        for _ in 0..pages * rounds / BATCH {
            for _ in 0..BATCH.min(held.len()) {
                let at = next() as usize % held.len();
                d.free(held.swap_remove(at).0);
            }
            let stored = write(&mut d, source, BATCH, &mut next);
            refused += BATCH - stored.len();
            held.extend(stored);
        }
    }
    let (stats, spent) = (d.stats(), start.elapsed());
    let written = stats.written - before.written;
    let start = Instant::now();
    for (slot, i) in &held {
        let mut into = [0; PAGE_SIZE];
        d.read(*slot, &mut into).expect("every page comes back");
        assert!(into == source[*i].0, "a page came back changed");
    }
    assert!(d.check().is_empty());
    Found {
        percent,
        pages,
        file_per_page,
        amplification: (stats.device_bytes - before.device_bytes) as f64
            / (stats.written_bytes - before.written_bytes) as f64,
        cleaned: stats.cleaned - before.cleaned,
        refused,
        write_us: spent.as_secs_f64() * 1e6 / written as f64,
        read_us: start.elapsed().as_secs_f64() * 1e6 / held.len() as f64,
    }
}

fn main() {
    let options = options().unwrap_or_else(|error| {
        eprintln!("swap_log: {error}");
        std::process::exit(2)
    });
    for (name, pack) in [("packed", true), ("as they are", false)] {
        let source = source(&options.files, pack).unwrap_or_else(|error| {
            eprintln!("swap_log: {error}");
            std::process::exit(1)
        });
        for percent in PERCENTS {
            let f = measure(&options, &source, percent);
            if options.json {
                println!(
                    "{{\"form\": \"{name}\", \"live_percent\": {}, \"pages\": {}, \"file_bytes_per_page\": {:.0}, \
                     \"write_amplification\": {:.3}, \"cleaned\": {}, \"refused\": {}, \"write_us\": {:.2}, \
                     \"read_us\": {:.2}}}",
                    f.percent,
                    f.pages,
                    f.file_per_page,
                    f.amplification,
                    f.cleaned,
                    f.refused,
                    f.write_us,
                    f.read_us
                );
            } else {
                println!(
                    "{name}, {} % live: {} pages, {:.0} bytes of file each; {:.2} bytes written for one stored, {} \
                     clusters cleaned, {} pages refused; {:.1} us a page written, {:.1} us read alone",
                    f.percent,
                    f.pages,
                    f.file_per_page,
                    f.amplification,
                    f.cleaned,
                    f.refused,
                    f.write_us,
                    f.read_us
                );
            }
        }
    }
}

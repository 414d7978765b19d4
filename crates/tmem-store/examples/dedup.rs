// SPDX-License-Identifier: Apache-2.0
//! What deduplication costs and saves: puts of pages of which none, half or nine of ten are there already, with it off,
//! sampling and on, side by side in one run.
//!
//! `cargo run --release -p tmem-store --example dedup -- [--json] [--pages N] [--rounds N]`
//!
//! Rounds alternate between the three; the median counts, the spread is shown. Each round begins with an empty store, puts
//! every page once and gets every page back, compared. The pages are a mix that packs to a third or so; "repeated" pages are
//! copies of earlier ones, far apart.
#![forbid(unsafe_code)]

use std::time::Instant;
use tmem_store::{Dedup, ObjectId, PageStore, PoolConfig, StoreConfig, StoreStats};
use tmem_sys::{PAGE_SIZE, Page};

const OBJECT: ObjectId = ObjectId([1, 2, 3]);
const MODES: [(&str, Dedup); 3] = [("off", Dedup::Off), ("auto", Dedup::Auto), ("on", Dedup::On)];
/// Of ten pages, how many are copies.
const SHARES: [u64; 4] = [0, 1, 5, 9];

struct Options {
    json: bool,
    pages: u64,
    rounds: usize,
}

fn options() -> Result<Options, String> {
    let mut options = Options { json: false, pages: 40_000, rounds: 5 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number =
            || args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).ok_or("a number, at least 1");
        match arg.as_str() {
            "--json" => options.json = true,
            "--pages" => options.pages = number()?,
            "--rounds" => options.rounds = number()? as usize,
            other => return Err(format!("{other}: not one of --json, --pages N, --rounds N")),
        }
    }
    Ok(options)
}

fn make_page(n: u64) -> Page {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let mut page = [0; PAGE_SIZE];
    for (i, word) in page.chunks_exact_mut(8).enumerate() {
        let value = match n % 8 {
            0..4 => n * 512 + i as u64 + next() % 3,
            4..7 => u64::from_ne_bytes(*b"the page") ^ (next() & 0x0f00_0000_0000_0f00),
            _ => (1.0 + (next() % 1000) as f64 / 1000.0).to_bits(),
        };
        word.copy_from_slice(&value.to_ne_bytes());
    }
    page
}

/// Which content the n-th page has, when so many of ten are copies: the first pages are all there is, in turns.
fn content(n: u64, pages: u64, copies: u64) -> u64 {
    n % (pages * (10 - copies) / 10).max(1)
}

/// Nanoseconds of a put and of a get, and what the store says in the end.
fn round(sources: &[Page], options: &Options, dedup: Dedup, copies: u64) -> (f64, f64, StoreStats) {
    let bytes = options.pages as usize * PAGE_SIZE * 2;
    let mut store = PageStore::new(StoreConfig::for_pages(options.pages, bytes)).expect("address space");
    let pool = store.new_pool(PoolConfig { raw: true, dedup, ..PoolConfig::default() }).expect("a new store");
    let start = Instant::now();
    for n in 0..options.pages {
        let page = &sources[content(n, options.pages, copies) as usize];
        let outcome = store.put(pool, OBJECT, n, page).expect("the pool lives");
        assert!(outcome.is_stored(), "{outcome:?}");
    }
    let put = start.elapsed().as_nanos() as f64 / options.pages as f64;
    let (mut into, start) = ([0; PAGE_SIZE], Instant::now());
    for n in 0..options.pages {
        let _ = store.get(pool, OBJECT, n, &mut into).expect("the page is whole");
        assert!(into == sources[content(n, options.pages, copies) as usize], "page {n} came back changed");
    }
    let get = start.elapsed().as_nanos() as f64 / options.pages as f64;
    (put, get, store.stats())
}

fn median(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2], values[0], values[values.len() - 1]]
}

fn main() {
    let options = options().unwrap_or_else(|error| {
        eprintln!("dedup: {error}");
        std::process::exit(125);
    });
    let sources: Vec<Page> = (0..options.pages).map(make_page).collect();
    let mut rows = Vec::new();
    for copies in SHARES {
        let mut taken = MODES.map(|_| (Vec::new(), Vec::new(), StoreStats::default()));
        for _ in 0..options.rounds {
            for (taken, (_, dedup)) in taken.iter_mut().zip(MODES) {
                let (put, get, stats) = round(&sources, &options, dedup, copies);
                taken.0.push(put);
                taken.1.push(get);
                taken.2 = stats;
            }
        }
        for ((puts, gets, stats), (mode, _)) in taken.into_iter().zip(MODES) {
            rows.push((copies, mode, median(puts), median(gets), stats));
        }
    }
    let debug = cfg!(debug_assertions);
    let lines = rows.iter().map(|(copies, mode, [put, low, high], [get, ..], stats)| {
        let (footprint, dedup) = (stats.footprint_bytes, stats.dedup);
        if options.json {
            format!(
                "{{\"repeated\": {}, \"mode\": \"{mode}\", \"debug_build\": {debug}, \"pages\": {}, \
                 \"put_ns\": {put:.0}, \"put_ns_least\": {low:.0}, \"put_ns_most\": {high:.0}, \"get_ns\": {get:.0}, \
                 \"footprint\": {footprint}, \"saved\": {}, \"table\": {}, \"hashed\": {}, \"found\": {}}}",
                *copies as f64 / 10.0,
                options.pages,
                dedup.saved_bytes,
                dedup.table_bytes,
                dedup.hashed,
                dedup.found
            )
        } else {
            format!(
                "{}% repeated, {mode:4}: put {put:5.0} ns ({low:.0} to {high:.0}), get {get:4.0} ns, {:6.1} bytes a \
                 page, {} hashed, {} found, {} of tables",
                copies * 10,
                footprint as f64 / options.pages as f64,
                dedup.hashed,
                dedup.found,
                dedup.table_bytes
            )
        }
    });
    lines.for_each(|line| println!("{line}"));
}

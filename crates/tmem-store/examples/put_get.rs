// SPDX-License-Identifier: Apache-2.0
//! What a put and a get cost, raw and packed, beside the codec alone and beside a plain copy of the same pages, in one run.
//!
//! `cargo run --release -p tmem-store --example put_get -- [--json] [--pairs N] [--pages N]`
//!
//! Three rounds each, alternating; the median counts, the spread is shown. Every page that comes back is compared.
//! The pages are a mix that packs to a third or so: sorted numbers, text-like bytes, noisy
//! floats. None is same-filled: those never reach the codec.
#![forbid(unsafe_code)]

use std::time::Instant;
use tmem_store::{ObjectId, PageStore, PoolConfig, PoolId, StoreConfig};
use tmem_sys::lz4::{self, Lz4State};
use tmem_sys::{PAGE_SIZE, Page};

const OBJECT: ObjectId = ObjectId([1, 2, 3]);
const ROUNDS: usize = 3;

struct Options {
    json: bool,
    pairs: usize,
    pages: usize,
}

/// Nanoseconds a page of each round, sorted.
struct Timing {
    name: &'static str,
    ns: [f64; ROUNDS],
}

fn options() -> Result<Options, String> {
    let mut options = Options { json: false, pairs: 1_000_000, pages: 4096 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number =
            || args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).ok_or("a number, at least 1");
        match arg.as_str() {
            "--json" => options.json = true,
            "--pairs" => options.pairs = number()?,
            "--pages" => options.pages = number()?,
            other => return Err(format!("{other}: not one of --json, --pairs N, --pages N")),
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

fn put_get(store: &mut PageStore, pool: PoolId, pages: &[Page], pairs: usize) -> [f64; 2] {
    let mut into = [0; PAGE_SIZE];
    let (mut put_ns, mut get_ns) = (0, 0);
    let mut done = 0;
    while done < pairs {
        let n = pages.len().min(pairs - done);
        let start = Instant::now();
        for (i, page) in pages[..n].iter().enumerate() {
            let outcome = store.put(pool, OBJECT, i as u64, page).expect("the pool lives");
            assert!(outcome.is_stored(), "{outcome:?}");
        }
        put_ns += start.elapsed().as_nanos();
        let start = Instant::now();
        for (i, page) in pages[..n].iter().enumerate() {
            let _ = store.get(pool, OBJECT, i as u64, &mut into).expect("the page is whole");
            assert!(into == *page, "page {i} came back changed");
        }
        get_ns += start.elapsed().as_nanos();
        done += n;
    }
    [put_ns as f64 / pairs as f64, get_ns as f64 / pairs as f64]
}

/// The codec by itself: what a put and a get cannot be faster than.
fn pack_unpack(lz4: &mut Lz4State, packed: &mut [Vec<u8>], pages: &[Page], pairs: usize) -> [f64; 2] {
    let (mut buffer, mut into) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    let (mut pack_ns, mut unpack_ns) = (0, 0);
    let mut done = 0;
    while done < pairs {
        let n = pages.len().min(pairs - done);
        for (kept, page) in packed[..n].iter_mut().zip(pages) {
            let start = Instant::now();
            let len = lz4.compress(page, &mut buffer);
            pack_ns += start.elapsed().as_nanos();
            kept.clear();
            kept.extend_from_slice(&buffer[..len.unwrap_or(0)]);
        }
        let start = Instant::now();
        for (kept, page) in packed[..n].iter().zip(pages) {
            assert!(lz4::decompress(kept, &mut into) && into == *page);
        }
        unpack_ns += start.elapsed().as_nanos();
        done += n;
    }
    [pack_ns as f64 / pairs as f64, unpack_ns as f64 / pairs as f64]
}

/// Copies in and out and compares, as the store's rounds do.
fn copy_copy(copies: &mut [Page], pages: &[Page], pairs: usize) -> [f64; 2] {
    let mut into = [0; PAGE_SIZE];
    let (mut in_ns, mut out_ns) = (0, 0);
    let mut done = 0;
    while done < pairs {
        let n = pages.len().min(pairs - done);
        let start = Instant::now();
        for (copy, page) in copies[..n].iter_mut().zip(pages) {
            copy.copy_from_slice(std::hint::black_box(page));
        }
        in_ns += start.elapsed().as_nanos();
        let start = Instant::now();
        for (copy, page) in copies[..n].iter().zip(pages) {
            into.copy_from_slice(std::hint::black_box(copy));
            assert!(into == *page);
        }
        out_ns += start.elapsed().as_nanos();
        done += n;
    }
    [in_ns as f64 / pairs as f64, out_ns as f64 / pairs as f64]
}

fn measure(options: &Options) -> ([Timing; 8], f64) {
    let pages: Vec<Page> = (0..options.pages as u64).map(make_page).collect();
    let mut copies = vec![[0; PAGE_SIZE]; options.pages];
    let mut store =
        PageStore::new(StoreConfig::for_pages(2 * options.pages as u64, options.pages * PAGE_SIZE * 4))
            .expect("address space");
    let mut new_pool = |pack| {
        store.new_pool(PoolConfig { pack, raw: true, ..PoolConfig::default() }).expect("a new store has room")
    };
    let (packing, plain) = (new_pool(true), new_pool(false));
    let mut lz4 = Lz4State::new().expect("address space");
    let mut packed = vec![Vec::with_capacity(PAGE_SIZE); options.pages];
    let mut timings = ["raw put", "raw get", "put", "get", "lz4 pack", "lz4 unpack", "copy in", "copy out"]
        .map(|name| Timing { name, ns: [0.0; ROUNDS] });
    for round in 0..ROUNDS {
        let [raw_put, raw_get] = put_get(&mut store, plain, &pages, options.pairs);
        let [put, get] = put_get(&mut store, packing, &pages, options.pairs);
        let [pack, unpack] = pack_unpack(&mut lz4, &mut packed, &pages, options.pairs);
        let [copy_in, copy_out] = copy_copy(&mut copies, &pages, options.pairs);
        for (timing, ns) in
            timings.iter_mut().zip([raw_put, raw_get, put, get, pack, unpack, copy_in, copy_out])
        {
            timing.ns[round] = ns;
        }
    }
    timings.iter_mut().for_each(|t| t.ns.sort_by(f64::total_cmp));
    assert_eq!(store.check(), Vec::<String>::new());
    let held = store.stats().held;
    let packed_bytes = held.data_bytes - held.raw_pages * PAGE_SIZE as u64;
    (timings, (held.packed_pages * PAGE_SIZE as u64) as f64 / packed_bytes as f64)
}

fn main() {
    let options = options().unwrap_or_else(|error| {
        eprintln!("put_get: {error}");
        std::process::exit(125);
    });
    let (timings, ratio) = measure(&options);
    if options.json {
        let fields = timings.iter().map(|t| {
            let name = t.name.replace(' ', "_");
            format!("\"{name}_ns\": {:.1}, \"{name}_ns_rounds\": {:?}", t.ns[ROUNDS / 2], t.ns)
        });
        let fields: Vec<String> = fields.collect();
        println!(
            "{{\"pairs\": {}, \"pages\": {}, \"debug_build\": {}, \"packed_ratio\": {ratio:.3}, {}}}",
            options.pairs,
            options.pages,
            cfg!(debug_assertions),
            fields.join(", ")
        );
    } else {
        println!(
            "{} pairs over {} pages, all compared; packed {ratio:.2} to one",
            options.pairs, options.pages
        );
        for t in &timings {
            println!(
                "{:10} {:7.0} ns a page ({:.0} to {:.0})",
                t.name,
                t.ns[ROUNDS / 2],
                t.ns[0],
                t.ns[ROUNDS - 1]
            );
        }
    }
}

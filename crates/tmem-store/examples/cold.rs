// SPDX-License-Identifier: Apache-2.0
//! What a store takes in all for the same pages: as a put packs them, and once they are cold, without and with dictionaries;
//! beside LZ4 alone. What the cold forms cost both ways.
//!
//! `cargo run --release -p tmem-store --example cold -- [--json] [--samples N] FILE ...`
//!
//! Each file is an image of pages. Bytes are those that each store counts in all: slots, index, tables, dictionaries and what
//! packs with them. LZ4's are rounded to the same slots. Every page is read back from each store and compared.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};
use tmem_store::codec::{Codec, Coded, Decoder, Dictionaries, Recoder};
use tmem_store::{Loaded, ObjectId, PageStore, PoolConfig, PoolId, StoreConfig};
use tmem_sys::lz4::Lz4State;
use tmem_sys::{PAGE_SIZE, Page};

const OBJECT: ObjectId = ObjectId([1, 0, 0]);
const SLOT: usize = 64;
const SAMPLES: usize = 1000;
/// Of the pages, so many are decoded one by one for the time.
const TIMED: usize = 4000;

/// One way to keep the pages.
struct Row {
    bytes: usize,
    pack_us: f64,
    unpack_us: f64,
    recoded: usize,
}

struct Stored {
    store: PageStore,
    pool: PoolId,
}

impl Stored {
    fn new(pages: usize) -> Stored {
        let config = StoreConfig::for_pages(pages as u64, pages * PAGE_SIZE + (16 << 20));
        let mut store = PageStore::new(config).expect("address space");
        let pool =
            store.new_pool(PoolConfig { raw: true, ..PoolConfig::default() }).expect("a new store has room");
        Stored { store, pool }
    }

    fn keep(&mut self, index: usize, page: &Page, coded: &Coded<'_>) {
        let answer = self.store.put_coded(self.pool, OBJECT, index as u64, page, coded);
        assert!(answer.is_ok_and(|outcome| outcome.is_stored()), "page {index} was refused");
    }

    /// Reads every page back. Bytes of it all.
    fn verified(mut self, pages: &[Page]) -> usize {
        let mut into = [0; PAGE_SIZE];
        for (index, page) in pages.iter().enumerate() {
            let got = self.store.get(self.pool, OBJECT, index as u64, &mut into);
            assert!(got == Ok(Loaded::Loaded) && into == *page, "page {index} did not come back");
        }
        self.store.footprint()
    }
}

fn with_lz4(pages: &[Page]) -> Row {
    let (mut lz4, mut out) = (Lz4State::new().expect("address space"), [0; PAGE_SIZE / 8 * 7]);
    let start = Instant::now();
    let bytes = pages.iter().map(|page| {
        let same = page[..8] == page[8..16] && page.chunks_exact(8).all(|word| word == &page[..8]);
        let len = if same { Some(0) } else { lz4.compress(page, &mut out) };
        len.map_or(PAGE_SIZE, |len| len.next_multiple_of(SLOT))
    });
    Row { bytes: bytes.sum(), pack_us: micros(start.elapsed(), pages.len()), unpack_us: 0.0, recoded: 0 }
}

fn warm(pages: &[Page]) -> Row {
    let mut stored = Stored::new(pages.len());
    let mut codec = Codec::new().expect("address space");
    let (mut spent, mut packed) = (Duration::ZERO, Vec::new());
    for (index, page) in pages.iter().enumerate() {
        let start = Instant::now();
        let coded = codec.encode(page, true);
        spent += start.elapsed();
        if let Coded::Packed(bytes) = coded {
            packed.push(bytes.to_vec());
        }
        stored.keep(index, page, &coded);
    }
    let unpack_us = time_to_unpack(&mut Decoder::new(Dictionaries::new()).expect("address space"), &packed);
    Row { bytes: stored.verified(pages), pack_us: micros(spent, pages.len()), unpack_us, recoded: 0 }
}

/// As a background thread would leave the store: each page in its cold form where that is worth it. Times are of those.
fn cold(pages: &[Page], samples: usize) -> Row {
    let mut stored = Stored::new(pages.len());
    let dictionaries = stored.store.dictionaries().clone();
    let mut recoder = Recoder::new(dictionaries.clone()).expect("address space");
    if let Some(step) = pages.len().checked_div(samples) {
        let sample: Vec<Page> = pages.iter().step_by(step.max(1)).copied().collect();
        let start = Instant::now();
        let kept = recoder.train(&sample, pages.len()).expect("address space");
        let (took, bytes) = (start.elapsed().as_millis(), dictionaries.footprint());
        eprintln!("{kept} dictionaries kept in {took} ms; cold forms take {bytes} bytes beside the pages");
    }
    let mut codec = Codec::new().expect("address space");
    let (mut spent, mut asked, mut packed) = (Duration::ZERO, 0, Vec::new());
    for (index, page) in pages.iter().enumerate() {
        let present = codec.encode(page, true);
        let bytes = match &present {
            Coded::Same(_) => {
                stored.keep(index, page, &present);
                continue;
            }
            Coded::Packed(bytes) => Some(*bytes),
            Coded::Incompressible => None,
        };
        let start = Instant::now();
        let recoded = recoder.recode(page, bytes);
        spent += start.elapsed();
        asked += 1;
        match recoded {
            Some(bytes) => {
                packed.push(bytes.to_vec());
                stored.keep(index, page, &Coded::Packed(bytes));
            }
            None => stored.keep(index, page, &present),
        }
    }
    let unpack_us = time_to_unpack(&mut Decoder::new(dictionaries).expect("address space"), &packed);
    Row { bytes: stored.verified(pages), pack_us: micros(spent, asked), unpack_us, recoded: packed.len() }
}

fn time_to_unpack(decoder: &mut Decoder, packed: &[Vec<u8>]) -> f64 {
    let mut into = [0; PAGE_SIZE];
    let some = packed.iter().step_by((packed.len() / TIMED).max(1));
    let (start, mut count) = (Instant::now(), 0);
    for bytes in some {
        assert!(decoder.decode(bytes, &mut into));
        std::hint::black_box(&mut into);
        count += 1;
    }
    micros(start.elapsed(), count)
}

fn micros(time: Duration, count: usize) -> f64 {
    time.as_nanos() as f64 / 1000.0 / count.max(1) as f64
}

fn main() {
    let mut args = std::env::args().skip(1).peekable();
    let json = args.next_if_eq("--json").is_some();
    let mut samples = SAMPLES;
    if args.next_if_eq("--samples").is_some() {
        samples = args.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| {
            eprintln!("cold: --samples takes a number");
            std::process::exit(125);
        });
    }
    if !json {
        println!(
            "| bytes a page (µs packed / unpacked) | LZ4 alone | as put | cold | cold, with dictionaries | recoded |"
        );
        println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    }
    for file in args {
        let bytes = std::fs::read(&file).unwrap_or_else(|error| {
            eprintln!("cold: {file}: {error}");
            std::process::exit(1);
        });
        let pages: &[Page] = bytes.as_chunks().0;
        let name = file.rsplit('/').next().unwrap_or(&file);
        let rows = [with_lz4(pages), warm(pages), cold(pages, 0), cold(pages, samples)];
        print(name, &rows, pages.len(), json);
    }
}

fn print(name: &str, rows: &[Row; 4], pages: usize, json: bool) {
    let page = |row: &Row| row.bytes as f64 / pages as f64;
    let recoded = rows[3].recoded as f64 * 100.0 / pages as f64;
    if json {
        let fields = ["lz4", "warm", "cold", "dictionaries"].iter().zip(rows).map(|(name, row)| {
            let (bytes, pack, unpack) = (page(row), row.pack_us, row.unpack_us);
            format!(
                "\"{name}\": {{\"bytes\": {bytes:.1}, \"pack_us\": {pack:.2}, \"unpack_us\": {unpack:.2}}}"
            )
        });
        let fields = fields.collect::<Vec<_>>().join(", ");
        println!("{{\"data\": \"{name}\", \"pages\": {pages}, {fields}, \"recoded\": {recoded:.1}}}");
        return;
    }
    let [lz4, warm, cold, trained] =
        rows.each_ref().map(|row| format!("{:.0} ({:.1} / {:.1})", page(row), row.pack_us, row.unpack_us));
    println!("| {name} | {lz4} | {warm} | {cold} | {trained} | {recoded:.0} % |");
}

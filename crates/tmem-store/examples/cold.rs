// SPDX-License-Identifier: Apache-2.0
//! What a store takes in all for the same pages: as a put packs them, and once they are cold, without and with dictionaries;
//! beside LZ4 alone. What the cold forms cost both ways.
//!
//! `cargo run --release -p tmem-store --example cold -- [--json] [--samples N] FILE ...`
//!
//! Each file is an image of pages. Bytes are those that each store counts in all: slots, index, tables, dictionaries and what
//! packs with them. LZ4's are rounded to the same slots. Every page is read back from each store and
//! compared. Times are the thread's own.
#![forbid(unsafe_code)]

use tmem_store::codec::{Codec, Coded, Decoder, Dictionaries, Recoder};
use tmem_store::{Loaded, ObjectId, PageStore, PoolConfig, PoolId, StoreConfig};
use tmem_sys::lz4::Lz4State;
use tmem_sys::{PAGE_SIZE, Page};

const OBJECT: ObjectId = ObjectId([1, 0, 0]);
const SLOT: usize = 64;
const SAMPLES: usize = 1000;

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

/// A page's form, to be kept.
enum Kept {
    Same(u64),
    Packed(Vec<u8>),
    Raw,
}

impl Kept {
    fn of(coded: &Coded<'_>) -> Kept {
        match coded {
            Coded::Same(word) => Kept::Same(*word),
            Coded::Packed(bytes) => Kept::Packed(bytes.to_vec()),
            Coded::Incompressible => Kept::Raw,
        }
    }

    fn packed(&self) -> Option<&[u8]> {
        if let Kept::Packed(bytes) = self { Some(bytes) } else { None }
    }

    fn coded(&self) -> Coded<'_> {
        match self {
            Kept::Same(word) => Coded::Same(*word),
            Kept::Packed(bytes) => Coded::Packed(bytes),
            Kept::Raw => Coded::Incompressible,
        }
    }
}

fn with_lz4(pages: &[Page]) -> Row {
    let (mut lz4, mut out) = (Lz4State::new().expect("address space"), [0; PAGE_SIZE / 8 * 7]);
    let start = processor_time();
    let bytes = pages.iter().map(|page| {
        let same = page[..8] == page[8..16] && page.chunks_exact(8).all(|word| word == &page[..8]);
        let len = if same { Some(0) } else { lz4.compress(page, &mut out) };
        len.map_or(PAGE_SIZE, |len| len.next_multiple_of(SLOT))
    });
    let bytes = bytes.sum();
    Row { bytes, pack_us: micros(start, pages.len()), unpack_us: 0.0, recoded: 0 }
}

fn pack(pages: &[Page]) -> Vec<Kept> {
    let mut codec = Codec::new().expect("address space");
    pages.iter().map(|page| Kept::of(&codec.encode(page, true))).collect()
}

fn warm(pages: &[Page]) -> Row {
    let mut stored = Stored::new(pages.len());
    let start = processor_time();
    let packed = pack(pages);
    let pack_us = micros(start, pages.len());
    packed.iter().enumerate().for_each(|(index, kept)| stored.keep(index, &pages[index], &kept.coded()));
    let mut decoder = Decoder::new(Dictionaries::new()).expect("address space");
    let unpack_us = time_to_unpack(&mut decoder, &packed.iter().filter_map(Kept::packed).collect::<Vec<_>>());
    Row { bytes: stored.verified(pages), pack_us, unpack_us, recoded: 0 }
}

/// As a background thread would leave the store: each page in its cold form where that is worth it. Times are of those that
/// it is asked about, and of those that are in a cold form then.
fn cold(pages: &[Page], samples: usize) -> Row {
    let mut stored = Stored::new(pages.len());
    let dictionaries = stored.store.dictionaries().clone();
    let mut recoder = Recoder::new(dictionaries.clone()).expect("address space");
    if let Some(step) = pages.len().checked_div(samples) {
        let sample: Vec<Page> = pages.iter().step_by(step.max(1)).copied().collect();
        let start = processor_time();
        let kept = recoder.train(&sample, pages.len()).expect("address space");
        let (took, bytes) = (micros(start, 1000), dictionaries.footprint());
        eprintln!("{kept} dictionaries kept in {took:.0} ms; cold forms take {bytes} bytes beside the pages");
    }
    let present = pack(pages);
    let asked: Vec<usize> =
        (0..pages.len()).filter(|index| !matches!(present[*index], Kept::Same(_))).collect();
    let start = processor_time();
    let recode = |index: &usize| recoder.recode(&pages[*index], present[*index].packed()).map(<[u8]>::to_vec);
    let recoded: Vec<Option<Vec<u8>>> = asked.iter().map(recode).collect();
    let pack_us = micros(start, asked.len());
    let mut forms: Vec<Coded<'_>> = present.iter().map(Kept::coded).collect();
    for (index, bytes) in asked.iter().zip(&recoded) {
        if let Some(bytes) = bytes {
            forms[*index] = Coded::Packed(bytes);
        }
    }
    forms.iter().enumerate().for_each(|(index, coded)| stored.keep(index, &pages[index], coded));
    let packed: Vec<&[u8]> = recoded.iter().flatten().map(Vec::as_slice).collect();
    let unpack_us = time_to_unpack(&mut Decoder::new(dictionaries).expect("address space"), &packed);
    Row { bytes: stored.verified(pages), pack_us, unpack_us, recoded: packed.len() }
}

fn time_to_unpack(decoder: &mut Decoder, packed: &[&[u8]]) -> f64 {
    let mut into = [0; PAGE_SIZE];
    let start = processor_time();
    for bytes in packed {
        assert!(decoder.decode(bytes, &mut into));
        std::hint::black_box(&mut into);
    }
    micros(start, packed.len())
}

/// Nanoseconds that this thread ran: what others do on the machine meanwhile is not in it.
fn processor_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel that counts");
    text.split(' ').next().and_then(|word| word.parse().ok()).expect("its first word is a number")
}

fn micros(start: u64, count: usize) -> f64 {
    (processor_time() - start) as f64 / 1000.0 / count.max(1) as f64
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

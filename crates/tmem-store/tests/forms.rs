// SPDX-License-Identifier: Apache-2.0
//! A backend whose pages change their forms while they are put, shared, moved, written back and forgotten, against a map. Batches of
//! cold pages lie about for a while before they are exchanged, as in the background thread, which holds no lock meanwhile.
//! Areas are small and many, so that entries move between objects' records and trees.

use std::collections::BTreeMap;
use tmem_store::codec::{Decoder, Recoder};
use tmem_store::{
    BackendOps, Blob, ColdBatch, Dedup, Dictionaries, Loaded, LocalBackend, PoolConfig, StoreConfig,
};
use tmem_sys::{PAGE_SIZE, Page};

const AREAS: u64 = 40;
const PAGES: u64 = 70;
/// Contents that there are: few enough for twins.
const CONTENTS: u64 = 600;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }
}

/// Noise, one word, bytes of few values, or a ramp: by turns.
fn content(n: u64) -> Page {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|i| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match n % 8 {
            0 => (x >> 56) as u8,
            1 => n as u8,
            2 => (i / 8) as u8 ^ n as u8,
            _ => b"etaoin shrdlu eta"[(x >> 60) as usize],
        }
    })
}

struct Pages {
    backend: LocalBackend,
    model: BTreeMap<(u32, u64), u64>,
    batches: Vec<(ColdBatch, Vec<Option<Vec<u8>>>)>,
    recoder: Recoder,
    decoder: Decoder,
    recoded: u64,
    gone_down: u64,
}

impl Pages {
    fn new(capacity: usize, dedup: Dedup) -> Pages {
        let dictionaries = Dictionaries::new();
        let config = StoreConfig::for_pages(AREAS * PAGES, capacity);
        let pool = PoolConfig { raw: true, dedup, ..PoolConfig::default() };
        let mut backend = LocalBackend::sharing(config, pool, dictionaries.clone()).unwrap();
        (0..AREAS).for_each(|area| backend.init(area as u32, PAGES));
        Pages {
            backend,
            model: BTreeMap::new(),
            batches: Vec::new(),
            recoder: Recoder::new(dictionaries.clone()).unwrap(),
            decoder: Decoder::new(dictionaries).unwrap(),
            recoded: 0,
            gone_down: 0,
        }
    }

    fn handle(random: &mut Random) -> (u32, u64) {
        // Most areas have a page or two.
        let area = random.below(AREAS);
        (area as u32, random.below(if area < 4 { PAGES } else { 3 }))
    }

    fn put(&mut self, random: &mut Random) {
        let (handle, n) = (Pages::handle(random), random.below(CONTENTS));
        self.model.remove(&handle);
        if self.backend.store(handle.0, handle.1, &content(n)).is_stored() {
            self.model.insert(handle, n);
        }
    }

    fn get(&mut self, handle: (u32, u64)) {
        let mut into = [0; PAGE_SIZE];
        let loaded = self.backend.load(handle.0, handle.1, &mut into).unwrap();
        match self.model.get(&handle) {
            Some(n) => assert!(loaded == Loaded::Loaded && into == content(*n), "{handle:?}"),
            None => assert_eq!(loaded, Loaded::Absent, "{handle:?}"),
        }
    }

    /// As the pager writes back: the oldest pages leave, in their form.
    fn write_back(&mut self, most: u64) {
        let (mut after, mut gone) = (0, Vec::new());
        for _ in 0..most {
            let Some(oldest) = self.backend.oldest(after) else { break };
            let handle = (oldest.area, oldest.page);
            let n = self.model.remove(&handle).expect("a page that is stored");
            let mut page = [0; PAGE_SIZE];
            match oldest.blob {
                Blob::Page(raw) => page = *raw,
                Blob::Packed(bytes) => assert!(self.decoder.decode(bytes, &mut page)),
                Blob::Same(_) => panic!("a page of one word is in no order"),
            }
            assert!(page == content(n), "{handle:?}");
            after = oldest.after;
            gone.push(handle);
        }
        self.gone_down += gone.len() as u64;
        gone.iter().for_each(|handle| self.backend.invalidate_page(handle.0, handle.1));
    }

    fn take_cold(&mut self, before: u32) {
        let mut batch = ColdBatch::new().unwrap();
        self.backend.take_cold(before, &mut batch);
        let mut tighter = Vec::new();
        for n in 0..batch.len() {
            let (stored, mut page) = (batch.stored(n), [0; PAGE_SIZE]);
            let packed = (stored.len() < PAGE_SIZE).then_some(stored);
            match packed {
                None => page.copy_from_slice(stored),
                Some(packed) => assert!(self.decoder.decode(packed, &mut page)),
            }
            tighter.push(self.recoder.recode(&page, packed).map(<[u8]>::to_vec));
        }
        self.batches.push((batch, tighter));
    }

    fn settle(&mut self, random: &mut Random) {
        if self.batches.is_empty() {
            return;
        }
        let at = random.below(self.batches.len() as u64) as usize;
        let (batch, tighter) = self.batches.swap_remove(at);
        for (n, tighter) in tighter.iter().enumerate() {
            let before = self.backend.stats().slot_bytes;
            let saved = self.backend.settle_cold(&batch, n, tighter.as_deref());
            let after = self.backend.stats().slot_bytes;
            assert!(if saved { after < before } else { after == before }, "{before} bytes, {after} after");
            self.recoded += u64::from(saved);
        }
    }

    fn step(&mut self, random: &mut Random, clock: u32) {
        match random.below(100) {
            0..50 => self.put(random),
            50..65 => self.get(Pages::handle(random)),
            65..75 => {
                let handle = Pages::handle(random);
                self.backend.invalidate_page(handle.0, handle.1);
                self.model.remove(&handle);
            }
            75..80 => {
                let handle = Pages::handle(random);
                self.backend.touch(handle.0, handle.1);
            }
            80..83 => self.write_back(random.below(6)),
            83..90 => self.take_cold(clock + 1),
            90..97 => self.settle(random),
            97 => drop(self.backend.tidy(true)),
            98 => {
                let area = random.below(AREAS) as u32;
                self.backend.invalidate_area(area);
                self.backend.init(area, PAGES);
                self.model.retain(|handle, _| handle.0 != area);
            }
            _ => self.backend.set_clock(clock),
        }
    }
}

fn run(seed: u64, capacity: usize, dedup: Dedup) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut pages = Pages::new(capacity, dedup);
    for n in 0..12_000 {
        pages.step(&mut random, n / 200);
        if n == 6000 {
            let samples: Vec<Page> = (0..256).map(|n| content(n * 8 + 3)).collect();
            pages.recoder.train(&samples, 100_000).unwrap();
        }
        if n % 500 == 0 {
            assert_eq!(pages.backend.check(), Vec::<String>::new(), "seed {seed}, after {n} steps");
        }
    }
    (0..AREAS as u32).for_each(|area| (0..PAGES).for_each(|page| pages.get((area, page))));
    assert_eq!(pages.backend.check(), Vec::<String>::new());
    assert!(pages.recoded > 100 && pages.gone_down > 100, "{} {}", pages.recoded, pages.gone_down);
    // What is left goes down in the order of age.
    while pages.backend.oldest(0).is_some() {
        pages.write_back(64);
    }
    assert!(pages.model.values().all(|n| n % 8 == 1), "all but pages of one word are in the order");
}

#[test]
fn pages_change_their_forms_and_stay_what_they_are() {
    for seed in 1..=2 {
        run(seed, 16 << 20, Dedup::Off);
        run(seed, 16 << 20, Dedup::On);
        run(seed, 16 << 20, Dedup::Auto);
    }
}

#[test]
fn so_they_do_in_a_full_store() {
    for seed in 1..=2 {
        run(seed, 1 << 19, Dedup::Off);
        run(seed, 1 << 19, Dedup::On);
    }
}

/// For as many seeds as are told.
#[test]
#[ignore = "long: as many seeds as SEEDS says"]
fn pages_change_their_forms_under_many_seeds() {
    let seeds = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    for seed in 100..100 + seeds {
        let capacity = if seed % 2 == 0 { 1 << 19 } else { 16 << 20 };
        run(seed, capacity, [Dedup::On, Dedup::Off, Dedup::Auto][seed as usize % 3]);
    }
}

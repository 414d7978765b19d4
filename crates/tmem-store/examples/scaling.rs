// SPDX-License-Identifier: Apache-2.0
//! How puts and gets at one host scale from one thread to two, beside two threads that share nothing.
//!
//! `cargo run --release -p tmem-store --example scaling -- [--json] [--rounds N] [--ms N]`
//!
//! In each round one thread works, then two at one host, then two each at a host of its own: what two can reach here
//! at that moment, with whatever else is running. Rates are pages in the time that passed, and, less disturbed by others
//! who use the machine, pages in the time that the threads ran, of all threads together. All pages are compared after
//! each round, outside the time.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tmem_store::host::RUN;
use tmem_store::{Dedup, Host, HostConfig, Loaded, ObjectId, PoolConfig, PoolId, PoolKind};
use tmem_sys::{PAGE_SIZE, Page};

const DATA: [&str; 4] = ["heap", "numeric", "same", "noise"];
const VERBS: [&str; 5] = ["put", "get", "mixed", "put_many", "get_many"];
const WAYS: [&str; 3] = ["one", "shared", "apart"];
/// Pages of each thread.
const PAGES: usize = 1024;
const OBJECT: ObjectId = ObjectId([1, 2, 3]);

struct Options {
    json: bool,
    rounds: usize,
    ms: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options { json: false, rounds: 9, ms: 40 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number =
            || args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).ok_or("a number, at least 1");
        match arg.as_str() {
            "--json" => options.json = true,
            "--rounds" => options.rounds = number()?,
            "--ms" => options.ms = number()? as u64,
            other => return Err(format!("{other}: not one of --json, --rounds N, --ms N")),
        }
    }
    Ok(options)
}

fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn make_page(data: &str, n: u64) -> Page {
    let mut next = noise(n + 1);
    let mut page = [0; PAGE_SIZE];
    for (i, word) in page.chunks_exact_mut(8).enumerate() {
        let value: u64 = match data {
            // Objects of a heap: a count, a pointer to a type, a length, a pointer, now and then text.
            "heap" => match i % 4 {
                0 => 1 + next() % 3,
                1 => 0x7f3a_5c00_0000 + next() % 16 * 0x140,
                2 if i % 16 == 2 => u64::from_ne_bytes(*b"the page") ^ (next() & 0x0f00_0f00),
                2 => next() % 64,
                _ => 0x7f3a_4000_0000 + next() % (1 << 22) * 16,
            },
            "numeric" => n * 512 + i as u64 + next() % 3,
            "same" => n,
            _ => next(),
        };
        word.copy_from_slice(&value.to_ne_bytes());
    }
    page
}

/// What pools do about twins, by `SCALING_DEDUP`: off, or on or auto.
fn dedup() -> Dedup {
    match std::env::var("SCALING_DEDUP").as_deref() {
        Ok("on") => Dedup::On,
        Ok("auto") => Dedup::Auto,
        _ => Dedup::Off,
    }
}

struct Place {
    host: Arc<Host>,
    pool: PoolId,
}

impl Place {
    fn new() -> Place {
        let config = HostConfig { limit_bytes: 256 << 20, reserve_bytes: 256 << 20 };
        let host = Host::new(config).expect("address space");
        let config = PoolConfig { pack: true, raw: true, dedup: dedup() };
        let pool = host.new_pool("default", PoolKind::Persistent, config).expect("a new host has room");
        Place { host, pool }
    }
}

/// What one thread works with.
struct Bench<'a> {
    place: &'a Place,
    pages: &'a [Page],
    first: u64,
}

impl Bench<'_> {
    fn put(&self, n: usize) {
        let Place { host, pool } = self.place;
        let outcome = host.put(*pool, OBJECT, self.first + n as u64, &self.pages[n]).expect("the pool lives");
        assert!(outcome.is_stored(), "{outcome:?}");
    }

    fn get(&self, n: usize, into: &mut Page) {
        let Place { host, pool } = self.place;
        let got = host.get(*pool, OBJECT, self.first + n as u64, into);
        assert_eq!(got, Ok(Loaded::Loaded));
    }

    fn many(&self, verb: &str, n: usize, into: &mut [Page]) {
        let Place { host, pool } = self.place;
        let indexes: [u64; RUN] = std::array::from_fn(|i| self.first + (n + i) as u64);
        let mut answers = [7; RUN];
        if verb == "put_many" {
            let done = host.put_many(*pool, OBJECT, &indexes, &self.pages[n..n + RUN], &mut answers);
            assert!(done.is_ok() && answers == [0; RUN]);
        } else {
            let done = host.get_many(*pool, OBJECT, &indexes, into, &mut answers);
            assert!(done.is_ok() && answers == [1; RUN]);
        }
    }

    /// Works until it is told to stop; how many pages.
    fn work(&self, verb: &str, stop: &AtomicBool) -> u64 {
        let mut into = vec![[0; PAGE_SIZE]; RUN];
        let mut done = 0;
        while !stop.load(Ordering::Relaxed) {
            // A run between two looks at the clock's flag, whatever the verb.
            let first = done as usize % PAGES;
            match verb {
                "put" => (first..first + RUN).for_each(|n| self.put(n)),
                "get" => (first..first + RUN).for_each(|n| self.get(n, &mut into[0])),
                "mixed" => (first..first + RUN)
                    .for_each(|n| if n % 2 == 0 { self.put(n) } else { self.get(n, &mut into[0]) }),
                many => self.many(many, first, &mut into),
            }
            done += RUN as u64;
        }
        done
    }

    fn compare(&self) {
        let mut into = [0; PAGE_SIZE];
        for (n, page) in self.pages.iter().enumerate() {
            self.get(n, &mut into);
            assert!(into == *page, "page {n} came back changed");
        }
    }
}

/// Pages a second of all threads together: of the time that passed, and of the time each ran.
type Rate = [f64; 2];

fn rate(benches: &[Bench<'_>], verb: &str, ms: u64) -> Rate {
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let work = |bench: &Bench<'_>| {
        let ran = tmem_sys::time::thread_ns();
        let done = bench.work(verb, &stop) as f64;
        (done, done * 1e9 / (tmem_sys::time::thread_ns() - ran).max(1) as f64)
    };
    let done: Vec<(f64, f64)> = std::thread::scope(|s| {
        let threads: Vec<_> = benches.iter().map(|bench| s.spawn(|| work(bench))).collect();
        std::thread::sleep(Duration::from_millis(ms));
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("no thread failed")).collect()
    });
    let passed = start.elapsed().as_secs_f64();
    [done.iter().map(|(pages, _)| pages).sum::<f64>() / passed, done.iter().map(|(_, rate)| rate).sum()]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Rates of each way and round.
fn measure(data: &str, verb: &str, options: &Options) -> [Vec<Rate>; 3] {
    let pages: Vec<Page> = (0..2 * PAGES as u64).map(|n| make_page(data, n)).collect();
    let (one, other) = (Place::new(), Place::new());
    let (first, second) = pages.split_at(PAGES);
    let shared = [
        Bench { place: &one, pages: first, first: 0 },
        Bench { place: &one, pages: second, first: PAGES as u64 },
    ];
    let apart = [
        Bench { place: &one, pages: first, first: 0 },
        Bench { place: &other, pages: second, first: PAGES as u64 },
    ];
    shared.iter().chain(&apart).for_each(|bench| (0..PAGES).for_each(|n| bench.put(n)));
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..options.rounds {
        for (way, benches) in [&shared[..1], &shared[..], &apart[..]].into_iter().enumerate() {
            rates[way].push(rate(benches, verb, options.ms));
        }
        shared.iter().chain(&apart).for_each(Bench::compare);
    }
    assert_eq!(one.host.check(), Vec::<String>::new());
    rates
}

fn rounds(rates: &[Rate], of: usize) -> String {
    let rates: Vec<String> = rates.iter().map(|rate| format!("{:.0}", rate[of])).collect();
    format!("[{}]", rates.join(", "))
}

fn print(data: &str, verb: &str, rates: &[Vec<Rate>; 3], json: bool) {
    // How many times as many pages as one thread, the median of the rounds.
    let times = |way: usize, of: usize| {
        median(rates[way].iter().zip(&rates[0]).map(|(two, one)| two[of] / one[of]).collect())
    };
    let ns = 1e9 / median(rates[0].iter().map(|rate| rate[1]).collect());
    if json {
        let each: Vec<String> = (WAYS.iter().zip(rates))
            .map(|(way, r)| {
                format!("\"{way}_rounds\": {}, \"{way}_ran_rounds\": {}", rounds(r, 0), rounds(r, 1))
            })
            .collect();
        println!(
            "{{\"data\": \"{data}\", \"verb\": \"{verb}\", \"ns\": {ns:.0}, \"shared\": {:.3}, \"apart\": {:.3}, \
             \"shared_ran\": {:.3}, \"apart_ran\": {:.3}, {}}}",
            times(1, 0),
            times(2, 0),
            times(1, 1),
            times(2, 1),
            each.join(", ")
        );
    } else {
        println!(
            "{data:8} {verb:9} {ns:5.0} ns a page; two threads {:.2} times as many pages, apart {:.2}; \
             of the time they ran {:.2}, apart {:.2}",
            times(1, 0),
            times(2, 0),
            times(1, 1),
            times(2, 1)
        );
    }
}

fn main() {
    let options = options().unwrap_or_else(|error| {
        eprintln!("scaling: {error}");
        std::process::exit(125);
    });
    for data in DATA {
        for verb in VERBS {
            print(data, verb, &measure(data, verb, &options), options.json);
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! How long a get takes, and how long it may have to wait, while another thread has a host do something large.
//!
//! `cargo run --release -p tmem-store --example waits -- [--json] [--seconds N]`
//!
//! One thread gets pages of one pool, one by one, each compared outside its time; another fills the host, has it forget pages of
//! other sizes and move the rest together, lowers the limit, and flushes large objects and destroys pools. The largest times
//! are those of a machine that others use, too: read them beside the row in which nothing else goes on.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tmem_store::{Dedup, Host, HostConfig, Loaded, ObjectId, PoolConfig, PoolId, PoolKind};
use tmem_sys::{PAGE_SIZE, Page};

const BESIDE: [&str; 4] = ["nothing", "compaction", "limit", "flush"];
const LIMIT: usize = 128 << 20;
const OBJECT: ObjectId = ObjectId([1, 2, 3]);
/// Pages that are got.
const PAGES: u64 = 1024;

fn page(n: u64, packed: usize) -> Page {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|i| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if i < packed { x as u8 } else { n as u8 }
    })
}

struct Place {
    host: std::sync::Arc<Host>,
    kept: PoolId,
}

impl Place {
    fn new() -> Place {
        let host = Host::new(HostConfig { limit_bytes: LIMIT, reserve_bytes: LIMIT }).expect("address space");
        let kept = new_pool(&host, PoolKind::Persistent);
        for n in 0..PAGES {
            let outcome = host.put(kept, OBJECT, n, &page(n, 1000)).expect("the pool lives");
            assert!(outcome.is_stored());
        }
        Place { host, kept }
    }

    /// One large thing, whole.
    fn work(&self, beside: &str, round: u64) {
        let host = &*self.host;
        match beside {
            // Pages of one size take the place of those of another.
            "compaction" => {
                let cache = new_pool(host, PoolKind::NonExclusive);
                let size = 400 + round as usize % 5 * 700;
                fill(host, cache, 2 * LIMIT as u64 / size as u64 / 8, size);
                assert!(host.destroy(cache).is_ok());
            }
            "limit" => {
                let cache = new_pool(host, PoolKind::NonExclusive);
                fill(host, cache, 20_000, 1500);
                host.set_limit(LIMIT / 4);
                host.set_limit(LIMIT);
                assert!(host.destroy(cache).is_ok());
            }
            "flush" => {
                let large = new_pool(host, PoolKind::Persistent);
                fill(host, large, 30_000, 1000);
                assert!(host.flush_object(large, OBJECT).is_ok());
                fill(host, large, 30_000, 1000);
                assert!(host.destroy(large).is_ok());
            }
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }

    /// Nanoseconds of each get, while another thread works.
    fn waits(&self, beside: &str, seconds: u64) -> Vec<u64> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                (0..).take_while(|_| !stop.load(Ordering::Relaxed)).for_each(|n| self.work(beside, n))
            });
            let (end, mut times, mut into) =
                (Instant::now() + Duration::from_secs(seconds), vec![], [0; PAGE_SIZE]);
            for n in (0..PAGES).cycle() {
                let start = Instant::now();
                let got = self.host.get(self.kept, OBJECT, n, &mut into);
                times.push(start.elapsed().as_nanos() as u64);
                assert!(got == Ok(Loaded::Loaded) && into == page(n, 1000), "page {n} came back changed");
                if start > end {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
            times
        })
    }
}

fn new_pool(host: &Host, kind: PoolKind) -> PoolId {
    host.new_pool("default", kind, PoolConfig { pack: true, raw: true, dedup: Dedup::Off })
        .expect("few pools")
}

fn fill(host: &Host, pool: PoolId, pages: u64, packed: usize) {
    for n in 0..pages {
        assert!(host.put(pool, OBJECT, n, &page(n, packed)).is_ok());
    }
}

fn main() {
    let (mut json, mut seconds) = (false, 3);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => json = true,
            "--seconds" => match args.next().and_then(|n| n.parse().ok()) {
                Some(number) => seconds = number,
                None => fail("--seconds takes a number"),
            },
            other => fail(&format!("{other}: not one of --json, --seconds N")),
        }
    }
    for beside in BESIDE {
        let place = Place::new();
        let mut times = place.waits(beside, seconds);
        assert_eq!(place.host.check(), Vec::<String>::new());
        times.sort_unstable();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        let (p50, p99, p999, most) = (at(0.5), at(0.99), at(0.999), at(1.0));
        if json {
            println!(
                "{{\"beside\": \"{beside}\", \"gets\": {}, \"p50\": {p50}, \"p99\": {p99}, \"p999\": {p999}, \"max\": {most}}}",
                times.len()
            );
        } else {
            println!(
                "{beside:10} {:8} gets, ns: p50 {p50}, p99 {p99}, p99.9 {p999}, max {most}",
                times.len()
            );
        }
    }
}

fn fail(why: &str) -> ! {
    eprintln!("waits: {why}");
    std::process::exit(125);
}

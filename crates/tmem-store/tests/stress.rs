// SPDX-License-Identifier: Apache-2.0
//! Several threads at one host of several shards, each page that comes back compared with what was put, every law asked after
//! each phase: laws 3 to 8, 11 and 13 while limits, caps and pools change.
//!
//! `cargo test -p tmem-store --test stress` runs a few seconds; `make stress` ten minutes. `TMEM_STRESS_SEED` repeats a
//! run as far as its threads do, `TMEM_STRESS_SECONDS` sets how long the long one takes.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, noise, page};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tmem_store::host::RUN;
use tmem_store::{Dedup, GuestLimits, Host, HostConfig, Loaded, ObjectId, PoolConfig, PoolId, PoolKind};
use tmem_sys::{PAGE_SIZE, Page};

const THREADS: u64 = 3;
const SHARDS: usize = 4;
const MIB: usize = 1 << 20;
const LIMIT: usize = 12 * MIB;
/// Whose pool, and what becomes of its pages.
const POOLS: [(&str, PoolKind); 4] = [
    ("default", PoolKind::Persistent),
    ("default", PoolKind::NonExclusive),
    ("second", PoolKind::Exclusive),
    ("second", PoolKind::Persistent),
];
/// The object that all threads use; each has others to itself.
const SHARED: u64 = u64::MAX;

type Key = (usize, u64, u64);

/// What a thread put under its own handles last, and may still be there; of persistent pools, must.
type Known = BTreeMap<Key, u64>;

struct Stress {
    host: Arc<Host>,
    pools: [PoolId; POOLS.len()],
}

/// A page that is told from every other by its number, and made from it alone.
fn numbered(number: u64) -> Page {
    let kind = match number % 7 {
        0 => Kind::Noise,
        1 => Kind::Same,
        2 => Kind::Text,
        n => Kind::Partly((n * 450) as u16 + (number % 400) as u16),
    };
    let mut page = page(kind, number);
    if kind != Kind::Same {
        page[..8].copy_from_slice(&number.to_ne_bytes());
    }
    page
}

struct Worker<'a> {
    stress: &'a Stress,
    thread: u64,
    next: Box<dyn FnMut() -> u64 + Send>,
    known: Known,
    /// Rises with every put, so that no two pages are alike.
    puts: u64,
}

impl Worker<'_> {
    fn number(&mut self) -> u64 {
        self.puts += 1;
        self.puts * THREADS + self.thread
    }

    fn key(&mut self) -> Key {
        let n = (self.next)();
        let index = if n.is_multiple_of(3) { n >> 32 & 0x3ff } else { n >> 32 & 0x3f };
        ((n >> 8) as usize % POOLS.len(), self.thread * 4 + (n >> 16) % 4, index)
    }

    fn step(&mut self) {
        let host = &self.stress.host;
        match (self.next)() % 100 {
            0..35 => {
                let (key, number) = (self.key(), self.number());
                let (pool, object) = self.stress.handle(key);
                self.put(key, number, host.put(pool, object, key.2, &numbered(number)).unwrap().is_stored());
            }
            35..65 => {
                let key = self.key();
                let (pool, object) = self.stress.handle(key);
                let mut into = [0xee; PAGE_SIZE];
                let found = host.get(pool, object, key.2, &mut into).unwrap() == Loaded::Loaded;
                self.got(key, found, &into);
            }
            65..70 => self.put_many(),
            70..75 => self.get_many(),
            75..85 => {
                let key = self.key();
                let (pool, object) = self.stress.handle(key);
                let was = host.flush_page(pool, object, key.2).unwrap();
                let known = self.known.remove(&key).is_some();
                assert!(was == known || (known && POOLS[key.0].1.is_ephemeral()), "{key:?}: {was}, {known}");
            }
            85 => {
                let key = self.key();
                let (pool, object) = self.stress.handle(key);
                let flushed = host.flush_object(pool, object).unwrap();
                let before = self.known.len() as u64;
                self.known.retain(|k, _| (k.0, k.1) != (key.0, key.1));
                let known = before - self.known.len() as u64;
                assert!(flushed == known || (flushed < known && POOLS[key.0].1.is_ephemeral()));
            }
            86 if self.thread == 0 => self.change(),
            87 if self.thread == 1 => self.passing_pool(),
            _ => self.shared(),
        }
    }

    fn put(&mut self, key: Key, number: u64, stored: bool) {
        self.known.remove(&key);
        if stored {
            self.known.insert(key, number);
        }
    }

    fn got(&mut self, key: Key, found: bool, into: &Page) {
        let (kind, known) = (POOLS[key.0].1, self.known.get(&key).copied());
        if found {
            let number = known.unwrap_or_else(|| panic!("{key:?}: never put, or gone"));
            assert!(*into == numbered(number), "{key:?}: other bytes came back");
        } else {
            assert!(known.is_none() || kind.is_ephemeral(), "{key:?}: a persistent page is lost");
        }
        if !found || kind == PoolKind::Exclusive {
            self.known.remove(&key);
        }
    }

    fn put_many(&mut self) {
        let key = self.key();
        let (pool, object) = self.stress.handle(key);
        let count = RUN + RUN / 2;
        let indexes: Vec<u64> = (key.2..).take(count).collect();
        let numbers: Vec<u64> = indexes.iter().map(|_| self.number()).collect();
        let pages: Vec<Page> = numbers.iter().map(|n| numbered(*n)).collect();
        let mut codes = vec![77; count];
        self.stress.host.put_many(pool, object, &indexes, &pages, &mut codes).unwrap();
        for ((index, number), code) in indexes.into_iter().zip(numbers).zip(codes) {
            self.put((key.0, key.1, index), number, code == 0);
        }
    }

    fn get_many(&mut self) {
        let key = self.key();
        let (pool, object) = self.stress.handle(key);
        let count = RUN + RUN / 2;
        let indexes: Vec<u64> = (key.2..).take(count).collect();
        let (mut into, mut found) = (vec![[0xee; PAGE_SIZE]; count], vec![7; count]);
        self.stress.host.get_many(pool, object, &indexes, &mut into, &mut found).unwrap();
        for ((index, page), found) in indexes.into_iter().zip(&into).zip(found) {
            self.got((key.0, key.1, index), found == 1, page);
        }
    }

    /// The host's side: limits, caps and weights change under everybody.
    fn change(&mut self) {
        let n = (self.next)();
        let host = &self.stress.host;
        match n % 4 {
            0 => host.set_limit(LIMIT - (n >> 8) as usize % (6 * MIB)),
            1 => host.set_limit(LIMIT),
            2 => {
                let cap = (n & 64 == 0).then_some((n >> 8) % (8 * MIB as u64));
                let limits = GuestLimits { weight: (n >> 40) as u32 % 4, cap };
                host.set_guest("second", |_| limits).unwrap();
            }
            _ => drop(host.set_guest_frozen("second", n & 64 == 0)),
        }
    }

    /// A pool that comes and goes beside the others'.
    fn passing_pool(&mut self) {
        let host = &self.stress.host;
        let config = PoolConfig { pack: true, raw: true, dedup: Dedup::On };
        let pool = host.new_pool("third", PoolKind::Persistent, config).unwrap();
        let put = |index| host.put(pool, ObjectId([0; 3]), index * 40, &numbered(index)).unwrap().is_stored();
        let stored = (0..20).filter(|index| put(*index)).count() as u64;
        assert_eq!(host.destroy(pool), Ok(stored));
        assert!(host.get(pool, ObjectId([0; 3]), 0, &mut [0; PAGE_SIZE]).is_err());
    }

    /// Handles of everybody: whole pages that somebody put.
    fn shared(&mut self) {
        let (n, number) = ((self.next)(), self.number());
        let key = ((n >> 8) as usize % POOLS.len(), SHARED, (n >> 16) % 8 * 32);
        let (pool, object) = self.stress.handle(key);
        let host = &self.stress.host;
        // One that says its number in its first word.
        let number = number * 7 + 3;
        if n.is_multiple_of(2) {
            let _ = host.put(pool, object, key.2, &numbered(number)).unwrap();
            return;
        }
        let mut into = [0; PAGE_SIZE];
        if host.get(pool, object, key.2, &mut into).unwrap() == Loaded::Loaded {
            let says = u64::from_ne_bytes(std::array::from_fn(|i| into[i]));
            assert!(into == numbered(says), "{key:?}: a torn page");
        }
    }
}

impl Stress {
    fn new() -> Stress {
        let config = HostConfig { limit_bytes: LIMIT, reserve_bytes: 2 * LIMIT };
        let host = Host::with_shards(config, SHARDS).unwrap();
        let mut dedups = [Dedup::Off, Dedup::On, Dedup::Auto].into_iter().cycle();
        let mut config = || PoolConfig { pack: true, raw: true, dedup: dedups.next().unwrap_or_default() };
        let pools = POOLS.map(|(guest, kind)| host.new_pool(guest, kind, config()).unwrap());
        Stress { host, pools }
    }

    fn handle(&self, key: Key) -> (PoolId, ObjectId) {
        (self.pools[key.0], ObjectId([key.1, 0, 7]))
    }

    /// Each thread takes so many steps; what each knows afterwards, and its number of puts.
    fn phase(&self, seed: u64, steps: u64, known: Vec<(Known, u64)>) -> Vec<(Known, u64)> {
        std::thread::scope(|s| {
            let threads: Vec<_> = known
                .into_iter()
                .zip(0..)
                .map(|((known, puts), thread)| {
                    s.spawn(move || {
                        let next = Box::new(noise(seed.wrapping_mul(THREADS).wrapping_add(thread)));
                        let mut worker = Worker { stress: self, thread, next, known, puts };
                        (0..steps).for_each(|_| worker.step());
                        (worker.known, worker.puts)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// Every law that can be asked while all is quiet.
    fn check(&self, known: &[(Known, u64)]) {
        assert_eq!(self.host.check(), Vec::<String>::new());
        let stats = self.host.stats();
        let fits = stats.footprint_bytes <= self.host.limit() as u64;
        assert!(fits || self.host.freeable() == 0, "over the limit with pages to give: {stats:?}");
        let guests = self.host.guests();
        assert_eq!(guests.iter().map(|(_, g)| g.held.pages).sum::<u64>(), stats.held.pages());
        assert_eq!(guests.iter().map(|(_, g)| g.evicted).sum::<u64>(), stats.traffic.evicted);
        for (name, guest) in &guests {
            let over = guest.limits.cap.is_some_and(|cap| guest.held.charge > cap);
            assert!(!over || guest.held.ephemeral_pages == 0, "{name} is over its cap");
        }
        let mut into = [0; PAGE_SIZE];
        for (key, number) in known.iter().flat_map(|(known, _)| known) {
            let (pool, object) = self.handle(*key);
            if POOLS[key.0].1 == PoolKind::Persistent {
                assert_eq!(self.host.get(pool, object, key.2, &mut into), Ok(Loaded::Loaded), "{key:?}");
                assert!(into == numbered(*number), "{key:?}: other bytes came back");
            }
        }
    }
}

fn stress(seconds: u64, steps: u64) {
    let seed = std::env::var("TMEM_STRESS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("TMEM_STRESS_SEED={seed}");
    let (until, mut phases) = (Instant::now() + Duration::from_secs(seconds), 0);
    while phases < 2 || Instant::now() < until {
        let stress = Stress::new();
        let mut known = vec![(Known::new(), 0); THREADS as usize];
        for phase in 0..4 {
            known = stress.phase(seed + phases * 4 + phase, steps, known);
            stress.check(&known);
        }
        phases += 1;
    }
    println!("{} phases of {THREADS} threads, {steps} steps each", phases * 4);
}

#[test]
fn what_threads_put_is_what_they_get_while_everything_changes() {
    stress(0, 1500);
}

/// Ten minutes, unless `TMEM_STRESS_SECONDS` says otherwise.
#[test]
#[ignore = "takes ten minutes: make stress"]
fn what_threads_put_is_what_they_get_for_long() {
    let seconds = std::env::var("TMEM_STRESS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    stress(seconds.unwrap_or(600), 20_000);
}

// SPDX-License-Identifier: Apache-2.0
//! Ephemeral pages in extents that are cut off at any step, held against a map: a get gives exactly what was put last, or misses, and
//! then misses until the next put (laws 3, 4, 6, 7, 11 and 19).
#![forbid(unsafe_code)]

mod common;

use common::{Kind, kinds, page};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tmem_store::revocable::{Revocable, RevocableConfig};
use tmem_store::{Extent, Holder, LinkState, Loaded, ObjectId, Outcome, PoolId, Reason, StoreError};
use tmem_sys::PAGE_SIZE;
use tmem_sys::lease::LeaseFd;

const EXTENT: usize = 64 << 10;
const MOST: u64 = 4;

fn store(max_pages: usize) -> Arc<Revocable> {
    Revocable::new(RevocableConfig { max_pages, max_bytes: 1 << 30 }).unwrap()
}

/// Plays the host: leases extents, and cuts them off.
struct Lender {
    store: Arc<Revocable>,
    theirs: BTreeMap<u64, LeaseFd>,
    last: u64,
}

impl Lender {
    fn new(store: &Arc<Revocable>) -> Lender {
        store.mailbox().set_state(LinkState::Refused { until_ns: u64::MAX });
        Lender { store: Arc::clone(store), theirs: BTreeMap::new(), last: 0 }
    }

    fn lease(&mut self) {
        self.last += 1;
        let fd = LeaseFd::new(EXTENT).unwrap();
        self.theirs.insert(self.last, fd.duplicate().unwrap());
        let extent = Extent { id: self.last, fd, bytes: EXTENT };
        assert!(self.store.mailbox().deposit(extent).is_ok());
    }

    fn serve(&mut self) {
        if self.store.mailbox().wanted() > 0 && (self.theirs.len() as u64) < MOST {
            self.lease();
        }
    }

    /// Cuts one off; with or without a word.
    fn revoke(&mut self, pick: usize, bytes: usize, tell: bool) {
        let Some(id) = self.theirs.keys().nth(pick % self.theirs.len().max(1)).copied() else { return };
        // Refused where it is shorter already.
        let _ = self.theirs[&id].set_size(bytes);
        if bytes == 0 {
            self.theirs.remove(&id);
        }
        if tell {
            self.store.revoked(&[id]);
            self.theirs.remove(&id);
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(usize, ObjectId, u64, Kind, u64),
    Get(usize, ObjectId, u64),
    Flush(usize, ObjectId, u64),
    FlushObject(usize, ObjectId),
    Freeze(usize, bool),
    FreezeAll(bool),
    Destroy(usize),
    Revoke(usize, usize, bool),
    Give,
    Serve,
    Renumber(usize),
}

fn ops() -> impl Strategy<Value = Op> {
    let objects = || (0u64..3, 0u64..2).prop_map(|(a, b)| ObjectId([a, 0, b]));
    let handle = move || (0usize..3, objects(), prop_oneof![4 => 0u64..8, 1 => 100u64..140]);
    let lengths = prop_oneof![3 => Just(0usize), 1 => 1usize..EXTENT];
    prop_oneof![
        30 => (handle(), kinds(), 0u64..1000).prop_map(|((p, o, i), k, s)| Op::Put(p, o, i, k, s)),
        16 => handle().prop_map(|(p, o, i)| Op::Get(p, o, i)),
        4 => handle().prop_map(|(p, o, i)| Op::Flush(p, o, i)),
        1 => (0usize..3, (0u64..3).prop_map(|a| ObjectId([a, 0, 0]))).prop_map(|(p, o)| Op::FlushObject(p, o)),
        1 => (0usize..3, any::<bool>()).prop_map(|(p, f)| Op::Freeze(p, f)),
        1 => any::<bool>().prop_map(Op::FreezeAll),
        1 => (0usize..3).prop_map(Op::Destroy),
        3 => (any::<usize>(), lengths, any::<bool>()).prop_map(|(n, l, t)| Op::Revoke(n, l, t)),
        1 => Just(Op::Give),
        8 => Just(Op::Serve),
        1 => any::<usize>().prop_map(Op::Renumber),
    ]
}

/// What the three pools are: exclusive, packing, keeping raw pages.
const POOLS: [(bool, bool, bool); 3] = [(true, true, true), (false, true, false), (false, false, true)];

struct Tested {
    store: Arc<Revocable>,
    lender: Lender,
    pools: [PoolId; 3],
    frozen: [bool; 3],
    all_frozen: bool,
    model: BTreeMap<(usize, ObjectId, u64), (Kind, u64)>,
}

impl Tested {
    fn new(max_pages: usize) -> Tested {
        let store = store(max_pages);
        let pools = POOLS.map(|(exclusive, pack, raw)| store.new_pool(exclusive, pack, raw).unwrap());
        let lender = Lender::new(&store);
        Tested { store, lender, pools, frozen: [false; 3], all_frozen: false, model: BTreeMap::new() }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Put(p, o, i, kind, seed) => self.put(p, o, i, kind, seed),
            Op::Get(p, o, i) => self.get(p, o, i),
            Op::Flush(p, o, i) => {
                let known = self.model.remove(&(p, o, i)).is_some();
                let was_there = self.store.flush_page(self.pools[p], o, i).unwrap();
                assert!(known || !was_there, "a page that nobody put");
            }
            Op::FlushObject(p, o) => {
                let before = self.model.len();
                self.model.retain(|k, _| (k.0, k.1) != (p, o));
                let flushed = self.store.flush_object(self.pools[p], o).unwrap();
                assert!(flushed as usize <= before - self.model.len());
            }
            Op::Freeze(p, frozen) => {
                self.frozen[p] = frozen;
                self.store.set_frozen(self.pools[p], frozen).unwrap();
            }
            Op::FreezeAll(frozen) => {
                self.all_frozen = frozen;
                self.store.set(frozen, true);
            }
            Op::Destroy(p) => self.destroy(p),
            Op::Revoke(pick, bytes, tell) => self.lender.revoke(pick, bytes, tell),
            Op::Give => {
                let before = self.store.stats().pages;
                let theirs = &mut self.lender.theirs;
                self.store.give(usize::MAX, &mut |id| {
                    theirs.remove(&id);
                });
                assert_eq!(
                    (self.store.stats().pages, self.store.surplus()),
                    (before, 0),
                    "no page goes with them"
                );
            }
            Op::Serve => self.lender.serve(),
            Op::Renumber(pick) => self.renumber(pick),
        }
    }

    fn renumber(&mut self, pick: usize) {
        let mut held = Vec::new();
        self.store.held(&mut |id, fd, _| {
            assert!(fd >= 0);
            held.push(id);
        });
        let Some(old) = held.get(pick % held.len().max(1)) else { return };
        self.lender.last += 1;
        self.store.renumber(*old, self.lender.last);
        if let Some(fd) = self.lender.theirs.remove(old) {
            self.lender.theirs.insert(self.lender.last, fd);
        }
    }

    fn put(&mut self, p: usize, o: ObjectId, i: u64, kind: Kind, seed: u64) {
        let outcome = self.store.put(self.pools[p], o, i, &page(kind, seed)).unwrap();
        self.model.remove(&(p, o, i));
        let frozen = self.frozen[p] || self.all_frozen;
        match outcome {
            Outcome::Stored => {
                assert!(!frozen, "a frozen pool stored");
                self.model.insert((p, o, i), (kind, seed));
            }
            Outcome::Refused(Reason::Frozen) => assert!(frozen),
            Outcome::Refused(Reason::Incompressible) => assert!(!POOLS[p].2),
            Outcome::Refused(Reason::StoreFull) => {
                let mut extents = 0;
                self.store.held(&mut |_, _, _| extents += 1);
                assert!(extents == 0, "the oldest extent is written anew");
                assert!(!matches!(kind, Kind::Zero | Kind::Same), "same-filled pages need no room");
            }
            Outcome::Refused(other) => panic!("refused: {other}"),
        }
        if outcome != Outcome::Stored {
            assert_eq!(self.store.contains(self.pools[p], o, i), Ok(false), "law 3");
        }
    }

    fn get(&mut self, p: usize, o: ObjectId, i: u64) {
        let mut into = [0xee; PAGE_SIZE];
        match self.store.get(self.pools[p], o, i, &mut into).unwrap() {
            Loaded::Loaded => {
                let (kind, seed) = *self.model.get(&(p, o, i)).expect("a page that nobody put");
                assert!(into == page(kind, seed), "other bytes came back");
                if POOLS[p].0 {
                    self.model.remove(&(p, o, i));
                }
            }
            Loaded::Absent => {
                assert!(into == [0xee; PAGE_SIZE], "a miss wrote to its target");
                self.model.remove(&(p, o, i));
            }
        }
    }

    fn destroy(&mut self, p: usize) {
        self.store.destroy(self.pools[p]).unwrap();
        assert_eq!(self.store.destroy(self.pools[p]), Err(StoreError::NoSuchPool));
        self.model.retain(|k, _| k.0 != p);
        self.frozen[p] = false;
        let (exclusive, pack, raw) = POOLS[p];
        self.pools[p] = self.store.new_pool(exclusive, pack, raw).unwrap();
    }

    fn check(&self) {
        assert_eq!(self.store.check(), Vec::<String>::new());
        let stats = self.store.stats();
        assert!(stats.pages <= self.model.len() as u64);
        let pools = self.pools.map(|p| self.store.pool_stats(p).unwrap().pages);
        assert_eq!(pools.iter().sum::<u64>(), stats.pages);
        assert_eq!(stats.damaged, 0);
        let traffic = stats.traffic;
        assert_eq!(traffic.stored + traffic.refused.total(), traffic.puts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn the_store_gives_what_was_put_last_or_misses(ops in proptest::collection::vec(ops(), 1..200)) {
        let mut tested = Tested::new(1000);
        for op in &ops {
            tested.step(op);
            tested.check();
        }
        for ((p, o, i), _) in tested.model.clone() {
            tested.get(p, o, i);
        }
        for pool in tested.pools {
            tested.store.destroy(pool).unwrap();
        }
        prop_assert_eq!(tested.store.check(), Vec::<String>::new());
    }
}

/// A long run with full extents and a full index.
#[test]
fn a_full_store_keeps_the_laws() {
    let mut tested = Tested::new(60);
    let mut next = common::noise(42);
    for n in 0..20_000u64 {
        let (p, o, i) = (next() as usize % 3, ObjectId([next() % 3, 0, 7]), next() % 100);
        let kind = match next() % 8 {
            0 => Kind::Same,
            1 => Kind::Noise,
            2 => Kind::Text,
            _ => Kind::Partly((next() % 3400) as u16 + 64),
        };
        match next() % 100 {
            0..60 => tested.step(&Op::Put(p, o, i, kind, next() % 1000)),
            60..80 => tested.step(&Op::Get(p, o, i)),
            80..90 => tested.step(&Op::Flush(p, o, i)),
            90..98 => tested.step(&Op::Serve),
            _ => tested.step(&Op::Revoke(next() as usize, 0, next().is_multiple_of(2))),
        }
        if n % 100 == 0 {
            tested.check();
        }
    }
    let stats = tested.store.stats();
    assert!(stats.traffic.evicted > 1000 && stats.revoked > 50 && stats.revoked_pages > 100, "{stats:?}");
    assert!(stats.traffic.hits > 100, "{stats:?}");
}

/// Without a host there is no room, but for what needs none; and what is refused is gone.
#[test]
fn a_store_without_an_extent_refuses_and_says_why() {
    let store = store(100);
    let pool = store.new_pool(false, true, true).unwrap();
    let put = |kind| store.put(pool, ObjectId([1; 3]), 1, &page(kind, 3)).unwrap();
    assert_eq!(put(Kind::Same), Outcome::Stored);
    assert_eq!(put(Kind::Noise), Outcome::Refused(Reason::StoreFull));
    assert_eq!(store.contains(pool, ObjectId([1; 3]), 1), Ok(false));
    assert!(store.mailbox().wanted() > 0);
}

/// The pages that a pool got last outlive those that it only put.
#[test]
fn a_page_that_is_got_is_young_again() {
    let store = store(10_000);
    let pool = store.new_pool(false, true, true).unwrap();
    let mut lender = Lender::new(&store);
    (0..4).for_each(|_| lender.lease());
    let handle = |n: u64| (ObjectId([n % 5, 0, 0]), n);
    let mut into = [0; PAGE_SIZE];
    for n in 0..500u64 {
        let (object, index) = handle(n);
        assert!(store.put(pool, object, index, &page(Kind::Noise, n)).unwrap().is_stored());
        let (object, index) = handle(n % 2);
        assert_eq!(store.get(pool, object, index, &mut into), Ok(Loaded::Loaded), "at {n}");
        assert!(into == page(Kind::Noise, n % 2));
    }
    let (object, index) = handle(2);
    assert_eq!(store.get(pool, object, index, &mut into), Ok(Loaded::Absent));
}

/// Threads put and get while another cuts extents off under their hands.
#[test]
fn extents_go_while_threads_work() {
    let store = store(10_000);
    let pools = [store.new_pool(true, true, true).unwrap(), store.new_pool(false, true, true).unwrap()];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3u64)
            .map(|who| {
                let store = &store;
                scope.spawn(move || work(store, pools, who))
            })
            .collect();
        scope.spawn(|| {
            let mut lender = Lender::new(&store);
            let mut next = common::noise(9);
            while !done.load(Ordering::Acquire) {
                lender.serve();
                if next().is_multiple_of(4) {
                    lender.revoke(next() as usize, 0, next().is_multiple_of(2));
                }
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        });
        let hits: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        done.store(true, Ordering::Release);
        assert!(hits > 100, "{hits} hits");
    });
    assert_eq!(store.check(), Vec::<String>::new());
    assert!(store.stats().revoked > 3, "{:?}", store.stats());
    assert_eq!(store.stats().damaged, 0);
}

/// Each thread has an object of its own, and knows what it put there last.
fn work(store: &Revocable, pools: [PoolId; 2], who: u64) -> u64 {
    let (mut hits, mut next) = (0, common::noise(who + 1));
    let mut model = BTreeMap::new();
    let mut into = [0; PAGE_SIZE];
    for _ in 0..8000 {
        let (p, index, seed) = (next() as usize % 2, next() % 40, next() % 1000);
        if next().is_multiple_of(2) {
            let kind = Kind::Partly((seed * 3) as u16 + 64);
            let stored = store.put(pools[p], ObjectId([who, 0, 0]), index, &page(kind, seed)).unwrap();
            model.remove(&(p, index));
            if stored.is_stored() {
                model.insert((p, index), seed);
            }
        } else if store.get(pools[p], ObjectId([who, 0, 0]), index, &mut into).unwrap() == Loaded::Loaded {
            let seed = model[&(p, index)];
            assert!(into == page(Kind::Partly((seed * 3) as u16 + 64), seed), "other bytes came back");
            hits += 1;
        } else {
            model.remove(&(p, index));
        }
    }
    hits
}

// SPDX-License-Identifier: Apache-2.0
//! Laws 1 to 5, 7 and the exact accounting of 11, held against the simplest model there is: a map. `ephemeral.rs` has the same for
//! ephemeral pools and guests.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, kinds, page};
use proptest::prelude::*;
use std::collections::BTreeMap;
use tmem_store::{
    Dedup, Loaded, ObjectId, Outcome, PageStore, PoolConfig, PoolId, Reason, StoreConfig, StoreError,
};
use tmem_sys::PAGE_SIZE;

const CHUNK: usize = 32 << 10;

#[derive(Clone, Debug)]
enum Op {
    Put(usize, ObjectId, u64, Kind, u64),
    Get(usize, ObjectId, u64),
    Flush(usize, ObjectId, u64),
    FlushObject(usize, ObjectId),
    Freeze(usize),
    Thaw(usize),
    /// Forgets the pool and makes a new one.
    Destroy(usize),
    /// In chunks.
    Capacity(usize),
    Compact,
    Trim,
}

fn objects() -> impl Strategy<Value = ObjectId> {
    // Ids that differ in one word each, and by one bit.
    prop_oneof![
        Just(ObjectId([0, 0, 0])),
        Just(ObjectId([1, 0, 0])),
        Just(ObjectId([0, 1, 0])),
        Just(ObjectId([0, 0, 1])),
    ]
}

fn indexes() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0u64..12, 2 => 60u64..70, 1 => Just(u64::MAX), 1 => (0u32..64).prop_map(|b| 1 << b)]
}

fn ops() -> impl Strategy<Value = Op> {
    let handle = || (0usize..3, objects(), indexes());
    prop_oneof![
        24 => (handle(), kinds(), 0u64..1000).prop_map(|((p, o, i), k, s)| Op::Put(p, o, i, k, s)),
        12 => handle().prop_map(|(p, o, i)| Op::Get(p, o, i)),
        8 => handle().prop_map(|(p, o, i)| Op::Flush(p, o, i)),
        2 => (0usize..3, objects()).prop_map(|(p, o)| Op::FlushObject(p, o)),
        1 => (0usize..3).prop_map(Op::Freeze),
        2 => (0usize..3).prop_map(Op::Thaw),
        1 => (0usize..3).prop_map(Op::Destroy),
        2 => (0usize..12).prop_map(Op::Capacity),
        1 => Just(Op::Compact),
        1 => Just(Op::Trim),
    ]
}

struct Tested {
    store: PageStore,
    /// The first keeps raw pages, the second refuses them.
    pools: [PoolId; 3],
    frozen: [bool; 3],
    model: BTreeMap<(usize, ObjectId, u64), (Kind, u64)>,
    lowered: bool,
}

const CONFIGS: [PoolConfig; 3] = [
    PoolConfig { pack: true, raw: true, dedup: Dedup::Off },
    PoolConfig { pack: true, raw: false, dedup: Dedup::Off },
    PoolConfig { pack: false, raw: true, dedup: Dedup::Off },
];

impl Tested {
    fn new() -> Tested {
        let mut store = PageStore::new(StoreConfig::for_pages(4096, 8 * CHUNK)).unwrap();
        let pools = CONFIGS.map(|c| store.new_pool(c).unwrap());
        Tested { store, pools, frozen: [false; 3], model: BTreeMap::new(), lowered: false }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Put(p, o, i, kind, seed) => self.put(p, o, i, kind, seed),
            Op::Get(p, o, i) => self.get(p, o, i),
            Op::Flush(p, o, i) => {
                let was_there = self.model.remove(&(p, o, i)).is_some();
                assert_eq!(self.store.flush_page(self.pools[p], o, i), Ok(was_there));
            }
            Op::FlushObject(p, o) => {
                let before = self.model.len();
                self.model.retain(|k, _| (k.0, k.1) != (p, o));
                let flushed = (before - self.model.len()) as u64;
                assert_eq!(self.store.flush_object(self.pools[p], o), Ok(flushed));
            }
            Op::Freeze(p) => self.freeze(p, true),
            Op::Thaw(p) => self.freeze(p, false),
            Op::Destroy(p) => self.destroy(p),
            Op::Capacity(chunks) => {
                self.store.set_capacity(chunks * CHUNK);
                self.lowered |= self.store.stats().mapped_bytes > (chunks * CHUNK) as u64;
            }
            Op::Compact => {
                self.store.compact(8);
            }
            Op::Trim => self.store.trim(),
        }
    }

    fn put(&mut self, p: usize, o: ObjectId, i: u64, kind: Kind, seed: u64) {
        let outcome = self.store.put(self.pools[p], o, i, &page(kind, seed)).unwrap();
        // Law 3: whatever the answer, the old page is gone.
        self.model.remove(&(p, o, i));
        match outcome {
            Outcome::Stored => {
                assert!(!self.frozen[p], "a frozen pool stored");
                self.model.insert((p, o, i), (kind, seed));
            }
            Outcome::Refused(Reason::Frozen) => assert!(self.frozen[p]),
            Outcome::Refused(Reason::Incompressible) => assert!(!CONFIGS[p].raw && kind == Kind::Noise),
            Outcome::Refused(Reason::StoreFull) => {
                assert!(!matches!(kind, Kind::Zero | Kind::Same), "same-filled pages need no room");
            }
            Outcome::Refused(other) => panic!("refused: {other}"),
        }
        self.get(p, o, i);
    }

    fn get(&mut self, p: usize, o: ObjectId, i: u64) {
        let mut into = [0xee; PAGE_SIZE];
        let loaded = self.store.get(self.pools[p], o, i, &mut into).unwrap();
        match self.model.get(&(p, o, i)) {
            Some(&(kind, seed)) => {
                assert_eq!(loaded, Loaded::Loaded);
                assert!(into == page(kind, seed), "other bytes came back");
            }
            None => {
                assert_eq!(loaded, Loaded::Absent);
                assert!(into == [0xee; PAGE_SIZE], "a miss wrote to its target");
            }
        }
    }

    fn freeze(&mut self, p: usize, frozen: bool) {
        self.frozen[p] = frozen;
        let pool = self.pools[p];
        if frozen { self.store.freeze(pool) } else { self.store.thaw(pool) }.unwrap();
    }

    fn destroy(&mut self, p: usize) {
        self.store.destroy(self.pools[p]).unwrap();
        assert_eq!(self.store.destroy(self.pools[p]), Err(StoreError::NoSuchPool));
        self.model.retain(|k, _| k.0 != p);
        self.frozen[p] = false;
        let old = std::mem::replace(&mut self.pools[p], self.store.new_pool(CONFIGS[p]).unwrap());
        assert_ne!(old, self.pools[p]);
        assert_eq!(self.store.contains(old, ObjectId([0; 3]), 0), Err(StoreError::NoSuchPool));
    }

    fn check(&mut self) {
        assert_eq!(self.store.check(), Vec::<String>::new());
        let stats = self.store.stats();
        assert_eq!(stats.held.pages(), self.model.len() as u64);
        let pools = self.pools.map(|p| self.store.pool_stats(p).unwrap().pages);
        assert_eq!(pools.iter().sum::<u64>(), self.model.len() as u64);
        assert!(stats.held.data_bytes <= stats.slot_bytes && stats.slot_bytes <= stats.mapped_bytes);
        let traffic = stats.traffic;
        assert_eq!(traffic.stored + traffic.refused.total(), traffic.puts);
        self.lowered &= stats.mapped_bytes > stats.capacity_bytes;
        assert!(self.lowered || stats.mapped_bytes <= stats.capacity_bytes);
    }

    fn end(&mut self) {
        for ((p, o, i), _) in self.model.clone() {
            self.get(p, o, i);
        }
        for pool in self.pools {
            self.store.destroy(pool).unwrap();
        }
        self.store.trim();
        assert_eq!(self.store.check(), Vec::<String>::new());
        let stats = self.store.stats();
        assert_eq!((stats.held.pages(), stats.mapped_bytes, stats.objects), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_as_a_map_that_may_refuse(ops in proptest::collection::vec(ops(), 1..160)) {
        let mut tested = Tested::new();
        for op in &ops {
            tested.step(op);
            tested.check();
        }
        tested.end();
    }
}

/// A long run over a store that is nearly always full.
#[test]
fn a_full_store_keeps_the_laws() {
    let mut tested = Tested::new();
    let mut next = common::noise(42);
    for n in 0..30_000u64 {
        let (o, i) = (ObjectId([next() % 3, 0, 7]), next() % 200);
        let kind = match next() % 8 {
            0 => Kind::Same,
            1 => Kind::Noise,
            2 => Kind::Text,
            _ => Kind::Partly((next() % 3400) as u16 + 64),
        };
        match next() % 10 {
            0..6 => tested.step(&Op::Put(n as usize % 2, o, i, kind, next() % 1000)),
            6..8 => tested.step(&Op::Get(n as usize % 2, o, i)),
            _ => tested.step(&Op::Flush(n as usize % 2, o, i)),
        }
        if n % 500 == 0 {
            tested.step(&Op::Compact);
            tested.check();
        }
    }
    assert!(tested.store.stats().traffic.refused.get(Reason::StoreFull) > 100);
    tested.end();
}

#[test]
fn pools_are_limited_and_slots_are_reused() {
    let mut store = PageStore::new(StoreConfig::for_pages(64, CHUNK)).unwrap();
    let pools: Vec<PoolId> = std::iter::from_fn(|| store.new_pool(PoolConfig::default()).ok()).collect();
    assert_eq!(store.new_pool(PoolConfig::default()), Err(StoreError::TooManyPools));
    store.destroy(pools[5]).unwrap();
    let again = store.new_pool(PoolConfig::default()).unwrap();
    assert!(!pools.contains(&again));
    assert_eq!(store.freeze(pools[5]), Err(StoreError::NoSuchPool));
}

#[test]
fn one_object_that_fills_the_store_is_refused_and_can_be_flushed() {
    let mut store = PageStore::new(StoreConfig::for_pages(4096, 16 * CHUNK)).unwrap();
    let pool = store.new_pool(PoolConfig { raw: true, ..PoolConfig::default() }).unwrap();
    let object = ObjectId([9; 3]);
    let outcomes: Vec<Outcome> =
        (0..1000).map(|i| store.put(pool, object, i, &page(Kind::Noise, i)).unwrap()).collect();
    let stored = outcomes.iter().filter(|o| o.is_stored()).count() as u64;
    assert_eq!(stored, 16 * 8, "every byte of the capacity holds a raw page");
    assert_eq!(outcomes[999], Outcome::Refused(Reason::StoreFull));
    assert_eq!(store.flush_object(pool, object), Ok(stored));
    assert_eq!(store.check(), Vec::<String>::new());
}

// SPDX-License-Identifier: Apache-2.0
//! Laws 3, 5, 10 and 11 of pools that deduplicate, held against a map over random histories in which most pages are there
//! several times; and what two guests with the same pages have in common: nothing.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, page};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use tmem_store::{
    Dedup, GuestHoldings, GuestLimits, Host, HostConfig, Loaded, ObjectId, Outcome, PageStore, PoolConfig,
    PoolId, PoolKind, Reason,
};
use tmem_sys::PAGE_SIZE;

const SMALL: usize = PageStore::SMALLEST_LIMIT;
const GUESTS: [&str; 2] = ["default", "second"];
const RAW: PoolConfig = PoolConfig { pack: true, raw: true, dedup: Dedup::On };
const POOLS: [(usize, PoolKind, PoolConfig); 6] = [
    (0, PoolKind::Persistent, RAW),
    (0, PoolKind::Persistent, PoolConfig { raw: false, ..RAW }),
    (0, PoolKind::Exclusive, RAW),
    (0, PoolKind::Persistent, PoolConfig { dedup: Dedup::Off, ..RAW }),
    (1, PoolKind::NonExclusive, PoolConfig { pack: false, ..RAW }),
    (1, PoolKind::Persistent, PoolConfig { dedup: Dedup::Auto, ..RAW }),
];

/// One of few pages.
type Content = (Kind, u64);
type Handle = (usize, u64, u64);

#[derive(Clone, Debug)]
enum Op {
    /// Puts the same page under so many handles.
    Put(Handle, Content, u64),
    Get(Handle),
    Flush(Handle, u64),
    FlushObject(usize, u64),
    Destroy(usize),
    Compact,
    /// In 64 KiB above the smallest.
    Limit(usize),
    /// Cap in 16 KiB.
    Cap(usize, Option<u64>),
}

fn ops() -> impl Strategy<Value = Op> {
    let handle = || (0usize..POOLS.len(), 0u64..3, 0u64..300);
    let kinds = prop_oneof![
        Just(Kind::Same),
        Just(Kind::NearlySame),
        Just(Kind::Text),
        Just(Kind::Partly(1500)),
        Just(Kind::Partly(3000)),
        Just(Kind::Noise),
    ];
    let content = (kinds, 0u64..4);
    prop_oneof![
        12 => (handle(), content, 1u64..60).prop_map(|(h, c, n)| Op::Put(h, c, n)),
        4 => handle().prop_map(Op::Get),
        6 => (handle(), 1u64..40).prop_map(|(h, n)| Op::Flush(h, n)),
        1 => (0usize..POOLS.len(), 0u64..3).prop_map(|(p, o)| Op::FlushObject(p, o)),
        1 => (0usize..POOLS.len()).prop_map(Op::Destroy),
        2 => Just(Op::Compact),
        1 => (0usize..16).prop_map(Op::Limit),
        1 => (0usize..GUESTS.len(), proptest::option::of(0u64..40)).prop_map(|(g, c)| Op::Cap(g, c)),
    ]
}

struct Tested {
    host: Arc<Host>,
    pools: [PoolId; POOLS.len()],
    /// What was stored and may still be there; of persistent pools, what must be.
    model: BTreeMap<Handle, Content>,
}

fn object(o: u64) -> ObjectId {
    ObjectId([o, 0, 0])
}

fn new_pool(host: &Host, p: usize) -> PoolId {
    let (guest, kind, config) = POOLS[p];
    host.new_pool(GUESTS[guest], kind, config).unwrap()
}

fn held(host: &Host, guest: &str) -> GuestHoldings {
    host.guests().into_iter().find(|(name, _)| name == guest).unwrap().1.held
}

impl Tested {
    fn new() -> Tested {
        let host = Host::new(HostConfig { limit_bytes: 2 * SMALL, reserve_bytes: 4 * SMALL }).unwrap();
        let pools = std::array::from_fn(|p| new_pool(&host, p));
        Tested { host, pools, model: BTreeMap::new() }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Put((p, o, i), content, n) => (i..i + n).for_each(|i| self.put((p, o, i), content)),
            Op::Get(handle) => self.get(handle),
            Op::Flush((p, o, i), n) => {
                for i in i..i + n {
                    let found = self.host.flush_page(self.pools[p], object(o), i).unwrap();
                    let known = self.model.remove(&(p, o, i)).is_some();
                    assert!(found == known || (known && POOLS[p].1.is_ephemeral()));
                }
            }
            Op::FlushObject(p, o) => {
                self.host.flush_object(self.pools[p], object(o)).unwrap();
                self.model.retain(|k, _| (k.0, k.1) != (p, o));
            }
            Op::Destroy(p) => {
                self.host.destroy(self.pools[p]).unwrap();
                self.model.retain(|k, _| k.0 != p);
                self.pools[p] = new_pool(&self.host, p);
            }
            Op::Compact => {
                self.host.lock().compact(64);
            }
            Op::Limit(n) => self.host.set_limit(SMALL + n * (64 << 10)),
            Op::Cap(g, cap) => {
                let cap = cap.map(|c| c << 14);
                self.host.set_guest(GUESTS[g], |limits| GuestLimits { cap, ..limits }).unwrap();
                let held = held(&self.host, GUESTS[g]);
                let over = held.charge > cap.unwrap_or(u64::MAX);
                assert!(!over || held.ephemeral_pages == 0, "over its cap with pages to give");
            }
        }
    }

    /// Law 3: whatever the answer, the old page is gone.
    fn put(&mut self, handle: Handle, content: Content) {
        let (p, o, i) = handle;
        let outcome = self.host.put(self.pools[p], object(o), i, &page(content.0, content.1)).unwrap();
        self.model.remove(&handle);
        match outcome {
            Outcome::Stored => drop(self.model.insert(handle, content)),
            Outcome::Refused(Reason::Incompressible) => {
                assert!(!POOLS[p].2.raw && content.0 == Kind::Noise);
            }
            Outcome::Refused(Reason::OverCap) => {}
            Outcome::Refused(Reason::StoreFull) => assert_eq!(self.host.freeable(), 0),
            Outcome::Refused(other) => panic!("refused: {other}"),
        }
    }

    fn get(&mut self, handle: Handle) {
        let (p, o, i) = handle;
        let mut into = [0xee; PAGE_SIZE];
        let found = self.host.get(self.pools[p], object(o), i, &mut into).unwrap() == Loaded::Loaded;
        match self.model.get(&handle) {
            Some((kind, seed)) if found => assert!(into == page(*kind, *seed), "other bytes came back"),
            Some(_) => assert!(POOLS[p].1.is_ephemeral(), "a persistent page is lost"),
            None => assert!(!found, "a page that was never put, or was gone"),
        }
        if !found || POOLS[p].1 == PoolKind::Exclusive {
            self.model.remove(&handle);
        }
    }

    fn check(&self) {
        assert_eq!(self.host.check(), Vec::<String>::new());
        let (stats, guests) = (self.host.stats(), self.host.guests());
        // Law 11: data in common is charged once.
        let charged: u64 = guests.iter().map(|(_, g)| g.held.charge).sum();
        assert_eq!(charged, stats.slot_bytes + stats.held.pages() * tmem_store::guests::PAGE_METADATA);
        assert!(stats.held.shared_pages >= 2 * stats.dedup.shares);
    }

    fn end(&mut self) {
        for handle in self.model.clone().into_keys() {
            self.get(handle);
        }
        self.pools.iter().for_each(|pool| assert!(self.host.destroy(*pool).is_ok()));
        assert_eq!(self.host.check(), Vec::<String>::new());
        let stats = self.host.stats();
        assert_eq!((stats.held.pages(), stats.dedup.shares, stats.dedup.saved_bytes), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn pools_that_share_behave_as_maps(ops in proptest::collection::vec(ops(), 1..80)) {
        let mut tested = Tested::new();
        for op in &ops {
            tested.step(op);
            tested.check();
        }
        tested.end();
    }
}

#[test]
fn law_10_two_guests_with_equal_pages_share_nothing() {
    let host = Host::new(HostConfig { limit_bytes: 4 * SMALL, reserve_bytes: 4 * SMALL }).unwrap();
    let pools = GUESTS.map(|guest| host.new_pool(guest, PoolKind::Persistent, RAW).unwrap());
    for pool in pools {
        for n in 0..100 {
            let outcome = host.put(pool, object(0), n, &page(Kind::Partly(1500), n)).unwrap();
            assert_eq!(outcome, Outcome::Stored);
        }
    }
    let apart = host.stats();
    assert_eq!((apart.dedup.found, apart.held.shared_pages), (0, 0));
    assert_eq!(held(&host, GUESTS[0]), held(&host, GUESTS[1]));
    // Each with itself.
    for pool in pools {
        (0..100).for_each(|n| {
            let outcome = host.put(pool, object(1), n, &page(Kind::Partly(1500), n)).unwrap();
            assert_eq!(outcome, Outcome::Stored);
        });
    }
    let together = host.stats();
    assert_eq!((together.dedup.found, together.slot_bytes), (200, apart.slot_bytes));
    assert_eq!(host.destroy(pools[0]), Ok(200));
    let mut into = [0; PAGE_SIZE];
    for n in 0..100 {
        assert_eq!(host.get(pools[1], object(n % 2), n, &mut into), Ok(Loaded::Loaded));
        assert!(into == page(Kind::Partly(1500), n));
    }
    assert_eq!(host.check(), Vec::<String>::new());
}

#[test]
fn shared_data_survives_eviction_and_moves_once() {
    let host = Host::new(HostConfig { limit_bytes: SMALL, reserve_bytes: 4 * SMALL }).unwrap();
    let cache = host.new_pool("default", PoolKind::NonExclusive, RAW).unwrap();
    let content = |n: u64| page(Kind::Partly(1500), n / 3);
    let mut next = common::noise(3);
    let handle = |n: u64| (object(n % 3), n / 3);
    let n = (0..)
        .find(|&n| {
            assert!(host.put(cache, handle(n).0, handle(n).1, &content(n)).unwrap().is_stored());
            host.stats().traffic.evicted > 3000
        })
        .unwrap();
    assert_eq!(host.check(), Vec::<String>::new());
    let mut into = [0; PAGE_SIZE];
    // What is left goes in any order, but for some.
    let gone: HashSet<u64> = (0..n).map(|_| next() % n).collect();
    for n in &gone {
        let _ = host.flush_page(cache, handle(*n).0, handle(*n).1);
    }
    assert_eq!(host.check(), Vec::<String>::new());
    let moved = host.lock().compact(4096);
    assert!(moved > 0, "nothing moved");
    assert_eq!(host.check(), Vec::<String>::new());
    for n in (0..n).filter(|n| !gone.contains(n)) {
        if host.get(cache, handle(n).0, handle(n).1, &mut into) == Ok(Loaded::Loaded) {
            assert!(into == content(n), "page {n} came back changed");
        }
    }
}

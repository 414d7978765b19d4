// SPDX-License-Identifier: Apache-2.0
//! Laws 1 to 8 and 11 of a host with persistent and ephemeral pools of several guests, held against a map over random
//! histories.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, kinds, page};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tmem_store::{
    GuestHoldings, GuestLimits, Host, HostConfig, Loaded, ObjectId, Outcome, PageStore, PoolConfig, PoolId,
    PoolKind, Reason,
};
use tmem_sys::PAGE_SIZE;

const SMALL: usize = PageStore::SMALLEST_LIMIT;
const GUESTS: [&str; 3] = ["default", "second", "third"];
/// Guest, kind, and whether raw pages are kept.
const POOLS: [(usize, PoolKind, bool); 6] = [
    (0, PoolKind::Persistent, true),
    (0, PoolKind::Exclusive, true),
    (1, PoolKind::NonExclusive, true),
    (1, PoolKind::Persistent, false),
    (2, PoolKind::Exclusive, false),
    (2, PoolKind::NonExclusive, true),
];

#[derive(Clone, Debug)]
enum Op {
    Put(usize, u64, u64, Kind, u64),
    /// Puts so many pages, as a batch.
    PutMany(usize, u64, u64, Kind, u64),
    Get(usize, u64, u64),
    GetMany(usize, u64, u64),
    Flush(usize, u64, u64),
    FlushObject(usize, u64),
    Freeze(usize, bool),
    FreezeGuest(usize, bool),
    Destroy(usize),
    /// In 64 KiB above the smallest.
    Limit(usize),
    /// Weight, and cap in 16 KiB.
    Set(usize, u32, Option<u64>),
}

fn ops() -> impl Strategy<Value = Op> {
    let handle = || (0usize..POOLS.len(), 0u64..3, 0u64..400);
    prop_oneof![
        12 => (handle(), kinds(), 0u64..1000).prop_map(|((p, o, i), k, s)| Op::Put(p, o, i, k, s)),
        12 => (handle(), kinds(), 1u64..150).prop_map(|((p, o, i), k, n)| Op::PutMany(p, o, i, k, n)),
        8 => handle().prop_map(|(p, o, i)| Op::Get(p, o, i)),
        4 => handle().prop_map(|(p, o, i)| Op::GetMany(p, o, i)),
        4 => handle().prop_map(|(p, o, i)| Op::Flush(p, o, i)),
        1 => (0usize..POOLS.len(), 0u64..3).prop_map(|(p, o)| Op::FlushObject(p, o)),
        1 => (0usize..POOLS.len(), any::<bool>()).prop_map(|(p, f)| Op::Freeze(p, f)),
        1 => (0usize..GUESTS.len(), any::<bool>()).prop_map(|(g, f)| Op::FreezeGuest(g, f)),
        1 => (0usize..POOLS.len()).prop_map(Op::Destroy),
        1 => (0usize..16).prop_map(Op::Limit),
        2 => (0usize..GUESTS.len(), 0u32..4, proptest::option::of(0u64..40))
            .prop_map(|(g, w, c)| Op::Set(g, w, c)),
    ]
}

struct Tested {
    host: Arc<Host>,
    /// The smallest limit of a test.
    least: usize,
    pools: [PoolId; POOLS.len()],
    frozen: [bool; POOLS.len()],
    /// What was stored and may still be there; of persistent pools, what must be.
    model: BTreeMap<(usize, u64, u64), (Kind, u64)>,
    /// The limit was set below what persistent pages take.
    lowered: bool,
}

fn object(o: u64) -> ObjectId {
    // Ids that differ in one word each.
    let mut id = [0; 3];
    id[o as usize] = 1;
    ObjectId(id)
}

fn new_pool(host: &Host, p: usize) -> PoolId {
    let (guest, kind, raw) = POOLS[p];
    host.new_pool(GUESTS[guest], kind, PoolConfig { pack: true, raw, ..PoolConfig::default() }).unwrap()
}

impl Tested {
    fn new(shards: usize) -> Tested {
        // Each shard keeps some room free.
        let least = SMALL * shards.div_ceil(2);
        let config = HostConfig { limit_bytes: least, reserve_bytes: 4 * least };
        let host = Host::with_shards(config, shards).unwrap();
        let pools = std::array::from_fn(|p| new_pool(&host, p));
        Tested { host, least, pools, frozen: [false; POOLS.len()], model: BTreeMap::new(), lowered: false }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Put(p, o, i, kind, seed) => {
                let outcome = self.host.put(self.pools[p], object(o), i, &page(kind, seed)).unwrap();
                let full = outcome == Outcome::Refused(Reason::StoreFull);
                assert!(!full || self.host.freeable() == 0, "refused while there was something to evict");
                self.offered((p, o, i), (kind, seed), outcome);
            }
            Op::PutMany(p, o, first, kind, n) => self.put_many(p, o, first, kind, n),
            Op::Get(p, o, i) => {
                let mut into = [0xee; PAGE_SIZE];
                let loaded = self.host.get(self.pools[p], object(o), i, &mut into).unwrap();
                self.got((p, o, i), loaded == Loaded::Loaded, &into);
            }
            Op::GetMany(p, o, first) => self.get_many(p, o, first),
            Op::Flush(p, o, i) => {
                let found = self.host.flush_page(self.pools[p], object(o), i).unwrap();
                let known = self.model.remove(&(p, o, i)).is_some();
                assert!(found == known || (known && POOLS[p].1.is_ephemeral()));
            }
            Op::FlushObject(p, o) => {
                let flushed = self.host.flush_object(self.pools[p], object(o)).unwrap();
                let before = self.model.len() as u64;
                self.model.retain(|k, _| (k.0, k.1) != (p, o));
                let known = before - self.model.len() as u64;
                assert!(flushed == known || (flushed < known && POOLS[p].1.is_ephemeral()));
            }
            Op::Freeze(p, frozen) => {
                self.host.set_frozen(self.pools[p], frozen).unwrap();
                self.frozen[p] = frozen;
            }
            Op::FreezeGuest(g, frozen) => {
                assert_eq!(self.host.set_guest_frozen(GUESTS[g], frozen), Some(2));
                (0..POOLS.len()).filter(|p| POOLS[*p].0 == g).for_each(|p| self.frozen[p] = frozen);
            }
            Op::Destroy(p) => {
                self.host.destroy(self.pools[p]).unwrap();
                self.model.retain(|k, _| k.0 != p);
                (self.pools[p], self.frozen[p]) = (new_pool(&self.host, p), false);
            }
            Op::Limit(n) => {
                self.host.set_limit(self.least + n * (64 << 10));
                self.lowered = self.host.stats().footprint_bytes > self.host.limit() as u64;
                assert!(!self.lowered || self.host.freeable() == 0, "ephemeral pages stay above the limit");
            }
            Op::Set(g, weight, cap) => {
                let limits = GuestLimits { weight, cap: cap.map(|c| c << 14) };
                self.host.set_guest(GUESTS[g], |_| limits).unwrap();
                let held = self.held(g);
                let cap = limits.cap.unwrap_or(u64::MAX);
                assert!(held.charge <= cap || held.ephemeral_pages == 0, "over its cap with pages to give");
            }
        }
    }

    fn held(&self, g: usize) -> GuestHoldings {
        self.host.guests().iter().find(|(name, _)| name == GUESTS[g]).unwrap().1.held
    }

    fn put_many(&mut self, p: usize, o: u64, first: u64, kind: Kind, n: u64) {
        let indexes: Vec<u64> = (first..first + n).collect();
        let pages: Vec<_> = indexes.iter().map(|i| page(kind, *i)).collect();
        let mut codes = vec![77; n as usize];
        self.host.put_many(self.pools[p], object(o), &indexes, &pages, &mut codes).unwrap();
        for (i, code) in indexes.into_iter().zip(codes) {
            self.offered((p, o, i), (kind, i), Outcome::from_code(code).unwrap());
        }
    }

    fn get_many(&mut self, p: usize, o: u64, first: u64) {
        let indexes: Vec<u64> = (first..first + 100).collect();
        let mut into = vec![[0xee; PAGE_SIZE]; 100];
        let mut found = [7; 100];
        self.host.get_many(self.pools[p], object(o), &indexes, &mut into, &mut found).unwrap();
        for ((i, page), found) in indexes.into_iter().zip(&into).zip(found) {
            self.got((p, o, i), found == 1, page);
        }
    }

    /// Law 3: whatever the answer, the old page is gone.
    fn offered(&mut self, handle: (usize, u64, u64), what: (Kind, u64), outcome: Outcome) {
        let (guest, _, raw) = POOLS[handle.0];
        self.model.remove(&handle);
        match outcome {
            Outcome::Stored => {
                assert!(!self.frozen[handle.0], "a frozen pool stored");
                self.model.insert(handle, what);
            }
            Outcome::Refused(Reason::Frozen) => assert!(self.frozen[handle.0]),
            Outcome::Refused(Reason::Incompressible) => assert!(!raw && what.0 == Kind::Noise),
            Outcome::Refused(Reason::OverCap) => {
                let guests = self.host.guests();
                let (_, stats) = guests.iter().find(|(name, _)| name == GUESTS[guest]).unwrap();
                assert!(stats.limits.cap.is_some(), "over a cap that there is not");
            }
            Outcome::Refused(Reason::StoreFull) => {}
            Outcome::Refused(other) => panic!("refused: {other}"),
        }
    }

    fn got(&mut self, handle: (usize, u64, u64), found: bool, into: &[u8; PAGE_SIZE]) {
        let known = self.model.get(&handle).copied();
        let kind = POOLS[handle.0].1;
        if found {
            let (kind, seed) = known.expect("a page that was never put, or was gone");
            assert!(*into == page(kind, seed), "other bytes came back");
        } else {
            assert!(known.is_none() || kind.is_ephemeral(), "a persistent page is lost");
            assert!(*into == [0xee; PAGE_SIZE], "a miss wrote to its target");
        }
        if !found || kind == PoolKind::Exclusive {
            self.model.remove(&handle);
        }
    }

    fn check(&mut self) {
        assert_eq!(self.host.check(), Vec::<String>::new());
        let stats = self.host.stats();
        self.lowered &= stats.footprint_bytes > self.host.limit() as u64;
        assert!(self.lowered || stats.footprint_bytes <= self.host.limit() as u64, "above the limit");
        let guests = self.host.guests();
        for (name, guest) in &guests {
            let cap = guest.limits.cap.unwrap_or(u64::MAX);
            assert!(guest.held.charge <= cap || guest.held.ephemeral_pages == 0, "{name} is over its cap");
        }
        assert_eq!(guests.iter().map(|(_, g)| g.held.pages).sum::<u64>(), stats.held.pages());
        assert_eq!(guests.iter().map(|(_, g)| g.evicted).sum::<u64>(), stats.traffic.evicted);
        let traffic = stats.traffic;
        assert_eq!(traffic.stored + traffic.refused.total(), traffic.puts);
        let persistent = self.model.keys().filter(|k| !POOLS[k.0].1.is_ephemeral()).count() as u64;
        assert!(stats.held.pages() >= persistent && stats.held.pages() <= self.model.len() as u64);
    }

    fn end(&mut self) {
        for (p, o, i) in self.model.clone().into_keys() {
            self.step(&Op::Get(p, o, i));
        }
        self.pools.iter().for_each(|pool| assert!(self.host.destroy(*pool).is_ok()));
        assert_eq!(self.host.check(), Vec::<String>::new());
        assert_eq!((self.host.stats().held.pages(), self.host.freeable()), (0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn ephemeral_pools_behave_as_maps_that_may_forget(
        ops in proptest::collection::vec(ops(), 1..100), shards in prop_oneof![Just(1), 2usize..6],
    ) {
        let mut tested = Tested::new(shards);
        for op in &ops {
            tested.step(op);
            tested.check();
        }
        tested.end();
    }

    /// Room of one size is no room for another until whole chunks are empty; whatever the sizes and the order of age,
    /// a page finds room among ephemeral ones.
    #[test]
    fn a_store_full_of_ephemeral_pages_of_other_sizes_takes_every_page(
        first in kinds(), then in proptest::collection::vec(kinds(), 1..8), seed in any::<u64>(),
        shards in prop_oneof![Just(1), 2usize..6],
    ) {
        let bytes = SMALL * shards.div_ceil(2);
        let config = HostConfig { limit_bytes: bytes, reserve_bytes: bytes };
        let host = Host::with_shards(config, shards).unwrap();
        let [cache, kept] = [PoolKind::NonExclusive, PoolKind::Persistent]
            .map(|kind| host.new_pool("default", kind, PoolConfig { pack: true, raw: true, ..PoolConfig::default() }).unwrap());
        let mut next = common::noise(seed);
        let mut into = [0; PAGE_SIZE];
        let mut n = 0;
        while host.stats().traffic.evicted == 0 {
            prop_assert!(host.put(cache, object(0), n, &page(first, n)).unwrap().is_stored());
            // Age is to have nothing to do with place.
            let _ = host.get(cache, object(0), next() % (n + 1), &mut into).unwrap();
            n += 1;
        }
        for (n, kind) in then.into_iter().enumerate() {
            let outcome = host.put(kept, object(1), n as u64, &page(kind, n as u64)).unwrap();
            prop_assert_eq!(outcome, Outcome::Stored);
        }
        prop_assert_eq!(host.check(), Vec::<String>::new());
    }
}

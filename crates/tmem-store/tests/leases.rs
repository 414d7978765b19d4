// SPDX-License-Identifier: Apache-2.0
//! A store on leased memory against the simplest model there is, a map, with extents that come and go at random. The extents are
//! real memory of the kernel's.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, kinds, page};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tmem_store::{
    Extent, Loaded, Mailbox, ObjectId, Outcome, PageStore, PoolConfig, PoolId, Reason, StoreConfig, Vacated,
    lease,
};
use tmem_sys::lease::LeaseFd;
use tmem_sys::{PAGE_SIZE, Page};

const CHUNK: usize = 32 << 10;
const MIB: usize = 1 << 20;
const OBJECT: ObjectId = ObjectId([1, 0, 0]);

fn extent(id: u64, bytes: usize) -> Extent {
    Extent { id, fd: LeaseFd::new(bytes).unwrap(), bytes }
}

fn store(capacity: usize, leases: usize) -> (PageStore, PoolId) {
    let config = StoreConfig { lease_reserve: leases, ..StoreConfig::for_pages(1 << 16, capacity) };
    let mut store = PageStore::new(config).unwrap();
    let pool = store.new_pool(PoolConfig { raw: true, ..PoolConfig::default() }).unwrap();
    (store, pool)
}

fn noise(seed: u64) -> Page {
    page(Kind::Noise, seed)
}

#[derive(Clone, Debug)]
enum Op {
    Put(u64, Kind, u64),
    Get(u64),
    Flush(u64),
    /// Pages up to there.
    FlushMany(u64),
    Compact,
    Relieve,
    Trim,
    /// In chunks.
    Capacity(usize),
    /// An extent of so many MiB comes.
    Come(usize),
    /// One is to be given back, and no page may leave for it.
    Give,
    /// The host forgets one.
    Lose(usize),
    Renumber(usize),
    /// So many more are left in the mailbox.
    Deposit(u64),
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        40 => (0u64..600, kinds(), 0u64..1000).prop_map(|(i, k, s)| Op::Put(i, k, s)),
        12 => (0u64..600).prop_map(Op::Get),
        12 => (0u64..600).prop_map(Op::Flush),
        1 => (0u64..300).prop_map(Op::FlushMany),
        1 => Just(Op::Compact),
        1 => Just(Op::Relieve),
        1 => Just(Op::Trim),
        1 => (0usize..12).prop_map(Op::Capacity),
        1 => (1usize..3).prop_map(Op::Come),
        1 => Just(Op::Give),
        1 => (0usize..8).prop_map(Op::Lose),
        1 => (0usize..8).prop_map(Op::Renumber),
        1 => (1u64..3).prop_map(Op::Deposit),
    ]
}

struct Tested {
    store: PageStore,
    pool: PoolId,
    mailbox: Arc<Mailbox>,
    model: BTreeMap<u64, (Kind, u64)>,
    next_id: u64,
}

impl Tested {
    fn new() -> Tested {
        let (mut store, pool) = store(4 * CHUNK, 8 * MIB);
        let mailbox = Mailbox::new(lease::Kind::Persistent).unwrap();
        assert!(store.set_mailbox(Some(Arc::clone(&mailbox))));
        Tested { store, pool, mailbox, model: BTreeMap::new(), next_id: 1 }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn ids(&self) -> Vec<u64> {
        self.store.extents_from(0).map(|(id, _)| id).collect()
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Put(index, kind, seed) => {
                self.model.remove(&index);
                match self.store.put(self.pool, OBJECT, index, &page(kind, seed)).unwrap() {
                    Outcome::Stored => drop(self.model.insert(index, (kind, seed))),
                    Outcome::Refused(why) => assert_eq!(why, Reason::StoreFull),
                }
            }
            Op::Get(index) => self.get(index),
            Op::Flush(index) => {
                let was_there = self.model.remove(&index).is_some();
                assert_eq!(self.store.flush_page(self.pool, OBJECT, index), Ok(was_there));
            }
            Op::FlushMany(to) => {
                (0..to).for_each(|index| self.step(&Op::Flush(index)));
            }
            Op::Compact => drop(self.store.compact(16)),
            Op::Relieve => {
                self.store.relieve(16);
            }
            Op::Trim => self.store.trim(),
            Op::Capacity(chunks) => self.store.set_capacity(chunks * CHUNK),
            Op::Come(mib) => {
                let (before, id) = (self.store.leased_bytes(), self.id());
                match self.store.add_extent(extent(id, mib * MIB)) {
                    Ok(()) => assert_eq!(self.store.leased_bytes(), before + mib * MIB),
                    Err(back) => assert!(back.id == id && before + mib * MIB > 6 * MIB, "{before} {mib}"),
                }
            }
            Op::Give => self.give(),
            Op::Lose(at) => self.lose(at),
            Op::Renumber(at) => {
                let new = self.id();
                if let Some(old) = self.ids().get(at).copied() {
                    assert!(self.store.renumber_extent(old, new) && !self.store.renumber_extent(old, new));
                    assert!(self.ids().contains(&new));
                }
            }
            Op::Deposit(n) => {
                for _ in 0..n {
                    let id = self.id();
                    let _ = self.mailbox.deposit(extent(id, MIB));
                }
            }
        }
    }

    fn get(&mut self, index: u64) {
        let mut into = [0; PAGE_SIZE];
        let loaded = self.store.get(self.pool, OBJECT, index, &mut into).unwrap();
        match self.model.get(&index) {
            Some((kind, seed)) => {
                assert!(loaded == Loaded::Loaded && into == page(*kind, *seed), "page {index}");
            }
            None => assert_eq!(loaded, Loaded::Absent),
        }
    }

    fn give(&mut self) {
        let before = self.store.leased_bytes();
        let can = self.store.surplus_bytes() > 0;
        let Some(mut vacating) = self.store.begin_vacating() else { return };
        loop {
            match self.store.vacate(&mut vacating, 8) {
                Vacated::More => {}
                Vacated::Done(extent) => {
                    assert_eq!(self.store.leased_bytes(), before - extent.bytes);
                    // What it held is nowhere needed.
                    extent.fd.set_size(0).unwrap();
                    return;
                }
                Vacated::Stuck => {
                    assert!(!can, "what could be given was not");
                    return self.store.end_vacating(vacating);
                }
                Vacated::Kept => panic!("an empty extent was not unmapped"),
            }
        }
    }

    fn lose(&mut self, at: usize) {
        let id = self.ids().get(at).copied();
        let vacating = id.and_then(|id| self.store.begin_losing(id)).or_else(|| self.store.go_on_losing());
        let Some(mut vacating) = vacating else { return };
        while matches!(self.store.vacate(&mut vacating, 8), Vacated::More) {}
    }

    fn check(&mut self) {
        assert_eq!(self.store.check(), Vec::<String>::new());
        let stats = self.store.stats();
        assert!(stats.leased_used <= stats.leased_bytes && stats.leased_used <= stats.slot_bytes);
        assert!(stats.slot_bytes <= stats.mapped_bytes + stats.leased_bytes);
        assert_eq!(stats.held.pages(), self.model.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_store_on_leases_is_a_map_whatever_comes_and_goes(steps in prop::collection::vec(ops(), 1..900)) {
        let mut tested = Tested::new();
        for (n, op) in steps.iter().enumerate() {
            tested.step(op);
            if n % 64 == 0 || matches!(op, Op::Give | Op::Lose(_) | Op::Come(_)) {
                tested.check();
            }
        }
        tested.check();
        (0..600).for_each(|index| tested.get(index));
        tested.step(&Op::FlushMany(600));
        tested.check();
        while let Some(mut vacating) = tested.store.begin_vacating() {
            prop_assert!(matches!(tested.store.vacate(&mut vacating, 1), Vacated::Done(_)));
        }
        tested.store.trim();
        while tested.store.go_on_losing().is_some() {
            tested.lose(usize::MAX);
        }
        tested.check();
        prop_assert_eq!((tested.store.stats().leased_bytes, tested.store.stats().mapped_bytes), (0, 0));
    }
}

#[test]
fn only_leases_take_a_store_beyond_its_own_capacity() {
    let (mut store, pool) = store(MIB, 64 * MIB);
    let put = |store: &mut PageStore, n| store.put(pool, OBJECT, n, &noise(n)).unwrap().is_stored();
    let alone = (0..).find(|n| !put(&mut store, *n)).unwrap();
    assert!((200..=256).contains(&alone), "{alone} pages in 1 MiB");
    let before = store.footprint();
    for id in 0..3 {
        store.add_extent(extent(id, 4 * MIB)).unwrap();
    }
    let with = (alone..).find(|n| !put(&mut store, *n)).unwrap();
    assert_eq!(with - alone, 3 * 1024, "12 MiB of whole pages");
    let stats = store.stats();
    assert_eq!((stats.leased_bytes, stats.leased_used), (12 << 20, 12 << 20));
    assert!(store.footprint() - before < MIB, "leased memory does not count");
    let mut into = [0; PAGE_SIZE];
    for n in 0..with {
        assert_eq!(store.get(pool, OBJECT, n, &mut into), Ok(Loaded::Loaded));
        assert!(into == noise(n), "page {n}");
    }
    assert_eq!(store.check(), Vec::<String>::new());
    assert_eq!(store.flush_object(pool, OBJECT), Ok(with));
    while let Some(mut vacating) = store.begin_vacating() {
        assert!(matches!(store.vacate(&mut vacating, 1), Vacated::Done(_)));
    }
    store.trim();
    assert!(store.footprint() + MIB / 2 < before, "tables go with what they were for");
    store.add_extent(extent(9, 4 * MIB)).unwrap();
    assert!((0..1024).all(|n| put(&mut store, n)));
    assert_eq!(store.check(), Vec::<String>::new());
}

#[test]
fn a_store_asks_ahead_as_it_fills_and_takes_what_comes() {
    let (mut store, pool) = store(MIB, 64 * MIB);
    let mailbox = Mailbox::new(lease::Kind::Persistent).unwrap();
    store.set_mailbox(Some(Arc::clone(&mailbox)));
    mailbox.set_state(lease::LinkState::Idle);
    let mut next_id = 0;
    // The host is fast: whatever is wanted has come by the next put.
    for n in 0..8000 {
        assert!(store.put(pool, OBJECT, n, &noise(n)).unwrap().is_stored(), "page {n}");
        while mailbox.wanted() > 0 {
            next_id += 1;
            mailbox.deposit(extent(next_id, 4 * MIB)).unwrap();
        }
    }
    let stats = store.stats();
    assert!(stats.mapped_bytes < (MIB / 2) as u64, "leased room comes first: {}", stats.mapped_bytes);
    assert!(stats.leased_bytes - stats.leased_used < 40 << 20, "it asked for far too much: {stats:?}");
    assert_eq!(store.check(), Vec::<String>::new());
    (0..8000).for_each(|n| assert_eq!(store.flush_page(pool, OBJECT, n), Ok(true)));
    assert_eq!(store.surplus_bytes() as u64, store.stats().leased_bytes);
    assert_eq!(mailbox.wanted(), 0);
}

#[test]
fn an_extent_that_is_not_what_it_says_is_refused_and_told() {
    let (mut store, pool) = store(16 * CHUNK, 64 * MIB);
    let mailbox = Mailbox::new(lease::Kind::Persistent).unwrap();
    store.set_mailbox(Some(Arc::clone(&mailbox)));
    mailbox.deposit(Extent { bytes: 8 * MIB, ..extent(7, 4 * MIB) }).unwrap();
    mailbox.deposit(Extent { bytes: 4 * MIB + 4096, ..extent(8, 4 * MIB) }).unwrap();
    mailbox.deposit(extent(9, 4 * MIB)).unwrap();
    assert!((0..600).all(|n| store.put(pool, OBJECT, n, &noise(n)).unwrap().is_stored()));
    let mut refused: Vec<u64> = std::iter::from_fn(|| mailbox.next_refused()).collect();
    refused.sort_unstable();
    assert_eq!((refused, store.leased_bytes()), (vec![7, 8], 4 * MIB));
    drop(store);
    assert_eq!((mailbox.next_refused(), mailbox.next_refused()), (Some(9), None), "it ended with its store");
}

#[test]
fn what_a_smaller_capacity_has_no_room_for_moves_to_leased_memory() {
    let (mut store, pool) = store(2 * MIB, 64 * MIB);
    (0..500).for_each(|n| assert!(store.put(pool, OBJECT, n, &noise(n)).unwrap().is_stored()));
    store.set_capacity(MIB / 2);
    assert_eq!(store.relieve(64), 0, "there is no leased memory");
    store.add_extent(extent(1, 4 * MIB)).unwrap();
    while store.relieve(64) > 0 {}
    let stats = store.stats();
    assert!(
        stats.mapped_bytes <= stats.capacity_bytes && stats.leased_used > 3 * stats.mapped_bytes / 2,
        "{stats:?}"
    );
    assert_eq!(store.check(), Vec::<String>::new());
    let mut into = [0; PAGE_SIZE];
    (0..500).for_each(|n| {
        assert_eq!(store.get(pool, OBJECT, n, &mut into), Ok(Loaded::Loaded));
        assert!(into == noise(n), "page {n}");
    });
}

#[test]
fn an_extent_that_was_cut_off_is_not_touched_any_more() {
    let (mut store, pool) = store(16 * CHUNK, 64 * MIB);
    let fds = [1, 2].map(|id| {
        let extent = extent(id, MIB);
        let fd = extent.fd.duplicate().unwrap();
        store.add_extent(extent).unwrap();
        fd
    });
    (0..100).for_each(|n| assert!(store.put(pool, OBJECT, n, &noise(n)).unwrap().is_stored()));
    // What came last is filled first.
    fds[0].set_size(0).unwrap();
    store.cut_off(1);
    assert_eq!(store.leased_bytes(), MIB, "one was empty and went");
    (100..300).for_each(|n| assert!(store.put(pool, OBJECT, n, &noise(n)).unwrap().is_stored()));
    fds[1].set_size(0).unwrap();
    store.cut_off(2);
    assert!(store.extents_from(0).next().is_none() && store.begin_vacating().is_none());
    assert!((300..364).all(|n| store.put(pool, OBJECT, n, &noise(n)).unwrap().is_stored()));
}

// SPDX-License-Identifier: Apache-2.0
//! Pages that do not shrink, of a store that keeps them in leased memory and nowhere else: each of them is there or was refused,
//! whatever comes and goes, and none of them takes a byte of the store's own.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, page};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tmem_store::lease::{self, LinkState};
use tmem_store::{
    Dedup, Extent, Loaded, Mailbox, ObjectId, Outcome, PageStore, PoolConfig, PoolId, Reason, StoreConfig,
    Vacated,
};
use tmem_sys::PAGE_SIZE;
use tmem_sys::lease::LeaseFd;

const MIB: usize = 1 << 20;
const CHUNK: usize = 32 << 10;
const OBJECT: ObjectId = ObjectId([1, 0, 0]);

struct Tested {
    store: PageStore,
    pool: PoolId,
    mailbox: Arc<Mailbox>,
    model: BTreeMap<u64, (Kind, u64)>,
    last: u64,
}

impl Tested {
    fn new(capacity: usize, dedup: Dedup) -> Tested {
        let config = StoreConfig { lease_reserve: 16 * MIB, ..StoreConfig::for_pages(1 << 16, capacity) };
        let mut store = PageStore::new(config).unwrap();
        let pool = store.new_pool(PoolConfig { dedup, ..PoolConfig::default() }).unwrap();
        store.keep_raw_on_lease(pool);
        let mailbox = Mailbox::new(lease::Kind::Persistent).unwrap();
        store.set_mailbox(Some(Arc::clone(&mailbox)));
        // Nobody waits for a host that is this same thread.
        mailbox.set_state(LinkState::Refused { until_ns: u64::MAX });
        Tested { store, pool, mailbox, model: BTreeMap::new(), last: 0 }
    }

    fn lease(&mut self) {
        self.last += 1;
        let _ = self.mailbox.deposit(Extent { id: self.last, fd: LeaseFd::new(MIB).unwrap(), bytes: MIB });
    }

    fn put(&mut self, index: u64, kind: Kind, seed: u64) -> Outcome {
        self.model.remove(&index);
        let outcome = self.store.put(self.pool, OBJECT, index, &page(kind, seed)).unwrap();
        if outcome.is_stored() {
            self.model.insert(index, (kind, seed));
        }
        outcome
    }

    /// Whether an extent could be emptied.
    fn give(&mut self) -> bool {
        let Some(mut vacating) = self.store.begin_vacating() else { return false };
        loop {
            match self.store.vacate(&mut vacating, 8) {
                Vacated::More => {}
                Vacated::Done(extent) => {
                    extent.fd.set_size(0).unwrap();
                    return true;
                }
                Vacated::Stuck | Vacated::Kept => {
                    self.store.end_vacating(vacating);
                    return false;
                }
            }
        }
    }

    fn verify(&mut self) {
        assert_eq!(self.store.check(), Vec::<String>::new());
        let mut into = [0; PAGE_SIZE];
        for (index, (kind, seed)) in &self.model {
            assert_eq!(self.store.get(self.pool, OBJECT, *index, &mut into), Ok(Loaded::Loaded));
            assert!(into == page(*kind, *seed), "page {index} came back with other bytes");
        }
        let stats = self.store.stats();
        assert_eq!(stats.held.pages(), self.model.len() as u64);
        assert!(stats.leased_used <= stats.leased_bytes);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(u64, Kind, u64),
    Flush(u64),
    FlushMany(u64),
    Compact,
    Capacity(usize),
    Lease,
    Give,
    Lose(usize),
}

fn ops() -> impl Strategy<Value = Op> {
    let kind =
        prop_oneof![3 => Just(Kind::Noise), 1 => Just(Kind::Text), 2 => (64u16..3500).prop_map(Kind::Partly)];
    prop_oneof![
        60 => (0u64..1500, kind, 0u64..1000).prop_map(|(i, k, s)| Op::Put(i, k, s)),
        20 => (0u64..1500).prop_map(Op::Flush),
        1 => (0u64..700).prop_map(Op::FlushMany),
        1 => Just(Op::Compact),
        1 => (0usize..12).prop_map(Op::Capacity),
        2 => Just(Op::Lease),
        1 => Just(Op::Give),
        1 => (0usize..8).prop_map(Op::Lose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn pages_that_do_not_shrink_stay_on_lease_or_are_refused(
        steps in prop::collection::vec(ops(), 1..1200), dedup in prop_oneof![Just(Dedup::Off), Just(Dedup::On)]
    ) {
        let mut tested = Tested::new(4 * CHUNK, dedup);
        for (n, op) in steps.iter().enumerate() {
            match *op {
                Op::Put(index, kind, seed) => {
                    let outcome = tested.put(index, kind, seed);
                    let noise = kind == Kind::Noise;
                    let reason = if noise { Reason::Incompressible } else { Reason::StoreFull };
                    prop_assert!([Outcome::Stored, Outcome::Refused(reason)].contains(&outcome), "{:?}", outcome);
                    prop_assert!(!noise || outcome.is_stored() || tested.mailbox.wanted() > 0, "it asks");
                }
                Op::Flush(index) => {
                    let there = tested.model.remove(&index).is_some();
                    prop_assert_eq!(tested.store.flush_page(tested.pool, OBJECT, index), Ok(there));
                }
                Op::FlushMany(to) => for index in 0..to {
                    let there = tested.model.remove(&index).is_some();
                    prop_assert_eq!(tested.store.flush_page(tested.pool, OBJECT, index), Ok(there));
                },
                Op::Compact => drop(tested.store.compact(16)),
                Op::Capacity(chunks) => tested.store.set_capacity(chunks * CHUNK),
                Op::Lease => tested.lease(),
                Op::Give => drop(tested.give()),
                Op::Lose(at) => {
                    let id = tested.store.extents_from(0).nth(at).map(|(id, _)| id);
                    if let Some(mut lost) = id.and_then(|id| tested.store.begin_losing(id)) {
                        while matches!(tested.store.vacate(&mut lost, 8), Vacated::More) {}
                    }
                }
            }
            if n % 128 == 0 {
                tested.verify();
            }
        }
        tested.verify();
    }
}

#[test]
fn noise_takes_nothing_of_the_stores_own_and_is_refused_where_leases_end() {
    let mut tested = Tested::new(MIB, Dedup::Off);
    assert_eq!(tested.put(0, Kind::Noise, 1), Outcome::Refused(Reason::Incompressible));
    assert!(tested.mailbox.wanted() > 0, "it asks for leases");
    let before = tested.store.stats().mapped_bytes;
    (0..4).for_each(|_| tested.lease());
    (0..1024).for_each(|n| assert!(tested.put(n, Kind::Noise, n).is_stored(), "page {n}"));
    assert_eq!(tested.put(2000, Kind::Noise, 2000), Outcome::Refused(Reason::Incompressible));
    assert!(tested.put(2001, Kind::Text, 1).is_stored(), "its own memory is for pages that shrink");
    let stats = tested.store.stats();
    assert_eq!((stats.leased_used, stats.held.raw_pages), (4 << 20, 1024));
    assert!(stats.mapped_bytes - before <= CHUNK as u64);
    assert!(!tested.give(), "they have no other place");
    tested.verify();
    // A host that wants one back gets it when there is room in the others.
    (0..256).for_each(|n| {
        tested.model.remove(&(n * 4));
        tested.store.flush_page(tested.pool, OBJECT, n * 4).unwrap();
    });
    while tested.store.compact(64) > 0 {}
    assert!(tested.give());
    tested.verify();
    assert_eq!(tested.store.stats().leased_bytes, 3 << 20);
}

#[test]
fn without_a_mailbox_nothing_is_asked_and_noise_is_refused() {
    let mut tested = Tested::new(MIB, Dedup::Off);
    tested.store.set_mailbox(None);
    assert_eq!(tested.put(0, Kind::Noise, 1), Outcome::Refused(Reason::Incompressible));
    assert_eq!(tested.store.stats().leased_bytes, 0);
}

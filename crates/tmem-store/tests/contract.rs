// SPDX-License-Identifier: Apache-2.0
//! The contract of `BackendOps`, asked of every backend: laws 1 to 4 against a map.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, kinds, page};
use proptest::prelude::*;
use std::collections::BTreeMap;
use tmem_store::testback::{PlainCopies, RefuseAll};
use tmem_store::{BackendOps, Loaded, LocalBackend, Outcome, PoolConfig, Reason, StoreConfig};
use tmem_sys::PAGE_SIZE;

const PAGES: u64 = 24;

#[derive(Clone, Debug)]
enum Op {
    Store(u32, u64, Kind, u64),
    Load(u32, u64),
    InvalidatePage(u32, u64),
    InvalidateArea(u32),
    Init(u32),
}

fn ops() -> impl Strategy<Value = Op> {
    let handle = || (0u32..3, 0..PAGES + 2);
    prop_oneof![
        8 => (handle(), kinds(), 0u64..1000).prop_map(|((a, p), k, s)| Op::Store(a, p, k, s)),
        6 => handle().prop_map(|(a, p)| Op::Load(a, p)),
        3 => handle().prop_map(|(a, p)| Op::InvalidatePage(a, p)),
        1 => (0u32..3).prop_map(Op::InvalidateArea),
        1 => (0u32..3).prop_map(Op::Init),
    ]
}

fn run(backend: &mut dyn BackendOps, ops: &[Op]) {
    let mut model = BTreeMap::new();
    let mut areas = [false; 3];
    let mut into = [0; PAGE_SIZE];
    for op in ops {
        match *op {
            Op::Store(area, number, kind, seed) => {
                model.remove(&(area, number));
                match backend.store(area, number, &page(kind, seed)) {
                    Outcome::Stored => {
                        assert!(areas[area as usize] && number < PAGES);
                        model.insert((area, number), page(kind, seed));
                    }
                    Outcome::Refused(Reason::NoArea) => assert!(!areas[area as usize]),
                    Outcome::Refused(Reason::OutOfRange) => assert!(number >= PAGES),
                    Outcome::Refused(_) => {}
                }
            }
            Op::Load(area, number) => {
                let loaded = backend.load(area, number, &mut into).unwrap();
                let known = model.get(&(area, number));
                assert_eq!(loaded == Loaded::Loaded, known.is_some());
                assert!(known.is_none_or(|p| *p == into));
            }
            Op::InvalidatePage(area, number) => {
                backend.invalidate_page(area, number);
                model.remove(&(area, number));
            }
            Op::InvalidateArea(area) => {
                backend.invalidate_area(area);
                model.retain(|k, _| k.0 != area);
                areas[area as usize] = false;
            }
            Op::Init(area) => {
                backend.init(area, PAGES);
                areas[area as usize] = true;
            }
        }
        assert_eq!(backend.check(), Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_backend_keeps_the_contract(ops in proptest::collection::vec(ops(), 1..120)) {
        let config = StoreConfig::for_pages(3 * PAGES, 4 << 15);
        run(&mut LocalBackend::new(config, PoolConfig { raw: true, ..PoolConfig::default() }).unwrap(), &ops);
        run(&mut LocalBackend::new(config, PoolConfig::default()).unwrap(), &ops);
        // Plain copies do not reuse the room of an invalidated area: leave room for each to come again.
        run(&mut PlainCopies::new(120 * PAGES as usize).unwrap(), &ops);
        run(&mut RefuseAll::default(), &ops);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! A host of users' pools on leased memory: extents come and go under its pages, and every page stays (laws 5 and 11).
#![forbid(unsafe_code)]

mod common;

use common::{Kind, page};
use std::collections::BTreeMap;
use std::sync::Arc;
use tmem_store::lease::Kind as Use;
use tmem_store::{
    Dedup, Extent, Holder, Host, HostConfig, LinkState, Loaded, Mailbox, ObjectId, PoolConfig, PoolKind,
};
use tmem_sys::PAGE_SIZE;
use tmem_sys::lease::LeaseFd;

const EXTENT: usize = 1 << 20;
const OBJECT: ObjectId = ObjectId([5, 0, 1]);

fn lease(mailbox: &Mailbox, last: &mut u64) {
    *last += 1;
    let fd = LeaseFd::new(EXTENT).unwrap();
    assert!(mailbox.deposit(Extent { id: *last, fd, bytes: EXTENT }).is_ok());
}

fn held(host: &Host) -> usize {
    let mut count = 0;
    host.held(&mut |_, _, kind| count += usize::from(kind == Use::Persistent));
    count
}

#[test]
fn pages_of_a_pool_stay_while_extents_come_and_go() {
    let mailbox = Mailbox::new(Use::Persistent).unwrap();
    mailbox.set_state(LinkState::Refused { until_ns: u64::MAX });
    let config = HostConfig { limit_bytes: 4 << 20, reserve_bytes: 8 << 20 };
    let host = Host::leasing(config, 64 << 20, Arc::clone(&mailbox)).unwrap();
    let pool = PoolConfig { pack: true, raw: true, dedup: Dedup::Off };
    let pool = host.new_pool("default", PoolKind::Persistent, pool).unwrap();
    let (mut next, mut last) = (common::noise(11), 0);
    let (mut model, mut refused, mut given) = (BTreeMap::new(), 0, 0);
    for n in 0..30_000u64 {
        if mailbox.wanted() > 0 && n % 7 == 0 && held(&host) < 12 {
            lease(&mailbox, &mut last);
        }
        let (index, seed) = (next() % 6000, next() % 1000);
        match next() % 16 {
            0..10 => {
                let stored =
                    host.put(pool, OBJECT, index, &page(Kind::Partly((seed * 3) as u16 + 64), seed)).unwrap();
                model.remove(&index);
                if stored.is_stored() {
                    model.insert(index, seed);
                }
                refused += u64::from(!stored.is_stored());
            }
            10..14 => check(&host, pool, &model, index),
            _ => {
                host.flush_page(pool, OBJECT, index).unwrap();
                model.remove(&index);
            }
        }
        if n % 1500 == 0 {
            host.give(2 * EXTENT, &mut |_| given += 1);
            assert_eq!(host.check(), Vec::<String>::new());
        }
    }
    let stats = host.stats();
    assert!(stats.leased_bytes > 2 << 20 && stats.leased_used > 1 << 20, "{stats:?}");
    assert!(stats.footprint_bytes <= 4 << 20 && given > 0, "{given} given, {refused} refused, {stats:?}");
    for index in 0..6000 {
        check(&host, pool, &model, index);
    }
    assert_eq!(host.destroy(pool), Ok(model.len() as u64));
    host.give(usize::MAX, &mut |_| given += 1);
    assert_eq!((held(&host), host.check()), (0, Vec::new()));
}

fn check(host: &Host, pool: tmem_store::PoolId, model: &BTreeMap<u64, u64>, index: u64) {
    let mut into = [0; PAGE_SIZE];
    let loaded = host.get(pool, OBJECT, index, &mut into).unwrap();
    match model.get(&index) {
        Some(&seed) => {
            assert_eq!(loaded, Loaded::Loaded);
            assert!(into == page(Kind::Partly((seed * 3) as u16 + 64), seed), "other bytes came back");
        }
        None => assert_eq!(loaded, Loaded::Absent),
    }
}

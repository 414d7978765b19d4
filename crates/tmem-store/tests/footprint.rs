// SPDX-License-Identifier: Apache-2.0
//! Law 13's part of the store: what it says it takes is what the kernel counts. One test in its own process, because
//! the kernel counts processes.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, page};
use tmem_store::{GuestId, ObjectId, PageStore, PoolConfig, PoolKind, StoreConfig};

/// Anonymous resident bytes of this process, as the kernel counts them now.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|l| l.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn footprint_is_what_the_kernel_counts() {
    let before = resident();
    let mut store = PageStore::with_ephemeral(StoreConfig::for_pages(1 << 20, 1 << 30), 1 << 20).unwrap();
    // Ephemeral pages take what others take, and their place in the order of age.
    let pools = [PoolKind::Persistent, PoolKind::Exclusive].map(|kind| {
        let config = PoolConfig { raw: true, ..PoolConfig::default() };
        store.new_pool_of(GuestId::FIRST, kind, config).unwrap()
    });
    let check = |store: &PageStore, when: &str| {
        let (says, is) = (store.footprint() as u64, resident() - before);
        eprintln!("{when}: {says} bytes, {is} counted by the kernel");
        assert!(is <= says + (256 << 10), "{when}: {is} bytes taken, {says} admitted");
        assert!(says <= is + is / 20 + (1 << 20), "{when}: {says} bytes admitted, {is} taken");
    };
    check(&store, "empty");
    let objects = 500;
    for n in 0..40_000u64 {
        let kind = if n % 5 == 0 { Kind::Noise } else { Kind::Partly((n % 3000) as u16 + 64) };
        let pool = pools[n as usize / 20_000];
        let stored = store.put(pool, ObjectId([n % objects, 0, 0]), n / objects, &page(kind, n)).unwrap();
        assert!(stored.is_stored());
    }
    check(&store, "40,000 pages");
    for n in 0..objects * 9 / 10 {
        pools.iter().for_each(|pool| assert!(store.flush_object(*pool, ObjectId([n, 0, 0])).is_ok()));
    }
    while store.compact(1 << 20) > 0 {}
    check(&store, "a tenth of them");
    pools.iter().for_each(|pool| assert!(store.destroy(*pool).is_ok()));
    store.trim();
    check(&store, "none");
}

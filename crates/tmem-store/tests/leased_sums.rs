// SPDX-License-Identifier: Apache-2.0
//! Leased memory that somebody else writes to: what was stored there comes back as it was, or not at all (law 12).
#![forbid(unsafe_code)]

mod common;

use common::{Kind, page};
use std::sync::Arc;
use tmem_store::{
    Extent, Loaded, Mailbox, ObjectId, PageStore, PoolConfig, PoolId, StoreConfig, StoreError, lease,
};
use tmem_sys::PAGE_SIZE;
use tmem_sys::lease::LeaseFd;

const MIB: usize = 1 << 20;
const OBJECT: ObjectId = ObjectId([1, 0, 0]);
const PAGES: u64 = 400;
const KINDS: [Kind; 3] = [Kind::Text, Kind::Noise, Kind::Partly(1500)];

/// A store that has all its pages in leased memory, and a descriptor of that for the one who writes to it.
fn leased() -> (PageStore, PoolId, Arc<Mailbox>, LeaseFd) {
    let config = StoreConfig { lease_reserve: 4 * MIB, ..StoreConfig::for_pages(1 << 12, 0) };
    let mut store = PageStore::new(config).unwrap();
    let pool = store.new_pool(PoolConfig { raw: true, ..PoolConfig::default() }).unwrap();
    let mailbox = Mailbox::new(lease::Kind::Persistent).unwrap();
    assert!(store.set_mailbox(Some(Arc::clone(&mailbox))));
    let fd = LeaseFd::new(2 * MIB).unwrap();
    let other = fd.duplicate().unwrap();
    mailbox.deposit(Extent { id: 1, fd, bytes: 2 * MIB }).map_err(|_| "no room").unwrap();
    for n in 0..PAGES {
        assert!(store.put(pool, OBJECT, n, &page(KINDS[n as usize % 3], n)).unwrap().is_stored());
    }
    assert!(store.stats().leased_used as usize > MIB / 2);
    (store, pool, mailbox, other)
}

#[test]
fn bytes_that_another_changed_are_never_handed_out() {
    let (mut store, pool, _mailbox, other) = leased();
    let mut into = [0; PAGE_SIZE];
    for n in 0..PAGES {
        assert_eq!(store.get(pool, OBJECT, n, &mut into), Ok(Loaded::Loaded));
        assert!(into == page(KINDS[n as usize % 3], n));
    }
    // A byte of every line, but not of the first two kilobytes of a chunk, where it says whose the slots are.
    let mut byte = [0];
    for at in (0..2 * MIB).step_by(64).filter(|at| at % (32 << 10) >= 4096) {
        assert_eq!(other.read_at(at, &mut byte), Ok(1));
        assert_eq!(other.write_at(at, &[!byte[0]]), Ok(()));
    }
    let (mut right, mut lost) = (0, 0);
    for n in 0..PAGES {
        match store.get(pool, OBJECT, n, &mut into) {
            Ok(Loaded::Loaded) => {
                assert!(into == page(KINDS[n as usize % 3], n), "page {n} is another");
                right += 1;
            }
            Err(StoreError::Corrupt(_)) => lost += 1,
            other => panic!("page {n}: {other:?}"),
        }
    }
    assert!(lost > PAGES / 2, "{lost} lost and {right} right");
}

#[test]
fn what_was_changed_is_not_made_right_by_a_move() {
    let (mut store, pool, _mailbox, other) = leased();
    let mut bytes = vec![0; 28 << 10];
    for chunk in 0..2 * MIB / (32 << 10) {
        let at = chunk * (32 << 10) + 4096;
        assert_eq!(other.read_at(at, &mut bytes), Ok(bytes.len()));
        bytes.iter_mut().for_each(|b| *b = b.rotate_left(1) ^ 0x55);
        assert_eq!(other.write_at(at, &bytes), Ok(()));
    }
    // Half of the pages go, and the rest is gathered; private room comes, and what can leaves for it.
    for n in (0..PAGES).step_by(2) {
        assert_eq!(store.flush_page(pool, OBJECT, n), Ok(true));
    }
    store.compact(PAGES as usize);
    store.set_capacity(4 * MIB);
    let mut vacating = store.begin_vacating();
    while let Some(one) = vacating.as_mut()
        && matches!(store.vacate(one, 64), tmem_store::Vacated::More)
    {}
    let mut into = [0; PAGE_SIZE];
    let mut lost = 0;
    for n in (1..PAGES).step_by(2) {
        match store.get(pool, OBJECT, n, &mut into) {
            Ok(Loaded::Loaded) => assert!(into == page(KINDS[n as usize % 3], n), "page {n} is another"),
            Err(StoreError::Corrupt(_)) => lost += 1,
            other => panic!("page {n}: {other:?}"),
        }
    }
    assert!(lost > PAGES / 4, "{lost} lost");
}

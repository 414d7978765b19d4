// SPDX-License-Identifier: Apache-2.0
//! A host of several shards keeps its laws over all of them: the limit, caps, who gives first, and which page.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, page};
use std::sync::Arc;
use tmem_store::{
    Dedup, GuestLimits, GuestStats, Host, HostConfig, Loaded, ObjectId, Outcome, PageStore, PoolConfig,
    PoolId, PoolKind, Reason,
};
use tmem_sys::PAGE_SIZE;

const SHARDS: usize = 4;
const LIMIT: usize = 8 << 20;
/// Each page in a leaf of its own, so that neighbours are in different shards.
const APART: u64 = 64;

fn host() -> Arc<Host> {
    Host::with_shards(HostConfig { limit_bytes: LIMIT, reserve_bytes: 2 * LIMIT }, SHARDS).unwrap()
}

fn pool(host: &Host, guest: &str, kind: PoolKind) -> PoolId {
    host.new_pool(guest, kind, PoolConfig { pack: true, raw: true, dedup: Dedup::Off }).unwrap()
}

fn put(host: &Host, pool: PoolId, n: u64) -> Outcome {
    host.put(pool, ObjectId([n % 7, 0, 0]), n * APART, &page(Kind::Noise, n)).unwrap()
}

fn holds(host: &Host, pool: PoolId, n: u64) -> bool {
    host.contains(pool, ObjectId([n % 7, 0, 0]), n * APART).unwrap()
}

fn get(host: &Host, pool: PoolId, n: u64) -> bool {
    let mut into = [0; PAGE_SIZE];
    let loaded = host.get(pool, ObjectId([n % 7, 0, 0]), n * APART, &mut into).unwrap() == Loaded::Loaded;
    assert!(!loaded || into == page(Kind::Noise, n));
    loaded
}

fn guest(host: &Host, name: &str) -> GuestStats {
    host.guests().into_iter().find(|(n, _)| n == name).unwrap().1
}

fn checked(host: &Host) {
    assert_eq!(host.check(), Vec::<String>::new());
    assert!(host.stats().footprint_bytes <= host.limit() as u64);
}

/// Pools that deduplicate find every twin, whatever the number of shards.
#[test]
fn twins_are_found_in_a_host_of_shards_as_in_one_of_one() {
    let of = |shards| {
        let config = HostConfig { limit_bytes: LIMIT, reserve_bytes: 2 * LIMIT };
        let host = Host::with_shards(config, shards).unwrap();
        let dedups = [Dedup::On, Dedup::Auto].map(|dedup| PoolConfig { pack: true, raw: true, dedup });
        for (guest, first) in [("default", 0), ("second", 0), ("third", 1000)] {
            for config in dedups {
                let pool = host.new_pool(guest, PoolKind::Persistent, config).unwrap();
                let ns = || (0..300).map(|n| (n, page(Kind::Partly(1500), first + n / 3)));
                ns().for_each(|(n, page)| {
                    let outcome = host.put(pool, ObjectId([n % 7, 0, 0]), n * APART, &page).unwrap();
                    assert_eq!(outcome, Outcome::Stored);
                });
                ns().for_each(|(n, page)| {
                    let mut into = [0; PAGE_SIZE];
                    let got = host.get(pool, ObjectId([n % 7, 0, 0]), n * APART, &mut into);
                    assert!(got == Ok(Loaded::Loaded) && into == page);
                });
            }
        }
        checked(&host);
        let stats = host.stats();
        assert_eq!((stats.dedup.pools, stats.dedup.pools_all >= 3), (6, true));
        (stats.held.pages(), stats.dedup.found, stats.held.shared_pages, stats.slot_bytes)
    };
    let (pages, found, shared, _) = of(1);
    assert!((pages, found > 600, shared > 900) == (1800, true, true), "{found} found, {shared} shared");
    // Which pages the others sample is chosen anew by each host.
    let several = of(SHARDS);
    assert!(several.0 == pages && several.1 > 600 && several.2 > 900, "{several:?}");
}

#[test]
fn the_limit_is_used_and_kept_over_all_shards() {
    let host = host();
    let kept = pool(&host, "default", PoolKind::Persistent);
    let full = (0..).find(|n| !put(&host, kept, *n).is_stored()).unwrap();
    assert_eq!(put(&host, kept, full), Outcome::Refused(Reason::StoreFull));
    // What four shards keep free, and tables: a leaf of the index a page.
    assert!(full * (PAGE_SIZE as u64 + 1024) > LIMIT as u64 * 3 / 4, "{full} pages fit");
    checked(&host);
    assert!((0..full).all(|n| get(&host, kept, n)));
    // Persistent pages in all shards stay under a lower limit, and nothing is taken in any of them.
    host.set_limit(LIMIT / 2);
    assert!((full..full + 100).all(|n| !put(&host, kept, n).is_stored()));
    assert!((0..full).all(|n| get(&host, kept, n)));
    (0..full * 3 / 4).for_each(|n| {
        assert_eq!(host.flush_page(kept, ObjectId([n % 7, 0, 0]), n * APART), Ok(true));
    });
    assert_eq!(put(&host, kept, 0), Outcome::Stored, "flushes made up for it");
    checked(&host);
}

#[test]
fn one_shard_gets_what_the_others_do_not_need() {
    let host = host();
    let kept = pool(&host, "default", PoolKind::Persistent);
    // Each object is one leaf, so that all its pages are in one shard.
    let store = |object: u64, index: u64| {
        host.put(kept, ObjectId([object, 0, 0]), index, &page(Kind::Noise, index)).unwrap().is_stored()
    };
    let first = (0..64).filter(|index| store(0, *index)).count() as u64;
    assert_eq!(first, 64);
    let spread = (1..).find(|object| !(0..64).all(|index| store(*object, index))).unwrap();
    assert!(spread * 64 * PAGE_SIZE as u64 > LIMIT as u64 / 2, "{spread} objects fit");
    checked(&host);
    // All of it goes, and comes back to whoever needs it.
    assert!(host.destroy(kept).unwrap() >= spread * 64);
    let kept = pool(&host, "default", PoolKind::Persistent);
    let again = (0..).find(|n| !put(&host, kept, *n).is_stored()).unwrap();
    assert!(again * (PAGE_SIZE as u64 + 1024) > LIMIT as u64 * 3 / 4, "{again} pages fit");
    checked(&host);
}

#[test]
fn law_6_no_page_goes_while_one_in_another_shard_is_twice_as_old() {
    let host = host();
    let cache = pool(&host, "default", PoolKind::NonExclusive);
    let n = 4 * LIMIT as u64 / PAGE_SIZE as u64;
    assert!((0..n).all(|i| put(&host, cache, i).is_stored()));
    let held: Vec<u64> = (0..n).filter(|i| holds(&host, cache, *i)).collect();
    let oldest = held[0];
    let youngest_gone = (0..n).rev().find(|i| !holds(&host, cache, *i)).unwrap();
    // Ages are counted in puts; a little room for what was in flight when each was decided.
    let (age_left, age_gone) = (n - oldest, n - youngest_gone);
    assert!(age_left <= 2 * age_gone + n / 8, "one of age {age_gone} went, one of age {age_left} is there");
    checked(&host);
}

#[test]
fn law_11_the_hog_gives_first_whichever_shard_has_its_pages() {
    let host = host();
    let (hog, small) = (pool(&host, "hog", PoolKind::Exclusive), pool(&host, "small", PoolKind::Exclusive));
    // The small guest's pages are the oldest.
    assert!((0..100).all(|n| put(&host, small, n).is_stored()));
    assert!((0..4000).all(|n| put(&host, hog, n).is_stored()));
    assert_eq!((guest(&host, "small").held.pages, guest(&host, "small").evicted), (100, 0));
    assert!(guest(&host, "hog").evicted > 1000);
    checked(&host);
}

#[test]
fn a_cap_holds_over_all_shards() {
    let host = host();
    let (cache, kept) =
        (pool(&host, "mine", PoolKind::NonExclusive), pool(&host, "mine", PoolKind::Persistent));
    assert!((0..200).all(|n| put(&host, cache, n).is_stored()));
    let per_page = guest(&host, "mine").held.charge / 200;
    host.set_guest("mine", |_| GuestLimits { weight: 1, cap: Some(50 * per_page) }).unwrap();
    assert_eq!(guest(&host, "mine").held.pages, 50);
    assert_eq!((0..200).filter(|n| holds(&host, cache, *n)).count(), 50);
    assert!((150..200).all(|n| holds(&host, cache, n)), "the youngest are left");
    assert!((0..50).all(|n| put(&host, kept, n).is_stored()));
    assert_eq!(guest(&host, "mine").held.ephemeral_pages, 0);
    assert_eq!(put(&host, kept, 50), Outcome::Refused(Reason::OverCap));
    assert_eq!(put(&host, kept, 49), Outcome::Stored, "law 3: the old page makes room for the new one");
    checked(&host);
}

#[test]
fn a_page_finds_room_while_any_shard_has_an_ephemeral_page() {
    let host = host();
    let (cache, kept) =
        (pool(&host, "default", PoolKind::Exclusive), pool(&host, "other", PoolKind::Persistent));
    let n = (0..).find(|n| !put(&host, cache, *n).is_stored() || host.stats().traffic.evicted > 0).unwrap();
    let refused = (0..2 * n).find(|i| !put(&host, kept, *i).is_stored()).unwrap();
    assert_eq!(host.freeable(), 0, "refused with pages to give");
    assert!((0..refused).all(|i| get(&host, kept, i)));
    checked(&host);
}

#[test]
fn many_shards_under_the_smallest_limit_still_hold_something() {
    let host = Host::with_shards(HostConfig { limit_bytes: LIMIT, reserve_bytes: LIMIT }, 8).unwrap();
    let cache = pool(&host, "default", PoolKind::NonExclusive);
    assert!((0..1000).all(|n| put(&host, cache, n).is_stored()));
    host.set_limit(PageStore::SMALLEST_LIMIT);
    checked(&host);
    let held = |n: &u64| put(&host, cache, *n).is_stored() && get(&host, cache, *n);
    assert!((1000..1100).any(|n| held(&n)), "{:?}", host.stats());
    host.set_limit(LIMIT);
    assert!((2000..2100).all(|n| held(&n)));
    checked(&host);
}

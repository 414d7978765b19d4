// SPDX-License-Identifier: Apache-2.0
//! Laws 6 and 11, each with the smallest case that breaks it: what ephemeral pools forget and when, and who gives
//! first.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, page};
use std::sync::Arc;
use tmem_store::{
    GuestHoldings, GuestStats, Host, HostConfig, Loaded, ObjectId, Outcome, PageStore, PoolConfig, PoolId,
    PoolKind, Reason,
};
use tmem_sys::PAGE_SIZE;

const OBJECT: ObjectId = ObjectId([1, 2, 3]);
const SMALL: usize = PageStore::SMALLEST_LIMIT;

fn host() -> Arc<Host> {
    Host::new(HostConfig { limit_bytes: SMALL, reserve_bytes: 4 * SMALL }).unwrap()
}

fn pool(host: &Host, guest: &str, kind: PoolKind) -> PoolId {
    host.new_pool(guest, kind, PoolConfig { pack: true, raw: true, ..PoolConfig::default() }).unwrap()
}

fn put(host: &Host, pool: PoolId, index: u64) -> Outcome {
    host.put(pool, OBJECT, index, &page(Kind::Noise, index)).unwrap()
}

fn fill(host: &Host, pool: PoolId, indexes: std::ops::Range<u64>) {
    indexes.for_each(|i| assert_eq!(put(host, pool, i), Outcome::Stored));
}

fn get(host: &Host, pool: PoolId, index: u64) -> bool {
    let mut into = [0; PAGE_SIZE];
    let loaded = host.get(pool, OBJECT, index, &mut into).unwrap() == Loaded::Loaded;
    assert!(!loaded || into == page(Kind::Noise, index));
    loaded
}

fn held_indexes(host: &Host, pool: PoolId, indexes: std::ops::Range<u64>) -> Vec<u64> {
    indexes.filter(|i| host.contains(pool, OBJECT, *i).unwrap()).collect()
}

fn guest(host: &Host, name: &str) -> GuestStats {
    host.guests().into_iter().find(|(n, _)| n == name).unwrap().1
}

fn held(host: &Host, name: &str) -> GuestHoldings {
    guest(host, name).held
}

fn weigh(host: &Host, name: &str, weight: u32) {
    host.set_guest(name, |mut limits| {
        limits.weight = weight;
        limits
    })
    .unwrap();
}

fn cap(host: &Host, name: &str, cap: Option<u64>) {
    host.set_guest(name, |mut limits| {
        limits.cap = cap;
        limits
    })
    .unwrap();
}

fn checked(host: &Host) {
    assert_eq!(host.check(), Vec::<String>::new());
}

/// Puts pages of one pool until one more evicts something; how many.
fn fill_up(host: &Host, pool: PoolId) -> u64 {
    (0..).find(|&i| !put(host, pool, i).is_stored() || host.stats().traffic.evicted > 0).unwrap()
}

#[test]
fn law_6_an_exclusive_page_leaves_with_its_get_and_another_stays_and_is_young() {
    let host = host();
    let [exclusive, kept] = [PoolKind::Exclusive, PoolKind::NonExclusive].map(|k| pool(&host, "default", k));
    fill(&host, exclusive, 0..2);
    fill(&host, kept, 0..2);
    host.set_frozen(exclusive, true).unwrap();
    assert!(get(&host, exclusive, 0) && !get(&host, exclusive, 0), "frozen or not, it is gone");
    assert!(get(&host, kept, 0) && get(&host, kept, 0));
    assert_eq!(held(&host, "default").ephemeral_pages, 3);
    // The oldest is now page 1 of `exclusive`, then page 1 of `kept`; page 0 of `kept` is the youngest.
    let per_page = held(&host, "default").charge / 3;
    cap(&host, "default", Some(per_page * 2));
    assert_eq!(held_indexes(&host, exclusive, 0..2), []);
    assert_eq!(held_indexes(&host, kept, 0..2), [0, 1]);
    cap(&host, "default", Some(per_page));
    assert_eq!(held_indexes(&host, kept, 0..2), [0], "the one that was got last stays longest");
    checked(&host);
}

#[test]
fn law_6_a_full_store_forgets_the_oldest_page_and_a_replaced_one_is_young() {
    let host = host();
    let cache = pool(&host, "default", PoolKind::NonExclusive);
    let n = fill_up(&host, cache);
    assert!(n > 100 && !host.contains(cache, OBJECT, 0).unwrap());
    let oldest = held_indexes(&host, cache, 0..n)[0];
    assert_eq!(put(&host, cache, oldest), Outcome::Stored);
    fill(&host, cache, n + 1..n + 20);
    assert!(
        host.contains(cache, OBJECT, oldest).unwrap() && !host.contains(cache, OBJECT, oldest + 1).unwrap()
    );
    checked(&host);
}

#[test]
fn persistent_pages_take_the_room_of_ephemeral_ones_and_never_the_other_way_round() {
    let host = host();
    let (kept, cache) =
        (pool(&host, "default", PoolKind::Persistent), pool(&host, "default", PoolKind::Exclusive));
    let n = fill_up(&host, cache);
    let stored = (0..2 * n).take_while(|i| put(&host, kept, *i).is_stored()).count() as u64;
    assert!(stored + 16 > n, "{stored} persistent pages where {n} ephemeral ones were");
    assert_eq!(host.freeable(), 0);
    assert_eq!(put(&host, cache, 0), Outcome::Refused(Reason::StoreFull));
    assert!((0..stored).all(|i| get(&host, kept, i)));
    checked(&host);
}

#[test]
fn law_11_the_hog_gives_first_whoever_asks() {
    let host = host();
    let hog = pool(&host, "hog", PoolKind::NonExclusive);
    let modest = pool(&host, "modest", PoolKind::NonExclusive);
    // The modest guest's pages are the oldest: by age alone they would go first.
    fill(&host, modest, 0..20);
    fill_up(&host, hog);
    let asking = pool(&host, "asking", PoolKind::Persistent);
    fill(&host, asking, 0..30);
    fill(&host, modest, 20..30);
    assert_eq!(guest(&host, "modest").evicted, 0);
    assert!(guest(&host, "hog").evicted > 30);
    checked(&host);
}

#[test]
fn law_11_weight_is_the_right_to_more() {
    let host = host();
    let heavy = pool(&host, "heavy", PoolKind::NonExclusive);
    let light = pool(&host, "light", PoolKind::NonExclusive);
    weigh(&host, "heavy", 3);
    for i in 0..2000 {
        fill(&host, heavy, i..i + 1);
        fill(&host, light, i..i + 1);
    }
    let (heavy, light) = (held(&host, "heavy").ephemeral_charge, held(&host, "light").ephemeral_charge);
    assert!((heavy as f64 / light as f64 - 3.0).abs() < 0.3, "{heavy} against {light}");
    checked(&host);
}

#[test]
fn law_11_of_two_that_hold_the_same_the_lighter_gives_whichever_came_first() {
    for (heavy, light) in [("first", "second"), ("second", "first")] {
        let host = Host::new(HostConfig { limit_bytes: 4 * SMALL, reserve_bytes: 4 * SMALL }).unwrap();
        let pools = ["first", "second"].map(|name| pool(&host, name, PoolKind::NonExclusive));
        weigh(&host, heavy, 3);
        // In turns, so that nobody is older, and both hold the same until there is no room.
        (0..400).for_each(|i| pools.iter().for_each(|&p| fill(&host, p, i..i + 1)));
        let asking = pool(&host, "asking", PoolKind::Persistent);
        let room = (0..).find(|&i| !put(&host, asking, i).is_stored() || host.stats().traffic.evicted > 0);
        fill(&host, asking, 1000..1010);
        assert!(room.is_some() && guest(&host, light).evicted >= 10, "{:?}", host.guests());
        assert_eq!(guest(&host, heavy).evicted, 0, "{heavy} has a right to more");
        checked(&host);
    }
}

#[test]
fn law_6_age_is_one_order_over_all_pools_of_a_guest() {
    let host = host();
    let pools = [PoolKind::NonExclusive, PoolKind::Exclusive, PoolKind::NonExclusive]
        .map(|kind| pool(&host, "default", kind));
    (0..30).for_each(|i| pools.iter().for_each(|&p| fill(&host, p, i..i + 1)));
    assert!((0..5).all(|i| get(&host, pools[0], i)), "young again");
    let kept = pool(&host, "default", PoolKind::Persistent);
    let room = (0..).find(|&i| !put(&host, kept, i).is_stored() || host.stats().traffic.evicted > 0).unwrap();
    fill(&host, kept, 1000..1030);
    let left = pools.map(|p| held_indexes(&host, p, 0..30));
    // What is left of each is young; the first's five that were read are, however old they were.
    let evicted = host.stats().traffic.evicted as usize;
    assert!((30..75).contains(&evicted), "{evicted}");
    assert_eq!(left[0][..5], [0, 1, 2, 3, 4]);
    let gone = 30 - left[1].len() as u64;
    assert_eq!((&left[1], &left[2]), (&(gone..30).collect(), &(30 - left[2].len() as u64..30).collect()));
    assert!(left[1].len().abs_diff(left[2].len()) <= 1 && left[0][5] <= gone + 1, "{left:?}");
    assert!((0..room).chain(1000..1030).all(|i| get(&host, kept, i)), "no persistent page goes");
    checked(&host);
}

#[test]
fn law_11_a_guest_over_its_share_with_nothing_to_give_is_passed_over() {
    let host = host();
    let rich = pool(&host, "rich", PoolKind::Persistent);
    let cache = pool(&host, "cache", PoolKind::NonExclusive);
    fill(&host, rich, 0..100);
    fill_up(&host, cache);
    // All that "rich" has is persistent: its own put must find room with the other.
    fill(&host, rich, 100..120);
    assert!(guest(&host, "cache").evicted >= 15);
    assert_eq!(guest(&host, "rich").evicted, 0);
    checked(&host);
}

#[test]
fn law_11_without_weight_the_oldest_goes_whosever_it_is() {
    let host = host();
    let (first, second) =
        (pool(&host, "first", PoolKind::NonExclusive), pool(&host, "second", PoolKind::NonExclusive));
    ["first", "second"].iter().for_each(|name| weigh(&host, name, 0));
    fill(&host, first, 0..10);
    fill_up(&host, second);
    fill(&host, second, 1000..1030);
    assert_eq!(guest(&host, "first").evicted, 10, "the oldest were those of the smaller guest");
    checked(&host);
}

#[test]
fn law_11_a_cap_costs_its_guest_and_nobody_else() {
    let host = host();
    let (mine, kept) =
        (pool(&host, "mine", PoolKind::NonExclusive), pool(&host, "mine", PoolKind::Persistent));
    let other = pool(&host, "other", PoolKind::NonExclusive);
    fill(&host, other, 0..10);
    fill(&host, mine, 0..10);
    let per_page = held(&host, "mine").charge / 10;
    cap(&host, "mine", Some(10 * per_page));
    fill(&host, mine, 10..15);
    assert_eq!(held_indexes(&host, mine, 0..15), [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    fill(&host, kept, 0..10);
    assert_eq!(held(&host, "mine").ephemeral_pages, 0, "a persistent put takes them, too");
    assert_eq!(put(&host, kept, 10), Outcome::Refused(Reason::OverCap));
    assert_eq!(put(&host, mine, 0), Outcome::Refused(Reason::OverCap));
    assert_eq!(put(&host, kept, 9), Outcome::Stored, "law 3: the old page makes room for the new one");
    cap(&host, "mine", Some(5 * per_page));
    assert_eq!(held_indexes(&host, kept, 0..11).len(), 10, "persistent pages stay above a lower cap");
    assert_eq!(put(&host, kept, 0), Outcome::Refused(Reason::OverCap));
    assert!(!get(&host, kept, 0), "law 3 around a cap");
    cap(&host, "mine", None);
    fill(&host, kept, 0..30);
    assert_eq!(guest(&host, "other").evicted, 0);
    checked(&host);
}

#[test]
fn same_filled_pages_are_charged_and_bounded_by_the_limit() {
    let host = host();
    let cache = pool(&host, "default", PoolKind::Exclusive);
    let kept = pool(&host, "default", PoolKind::Persistent);
    let same = |pool, i| host.put(pool, ObjectId([i / 7, 0, 0]), i, &page(Kind::Same, i)).unwrap();
    assert!((0..20_000).all(|i| same(cache, i).is_stored()));
    assert!(host.stats().traffic.evicted > 0 && host.stats().footprint_bytes <= SMALL as u64);
    let refused = (0..20_000).map(|i| same(kept, i)).find(|o| !o.is_stored());
    assert_eq!(refused, Some(Outcome::Refused(Reason::StoreFull)));
    assert!(host.stats().footprint_bytes <= SMALL as u64);
    checked(&host);
}

#[test]
fn a_lower_limit_takes_ephemeral_pages_and_leaves_persistent_ones() {
    let host = Host::new(HostConfig { limit_bytes: 4 * SMALL, reserve_bytes: 4 * SMALL }).unwrap();
    let (kept, cache) =
        (pool(&host, "default", PoolKind::Persistent), pool(&host, "default", PoolKind::Exclusive));
    for i in 0..150 {
        fill(&host, kept, i..i + 1);
        fill(&host, cache, 3 * i..3 * i + 3);
    }
    host.set_limit(2 * SMALL);
    assert!(host.stats().footprint_bytes <= 2 * SMALL as u64);
    assert!(held(&host, "default").ephemeral_pages > 100, "no more than need be");
    host.set_limit(SMALL / 2);
    assert_eq!(host.freeable(), 0);
    assert!((0..150).all(|i| get(&host, kept, i)));
    assert_eq!(put(&host, kept, 1000), Outcome::Refused(Reason::StoreFull));
    host.set_limit(usize::MAX);
    assert_eq!((host.limit(), put(&host, kept, 1000)), (4 * SMALL, Outcome::Stored));
    checked(&host);
}

#[test]
fn room_of_another_size_is_made_by_moving_pages_together_and_not_by_forgetting_them_all() {
    let host = Host::new(HostConfig { limit_bytes: 4 * SMALL, reserve_bytes: 4 * SMALL }).unwrap();
    let (cache, kept) =
        (pool(&host, "default", PoolKind::NonExclusive), pool(&host, "default", PoolKind::Persistent));
    let small = |i| host.put(cache, OBJECT, i, &page(Kind::Partly(200), i)).unwrap();
    let n = (0..).find(|&i| !small(i).is_stored() || host.stats().traffic.evicted > 0).unwrap();
    // Age is to have nothing to do with place, so that no chunk comes empty by itself.
    let (mut next, mut into) = (common::noise(5), [0; PAGE_SIZE]);
    (0..2 * n).for_each(|_| assert!(host.get(cache, OBJECT, next() % n, &mut into).is_ok()));
    fill(&host, kept, 0..8);
    let stats = host.stats();
    assert!(stats.moved > 0 && stats.traffic.evicted * 8 < n, "{} of {n} evicted", stats.traffic.evicted);
    assert!((0..n).filter(|&i| host.contains(cache, OBJECT, i).unwrap()).all(|i| {
        host.get(cache, OBJECT, i, &mut into) == Ok(Loaded::Loaded) && into == page(Kind::Partly(200), i)
    }));
    checked(&host);
}

// SPDX-License-Identifier: Apache-2.0
//! What no door shows: collisions of the hash, damage to shares, a page that is its share's last.

use super::*;
use crate::pool::{PoolConfig, PoolId, PoolKind, StoreConfig};
use crate::{GuestId, Loaded, Outcome};

const OBJECT: ObjectId = ObjectId([4, 5, 6]);
const ON: PoolConfig = PoolConfig { pack: true, raw: true, dedup: Dedup::On };

/// A page that packs to about 1.5 KB, different for each n.
fn page(n: u64) -> Page {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|i| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if i < 1400 { x as u8 } else { (n + i as u64 / 64) as u8 }
    })
}

fn store(config: PoolConfig) -> (PageStore, PoolId) {
    let mut store = PageStore::with_ephemeral(StoreConfig::for_pages(4096, 32 << 20), 4096).unwrap();
    let pool = store.new_pool(config).unwrap();
    (store, pool)
}

fn put(store: &mut PageStore, pool: PoolId, index: u64, page: &Page) {
    assert_eq!(store.put(pool, OBJECT, index, page), Ok(Outcome::Stored));
}

fn assert_is(store: &mut PageStore, pool: PoolId, index: u64, page: &Page) {
    let mut into = [0; PAGE_SIZE];
    assert_eq!(store.get(pool, OBJECT, index, &mut into), Ok(Loaded::Loaded));
    assert!(into == *page, "page {index} came back changed");
}

fn checked(store: &PageStore) {
    assert_eq!(store.check(), Vec::<String>::new());
}

#[test]
fn pages_whose_hashes_collide_are_compared_and_told_apart() {
    for bits in [0, 1, 4] {
        let (mut store, pool) = store(ON);
        store.dedup.tag_bits = bits;
        let different = |n: u64| if n.is_multiple_of(3) { page(n % 21) } else { page(n) };
        for n in 0..200 {
            put(&mut store, pool, n, &different(n));
        }
        assert!(store.stats().dedup.failed > 50, "{} collisions of {bits} bits", store.stats().dedup.failed);
        (0..200).for_each(|n| assert_is(&mut store, pool, n, &different(n)));
        checked(&store);
    }
}

#[test]
fn a_page_that_stayed_alone_costs_what_a_page_costs_that_never_shared() {
    let config = PoolConfig { dedup: Dedup::Off, ..ON };
    let ((mut shared, pool), (mut plain, other)) = (store(ON), store(config));
    for n in 0..60 {
        put(&mut shared, pool, n, &page(n));
        put(&mut plain, other, n, &page(n));
        (1..4).for_each(|copy| put(&mut shared, pool, 100 * copy + n, &page(n)));
    }
    let (held, dedup) = (shared.stats().held, shared.stats().dedup);
    assert_eq!((held.shared_pages, dedup.shares, dedup.found), (240, 60, 180));
    assert_eq!(dedup.saved_bytes, 3 * shared.stats().slot_bytes);
    checked(&shared);
    // Another page of each four stays.
    for n in 0..60 {
        let stays = n % 4;
        for copy in (0..4).filter(|copy| *copy != stays) {
            assert_eq!(shared.flush_page(pool, OBJECT, 100 * copy + n), Ok(true));
        }
        assert_is(&mut shared, pool, 100 * stays + n, &page(n));
    }
    let (after, never) = (shared.stats(), plain.stats());
    assert_eq!((after.held, after.slot_bytes), (never.held, never.slot_bytes));
    assert_eq!(shared.guests.get(GuestId::FIRST).held, plain.guests.get(GuestId::FIRST).held);
    assert_eq!((after.dedup.shares, after.dedup.saved_bytes), (0, 0));
    assert!(after.footprint_bytes - after.dedup.table_bytes <= never.footprint_bytes + (16 << 10));
    checked(&shared);
    // Who stayed is found again, under its own name.
    (0..60).for_each(|n| put(&mut shared, pool, 1000 + n, &page(n)));
    assert_eq!(shared.stats().dedup.found, 240);
    checked(&shared);
}

#[test]
fn a_share_whose_pages_all_go_at_once_leaves_nothing() {
    let (mut store, pool) = store(ON);
    for n in 0..300 {
        let object = ObjectId([n % 3, 0, 0]);
        assert_eq!(store.put(pool, object, n, &page(n % 10)), Ok(Outcome::Stored));
    }
    assert_eq!(store.stats().dedup.shares, 10);
    assert_eq!(store.flush_object(pool, ObjectId([0; 3])), Ok(100));
    checked(&store);
    assert_eq!(store.flush_object(pool, ObjectId([1, 0, 0])), Ok(100));
    checked(&store);
    assert_eq!(store.destroy(pool), Ok(100));
    checked(&store);
    let stats = store.stats();
    assert_eq!((stats.dedup.shares, stats.held.pages(), stats.slot_bytes), (0, 0, 0));
}

#[test]
fn shared_pages_go_down_in_their_turn_as_they_are_packed() {
    let (mut store, pool) = store(ON);
    (0..9).for_each(|n| put(&mut store, pool, n, &page(n % 3)));
    let mut after = crate::order::Place::NONE;
    for n in 0..9 {
        let (place, (_, object, index), blob) = store.oldest(after).unwrap();
        let crate::Blob::Packed(packed) = blob else { panic!("not packed") };
        let mut into = [0; PAGE_SIZE];
        let packed = packed.to_vec();
        assert!(store.codec.decode(&packed, &mut into) && into == page(n % 3));
        assert_eq!((object, index), (OBJECT, n));
        after = place;
    }
    // The oldest go, the youngest of each share stays and is in its place.
    (0..6).for_each(|n| assert_eq!(store.flush_page(pool, OBJECT, n), Ok(true)));
    checked(&store);
    store.renew(pool, OBJECT, 6);
    let order: Vec<u64> =
        std::iter::successors(store.oldest(crate::order::Place::NONE), |(place, ..)| store.oldest(*place))
            .map(|(_, (.., index), _)| index)
            .collect();
    assert_eq!(order, [7, 8, 6]);
    assert_eq!(store.stats().held.shared_pages, 0);
    checked(&store);
}

#[test]
fn the_only_page_of_an_object_shares_and_goes_on_to_when_more_come() {
    let (mut store, pool) = store(ON);
    let lone = |n: u64| ObjectId([n, 9, 9]);
    for n in 0..50 {
        assert_eq!(store.put(pool, lone(n), 5, &page(1)), Ok(Outcome::Stored));
    }
    checked(&store);
    // The object's second page moves its first, which is the twin itself, or shares with others.
    for n in 0..50 {
        let twin = page(if n % 2 == 0 { 1 } else { 2 + n });
        assert_eq!(store.put(pool, lone(n), 6, &twin), Ok(Outcome::Stored));
        assert_eq!(store.put(pool, lone(100 + n), 7, &page(200 + n)), Ok(Outcome::Stored));
        assert_eq!(store.put(pool, lone(100 + n), 8, &page(200 + n)), Ok(Outcome::Stored));
        checked(&store);
    }
    assert_eq!(store.stats().held.shared_pages, 50 + 25 + 100);
    for n in (0..50).rev() {
        assert_eq!(store.flush_page(pool, lone(n), 5), Ok(true));
        assert_eq!(store.flush_page(pool, lone(100 + n), 7), Ok(true));
        checked(&store);
    }
    assert_eq!(store.stats().held.shared_pages, 25);
}

#[test]
fn a_put_over_a_shared_page_changes_no_other() {
    let (mut store, pool) = store(ON);
    (0..3).for_each(|n| put(&mut store, pool, n, &page(7)));
    put(&mut store, pool, 1, &page(8));
    assert_is(&mut store, pool, 0, &page(7));
    assert_is(&mut store, pool, 1, &page(8));
    put(&mut store, pool, 0, &page(8));
    assert_is(&mut store, pool, 2, &page(7));
    assert_eq!((store.stats().dedup.shares, store.stats().held.shared_pages), (1, 2));
    checked(&store);
}

#[test]
fn what_is_shared_is_never_in_a_form_that_its_pool_does_not_keep() {
    let (mut store, packing) = store(ON);
    let plain = store.new_pool(PoolConfig { pack: false, ..ON }).unwrap();
    let refusing = store.new_pool(PoolConfig { raw: false, ..ON }).unwrap();
    put(&mut store, packing, 0, &page(1));
    put(&mut store, plain, 0, &page(1));
    assert_eq!(store.stats().dedup.found, 0, "a pool of raw pages does not unpack");
    put(&mut store, packing, 1, &page(1));
    let mut noise = [0; PAGE_SIZE];
    random_bytes(&mut noise).unwrap();
    put(&mut store, packing, 2, &noise);
    put(&mut store, packing, 3, &noise);
    let refused = Ok(Outcome::Refused(Reason::Incompressible));
    assert_eq!(store.put(refusing, OBJECT, 0, &noise), refused);
    assert_eq!(store.stats().dedup.found, 2);
    checked(&store);
}

#[test]
fn two_guests_and_two_kinds_share_nothing() {
    let (mut store, mine) = store(ON);
    let other = store.guests.find_or_make("other").unwrap();
    let theirs = store.new_pool_of(other, PoolKind::Persistent, ON).unwrap();
    let cache = store.new_pool_of(GuestId::FIRST, PoolKind::Exclusive, ON).unwrap();
    // With no bits of the hash every page of one circle is looked up under one tag.
    for bits in [32, 0] {
        store.dedup.tag_bits = bits;
        for n in 0..20 {
            [mine, theirs, cache].iter().for_each(|pool| put(&mut store, *pool, n, &page(n)));
        }
        let stats = store.stats();
        assert_eq!((stats.dedup.found, stats.held.shared_pages), (0, 0));
    }
    // Even where a tag names another guest's page.
    let id = store.objects.id(mine.slot() as u32, OBJECT, 19).unwrap();
    let circle = Circle { guest: other, ephemeral: false };
    let tag = store.dedup.tag(&page(19), circle);
    store.dedup.candidates.put(tag, id);
    put(&mut store, theirs, 50, &page(19));
    assert_eq!(store.stats().dedup.found, 0);
    checked(&store);
}

#[test]
fn check_convicts_damage_to_shares() {
    type Damage = fn(&mut PageStore, u32);
    let damages: [(&str, Damage); 5] = [
        ("count", |s, share| s.dedup.shares.break_count(share)),
        ("saved bytes", |s, share| {
            *s.dedup.shares.data_mut(share).unwrap() = Entry::raw(crate::slab::Loc(1 << 16))
        }),
        ("entry lost", |s, _| s.objects.trees.leaves[1][0] = Entry::EMPTY),
        ("id", |s, share| s.objects.trees.leaves[1][0] = Entry::shared(share, EntryId(1))),
        ("number", |s, share| s.objects.trees.leaves[1][0] = Entry::shared(share + 1, EntryId(64))),
    ];
    for (name, damage) in damages {
        let (mut store, pool) = store(ON);
        (0..3).for_each(|n| put(&mut store, pool, n, &page(7)));
        put(&mut store, pool, 3, &page(8));
        checked(&store);
        let Form::Shared(share) = store.objects.trees.leaves[1][0].form() else { panic!("not shared") };
        damage(&mut store, share);
        assert!(!store.check().is_empty(), "{name} went unseen");
    }
}

#[test]
fn what_was_stored_before_samples_found_twins_is_found_too() {
    let (mut store, pool) = store(PoolConfig { dedup: Dedup::Auto, ..ON });
    (0..2000).for_each(|n| put(&mut store, pool, n, &page(n)));
    assert_eq!(store.stats().dedup.pools_all, 0);
    (0..2000).for_each(|n| put(&mut store, pool, 2000 + n, &page(n)));
    let dedup = store.stats().dedup;
    assert_eq!(dedup.pools_all, 1);
    assert!(dedup.found > 1000, "{} of 2000 found", dedup.found);
    checked(&store);
    (0..4000).for_each(|n| assert_is(&mut store, pool, n, &page(n % 2000)));
}

#[test]
fn samples_switch_a_pool_on_and_off_again() {
    let (mut store, pool) = store(PoolConfig { dedup: Dedup::Auto, ..ON });
    let (mut next, mut index) = (0, 0);
    let mut put_some = |store: &mut PageStore, pages: u64, copies: u64| {
        for _ in 0..pages {
            next += 1;
            for _ in 0..copies {
                put(store, pool, index % 3000, &page(next));
                index += 1;
            }
        }
    };
    put_some(&mut store, 6000, 1);
    let sampled = store.stats().dedup;
    assert_eq!((sampled.pools, sampled.pools_all, sampled.found), (1, 0, 0));
    assert!((50..600).contains(&sampled.hashed), "{} of 6000 pages are samples", sampled.hashed);
    put_some(&mut store, 3000, 2);
    let on = store.stats();
    assert_eq!(on.dedup.pools_all, 1);
    assert!(on.dedup.found > 500 && on.dedup.saved_bytes > 1000 * 1000);
    put_some(&mut store, 12_000, 1);
    let off = store.stats().dedup;
    assert_eq!(off.pools_all, 0);
    assert!(off.hashed < sampled.hashed + 3000 * 2 + 12_000, "it went on looking");
    assert_eq!(store.stats().dedup.shares, 0, "the pages were put over one by one");
    checked(&store);
}

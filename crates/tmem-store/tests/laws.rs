// SPDX-License-Identifier: Apache-2.0
//! Laws 1 to 7 of a page store, one test a law, each with the smallest case that breaks it. `model.rs` holds them together over
//! random histories; `shared.rs` holds law 8.

mod common;

use common::{Kind, page};
use tmem_store::{Loaded, ObjectId, Outcome, PageStore, PoolConfig, PoolId, Reason, StoreConfig};
use tmem_sys::{PAGE_SIZE, Page};

const CHUNK: usize = 64 * PAGE_SIZE;
const OBJECT: ObjectId = ObjectId([1, 2, 3]);

fn store() -> (PageStore, PoolId) {
    let mut store = PageStore::new(StoreConfig::for_pages(1 << 12, 2 * CHUNK)).unwrap();
    let pool = store.new_pool(PoolConfig { pack: true, raw: false, ..PoolConfig::default() }).unwrap();
    (store, pool)
}

fn put(store: &mut PageStore, pool: PoolId, index: u64, kind: Kind, seed: u64) -> Outcome {
    store.put(pool, OBJECT, index, &page(kind, seed)).unwrap()
}

fn get(store: &mut PageStore, pool: PoolId, index: u64) -> Option<Page> {
    let mut into = [0xee; PAGE_SIZE];
    match store.get(pool, OBJECT, index, &mut into).unwrap() {
        Loaded::Loaded => Some(into),
        Loaded::Absent => {
            assert!(into == [0xee; PAGE_SIZE], "a miss wrote to its target");
            None
        }
    }
}

/// Puts pages until one finds no room.
fn fill(store: &mut PageStore, pool: PoolId) {
    let full = (1..).find(|&i| !put(store, pool, i, Kind::Partly(3000), i).is_stored()).unwrap();
    assert!(full > 1);
}

#[test]
fn law_1_each_refusal_has_its_reason_and_its_counter() {
    let (mut store, pool) = store();
    assert!(!put(&mut store, pool, 0, Kind::Noise, 1).is_stored());
    store.freeze(pool).unwrap();
    assert_eq!(put(&mut store, pool, 1, Kind::Text, 1), Outcome::Refused(Reason::Frozen));
    assert_eq!(put(&mut store, pool, 1, Kind::Text, 1), Outcome::Refused(Reason::Frozen));
    store.thaw(pool).unwrap();
    fill(&mut store, pool);
    let counted: Vec<_> = store.stats().traffic.refused.iter().filter(|(_, n)| *n > 0).collect();
    assert_eq!(counted, [(Reason::Frozen, 2), (Reason::StoreFull, 1), (Reason::Incompressible, 1)]);
}

#[test]
fn law_2_the_callers_memory_is_free_after_put_and_get() {
    let (mut store, pool) = store();
    for kind in [Kind::Text, Kind::Same, Kind::Partly(900)] {
        let mut mine = page(kind, 5);
        assert!(store.put(pool, OBJECT, 0, &mine).unwrap().is_stored());
        mine.fill(0xaa);
        let mut back = get(&mut store, pool, 0).unwrap();
        assert!(back == page(kind, 5));
        back.fill(0xbb);
        assert!(get(&mut store, pool, 0).unwrap() == page(kind, 5));
    }
}

#[test]
fn law_3_a_refused_duplicate_leaves_no_old_page() {
    let (mut store, pool) = store();
    assert!(put(&mut store, pool, 0, Kind::Text, 1).is_stored());
    assert_eq!(put(&mut store, pool, 0, Kind::Noise, 2), Outcome::Refused(Reason::Incompressible));
    assert_eq!(get(&mut store, pool, 0), None);
    assert!(put(&mut store, pool, 0, Kind::Text, 3).is_stored());
    store.freeze(pool).unwrap();
    assert_eq!(put(&mut store, pool, 0, Kind::Text, 4), Outcome::Refused(Reason::Frozen));
    assert_eq!(get(&mut store, pool, 0), None);
    store.thaw(pool).unwrap();
    assert!(put(&mut store, pool, 0, Kind::Same, 5).is_stored());
    fill(&mut store, pool);
    assert_eq!(put(&mut store, pool, 0, Kind::Partly(3000), 7), Outcome::Refused(Reason::StoreFull));
    assert_eq!(get(&mut store, pool, 0), None);
}

#[test]
fn law_4_a_miss_stays_a_miss_and_put_put_get_gives_the_second() {
    let (mut store, pool) = store();
    assert_eq!(get(&mut store, pool, 0), None);
    assert!(put(&mut store, pool, 0, Kind::Text, 1).is_stored());
    assert!(put(&mut store, pool, 0, Kind::Partly(700), 2).is_stored());
    assert!(get(&mut store, pool, 0).unwrap() == page(Kind::Partly(700), 2));
    assert_eq!(store.flush_page(pool, OBJECT, 0), Ok(true));
    for _ in 0..3 {
        assert_eq!(get(&mut store, pool, 0), None);
        assert!(!put(&mut store, pool, 0, Kind::Noise, 3).is_stored());
    }
    assert!(put(&mut store, pool, 0, Kind::Same, 4).is_stored());
    assert!(get(&mut store, pool, 0).unwrap() == page(Kind::Same, 4));
}

#[test]
fn law_5_a_persistent_page_is_kept_by_gets_by_freezing_and_by_a_full_store() {
    let (mut store, pool) = store();
    assert!(put(&mut store, pool, 0, Kind::Text, 9).is_stored());
    store.freeze(pool).unwrap();
    assert!(get(&mut store, pool, 0).unwrap() == page(Kind::Text, 9));
    store.thaw(pool).unwrap();
    fill(&mut store, pool);
    store.set_capacity(0);
    store.compact(64);
    store.trim();
    assert!(get(&mut store, pool, 0).unwrap() == page(Kind::Text, 9));
    assert!(get(&mut store, pool, 0).unwrap() == page(Kind::Text, 9));
    assert!(store.destroy(pool).unwrap() > 0);
    assert_eq!(store.stats().held.pages(), 0);
}

#[test]
fn law_7_flushing_what_is_not_there_succeeds_and_a_frozen_pool_flushes() {
    let (mut store, pool) = store();
    assert_eq!(store.flush_page(pool, OBJECT, 3), Ok(false));
    assert_eq!(store.flush_object(pool, OBJECT), Ok(0));
    for index in 0..4 {
        assert!(put(&mut store, pool, index, Kind::Text, index).is_stored());
    }
    store.freeze(pool).unwrap();
    assert!(!put(&mut store, pool, 9, Kind::Zero, 0).is_stored());
    assert!(get(&mut store, pool, 1).unwrap() == page(Kind::Text, 1));
    assert_eq!(store.flush_page(pool, OBJECT, 1), Ok(true));
    assert_eq!(store.flush_page(pool, OBJECT, 1), Ok(false));
    assert_eq!(store.flush_object(pool, OBJECT), Ok(3));
    assert_eq!(store.check(), Vec::<String>::new());
}

// SPDX-License-Identifier: Apache-2.0
//! What is known of a page takes few bytes: at most 48 with the pager's hash where an object holds many pages, at most 112 for an
//! object's only page; and free slots take a bounded part of the memory.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, page};
use tmem_store::{ObjectId, PageStore, PoolConfig, StoreConfig};

/// What the pager keeps of a page to know it again: a hash of 128 bits.
const HASH: u64 = 16;
/// The word at the beginning of a chunk that says whose a slot is.
const WORD: u64 = 4;

fn store(pages: u64) -> PageStore {
    let config = StoreConfig { max_objects: pages as usize, ..StoreConfig::for_pages(8 * pages, 1 << 30) };
    PageStore::new(config).unwrap()
}

/// Bytes of all that is neither a slot nor free, for each page beyond an empty store's.
fn metadata(store: &PageStore, empty: u64, pages: u64) -> u64 {
    let stats = store.stats();
    (stats.footprint_bytes - stats.mapped_bytes - empty) / pages + WORD + HASH
}

fn empty(store: &PageStore) -> u64 {
    store.stats().footprint_bytes - store.stats().mapped_bytes
}

/// Pages of these lengths when packed, one after another.
fn length(n: u64) -> u16 {
    (300 + n % 49 * 37) as u16
}

#[test]
fn a_page_of_a_large_object_takes_48_bytes_of_metadata_and_a_lone_one_112() {
    for (each, most) in [(1 << 16, 48), (64, 48), (1, 112)] {
        let pages = 1 << 16;
        let mut store = store(pages);
        let (before, pool) = (empty(&store), store.new_pool(PoolConfig::default()).unwrap());
        for n in 0..pages {
            let stored =
                store.put(pool, ObjectId([n / each, 7, 0]), n % each, &page(Kind::Partly(length(n)), n));
            assert!(stored.unwrap().is_stored());
        }
        let bytes = metadata(&store, before, pages);
        eprintln!("objects of {each}: {bytes} bytes a page");
        assert!(bytes <= most, "objects of {each} pages: {bytes} bytes of metadata a page");
    }
}

#[test]
fn what_churn_leaves_free_is_bounded_once_it_is_gathered() {
    let pages = 1 << 14;
    let mut store = store(pages);
    let (before, pool) = (empty(&store), store.new_pool(PoolConfig::default()).unwrap());
    let object = ObjectId([1, 2, 3]);
    let mut x = 88_172_645_463_325_252u64;
    for n in 0..8 * pages {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        assert!(store.put(pool, object, x % pages, &page(Kind::Partly(length(x)), n)).unwrap().is_stored());
        if store.is_sparse() {
            store.compact(64);
        }
    }
    let stats = store.stats();
    let free = stats.mapped_bytes - stats.slot_bytes;
    eprintln!("{free} of {} bytes free, {} pages moved", stats.mapped_bytes, stats.moved);
    assert!(free * 8 <= stats.mapped_bytes, "{free} of {} bytes are free slots", stats.mapped_bytes);
    assert!(metadata(&store, before, stats.held.pages()) <= 52, "with an order of age that was churned");
    for n in (0..pages).filter(|n| n % 7 != 0) {
        assert!(store.flush_page(pool, object, n).is_ok());
    }
    while store.compact(64) > 0 {}
    store.trim();
    let stats = store.stats();
    assert!((stats.mapped_bytes - stats.slot_bytes) * 2 <= stats.mapped_bytes, "{stats:?}");
    assert_eq!(store.check(), Vec::<String>::new());
}

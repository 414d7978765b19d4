// SPDX-License-Identifier: Apache-2.0
//! Laws 3, 6 and 8 of caches of entries: what comes back is what one put stored under that very key, whole, whoever else
//! puts, evicts and clears meanwhile.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use tmem_store::{Cache, ObjectId, Outcome, Reason};
use tmem_sys::{PAGE_SIZE, Page};

const SMALL: usize = 1 << 20;

/// A value that says which put it is of: its length, and each of its words.
fn value(seed: u64, len: usize) -> Vec<u8> {
    let word = |i: usize| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i as u64 / 3).to_le_bytes();
    (0..len.div_ceil(8)).flat_map(word).take(len).collect()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

fn id(n: u64) -> ObjectId {
    ObjectId([n, 0, 0])
}

fn get(cache: &Cache, n: u64, key: &[u8]) -> Option<Vec<u8>> {
    let mut page: Page = [0; PAGE_SIZE];
    let head = cache.find(id(n), key, &mut page, true).unwrap()?;
    let mut into = vec![0; head.value_len];
    cache.copy_value(id(n), &head, &page, &mut into, true).unwrap().then_some(into)
}

fn checked(cache: &Cache) {
    assert_eq!(cache.check(), Vec::<String>::new());
    let stats = cache.stats().unwrap();
    assert!(stats.footprint <= stats.limit, "{stats:?}");
}

#[test]
fn law_6_an_entry_of_any_length_comes_back_and_a_replaced_one_never_does() {
    let cache = Cache::new(8 * SMALL, 8 * SMALL, false).unwrap();
    let lengths = [0, 1, 4000, 4096, 4097, 65_535, 65_536, 200_000, 1_000_000, 5];
    for (n, len) in lengths.into_iter().enumerate() {
        for seed in [n as u64, n as u64 + 100] {
            assert_eq!(cache.put(id(7), b"key", &value(seed, len)), Ok(Outcome::Stored));
            assert_eq!(get(&cache, 7, b"key"), Some(value(seed, len)));
        }
        assert_eq!(cache.stats().unwrap().entries, 1);
    }
    checked(&cache);
    assert!(cache.remove(id(7), b"key").unwrap() && !cache.remove(id(7), b"key").unwrap());
    assert_eq!(get(&cache, 7, b"key"), None);
}

#[test]
fn keys_that_hash_alike_are_compared_whole() {
    let cache = Cache::new(8 * SMALL, 8 * SMALL, false).unwrap();
    let long = |end: u8| [vec![b'x'; 10_000], vec![end]].concat();
    for (mine, other) in [(b"a".to_vec(), b"b".to_vec()), (b"a".to_vec(), b"ab".to_vec()), (long(1), long(2))]
    {
        assert_eq!(cache.put(id(1), &mine, b"mine"), Ok(Outcome::Stored));
        assert_eq!((get(&cache, 1, &other), cache.remove(id(1), &other)), (None, Ok(false)));
        assert_eq!(get(&cache, 1, &mine), Some(b"mine".to_vec()));
        assert_eq!(cache.next_key(0, cache.newest()).unwrap().map(|(_, key)| key), Some(mine.clone()));
        assert_eq!(cache.oldest().unwrap(), Some((id(1), mine)));
    }
    checked(&cache);
}

#[test]
fn law_6_the_oldest_entry_goes_whole_and_a_look_makes_nothing_young() {
    let cache = Cache::new(SMALL, SMALL, false).unwrap();
    let len = 3 * PAGE_SIZE;
    let mut put = 0;
    while cache.stats().unwrap().evicted == 0 {
        assert_eq!(cache.put(id(put), b"k", &noise(put, len)), Ok(Outcome::Stored));
        put += 1;
    }
    let first =
        (0..put).find(|&n| cache.find(id(n), b"k", &mut [0; PAGE_SIZE], false).unwrap().is_some()).unwrap();
    assert_eq!(get(&cache, first, b"k"), Some(noise(first, len)), "it is young now");
    cache.find(id(first + 1), b"k", &mut [0; PAGE_SIZE], false).unwrap();
    assert_eq!(cache.oldest().unwrap().map(|(id, _)| id), Some(id(first + 1)));
    for n in put..put + 4 {
        assert_eq!(cache.put(id(n), b"k", &noise(n, len)), Ok(Outcome::Stored));
    }
    assert_eq!(get(&cache, first, b"k"), Some(noise(first, len)));
    assert_eq!(get(&cache, first + 1, b"k"), None);
    let stats = cache.stats().unwrap();
    assert_eq!((stats.pages % 4, stats.entries * 4), (0, stats.pages), "nothing is left of what went");
    checked(&cache);
}

#[test]
fn law_3_a_refused_entry_leaves_nothing() {
    let cache = Cache::new(SMALL, SMALL, false).unwrap();
    assert_eq!(cache.put(id(1), b"k", b"old"), Ok(Outcome::Stored));
    // It evicts all others and then its own first pages.
    let refused = cache.put(id(1), b"k", &noise(1, 2 * SMALL));
    assert_eq!(refused, Ok(Outcome::Refused(Reason::StoreFull)));
    assert_eq!((get(&cache, 1, b"k"), cache.stats().unwrap().pages), (None, 0));
    assert_eq!(cache.put(id(1), b"k", &value(2, 2 * SMALL)), Ok(Outcome::Stored), "what packs may be larger");
    cache.refuse(id(1)).unwrap();
    assert_eq!((get(&cache, 1, b"k"), cache.stats().unwrap().refused), (None, 2));
    checked(&cache);
}

#[test]
fn a_walk_shows_each_key_once_and_ends_though_entries_change() {
    let cache = Cache::new(SMALL, SMALL, false).unwrap();
    (0..200).for_each(|n| assert!(cache.put(id(n), &n.to_le_bytes(), b"v").unwrap().is_stored()));
    let (newest, mut at, mut seen) = (cache.newest(), 0, HashMap::new());
    while let Some((next, key)) = cache.next_key(at, newest).unwrap() {
        at = next;
        *seen.entry(key.clone()).or_insert(0) += 1;
        let n = u64::from_le_bytes(key.try_into().unwrap());
        assert!(cache.put(id(n), &n.to_le_bytes(), b"changed").unwrap().is_stored());
        assert!(cache.put(id(1000 + n), &(1000 + n).to_le_bytes(), b"new").unwrap().is_stored());
        if n % 3 == 0 {
            cache.remove(id(n + 1), &(n + 1).to_le_bytes()).unwrap();
        }
    }
    assert!(seen.len() >= 130 && seen.values().all(|count| *count == 1), "{}", seen.len());
    cache.clear().unwrap();
    assert_eq!((cache.next_key(0, cache.newest()), cache.oldest()), (Ok(None), Ok(None)));
    checked(&cache);
}

#[test]
fn law_8_no_thread_ever_sees_a_torn_or_a_foreign_entry() {
    let cache = Cache::new(4 * SMALL, 4 * SMALL, false).unwrap();
    let done = AtomicBool::new(false);
    let lengths = [10, 5000, 70_000, 300_000];
    let write = |thread: u64| {
        let mut stored = 0;
        for round in 0..150 {
            let (n, seed) = (round % 3, thread * 1000 + round);
            let len = lengths[(round as usize + thread as usize) % 4];
            let mut entry = value(seed * 8 + n, len);
            entry[..8].copy_from_slice(&(seed * 8 + n).to_le_bytes());
            stored += u64::from(cache.put(id(n), &n.to_le_bytes(), &entry).unwrap().is_stored());
            if round % 40 == 0 {
                cache.clear().unwrap();
            }
        }
        assert!(stored > 100);
    };
    let read = || {
        let mut hits = 0;
        while !done.load(Ordering::Relaxed) {
            for n in 0..3u64 {
                let Some(got) = get(&cache, n, &n.to_le_bytes()) else { continue };
                let seed = u64::from_le_bytes(got[..8].try_into().unwrap());
                assert_eq!(seed % 8, n, "of another key");
                assert!(got[8..] == value(seed, got.len())[8..], "parts of several puts");
                hits += 1;
            }
        }
        hits
    };
    let hits: usize = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(read)).collect();
        let writers: Vec<_> = (1..3).map(|t| scope.spawn(move || write(t))).collect();
        writers.into_iter().for_each(|w| w.join().unwrap());
        done.store(true, Ordering::Relaxed);
        readers.into_iter().map(|r| r.join().unwrap()).sum()
    });
    assert!(hits > 0);
    checked(&cache);
}

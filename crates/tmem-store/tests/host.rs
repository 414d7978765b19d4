// SPDX-License-Identifier: Apache-2.0
//! Law 8: threads that put, get and flush one handle see whole pages of some order of the operations.
#![forbid(unsafe_code)]

mod common;

use common::{Kind, page};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tmem_store::{Host, HostConfig, Loaded, ObjectId, Outcome, PoolConfig, PoolId, PoolKind};
use tmem_sys::{PAGE_SIZE, Page};

const OBJECT: ObjectId = ObjectId([1, 2, 3]);
const ROUNDS: u64 = 20_000;

/// A page that names its maker and number in its first words and proves it with all others.
fn signed(thread: u64, n: u64) -> Page {
    let kind = if n.is_multiple_of(3) { Kind::Noise } else { Kind::Partly(1000 + (n % 1000) as u16) };
    let mut page = page(kind, n * 2 + thread);
    page[..8].copy_from_slice(&thread.to_ne_bytes());
    page[8..16].copy_from_slice(&n.to_ne_bytes());
    page
}

fn word(page: &Page, at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|i| page[at * 8 + i]))
}

fn host(limit_bytes: usize) -> Arc<Host> {
    Host::new(HostConfig { limit_bytes, reserve_bytes: 64 << 20 }).unwrap()
}

fn new_pool(host: &Host, guest: &str, kind: PoolKind) -> PoolId {
    host.new_pool(guest, kind, PoolConfig { pack: true, raw: true, ..PoolConfig::default() }).unwrap()
}

#[test]
fn two_threads_on_one_handle_never_see_a_torn_page() {
    let store = host(2 << 20);
    let pool = new_pool(&store, "default", PoolKind::Persistent);
    let hits = AtomicU64::new(0);
    std::thread::scope(|s| {
        for thread in 0..2 {
            let (store, hits) = (&store, &hits);
            s.spawn(move || {
                let mut into = [0; PAGE_SIZE];
                let mut newest_seen = [0; 2];
                for n in 1..ROUNDS {
                    assert_eq!(store.put(pool, OBJECT, 7, &signed(thread, n)), Ok(Outcome::Stored));
                    if store.get(pool, OBJECT, 7, &mut into).unwrap() == Loaded::Loaded {
                        let (maker, number) = (word(&into, 0), word(&into, 1));
                        assert!(into == signed(maker, number), "a torn page");
                        // Some order: nobody's older page comes back after a newer one of theirs.
                        assert!(number >= newest_seen[maker as usize]);
                        newest_seen[maker as usize] = number;
                        hits.fetch_add(1, Ordering::Relaxed);
                    }
                    if n % 64 == thread {
                        store.flush_page(pool, OBJECT, 7).unwrap();
                    }
                }
            });
        }
    });
    assert!(hits.load(Ordering::Relaxed) > ROUNDS);
    assert_eq!(store.check(), Vec::<String>::new());
}

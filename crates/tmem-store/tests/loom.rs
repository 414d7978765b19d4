// SPDX-License-Identifier: Apache-2.0
//! A host under every order of threads: its own code, with locks and atomics that the model schedules. Owns: what two or
//! three threads may see of an entry that is put, got, flushed, evicted and moved meanwhile, of the locks of several
//! shards, and of a fork. Laws 1, 3, 6, 8, 11 and 15; the model itself tells of threads that wait for one another.
//!
//! `make long` runs it; it is empty without `--cfg loom`.
#![cfg(loom)]
#![forbid(unsafe_code)]

use loom::thread;
use std::sync::Arc;
use tmem_store::{
    Dedup, GuestLimits, Host, HostConfig, Loaded, ObjectId, Outcome, PoolConfig, PoolId, PoolKind,
};
use tmem_sys::{PAGE_SIZE, Page};

const OBJECT: ObjectId = ObjectId([1, 2, 3]);
/// How often a thread may be interrupted where it does not wait.
const PREEMPTIONS: usize = 2;
/// A limit that leaves a few chunks of pages.
const SMALL: usize = 1 << 20;
/// Threads run on stacks of their own; a batch has a few arrays there. In words.
const STACK: usize = 1 << 15;
/// As many for the one that makes the host, which is put together on the stack.
const MAKER: usize = 1 << 18;

fn every_order(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.max_branches = 100_000;
    let body = std::sync::Arc::new(body);
    builder.check(move || {
        let body = std::sync::Arc::clone(&body);
        thread::Builder::new().stack_size(MAKER).spawn(move || body()).unwrap().join().unwrap();
    });
}

fn host(shards: usize) -> Arc<Host> {
    Host::with_shards(HostConfig { limit_bytes: SMALL, reserve_bytes: SMALL }, shards).unwrap()
}

fn pool(host: &Host, kind: PoolKind) -> PoolId {
    host.new_pool("default", kind, PoolConfig { pack: true, raw: true, dedup: Dedup::Off }).unwrap()
}

fn beside(host: &Arc<Host>, f: impl FnOnce(&Host) + Send + 'static) -> thread::JoinHandle<()> {
    let host = Arc::clone(host);
    thread::Builder::new().stack_size(STACK).spawn(move || f(&host)).unwrap()
}

/// Pages of one number: an odd one packs to a few hundred bytes, an even one does not pack.
fn page(number: u64) -> Page {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut page: Page = std::array::from_fn(|i| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if number.is_multiple_of(2) || i < 300 { x as u8 } else { number as u8 }
    });
    page[..8].copy_from_slice(&number.to_ne_bytes());
    page
}

fn put(host: &Host, pool: PoolId, index: u64, number: u64) -> Outcome {
    host.put(pool, OBJECT, index, &page(number)).unwrap()
}

/// The number of the page that is stored, which must be whole; 0 where there is none.
fn get(host: &Host, pool: PoolId, index: u64) -> u64 {
    let mut into = [0; PAGE_SIZE];
    match host.get(pool, OBJECT, index, &mut into).unwrap() {
        Loaded::Absent => 0,
        Loaded::Loaded => {
            let number = u64::from_ne_bytes(std::array::from_fn(|i| into[i]));
            assert!(into == page(number), "a torn page");
            number
        }
    }
}

fn checked(host: &Host) {
    assert_eq!(host.check(), Vec::<String>::new());
}

/// An index whose page is in that shard.
fn in_shard(host: &Host, pool: PoolId, shard: usize) -> u64 {
    (0..).map(|leaf| leaf * 64).find(|index| host.shard_number(pool, OBJECT, *index) == shard).unwrap()
}

/// Puts pages that do not pack into one shard, until no more fit without another going.
fn fill(host: &Host, pool: PoolId, from: u64) {
    for n in 0.. {
        let before = host.stats().traffic;
        let stored = put(host, pool, from + n % 64 + n / 64 * (1 << 20), 2 * n + 1000).is_stored();
        if !stored || host.stats().traffic.evicted > before.evicted {
            return;
        }
    }
}

#[test]
fn a_handle_that_is_put_twice_gives_the_old_page_or_the_new_and_never_goes_back() {
    every_order(|| {
        let host = host(1);
        let kept = pool(&host, PoolKind::Persistent);
        let putter = beside(&host, move |host| {
            assert!(put(host, kept, 7, 1).is_stored());
            assert!(put(host, kept, 7, 2).is_stored());
        });
        let (first, second) = (get(&host, kept, 7), get(&host, kept, 7));
        assert!(first <= second, "{first}, then {second}");
        putter.join().unwrap();
        assert_eq!(get(&host, kept, 7), 2);
        checked(&host);
    });
}

#[test]
fn a_flush_forgets_what_was_put_before_it_and_nothing_else() {
    every_order(|| {
        let host = host(1);
        let kept = pool(&host, PoolKind::Persistent);
        let putter = beside(&host, move |host| assert!(put(host, kept, 7, 1).is_stored()));
        let other = beside(&host, move |host| assert!(put(host, kept, 8, 3).is_stored()));
        let flushed = host.flush_page(kept, OBJECT, 7).unwrap();
        putter.join().unwrap();
        other.join().unwrap();
        assert_eq!((get(&host, kept, 7), get(&host, kept, 8)), (u64::from(!flushed), 3));
        checked(&host);
    });
}

#[test]
fn an_exclusive_page_goes_to_one_of_two_who_get_it() {
    every_order(|| {
        let host = host(1);
        let cache = pool(&host, PoolKind::Exclusive);
        assert!(put(&host, cache, 7, 1).is_stored());
        let other = beside(&host, move |host| {
            let got = get(host, cache, 7);
            assert!(put(host, cache, 8 + got, 5).is_stored());
        });
        let got = get(&host, cache, 7);
        other.join().unwrap();
        assert_eq!((get(&host, cache, 8), get(&host, cache, 9)), if got == 1 { (5, 0) } else { (0, 5) });
        checked(&host);
    });
}

#[test]
fn a_frozen_pool_refuses_what_comes_after_and_the_old_page_is_gone() {
    every_order(|| {
        let host = host(2);
        let kept = pool(&host, PoolKind::Persistent);
        assert!(put(&host, kept, 7, 1).is_stored());
        let freezer = beside(&host, move |host| host.set_frozen(kept, true).unwrap());
        let stored = put(&host, kept, 7, 3).is_stored();
        freezer.join().unwrap();
        assert_eq!(get(&host, kept, 7), if stored { 3 } else { 0 });
        assert!(!put(&host, kept, 8, 1).is_stored());
        checked(&host);
    });
}

#[test]
fn an_evicted_page_is_there_or_gone_and_never_other_bytes() {
    every_order(|| {
        let host = host(1);
        let cache = pool(&host, PoolKind::NonExclusive);
        fill(&host, cache, 0);
        let oldest = (0..).find(|index| host.contains(cache, OBJECT, *index).unwrap()).unwrap();
        let putter = beside(&host, move |host| {
            assert!(put(host, cache, 1 << 30, 2).is_stored());
            assert!(put(host, cache, (1 << 30) + 1, 3).is_stored());
        });
        let (first, second) = (get(&host, cache, oldest), get(&host, cache, oldest));
        assert!(second == 0 || second == first, "a page came back");
        putter.join().unwrap();
        assert_eq!(get(&host, cache, (1 << 30) + 1), 3);
        checked(&host);
    });
}

/// The put has to let its lock go while the other shard gives: until it is done, the old page is there.
#[test]
fn a_page_that_is_replaced_with_room_from_another_shard_is_never_missing() {
    every_order(|| {
        let host = host(2);
        let (kept, cache) = (pool(&host, PoolKind::Persistent), pool(&host, PoolKind::NonExclusive));
        let here = in_shard(&host, kept, 0);
        assert!(put(&host, kept, here, 1).is_stored());
        fill(&host, cache, in_shard(&host, cache, 1));
        let putter = beside(&host, move |host| assert!(put(host, kept, here, 2).is_stored()));
        let (first, second) = (get(&host, kept, here), get(&host, kept, here));
        assert!(first > 0 && second >= first, "{first}, then {second}");
        putter.join().unwrap();
        assert_eq!(get(&host, kept, here), 2);
        checked(&host);
    });
}

#[test]
fn an_object_is_flushed_in_all_shards_at_once() {
    every_order(|| {
        let host = host(2);
        let kept = pool(&host, PoolKind::Persistent);
        let [one, other] = [0, 1].map(|shard| in_shard(&host, kept, shard));
        let putter = beside(&host, move |host| {
            assert!(put(host, kept, one, 1).is_stored());
            assert!(put(host, kept, other, 3).is_stored());
        });
        let flushed = host.flush_object(kept, OBJECT).unwrap();
        putter.join().unwrap();
        let left = (get(&host, kept, one), get(&host, kept, other));
        assert_eq!(left, [(1, 3), (0, 3), (0, 0)][flushed as usize]);
        checked(&host);
    });
}

#[test]
fn a_pool_that_goes_is_gone_for_all_and_its_place_is_given_when_it_is_empty() {
    every_order(|| {
        let host = host(2);
        let gone = pool(&host, PoolKind::Persistent);
        let [one, other] = [0, 1].map(|shard| in_shard(&host, gone, shard));
        assert!(put(&host, gone, one, 1).is_stored() && put(&host, gone, other, 3).is_stored());
        let maker = beside(&host, move |host| {
            let new = pool(host, PoolKind::Persistent);
            assert_eq!((get(host, new, one), get(host, new, other)), (0, 0));
            assert!(put(host, new, one, 5).is_stored());
            assert_eq!((get(host, new, one), host.pool_stats(new).unwrap().pages), (5, 1));
        });
        assert_eq!(host.destroy(gone), Ok(2));
        assert!(host.get(gone, OBJECT, one, &mut [0; PAGE_SIZE]).is_err());
        maker.join().unwrap();
        checked(&host);
    });
}

#[test]
fn a_cap_with_room_for_one_page_lets_one_of_two_in() {
    every_order(|| {
        let host = host(2);
        let kept = pool(&host, PoolKind::Persistent);
        let [one, other] = [0, 1].map(|shard| in_shard(&host, kept, shard));
        host.set_guest("default", |_| GuestLimits { weight: 1, cap: Some(PAGE_SIZE as u64 * 3 / 2) })
            .unwrap();
        let putter = beside(&host, move |host| {
            let _ = put(host, kept, one, 2);
        });
        let stored = put(&host, kept, other, 4).is_stored();
        putter.join().unwrap();
        assert_eq!((get(&host, kept, one), get(&host, kept, other)), if stored { (0, 4) } else { (2, 0) });
        checked(&host);
    });
}

#[test]
fn a_limit_is_lowered_beside_puts_and_gets() {
    every_order(|| {
        let host = host(2);
        let (kept, cache) = (pool(&host, PoolKind::Persistent), pool(&host, PoolKind::NonExclusive));
        let [one, other] = [0, 1].map(|shard| in_shard(&host, kept, shard));
        assert!(put(&host, kept, one, 2).is_stored());
        assert!(put(&host, cache, other, 4).is_stored());
        let limiter = beside(&host, |host| host.set_limit(1 << 18));
        let stored = put(&host, cache, one, 6).is_stored();
        limiter.join().unwrap();
        assert_eq!((get(&host, kept, one), host.freeable()), (2, 0));
        assert_eq!(get(&host, cache, one), 0, "{stored}");
        checked(&host);
    });
}

/// Locks are quiet at the fork, and whoever works takes them in the order of the fork's handlers.
#[test]
fn nobody_works_in_the_host_while_it_forks_and_all_get_on() {
    every_order(|| {
        let host = host(2);
        let kept = pool(&host, PoolKind::Persistent);
        let [one, other] = [0, 1].map(|shard| in_shard(&host, kept, shard));
        let working = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let busy = Arc::clone(&working);
        let putter = beside(&host, move |host| {
            assert!(put(host, kept, one, 1).is_stored());
            host.set_guest("default", |limits| {
                busy.store(true, std::sync::atomic::Ordering::Relaxed);
                thread::yield_now();
                busy.store(false, std::sync::atomic::Ordering::Relaxed);
                limits
            })
            .unwrap();
        });
        let flusher = beside(&host, move |host| assert!(host.flush_object(kept, OBJECT).is_ok()));
        host.around_fork(|| assert!(!working.load(std::sync::atomic::Ordering::Relaxed)));
        assert!(put(&host, kept, other, 3).is_stored());
        putter.join().unwrap();
        flusher.join().unwrap();
        checked(&host);
    });
}

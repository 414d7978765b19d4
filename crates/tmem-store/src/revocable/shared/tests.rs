// SPDX-License-Identifier: Apache-2.0
//! Several members in one process, with a host that is played here: tells late, cuts off, and sees members die in the middle of a
//! write. A get gives what was put last, by whichever member, or misses.

mod hub;

use super::format::{ENTRY, Entry, Keys, Name, Said, bucket_at, buckets_in};
use super::*;
use crate::lease::Kind;
use crate::object::ObjectId;
use crate::ops::{Loaded, Outcome, Reason};
use hub::{EXTENT, Hub};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tmem_sys::{PAGE_SIZE, Page};

fn page(seed: u64) -> Page {
    match seed % 5 {
        0 => std::array::from_fn(|i| seed.to_le_bytes()[i % 8]),
        1 => {
            let mut x = seed | 1;
            std::array::from_fn(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x as u8
            })
        }
        _ => {
            std::array::from_fn(|i| if i < 8 { seed.to_le_bytes()[i] } else { (i as u64 / 16 * seed) as u8 })
        }
    }
}

type Handle = (ObjectId, u64);

#[derive(Clone, Debug)]
enum Op {
    Put(usize, Handle, u64),
    Get(usize, Handle),
    Flush(usize, Handle),
    FlushObject(usize, ObjectId),
    Freeze(usize, bool),
    Serve(usize),
    Tell(usize),
    Revoke(usize, usize, bool),
    Die(usize),
    Join(usize),
}

fn handles() -> impl Strategy<Value = Handle> {
    ((0u64..3).prop_map(|n| ObjectId([n, 1, n])), prop_oneof![3 => 0u64..10, 1 => 0u64..400])
}

fn ops() -> impl Strategy<Value = Op> {
    let who = || 0usize..3;
    prop_oneof![
        30 => (who(), handles(), 0u64..1000).prop_map(|(m, h, s)| Op::Put(m, h, s)),
        20 => (who(), handles()).prop_map(|(m, h)| Op::Get(m, h)),
        8 => (who(), handles()).prop_map(|(m, h)| Op::Flush(m, h)),
        1 => (who(), handles()).prop_map(|(m, (o, _))| Op::FlushObject(m, o)),
        1 => (who(), any::<bool>()).prop_map(|(m, f)| Op::Freeze(m, f)),
        10 => who().prop_map(Op::Serve),
        10 => who().prop_map(Op::Tell),
        2 => (who(), any::<usize>(), any::<bool>()).prop_map(|(m, n, t)| Op::Revoke(m, n, t)),
        1 => who().prop_map(Op::Die),
        2 => who().prop_map(Op::Join),
    ]
}

#[derive(Default)]
struct Model {
    put: BTreeMap<Handle, u64>,
    hits: u64,
}

impl Model {
    fn step(&mut self, hub: &mut Hub, op: &Op) {
        match *op {
            Op::Serve(m) => hub.serve(m),
            Op::Tell(m) => hub.tell(m),
            Op::Revoke(m, n, tell) => hub.revoke(m, n, tell),
            Op::Die(m) => hub.die(m),
            Op::Join(m) if hub.seats[m].is_none() => hub.join(m),
            Op::Join(_) => {}
            Op::Put(m, ..) | Op::Get(m, _) | Op::Flush(m, _) | Op::FlushObject(m, _) | Op::Freeze(m, _)
                if hub.seats[m].is_none() => {}
            Op::Put(m, handle, seed) => {
                self.put.remove(&handle);
                match hub.pool(m).put(handle.0, handle.1, &page(seed)) {
                    Outcome::Stored => drop(self.put.insert(handle, seed)),
                    Outcome::Refused(Reason::StoreFull | Reason::Frozen) => {}
                    Outcome::Refused(other) => panic!("refused: {other}"),
                }
            }
            Op::Get(m, handle) => self.get(hub, m, handle),
            Op::Flush(m, handle) => {
                let was_there = hub.pool(m).flush_page(handle.0, handle.1).unwrap();
                self.put.remove(&handle);
                let _ = was_there;
                assert!(!hub.pool(m).contains(handle.0, handle.1));
            }
            Op::FlushObject(m, object) => {
                // Where nothing hides, nothing is left of it.
                if !hub.late {
                    hub.pool(m).flush_object(object).unwrap();
                    self.put.retain(|handle, _| handle.0 != object);
                }
            }
            Op::Freeze(m, frozen) => hub.pool(m).set_frozen(frozen),
        }
    }

    fn get(&mut self, hub: &Hub, m: usize, handle: Handle) {
        let mut into = [0xee; PAGE_SIZE];
        match hub.pool(m).get(handle.0, handle.1, &mut into) {
            Loaded::Loaded => {
                let seed = self.put.get(&handle).unwrap_or_else(|| panic!("{handle:?} came back"));
                assert!(into == page(*seed), "{handle:?}: other bytes");
                self.hits += 1;
            }
            Loaded::Absent => {
                assert!(into == [0xee; PAGE_SIZE]);
                // Law 4: from here on it misses until the next put.
                self.put.remove(&handle);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn members_see_what_was_put_last_or_nothing(
        late in any::<bool>(),
        ops in proptest::collection::vec(ops(), 1..250),
    ) {
        let (mut hub, mut model) = (Hub::new(3, late), Model::default());
        for op in &ops {
            model.step(&mut hub, op);
        }
        for member in 0..3 {
            if hub.seats[member].is_some() {
                for handle in model.put.keys().copied().collect::<Vec<_>>() {
                    model.get(&hub, member, handle);
                }
            }
        }
    }
}

fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
}

/// More pages than indexes hold: what the floors hide stays hidden, and most gets of young pages hit.
#[test]
fn full_indexes_never_bring_an_older_page_back() {
    let (mut hub, mut model) = (Hub::new(3, false), Model::default());
    let mut next = random(3);
    for n in 0..30_000u64 {
        let (m, handle) = (next() as usize % 3, (ObjectId([next() % 4, 0, 0]), next() % 600));
        match next() % 20 {
            0..9 => model.step(&mut hub, &Op::Put(m, handle, next() % 1000)),
            9..16 => model.step(&mut hub, &Op::Get(m, handle)),
            16..18 => model.step(&mut hub, &Op::Flush(m, handle)),
            _ => model.step(&mut hub, &Op::Serve(m)),
        }
        if n % 5000 == 4999 {
            model.step(&mut hub, &Op::FlushObject(m, handle.0));
        }
    }
    assert!(model.hits > 1000, "{} hits", model.hits);
    let stats = hub.pool(0).stats();
    assert!(stats.pages > 50 && stats.members == 3 && stats.joined && stats.leased_bytes > 0, "{stats:?}");
}

/// A member ends in the middle of writing to its index. Only the page it was writing may be the old one or the new.
#[test]
fn half_written_entries_count_as_none() {
    let mut next = random(17);
    for round in 0..300 {
        let (mut hub, mut model) = (Hub::new(2, false), Model::default());
        let count = 20 + next() % 500;
        for n in 0..count {
            let handle = (ObjectId([0; 3]), next() % 300);
            model.step(&mut hub, &Op::Put((n % 2) as usize, handle, next() % 1000));
            model.step(&mut hub, &Op::Serve((n % 2) as usize));
        }
        let index = hub.index_of(0).unwrap();
        let read = |bytes: &mut [u8]| assert_eq!(index.read_at(0, bytes), Ok(EXTENT));
        let (mut before, mut after) = (vec![0; EXTENT], vec![0; EXTENT]);
        read(&mut before);
        let (torn, seed) = ((ObjectId([0; 3]), next() % 300), next() % 1000);
        let old = model.put.get(&torn).copied();
        if round % 3 == 0 {
            hub.pool(0).flush_page(torn.0, torn.1).unwrap();
        } else {
            let _ = hub.pool(0).put(torn.0, torn.1, &page(seed));
        }
        read(&mut after);
        // As it is written: the bucket's head, then the entry.
        let changed: Vec<usize> = (0..EXTENT / ENTRY)
            .filter(|n| before[n * ENTRY..][..ENTRY] != after[n * ENTRY..][..ENTRY])
            .collect();
        assert!(changed.len() <= 2, "{changed:?}");
        let cut = next() as usize % (changed.len() * ENTRY + 1);
        for (n, place) in changed.iter().enumerate() {
            let done = cut.saturating_sub(n * ENTRY).min(ENTRY);
            let at = place * ENTRY;
            index.write_at(at + done, &before[at + done..at + ENTRY]).unwrap();
        }
        let mut into = [0; PAGE_SIZE];
        if hub.pool(1).get(torn.0, torn.1, &mut into) == Loaded::Loaded {
            let new = (round % 3 != 0).then_some(seed);
            assert!([old, new].into_iter().flatten().any(|seed| into == page(seed)), "round {round}");
        }
        model.put.remove(&torn);
        for handle in model.put.keys().copied().collect::<Vec<_>>() {
            model.get(&hub, 1, handle);
        }
    }
}

/// Members in threads of their own: nobody sees a page older than the last one that was put before it looked.
#[test]
fn members_at_work_never_see_what_was_put_over() {
    const HANDLES: u64 = 96;
    let hub = std::sync::Mutex::new(Hub::new(3, false));
    let pools: [Arc<SharedPool>; 3] = std::array::from_fn(|m| Arc::clone(hub.lock().unwrap().pool(m)));
    let finished: Vec<AtomicU64> = (0..HANDLES).map(|_| AtomicU64::new(0)).collect();
    let (done, hits) = (AtomicBool::new(false), AtomicU64::new(0));
    let stamped = |n: u64| -> Page {
        std::array::from_fn(|i| if i < 8 { n.to_le_bytes()[i] } else { (i as u64 * n / 64) as u8 })
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|m| {
                let (pool, finished, hits) = (&pools[m], &finished, &hits);
                scope.spawn(move || {
                    let mut next = random(m as u64 + 5);
                    let mut into = [0; PAGE_SIZE];
                    for n in 1..=12_000u64 {
                        let which = next() % HANDLES;
                        // Each page has one writer, which also fills the index with others.
                        if which % 3 == m as u64 {
                            if next().is_multiple_of(4) {
                                pool.flush_page(ObjectId([1; 3]), which).unwrap();
                            } else {
                                let _ = pool.put(ObjectId([1; 3]), which, &stamped(n));
                            }
                            finished[which as usize].store(n, Ordering::Release);
                            let _ = pool.put(ObjectId([2; 3]), next() % 700, &stamped(n));
                        } else {
                            let least = finished[which as usize].load(Ordering::Acquire);
                            if pool.get(ObjectId([1; 3]), which, &mut into) == Loaded::Loaded {
                                let n = u64::from_le_bytes(std::array::from_fn(|i| into[i]));
                                assert!(n >= least, "{n} after {least}");
                                assert!(into == stamped(n));
                                hits.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut next = random(77);
            while !done.load(Ordering::Acquire) {
                let mut hub = hub.lock().unwrap();
                (0..3).for_each(|m| hub.serve(m));
                if next().is_multiple_of(50) {
                    hub.revoke(next() as usize % 3, next() as usize, next().is_multiple_of(2));
                }
                drop(hub);
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        done.store(true, Ordering::Release);
    });
    assert!(hits.load(Ordering::Relaxed) > 200, "{hits:?} hits");
}

/// A member writes what it likes: an entry of tomorrow is no page that nobody could put or flush over until then.
#[test]
fn an_entry_of_the_future_is_none_yet() {
    let hub = Hub::new(2, false);
    let handle = (ObjectId([4; 3]), 7);
    assert_eq!(hub.pool(0).put(handle.0, 0, &page(5)), Outcome::Stored);
    assert_eq!(hub.pool(1).put(handle.0, handle.1, &page(5)), Outcome::Stored);
    let (keys, index) = (Keys::new(&hub::KEY), hub.index_of(0).unwrap());
    let name = Name { object: keys.object(handle.0), index: handle.1 };
    let bucket = keys.bucket(&name, buckets_in(EXTENT));
    for stamp in [u64::MAX, tmem_sys::time::now_ns() + 3_600_000_000_000] {
        let entry = Entry { name, stamp, said: Said::Same(7) }.encode(&keys);
        index.write_at(bucket_at(bucket) + 40 * ENTRY, &entry).unwrap();
        for member in 0..2 {
            let mut into = [0; PAGE_SIZE];
            assert_eq!(hub.pool(1).put(handle.0, handle.1, &page(10)), Outcome::Stored);
            assert_eq!(hub.pool(member).get(handle.0, handle.1, &mut into), Loaded::Loaded);
            assert!(into == page(10));
            assert_eq!(hub.pool(member).flush_page(handle.0, handle.1), Some(true));
            assert_eq!(hub.pool(1 - member).get(handle.0, handle.1, &mut into), Loaded::Absent);
        }
    }
}

/// A guest that is no member any more says so where it cannot tell the others.
#[test]
fn what_cannot_be_told_is_not_said_to_be_done() {
    let mut hub = Hub::new(2, false);
    let pool = Arc::clone(hub.pool(0));
    hub.serve(0);
    assert_eq!(pool.put(ObjectId([1; 3]), 1, &page(0)), Outcome::Stored);
    assert_eq!(pool.leave(), Some(1));
    assert_eq!(pool.put(ObjectId([1; 3]), 1, &page(0)), Outcome::Refused(Reason::BackendFailed));
    assert_eq!(pool.flush_page(ObjectId([1; 3]), 1), None);
    assert_eq!(pool.get(ObjectId([1; 3]), 1, &mut [0; PAGE_SIZE]), Loaded::Absent);
    assert!(!pool.stats().joined);
}

/// What a get looked at was written over before it ended: it looks again.
#[test]
fn a_look_does_not_stand_once_something_was_written_over() {
    let mut hub = Hub::new(2, false);
    let (handle, mut put) = ((ObjectId([3; 3]), 8), 0);
    let mut puts = |hub: &mut Hub, member: usize, times: usize| {
        for _ in 0..times {
            put += 5; // Same-filled pages: no data.
            assert!(hub.pool(member).put(handle.0, handle.1, &page(put)).is_stored());
            hub.serve(member);
        }
    };
    // The whole bucket is full of what is past.
    puts(&mut hub, 0, 70);
    puts(&mut hub, 1, 1);
    let look = |hub: &Hub| {
        let mut state = hub.pool(1).state.lock();
        let name = state.name(handle.0, handle.1);
        let look = state.look(&name).unwrap_or_else(|_| panic!("blind"));
        let (member, entry) = look.newest.unwrap();
        assert_eq!(member, 1);
        (look, entry.stamp)
    };
    let (first, stamp) = look(&hub);
    assert!(hub.pool(1).state.lock().stands(&first, stamp));
    puts(&mut hub, 0, 1);
    assert!(!hub.pool(1).state.lock().stands(&first, stamp));
    puts(&mut hub, 1, 1);
    let (second, stamp) = look(&hub);
    hub.floor = stamp;
    hub.write_board();
    assert!(!hub.pool(1).state.lock().stands(&second, stamp), "the host's floor has risen");
}

/// A member without an index refuses, and what its put was to replace is gone for all once it has one again (law 3).
#[test]
fn what_a_member_could_not_write_down_is_gone_when_it_can() {
    let mut hub = Hub::new(2, false);
    let at = hub.seats[0].as_ref().unwrap().extents.iter().position(|held| held.kind == Kind::SharedIndex);
    hub.revoke(0, at.unwrap(), true);
    let object = ObjectId([4; 3]);
    for index in 0..3 {
        assert!(hub.pool(1).put(object, index, &page(5)).is_stored());
    }
    assert_eq!(hub.pool(0).put(object, 0, &page(10)), Outcome::Refused(Reason::StoreFull));
    assert_eq!(hub.pool(0).flush_page(object, 1), Some(true));
    let get = |hub: &Hub, index| hub.pool(1).get(object, index, &mut [0; PAGE_SIZE]);
    hub.serve(0);
    assert!(hub.pool(0).wait_for_index(0));
    assert_eq!((get(&hub, 0), get(&hub, 1)), (Loaded::Absent, Loaded::Absent));
    assert!(hub.pool(1).put(object, 0, &page(15)).is_stored());
    assert_eq!(get(&hub, 0), Loaded::Loaded, "and all goes on");
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: objects by themselves: ids that differ anywhere, buckets that open, entries that move into a tree.

use super::*;

fn checked(objects: &Objects) {
    let mut broken = Vec::new();
    objects.check(&mut broken, &mut |_, _, _, _, _| {});
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn ids_that_differ_in_one_bit_are_different_objects() {
    let mut objects = Objects::new(1000, 1000).unwrap();
    let base = [0x0123_4567_89ab_cdef, u64::MAX, 0];
    let ids: Vec<ObjectId> = std::iter::once(ObjectId(base))
        .chain((0..192).map(|bit| {
            let mut id = base;
            id[bit / 64] ^= 1 << (bit % 64);
            ObjectId(id)
        }))
        .collect();
    for (n, &id) in ids.iter().enumerate() {
        assert!(objects.get(0, id, 7).is_empty());
        objects.insert(0, id, 7, Entry::same(n as u64)).unwrap();
    }
    for (n, &id) in ids.iter().enumerate() {
        assert_eq!(objects.get(0, id, 7), Entry::same(n as u64));
        assert!(objects.get(1, id, 7).is_empty(), "another pool's object is another object");
    }
    checked(&objects);
    assert_eq!(objects.remove(0, ids[0], 7), Entry::same(0));
    assert_eq!(objects.live(), 192);
    checked(&objects);
}

#[test]
fn buckets_open_as_objects_come_and_all_are_found() {
    let mut objects = Objects::new(20_000, 20_000).unwrap();
    for n in 0..20_000 {
        objects.insert((n % 3) as u32, ObjectId([0, n, 0]), 0, Entry::same(n)).unwrap();
    }
    assert!(objects.open > FIRST_BUCKETS);
    assert_eq!(objects.insert(0, ObjectId([1, 0, 0]), 0, Entry::same(0)), Err(Reason::IndexFull));
    for n in 0..20_000 {
        assert_eq!(objects.get((n % 3) as u32, ObjectId([0, n, 0]), 0), Entry::same(n));
    }
    let mut count = 0;
    objects.remove_pool(1, &mut |_| count += 1);
    checked(&objects);
    objects.remove_object(0, ObjectId([0, 0, 0]), &mut |_| count += 1);
    assert_eq!((count, objects.live()), (6668, 13_332));
    checked(&objects);
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the order of age by itself: who comes first, what is swept, how much it takes.

use super::*;
use std::collections::{BTreeMap, VecDeque};

/// The order, and where each page is.
struct Pages {
    order: Order,
    place: BTreeMap<u32, Place>,
}

impl Pages {
    fn push(&mut self, id: u32) {
        let Pages { order, place } = self;
        let at = order.push(EntryId(id), &mut |id, to| {
            place.insert(id.0, to);
        });
        assert_ne!(at, Place::NONE);
        place.insert(id, at);
    }

    fn remove(&mut self, id: u32) {
        self.order.remove(self.place.remove(&id).unwrap());
    }

    fn all(&mut self) -> Vec<u32> {
        let (mut broken, mut all) = (Vec::new(), Vec::new());
        self.order.check(&mut broken, &mut |place, id| {
            assert_eq!(self.place[&id.0], place);
            all.push(id.0);
        });
        assert!(broken.is_empty(), "{broken:?}");
        all
    }
}

fn pages() -> Pages {
    Pages { order: Order::new(100_000).unwrap(), place: BTreeMap::new() }
}

#[test]
fn pages_leave_in_the_order_they_came() {
    let mut p = pages();
    (1..=5000).for_each(|id| p.push(id));
    (1..=5000).filter(|id| id % 3 == 0).for_each(|id| p.remove(id));
    let mut left: VecDeque<u32> = (1..=5000).filter(|id| id % 3 != 0).collect();
    assert_eq!(left, p.all());
    let mut at = Place::NONE;
    for id in left.iter().take(2000) {
        let (place, found) = p.order.next(at).unwrap();
        assert_eq!(found.0, *id);
        at = place;
    }
    while let Some(id) = left.pop_front() {
        assert_eq!(p.order.next(Place::NONE).unwrap().1, EntryId(id));
        p.remove(id);
    }
    assert_eq!(p.order.next(Place::NONE), None);
    assert_eq!(p.all(), []);
}

#[test]
fn the_order_stays_small_under_random_churn() {
    let mut p = pages();
    let mut x = 88_172_645_463_325_252u64;
    let mut model: Vec<u32> = Vec::new();
    for id in 1..=20_000 {
        p.push(id);
        model.push(id);
    }
    for _ in 0..200_000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let id = (x % 20_000) as u32 + 1;
        p.remove(id);
        p.push(id);
    }
    assert_eq!(p.all().len(), 20_000);
    let bytes = p.order.touched_bytes();
    eprintln!("{bytes} bytes for 20,000 pages");
    assert!(bytes <= 20_000 * 8 + 3 * PAGE_SIZE, "{bytes} bytes for 20,000 pages");
}

#[test]
fn old_pages_are_swept_once_and_those_that_came_later_after_them() {
    let mut p = pages();
    p.order.set_clock(5);
    (1..=3000).for_each(|id| p.push(id));
    let mut seen = Vec::new();
    assert!(!p.order.sweep(5, 10, &mut |_, id| seen.push(id.0)), "nothing is that old");
    while p.order.sweep(6, 7, &mut |_, id| seen.push(id.0)) {}
    assert_eq!(seen, (1..=3000).collect::<Vec<_>>());
    p.order.set_clock(7);
    (3001..=3100).for_each(|id| p.push(id));
    assert!(!p.order.sweep(7, 10, &mut |_, id| seen.push(id.0)));
    while p.order.sweep(8, 200, &mut |_, id| seen.push(id.0)) {}
    assert_eq!(seen, (1..=3100).collect::<Vec<_>>());
    assert_eq!(p.all(), seen);
}

#[test]
fn a_block_that_is_used_again_is_swept_from_its_beginning() {
    let mut p = pages();
    p.order.set_clock(1);
    (1..=100).for_each(|id| p.push(id));
    assert!(p.order.sweep(2, 10, &mut |_, _| {}));
    (1..=100).for_each(|id| p.remove(id));
    p.order.set_clock(5);
    (101..=200).for_each(|id| p.push(id));
    let mut seen = Vec::new();
    while p.order.sweep(6, 7, &mut |_, id| seen.push(id.0)) {}
    assert_eq!(seen, (101..=200).collect::<Vec<_>>());
}

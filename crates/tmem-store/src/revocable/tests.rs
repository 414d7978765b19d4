// SPDX-License-Identifier: Apache-2.0
//! Tests of what only this crate can reach; `tests/revocable.rs` has the model.

use super::{Revocable, RevocableConfig};
use crate::lease::{Extent, Holder, LinkState};
use crate::object::ObjectId;
use crate::ops::{Loaded, Outcome};
use tmem_sys::PAGE_SIZE;
use tmem_sys::lease::LeaseFd;

const EXTENT: usize = 1 << 20;

#[test]
fn bytes_that_were_changed_are_a_miss() {
    let store = Revocable::new(RevocableConfig { max_pages: 1000, max_bytes: 64 << 20 }).unwrap();
    let pool = store.new_pool(false, true, true).unwrap();
    let fd = LeaseFd::new(EXTENT).unwrap();
    let theirs = fd.duplicate().unwrap();
    store.mailbox().set_state(LinkState::Idle);
    store.mailbox().deposit(Extent { id: 7, fd, bytes: EXTENT }).unwrap();
    let page: [u8; PAGE_SIZE] = std::array::from_fn(|i| (i * i / 7) as u8);
    assert_eq!(store.put(pool, ObjectId([1; 3]), 5, &page), Ok(Outcome::Stored));
    let mut into = [0; PAGE_SIZE];
    assert_eq!(store.get(pool, ObjectId([1; 3]), 5, &mut into), Ok(Loaded::Loaded));
    assert!(into == page);
    let mut first = [0];
    theirs.read_at(0, &mut first).unwrap();
    theirs.write_at(0, &[first[0] ^ 1]).unwrap();
    let mut into = [0xee; PAGE_SIZE];
    assert_eq!(store.get(pool, ObjectId([1; 3]), 5, &mut into), Ok(Loaded::Absent));
    assert!(into == [0xee; PAGE_SIZE]);
    assert_eq!((store.stats().damaged, store.stats().pages), (1, 0));
    assert_eq!(store.check(), Vec::<String>::new());
    let mut given = Vec::new();
    store.give(EXTENT, &mut |id| given.push(id));
    assert_eq!((given, store.surplus()), (vec![], 0), "the one that is being written stays");
}

// SPDX-License-Identifier: Apache-2.0
//! The mailbox between a store and its client: who waits, how long, and what becomes of extents.

use super::*;
use std::thread;
use std::time::{Duration, Instant};

fn extent(id: u64) -> Extent {
    Extent { id, fd: LeaseFd::new(1 << 20).unwrap(), bytes: 1 << 20 }
}

fn waits(mailbox: &Mailbox) -> bool {
    let began = Instant::now();
    assert!(mailbox.take(20).is_none());
    began.elapsed() >= Duration::from_millis(15)
}

#[test]
fn a_store_waits_only_while_something_may_come_and_once() {
    let mailbox = Mailbox::new(Kind::Persistent).unwrap();
    mailbox.want(2);
    assert!(!waits(&mailbox), "there is no host");
    mailbox.set_state(LinkState::Idle);
    assert!(waits(&mailbox) && !waits(&mailbox), "a client that sleeps is waited for once");
    mailbox.deposit(extent(7)).unwrap();
    assert_eq!((mailbox.wanted(), mailbox.waiting()), (1, 1));
    assert_eq!(mailbox.take(0).unwrap().id, 7);
    mailbox.set_state(LinkState::Refused { until_ns: time::now_ns() + 1_000_000_000 });
    assert!(!waits(&mailbox), "the host has just refused");
    mailbox.set_state(LinkState::Asking);
    assert!(waits(&mailbox));
}

#[test]
fn an_extent_that_comes_ends_the_wait_and_a_want_wakes_the_client() {
    let mailbox = Mailbox::new(Kind::Persistent).unwrap();
    mailbox.set_state(LinkState::Idle);
    let theirs = Arc::clone(&mailbox);
    let client = thread::spawn(move || {
        while theirs.wanted() == 0 {
            theirs.wait(10_000);
        }
        theirs.set_state(LinkState::Asking);
        thread::sleep(Duration::from_millis(20));
        (0..theirs.wanted()).for_each(|n| theirs.deposit(extent(n.into())).unwrap());
        theirs.set_state(LinkState::Idle);
    });
    mailbox.want(3);
    let began = Instant::now();
    assert!((0..3).all(|_| mailbox.take(5000).is_some()));
    assert!(began.elapsed() < Duration::from_secs(4));
    client.join().unwrap();
    assert!(mailbox.take(5000).is_none(), "nothing is wanted any more");
}

#[test]
fn a_full_mailbox_gives_the_extent_back_and_what_waits_can_be_amended() {
    let mailbox = Mailbox::new(Kind::Ephemeral).unwrap();
    (0..ROOM as u64).for_each(|id| mailbox.deposit(extent(id)).unwrap());
    assert_eq!(mailbox.deposit(extent(99)).unwrap_err().id, 99);
    assert!(mailbox.amend(3, Some(77)) && mailbox.amend(4, None) && !mailbox.amend(4, None));
    let mut ids = Vec::new();
    mailbox.each_waiting(&mut |id, fd| {
        assert!(fd >= 0);
        ids.push(id);
    });
    assert!(ids.contains(&77) && !ids.contains(&3) && ids.len() == ROOM - 1);
    assert_eq!(std::iter::from_fn(|| mailbox.withdraw()).count(), ROOM - 1);
    assert_eq!(mailbox.waiting(), 0);
}

#[test]
fn kinds_have_the_numbers_that_hosts_know() {
    assert!((0..4).all(|n| Kind::from_number(n).is_some_and(|kind| kind as u64 == n)));
    assert_eq!(Kind::from_number(4), None);
}

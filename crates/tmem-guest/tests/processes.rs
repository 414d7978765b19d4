// SPDX-License-Identifier: Apache-2.0
//! What becomes of a connection in a forked child. A process of its own, for it forks.

mod common;

use common::{Place, await_standing, guest, until};
use std::time::Duration;
use tmem_guest::Standing;
use tmem_store::lease::Kind;
use tmem_sys::fork;

/// In the child, which leaves the C library's heap alone.
fn takes_one(store: &common::Store, client: &tmem_guest::Client, socket: u64) -> bool {
    store.mailbox.after_fork_in_child();
    let has_copy = std::fs::exists(format!("/proc/self/fd/{socket}")).unwrap_or(true);
    if has_copy || client.status().standing != Standing::Alone {
        return false;
    }
    store.mailbox.want(1);
    (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        store.mailbox.take(20).is_some()
    })
}

#[test]
fn a_child_has_nothing_of_its_parents_and_a_connection_of_its_own_when_it_wants() {
    assert!(fork::take_over());
    let mut place = Place::new();
    place.open();
    let (client, store) = guest(&place, Kind::Persistent);
    let host = place.welcome();
    await_standing(&client, Standing::Connected);
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().map(|e| e.unwrap());
    let sockets =
        fds.filter(|e| e.path().read_link().is_ok_and(|to| to.to_string_lossy().starts_with("socket:")));
    let highest =
        sockets.map(|e| e.file_name().to_string_lossy().parse::<u64>().unwrap()).collect::<Vec<_>>();
    // The guest's end was opened before the host's.
    let ours = highest.iter().copied().filter(|&fd| fd != host.link.raw() as u64).max().unwrap();
    let child = fork::fork().unwrap();
    if child == 0 {
        std::process::exit(i32::from(!takes_one(&store, &client, ours)));
    }
    let mut theirs = place.welcome();
    assert_eq!(theirs.link.peer().unwrap().pid, child);
    let lease = theirs.hear();
    theirs.grant(&lease, 1);
    until("the child ends", || theirs.has_hung_up().then_some(()));
    let status = until("it is known how", || {
        let text = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let end = text.rsplit(' ').next()?.trim().parse::<i32>().ok()?;
        text.contains(") Z ").then_some(end)
    });
    assert_eq!(status, 0, "what the child saw");
    assert!(!host.has_hung_up(), "the parent's connection goes on");
    assert_eq!(client.status().standing, Standing::Connected);
}

// SPDX-License-Identifier: Apache-2.0
//! A guest against a host that does what each test says: leases, restarts, what the host asks for, hosts that misbehave.

mod common;

use common::Field::{B, L, N, T};
use common::{EXTENT, LONG, Owner, Place, Store, await_standing, config, guest, until};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tmem_guest::{Client, Standing, When};
use tmem_store::lease::{Kind, LinkState};

#[test]
fn a_store_that_fills_fast_asks_for_more_at_a_time() {
    let mut place = Place::new();
    place.open();
    let (client, store) = guest(&place, Kind::Persistent);
    let mut host = place.welcome();
    std::thread::scope(|s| {
        s.spawn(|| store.fill(24));
        while store.inside.lock().unwrap().len() < 24 {
            if let Some(said) = host.heard().filter(|said| *said == "lease") {
                assert_eq!(said.numbers[1..3], [0, 0], "its kind, of no pool");
                host.grant(&said, 32);
            }
        }
    });
    assert_eq!(host.granted[..4], [1, 2, 4, 8]);
    assert!(host.granted.iter().all(|&n| n <= 8));
    let all = host.granted.iter().sum::<u64>();
    until("all are counted", || (client.status().held == all).then_some(()));
    // Bytes that are written here are there.
    let (id, fd) = host.extents.last().unwrap();
    fd.write_at(77, b"same").unwrap();
    let mut read = [0; 4];
    let inside = store.inside.lock().unwrap();
    if let Some(extent) = inside.iter().find(|e| tmem_guest::host_id(e.id) == *id) {
        extent.fd.read_at(77, &mut read).unwrap();
        assert_eq!(&read, b"same");
    }
}

#[test]
fn a_refusal_is_waited_out_and_no_page_waits_for_it() {
    let mut place = Place::new();
    place.open();
    let (client, store) = guest(&place, Kind::Persistent);
    let mut host = place.welcome();
    await_standing(&client, Standing::Connected);
    store.mailbox.want(1);
    let lease = host.hear();
    host.say("refused", &[N(lease.numbers[0]), T("host-full"), N(300)]);
    let began = Instant::now();
    until("it is known", || matches!(store.mailbox.state(), LinkState::Refused { .. }).then_some(()));
    let asked = Instant::now();
    assert!(store.mailbox.take(1000).is_none() && asked.elapsed() < Duration::from_millis(100));
    let again = host.hear();
    assert!(began.elapsed() >= Duration::from_millis(280), "{:?}", began.elapsed());
    assert_eq!(host.grant(&again, 1).len(), 1);
    until("it came", || store.mailbox.take(20));
    until("it is counted", || ((client.status().refused, client.status().granted) == (1, 1)).then_some(()));
}

#[test]
fn a_slow_host_holds_up_nobody() {
    let mut place = Place::new();
    place.open();
    let (_client, store) = guest(&place, Kind::Persistent);
    let mut host = place.welcome();
    store.mailbox.want(1);
    let lease = host.hear();
    let began = Instant::now();
    for _ in 0..1000 {
        assert!(store.mailbox.take(20).is_none());
    }
    assert!(
        began.elapsed() < Duration::from_millis(200),
        "one wait, not one for each: {:?}",
        began.elapsed()
    );
    host.grant(&lease, 1);
    until("it comes all the same", || store.mailbox.take(0));
}

#[test]
fn what_is_held_is_claimed_from_the_next_host() {
    let mut place = Place::new();
    place.open();
    let (client, store) = guest(&place, Kind::Persistent);
    let mut host = place.welcome();
    let mut in_all = 0;
    std::thread::scope(|s| {
        let filled = s.spawn(|| store.fill(40));
        // To the end of what was under way when it had enough: it keeps that, or gives it back.
        while !filled.is_finished() || client.status().held as usize != in_all {
            match host.heard() {
                Some(said) if said == "lease" => in_all += host.grant(&said, 32).len(),
                Some(said) if said == "give" => {
                    in_all -= said.list.len();
                    host.say("done", &[N(said.numbers[0])]);
                }
                _ => {}
            }
        }
    });
    for (id, fd) in &host.extents {
        fd.write_at(0, &id.to_le_bytes()).unwrap();
    }
    place.close();
    host.die();
    await_standing(&client, Standing::Alone);
    assert_eq!(store.mailbox.state(), LinkState::Alone);
    // The next one numbers anew, from the other end, and does not accept two.
    place.open();
    let host = place.welcome();
    let (mut claimed, mut refused) = (0, Vec::new());
    while claimed < in_all {
        let claim = host.hear();
        assert!(claim == "claim" && claim.list.len() == claim.fds.len() && claim.fds.len() <= 32);
        let mut new = Vec::new();
        for (old, fd) in claim.list.iter().zip(&claim.fds) {
            let mut bytes = [0; 8];
            fd.read_at(0, &mut bytes).unwrap();
            assert_eq!(u64::from_le_bytes(bytes), *old, "each with its own descriptor");
            let accepts = ![7, 8].contains(old) || !store.host_ids().contains(old);
            refused.extend((!accepts).then_some(*old));
            new.push(if accepts { 1000 - old } else { 0 });
        }
        claimed += new.len();
        host.say("granted", &[N(claim.numbers[0]), L(&new)]);
    }
    await_standing(&client, Standing::Connected);
    until("the lost are known", || (store.lost.lock().unwrap().len() == refused.len()).then_some(()));
    until("all are claimed", || (client.status().held as usize == in_all - refused.len()).then_some(()));
    assert_eq!(store.inside.lock().unwrap().len(), 40, "none is let go of");
    // It goes on as before.
    store.mailbox.want(1);
    assert_eq!(host.hear(), "lease");
    assert_eq!(client.status().connections, 2);
}

#[test]
fn a_host_with_no_time_for_a_claim_is_asked_again() {
    let mut place = Place::new();
    place.open();
    let (client, store) = guest(&place, Kind::Persistent);
    let mut host = place.welcome();
    std::thread::scope(|s| {
        let filled = s.spawn(|| store.fill(1));
        while !filled.is_finished() {
            host.heard().filter(|said| *said == "lease").map(|said| host.grant(&said, 1));
        }
    });
    host.die();
    let host = place.welcome();
    let claim = host.hear();
    host.say("refused", &[N(claim.numbers[0]), T("busy"), N(20)]);
    let claim = host.hear();
    assert_eq!((&*claim.word, &*claim.list), ("claim", &[1][..]));
    host.say("granted", &[N(claim.numbers[0]), L(&[1])]);
    until("it is claimed", || (client.status().held == 1).then_some(()));
    assert!(store.lost.lock().unwrap().is_empty());
}

#[test]
fn what_the_host_asks_for_is_given_first_and_told_after() {
    let mut place = Place::new();
    place.open();
    let (client, store) = guest(&place, Kind::Persistent);
    let mut host = place.welcome();
    std::thread::scope(|s| {
        let filled = s.spawn(|| store.fill(6));
        while !filled.is_finished() {
            host.heard().filter(|said| *said == "lease").map(|said| host.grant(&said, 1));
        }
    });
    let mut expected = store.host_ids();
    store.full.store(2 * EXTENT, Ordering::Relaxed);
    host.say("shrink", &[N(5), N(100 * EXTENT as u64)]);
    let give = host.hear();
    assert!(give == "give" && give.list.len() >= 4);
    let told = host.hear();
    assert_eq!((&*told.word, told.numbers[0]), ("shrunk", 5));
    assert_eq!(told.numbers[1] as usize, give.list.len() * EXTENT);
    expected.retain(|id| !give.list.contains(id));
    assert_eq!((store.host_ids(), client.status().held), (expected, 2));
    host.say("balloon", &[N(6), N(44 << 20)]);
    // Room for each step is asked for, and a refusal is no hindrance.
    for step in 0..3 {
        let lease = host.hear();
        assert!(lease == "lease" && lease.numbers[3] == 8 - 2 * step, "{lease:?}");
        match step {
            2 => host.say("refused", &[N(lease.numbers[0]), T("host-full"), N(1000)]),
            _ => drop(host.grant(&lease, 2)),
        }
    }
    assert_eq!(host.hear().numbers, [6, 44 << 20]);
    assert_eq!(store.target.load(Ordering::Relaxed), 44 << 20);
    host.say("balloon", &[N(7), N(0)]);
    assert_eq!(host.hear().numbers, [7, 16 << 20]);
    host.say("set", &[B(true), B(false)]);
    until("it is set", || (store.told.lock().unwrap()[..] == [(true, false)]).then_some(()));
    let report = until("a report", || host.heard().filter(|said| *said == "report"));
    assert_eq!((report.numbers[0], report.numbers[4]), (0, 2 * EXTENT as u64));
}

#[test]
fn what_lies_idle_goes_back() {
    let mut place = Place::new();
    place.open();
    let (client, store) = guest(&place, Kind::Persistent);
    let mut host = place.welcome();
    std::thread::scope(|s| {
        let filled = s.spawn(|| store.fill(5));
        while !filled.is_finished() {
            host.heard().filter(|said| *said == "lease").map(|said| host.grant(&said, 1));
        }
    });
    store.surplus.store(3 * EXTENT, Ordering::Relaxed);
    let began = Instant::now();
    let give = host.hear();
    assert!(give == "give" && give.list.len() == 2, "all but one: {give:?}");
    assert!(began.elapsed() > Duration::from_secs(4));
    assert_eq!(client.status().held, 3);
}

#[test]
fn revoked_extents_are_known_to_their_store() {
    let mut place = Place::new();
    place.open();
    let (_client, store) = guest(&place, Kind::Ephemeral);
    let mut host = place.welcome();
    std::thread::scope(|s| {
        let filled = s.spawn(|| store.fill(3));
        while !filled.is_finished() {
            if let Some(said) = host.heard().filter(|said| *said == "lease") {
                assert_eq!(said.numbers[1], 1);
                host.grant(&said, 1);
            }
        }
    });
    let gone = store.ids()[1];
    host.say("revoked", &[L(&[tmem_guest::host_id(gone), 999])]);
    until("it is known", || store.revoked.lock().unwrap().contains(&gone).then_some(()));
    assert!(store.ids().len() == 2 && !store.ids().contains(&gone));
}

/// A host takes back what a stopped guest did not even see.
#[test]
fn what_was_cut_off_on_its_way_is_no_nonsense() {
    let mut place = Place::new();
    place.open();
    let (client, store) = guest(&place, Kind::Ephemeral);
    let mut host = place.welcome();
    await_standing(&client, Standing::Connected);
    store.mailbox.want(2);
    let seq = host.hear().numbers[0];
    let memory = [(); 2].map(|()| tmem_sys::lease::LeaseFd::new(EXTENT).unwrap());
    memory[0].set_size(0).unwrap();
    let granted = common::message("granted", &[N(seq), L(&[1, 2])]);
    host.link.send(&granted, &[memory[0].raw(), memory[1].raw()]).unwrap();
    host.say("revoked", &[L(&[1])]);
    let came = until("the other comes", || store.mailbox.take(20));
    assert_eq!(tmem_guest::host_id(came.id), 2);
    until("it is known", || (client.status().held == 1).then_some(()));
    // The host is understood, and asked for what is lacking.
    let lease = host.hear();
    assert!(lease == "lease" && host.grant(&lease, 1).len() == 1);
    assert_eq!(client.status().standing, Standing::Connected);
}

#[test]
fn nonsense_is_answered_by_silence_until_nothing_is_held() {
    let mut place = Place::new();
    place.open();
    let (client, store) = guest(&place, Kind::Persistent);
    let mut host = place.welcome();
    std::thread::scope(|s| {
        let filled = s.spawn(|| store.fill(1));
        while !filled.is_finished() {
            host.heard().filter(|said| *said == "lease").map(|said| host.grant(&said, 1));
        }
    });
    // A host empties what is held when the connection ends: not before it has moved out.
    store.full.store(EXTENT, Ordering::Relaxed);
    host.link.send(b"\xff\xff", &[]).unwrap();
    await_standing(&client, Standing::Garbled);
    std::thread::sleep(Duration::from_millis(600));
    assert!(!host.has_hung_up() && store.ids().len() == 1);
    store.mailbox.want(3);
    assert!(store.mailbox.take(50).is_none());
    store.full.store(0, Ordering::Relaxed);
    until("it hangs up", || host.has_hung_up().then_some(()));
    // The next host may be a better one.
    host.die();
    assert_eq!(place.welcome().hear(), "lease");
}

#[test]
fn grants_that_nobody_asked_for_and_wrong_memory_are_not_taken() {
    for wrong in 0..4 {
        let mut place = Place::new();
        place.open();
        let (client, store) = guest(&place, Kind::Persistent);
        let host = place.welcome();
        store.mailbox.want(1);
        let seq = host.hear().numbers[0];
        let memory = tmem_sys::lease::LeaseFd::new(EXTENT / 2).unwrap();
        let whole = tmem_sys::lease::LeaseFd::new(EXTENT).unwrap();
        let granted = |seq, ids: &[u64]| common::message("granted", &[N(seq), L(ids)]);
        match wrong {
            0 => host.link.send(&granted(seq, &[1]), &[memory.raw()]),
            1 => host.link.send(&granted(seq, &[1]), &[]),
            2 => host.link.send(&granted(seq + 1, &[1]), &[whole.raw()]),
            _ => host.link.send(&granted(seq, &[0]), &[whole.raw()]),
        }
        .unwrap();
        until("it hangs up", || host.has_hung_up().then_some(()));
        assert!(store.mailbox.take(0).is_none() && client.status().held == 0, "case {wrong}");
    }
}

#[test]
fn a_host_that_turns_the_guest_away_is_heard_and_asked_again() {
    let mut place = Place::new();
    place.open();
    let (client, _store) = guest(&place, Kind::Persistent);
    let host = place.accept();
    assert_eq!(host.hear(), "hello");
    host.say("error", &[T("too many guests")]);
    host.die();
    await_standing(&client, Standing::TurnedAway);
    assert_eq!(client.status().text, "too many guests");
    let _host = place.welcome();
    await_standing(&client, Standing::Connected);
    assert_eq!(client.status().text, "");
}

#[test]
fn a_host_of_another_version_is_none() {
    let mut place = Place::new();
    place.open();
    let (client, _store) = guest(&place, Kind::Persistent);
    for (version, bytes) in [(2, EXTENT as u64), (1, 5000), (1, 0), (1, 128 << 20)] {
        let host = place.accept();
        assert_eq!(host.hear(), "hello");
        host.say("welcome", &[N(version), N(9), N(bytes), N(1 << 40), N(100)]);
        until("it hangs up", || host.has_hung_up().then_some(()));
        assert_eq!(client.status().standing, Standing::Garbled);
    }
}

#[test]
fn a_guest_that_waits_connects_when_something_is_wanted() {
    let mut place = Place::new();
    place.open();
    let store = Store::new(Kind::Persistent);
    let client = Client::new(tmem_guest::Config { when: When::Wanted, ..config(&place) }, None);
    client.attach(Arc::clone(&store.mailbox), Arc::new(Owner(Arc::clone(&store))), 0).unwrap();
    client.start().unwrap();
    client.start().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(client.status().connections, 0);
    store.mailbox.want(1);
    assert_eq!(place.welcome().hear(), "lease");
}

#[test]
fn a_connection_ends_when_it_is_told_to_or_with_its_stores() {
    let mut place = Place::new();
    place.open();
    let (client, store) = guest(&place, Kind::Persistent);
    let host = place.welcome();
    await_standing(&client, Standing::Connected);
    client.stop();
    until("it hangs up", || host.has_hung_up().then_some(()));
    await_standing(&client, Standing::Ended);
    drop((host, store));

    /// Whose owner does not keep the mailbox.
    struct Nobody;
    impl tmem_store::lease::Holder for Nobody {
        fn held(&self, _: &mut dyn FnMut(u64, i32, Kind)) {}
        fn renumber(&self, _: u64, _: u64) {}
        fn lose(&self, _: u64) {}
        fn give(&self, _: usize, _: &mut dyn FnMut(u64)) {}
        fn surplus(&self) -> usize {
            0
        }
        fn revoked(&self, _: &[u64]) {}
        fn set(&self, _: bool, _: bool) {}
        fn balloon(&self, _: usize) -> usize {
            0
        }
        fn report(&self) -> tmem_store::lease::Report {
            tmem_store::lease::Report::default()
        }
    }
    let mailbox = tmem_store::lease::Mailbox::new(Kind::Persistent).unwrap();
    let client = Client::new(tmem_guest::Config { ends_with_stores: true, ..config(&place) }, None);
    client.attach(Arc::clone(&mailbox), Arc::new(Nobody), 0).unwrap();
    client.start().unwrap();
    let host = place.welcome();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!host.has_hung_up());
    drop(mailbox);
    let began = Instant::now();
    until("it hangs up", || host.has_hung_up().then_some(()));
    assert!(began.elapsed() < LONG / 2);
}

#[test]
fn a_shared_pool_is_joined_or_refused_and_never_alone() {
    let mut place = Place::new();
    place.open();
    let (client, _store) = guest(&place, Kind::SharedData);
    assert_eq!(client.join(&[7; 16], 50).unwrap_err(), tmem_guest::NotJoined::Alone);
    let host = place.welcome();
    await_standing(&client, Standing::Connected);
    std::thread::scope(|s| {
        let asked = s.spawn(|| (client.join(&[7; 16], 5000), client.join(&[8; 16], 5000)));
        let join = host.hear();
        assert_eq!(join, "join");
        let board = tmem_sys::lease::LeaseFd::new(4096).unwrap();
        let joined = common::message("joined", &[N(join.numbers[0]), N(3), N(15)]);
        host.link.send(&joined, &[board.raw()]).unwrap();
        let join = host.hear();
        host.say("refused", &[N(join.numbers[0]), T("not-granted"), N(0)]);
        let (first, second) = asked.join().unwrap();
        let first = first.unwrap();
        assert_eq!((first.pool, first.member, first.board.size()), (3, 15, Ok(4096)));
        assert_eq!(second.unwrap_err(), tmem_guest::NotJoined::Refused("not-granted".into()));
    });
    client.leave(3);
    let leave = host.hear();
    assert_eq!((&*leave.word, leave.numbers[1]), ("leave", 3));
}

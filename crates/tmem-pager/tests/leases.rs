// SPDX-License-Identifier: Apache-2.0
//! A pager as the guest of a host that this test plays, with real memory of the kernel's: it grows by leases, gives them back under
//! load, shrinks when it is asked to, and its children have copies of their own. Real userfaultfd, whose thread entry serves the
//! kernel, since memory is read and written by its copies: that needs root.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use tmem_pager::stats::Stat;
use tmem_pager::{Backend, Choice, Config, MIN_RAM, Pager, PagerError};
use tmem_store::lease::{self, Holder, LinkState, Mailbox};
use tmem_store::{Dedup, Extent};
use tmem_sys::entry::Entry;
use tmem_sys::lease::LeaseFd;
use tmem_sys::{PAGE_SIZE, memory};

const MIB: usize = 1 << 20;
const EXTENT: usize = 4 * MIB;
/// Bytes by which the budget may be passed until the next page moves.
const SLACK: usize = MIB;

/// A pager, or none where this machine has none.
fn pager(ram: usize, swap: u64) -> Option<Arc<Pager>> {
    let made = Pager::new(Config {
        ram,
        swap: (swap > 0).then(|| (std::env::temp_dir(), swap)),
        faults: Choice::Only(Entry::Thread),
        name: String::new(),
        backends: vec![Backend::Leasing { reserve: 256 * MIB }],
        background: None,
        dedup: Dedup::Off,
        arena: 256 * MIB,
        guarded: false,
    });
    match made {
        Ok(pager) => Some(Arc::new(pager)),
        Err(PagerError::Unsupported(why)) => {
            eprintln!("skipped: {why}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

/// A host and the client's thread in one: grants what is wanted, up to a limit.
struct Host {
    mailbox: Arc<Mailbox>,
    left: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Host {
    fn start(extents: u64) -> Host {
        let mailbox = Mailbox::new(lease::Kind::Persistent).unwrap();
        let (left, stop) = (Arc::new(AtomicU64::new(extents)), Arc::new(AtomicBool::new(false)));
        let (mail, budget, end) = (mailbox.clone(), left.clone(), stop.clone());
        mail.set_state(LinkState::Idle);
        let serve = move || {
            let mut id = 0;
            while !end.load(Ordering::Relaxed) {
                mail.wait(20);
                while mail.wanted() > 0 && budget.load(Ordering::Relaxed) > 0 {
                    mail.set_state(LinkState::Asking);
                    id += 1;
                    let extent = Extent { id, fd: LeaseFd::new(EXTENT).unwrap(), bytes: EXTENT };
                    mail.deposit(extent).unwrap();
                    budget.fetch_sub(1, Ordering::Relaxed);
                }
                let refused = LinkState::Refused { until_ns: tmem_sys::time::now_ns() + 100_000_000 };
                mail.set_state(if mail.wanted() > 0 { refused } else { LinkState::Idle });
            }
        };
        Host { mailbox, left, stop, thread: Some(thread::spawn(serve)) }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.mailbox.poke();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A page that packs to some three quarters, another for each number.
fn contents(number: u64) -> [u8; PAGE_SIZE] {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|i| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if i < 3000 { x as u8 } else { number as u8 }
    })
}

struct Array {
    base: usize,
    pages: usize,
    /// Of each page: what it holds is made of that.
    seed: u64,
}

impl Array {
    fn fill(pager: &Pager, mib: usize, seed: u64) -> Array {
        let base = pager.allocate(mib * MIB).unwrap();
        let array = Array { base, pages: mib * MIB / PAGE_SIZE, seed };
        (0..array.pages).for_each(|page| array.write(page, seed));
        array
    }

    fn write(&self, page: usize, seed: u64) {
        memory::write(self.base + page * PAGE_SIZE, &contents(seed + page as u64)).unwrap();
    }

    fn is_right(&self, page: usize, seed: u64) -> bool {
        let mut found = [0; PAGE_SIZE];
        memory::read(self.base + page * PAGE_SIZE, &mut found).is_ok()
            && found == contents(seed + page as u64)
    }

    fn verify(&self) {
        (0..self.pages).for_each(|page| assert!(self.is_right(page, self.seed), "page {page}"));
    }
}

fn stat(pager: &Pager, stat: Stat) -> usize {
    pager.stats(|stats| stats.get(stat)).unwrap() as usize
}

fn held(pager: &Pager) -> Vec<u64> {
    let mut ids = Vec::new();
    pager.held(&mut |id, fd, kind| {
        assert!(fd >= 0 && kind == lease::Kind::Persistent);
        ids.push(id);
    });
    ids
}

#[test]
fn a_pager_grows_by_leases_and_gives_them_back_under_load() {
    let Some(pager) = pager(24 * MIB, 256 * MIB as u64) else { return };
    let host = Host::start(12);
    assert!(pager.set_mailbox(Some(host.mailbox.clone())).unwrap());
    let array = Array::fill(&pager, 96, 1);
    let used = stat(&pager, Stat::LeasedUsed);
    assert!(used > 40 * MIB, "{used} bytes in leased memory");
    assert!(pager.usage().unwrap() <= 24 * MIB + SLACK, "{}", pager.usage().unwrap());
    assert_eq!(
        held(&pager).len() + host.mailbox.waiting() as usize,
        12 - host.left.load(Ordering::Relaxed) as usize
    );
    array.verify();
    let report = pager.report();
    assert!(report.sampled == 100 && report.active == 100, "{report:?}");
    assert_eq!(report.ram, 24 << 20);

    // Half of it goes back while a thread reads.
    host.left.store(0, Ordering::Relaxed);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut page, mut read) = (0, 0u64);
            while !stop.load(Ordering::Relaxed) || read < 2000 {
                page = (page * 5 + 7919) % array.pages;
                assert!(array.is_right(page, 1), "page {page}");
                read += 1;
            }
        });
        let mut given = Vec::new();
        pager.give(24 * MIB, &mut |id| given.push(id));
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        assert_eq!(given.len(), 6);
        let left = held(&pager);
        assert!(given.iter().all(|id| !left.contains(id)));
    });
    assert_eq!(pager.check(), Vec::<String>::new());
    assert!(stat(&pager, Stat::SwapUsed) > 0, "the oldest went to the swap device");
    assert!(pager.usage().unwrap() <= 24 * MIB + SLACK, "{}", pager.usage().unwrap());
    array.verify();

    pager.give(usize::MAX, &mut |_| {});
    assert_eq!((held(&pager), stat(&pager, Stat::Leased)), (vec![], 0));
    // Frozen, the store takes nothing more: all goes to the swap device.
    let stored = stat(&pager, Stat::SuccStores);
    pager.set(true, true);
    array.verify();
    assert_eq!(stat(&pager, Stat::SuccStores), stored);
    pager.set(false, true);
    assert_eq!(pager.check(), Vec::<String>::new());
}

#[test]
fn without_a_swap_device_a_pager_gives_what_it_can_and_keeps_the_rest() {
    let Some(pager) = pager(MIN_RAM, 0) else { return };
    let host = Host::start(64);
    pager.set_mailbox(Some(host.mailbox.clone())).unwrap();
    let array = Array::fill(&pager, 48, 9);
    assert_eq!(stat(&pager, Stat::OvershootEvents), 0);
    let before = held(&pager).len();
    let surplus = pager.surplus() / EXTENT;
    let mut given = 0;
    pager.give(usize::MAX, &mut |_| given += 1);
    assert!(
        given >= surplus && held(&pager).len() >= before - given && given < before,
        "{given} of {before}"
    );
    assert_eq!(pager.check(), Vec::<String>::new());
    array.verify();
    pager.set(false, false);
    let packed = stat(&pager, Stat::StorePacked);
    let again = Array::fill(&pager, 16, 77);
    again.verify();
    assert!(stat(&pager, Stat::StorePacked) <= packed, "no page is packed that need not be");
    pager.set(false, true);
    assert_eq!(pager.check(), Vec::<String>::new());
    pager.release(again.base, 16 * MIB);
    pager.release(array.base, 48 * MIB);
    assert_eq!(pager.surplus(), held(&pager).len() * EXTENT, "nothing is stored");
}

#[test]
fn a_balloon_shrinks_a_pager_into_leased_memory_and_ends() {
    let Some(pager) = pager(48 * MIB, 256 * MIB as u64) else { return };
    let host = Host::start(64);
    pager.set_mailbox(Some(host.mailbox.clone())).unwrap();
    let array = Array::fill(&pager, 80, 5);
    for target in [20 * MIB, MIB, 30 * MIB] {
        let came = pager.balloon(target);
        let wanted = target.max(MIN_RAM);
        assert!(came <= wanted + SLACK, "{came} for {target}");
        array.verify();
        assert!(pager.usage().unwrap() <= wanted + SLACK);
        assert_eq!(pager.report().ram as usize, wanted);
    }
    assert_eq!(stat(&pager, Stat::SwapUsed), 0, "leased memory took what left");
    // More than its own: what another guest gave up.
    assert!(pager.balloon(60 * MIB) <= 60 * MIB + SLACK);
    assert_eq!(pager.report().ram as usize, 60 * MIB);
    pager.balloon(0);
    assert_eq!(pager.report().ram as usize, 48 * MIB);
    array.verify();
    assert_eq!(pager.check(), Vec::<String>::new());
}

#[test]
fn what_a_host_forgot_is_emptied_and_ids_change() {
    let Some(pager) = pager(MIN_RAM, 256 * MIB as u64) else { return };
    let host = Host::start(6);
    pager.set_mailbox(Some(host.mailbox.clone())).unwrap();
    let array = Array::fill(&pager, 48, 3);
    let ids = held(&pager);
    pager.renumber(ids[0], 1000);
    assert!(held(&pager).contains(&1000));
    pager.lose(ids[1]);
    assert!(!held(&pager).contains(&ids[1]));
    array.verify();
    host.left.store(8, Ordering::Relaxed);
    (0..array.pages).for_each(|page| array.write(page, 3));
    pager.surplus();
    array.verify();
    assert_eq!(
        stat(&pager, Stat::Leased),
        held(&pager).len() * EXTENT,
        "it was unmapped when there was room"
    );
    assert_eq!(pager.check(), Vec::<String>::new());
}

#[test]
fn a_forked_child_has_its_own_copy_and_no_leases() {
    let Some(pager) = pager(MIN_RAM, 512 * MIB as u64) else { return };
    let host = Host::start(64);
    pager.set_mailbox(Some(host.mailbox.clone())).unwrap();
    let array = Array::fill(&pager, 64, 11);
    assert!(stat(&pager, Stat::LeasedUsed) > 20 * MIB);
    let told = LeaseFd::new(PAGE_SIZE).unwrap();
    let child = tmem_sys::fork::fork().unwrap();
    if child == 0 {
        // What is written here is seen here alone; a quarter stays as it was.
        let rewritten = |page: usize| !page.is_multiple_of(4);
        let right = held(&pager).is_empty()
            && pager.check().is_empty()
            && (0..array.pages).all(|page| array.is_right(page, 11))
            && {
                (0..array.pages).filter(|p| rewritten(*p)).for_each(|page| array.write(page, 500));
                (0..array.pages).all(|page| array.is_right(page, if rewritten(page) { 500 } else { 11 }))
            }
            && pager.check().is_empty();
        let _ = told.write_at(0, &[if right { 1 } else { 2 }]);
        // Not the test's way out: its other threads are not here.
        tmem_sys::syscall::die("a forked child of a test ends here, as it should");
    }
    (0..array.pages).filter(|page| page % 3 == 0).for_each(|page| array.write(page, 900));
    let mut answer = [0];
    let began = std::time::Instant::now();
    while answer == [0] && began.elapsed().as_secs() < 60 {
        told.read_at(0, &mut answer).unwrap();
        thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(answer, [1], "the child's memory was wrong, or it did not come so far");
    (0..array.pages).for_each(|page| {
        let seed = if page.is_multiple_of(3) { 900 } else { 11 };
        assert!(array.is_right(page, seed), "page {page}");
    });
    assert_eq!(pager.check(), Vec::<String>::new());
    pager.give(usize::MAX, &mut |_| {});
    assert!(held(&pager).is_empty());
    assert!(array.is_right(1, 11));
}

/// The other half of the test below: a process of its own, which is to end.
#[test]
#[ignore = "ends the process"]
fn a_host_that_cuts_memory_off() {
    let Some(pager) = pager(MIN_RAM, 256 * MIB as u64) else { return };
    let host = Host::start(64);
    pager.set_mailbox(Some(host.mailbox.clone())).unwrap();
    let array = Array::fill(&pager, 48, 3);
    let mut cut = Vec::new();
    pager.held(&mut |id, fd, _| cut.push((id, LeaseFd::of(fd).unwrap())));
    cut.iter().for_each(|(_, fd)| fd.set_size(0).unwrap());
    pager.revoked(&cut.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    eprintln!("still here");
    array.verify();
    eprintln!("all pages are right, which cannot be");
}

#[test]
fn pages_in_memory_that_was_cut_off_end_the_process_by_name() {
    let Some(_) = pager(MIN_RAM, 0) else { return };
    let this = std::env::current_exe().unwrap();
    let args = ["--ignored", "--exact", "a_host_that_cuts_memory_off", "--nocapture", "--test-threads", "1"];
    let ended = std::process::Command::new(this).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && text.contains("still here"), "{text}");
    assert!(text.contains("leased memory with stored pages is gone: extent "), "{text}");
    assert!(!text.contains("cannot be"), "{text}");
}

/// One thread's part of an array: it writes and reads its own pages, and knows what each holds.
fn work(array: &Array, part: usize, parts: usize, stop: &AtomicBool) {
    let pages: Vec<usize> = (part..array.pages).step_by(parts).collect();
    let mut seeds = vec![array.seed; pages.len()];
    let mut x = part as u64 + 1;
    while !stop.load(Ordering::Relaxed) {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (x >> 33) as usize % pages.len();
        assert!(array.is_right(pages[n], seeds[n]), "page {}", pages[n]);
        if x & (1 << 20) != 0 {
            seeds[n] = x >> 40;
            array.write(pages[n], seeds[n]);
        }
    }
    let right = |n: usize| array.is_right(pages[n], seeds[n]);
    (0..pages.len()).for_each(|n| assert!(right(n), "page {} at the end", pages[n]));
}

#[test]
fn extents_come_and_go_under_threads_that_write() {
    let Some(pager) = pager(24 * MIB, 512 * MIB as u64) else { return };
    let host = Host::start(8);
    pager.set_mailbox(Some(host.mailbox.clone())).unwrap();
    let array = Array::fill(&pager, 64, 21);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        (0..3).for_each(|part| {
            drop(scope.spawn({
                let (array, stop) = (&array, &stop);
                move || work(array, part, 3, stop)
            }))
        });
        for round in 0..12 {
            let mut given = 0;
            pager.give(if round % 4 == 3 { usize::MAX } else { 2 * EXTENT }, &mut |_| given += 1);
            host.left.fetch_add(given, Ordering::Relaxed);
            if let Some(id) = held(&pager).first().filter(|_| round % 5 == 4) {
                pager.lose(*id);
            }
            pager.balloon([0, 16 * MIB, 20 * MIB][round % 3]);
            assert_eq!(pager.check(), Vec::<String>::new(), "round {round}");
            thread::sleep(std::time::Duration::from_millis(100));
        }
        pager.balloon(0);
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(pager.check(), Vec::<String>::new());
    assert!(pager.usage().unwrap() <= 24 * MIB + SLACK);
}

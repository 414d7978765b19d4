// SPDX-License-Identifier: Apache-2.0
//! The page states under every order of threads: the table of transitions that the pager uses, driven by the pager's steps under
//! its lock and, while a page is in transit, without; the program and the kernel reach the arena at any time. Owns: the model of the machine around the table.
//! Laws 4, 12 and 16: a page with contents never reads as zeros or as what it was before, a held page is present, no step asks
//! for a transition that the table does not have.
//!
//! `make long` runs it; it is empty without `--cfg loom`.
#![cfg(loom)]

use loom::sync::atomic::{AtomicU32, Ordering::SeqCst};
use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;
use tmem_pager::{Event, PageState, next};

const PAGES: usize = 2;
/// No frame is at the address. A frame with the value `v` is `v + 1`.
const MISSING: u32 = 0;
const ZEROS: u32 = 1;
/// How often a thread may be interrupted where it does not wait: beyond this, orders add nothing but time.
const PREEMPTIONS: usize = 3;

/// What the pager's lock guards.
struct Pager {
    state: [PageState; PAGES],
    slot: [Option<u32>; PAGES],
    stored: [Option<u32>; PAGES],
    holds: [u32; PAGES],
    /// In transit: one thread works on the page without the lock.
    busy: [bool; PAGES],
    in_flight: usize,
}

struct Machine {
    /// What the page tables say: changed by the kernel and the program at once, without the lock.
    arena: [AtomicU32; PAGES],
    pager: Mutex<Pager>,
    /// A page came to rest: who yields in the pager waits here, since the model knows no fair scheduler.
    rest: Condvar,
}

impl Pager {
    fn change(&mut self, page: usize, event: Event) {
        let state = self.state[page];
        self.state[page] =
            next(state, event).unwrap_or_else(|| panic!("{event:?} of a page that is {state:?}"));
    }

    fn forget(&mut self, page: usize) {
        self.stored[page] = None;
    }
}

impl Machine {
    /// Every page is part of an extent, and fresh.
    fn new() -> Arc<Machine> {
        let mut pager = Pager {
            state: [PageState::Free; PAGES],
            slot: [None; PAGES],
            stored: [None; PAGES],
            holds: [0; PAGES],
            busy: [false; PAGES],
            in_flight: 0,
        };
        (0..PAGES).for_each(|page| pager.change(page, Event::Allocate));
        Arc::new(Machine {
            arena: std::array::from_fn(|_| AtomicU32::new(MISSING)),
            pager: Mutex::new(pager),
            rest: Condvar::new(),
        })
    }

    /// `UFFDIO_MOVE` or `UFFDIO_COPY` to a missing page. False for EEXIST.
    fn put_in(&self, page: usize, frame: u32) -> bool {
        self.arena[page].compare_exchange(MISSING, frame, SeqCst, SeqCst).is_ok()
    }

    fn wait_while(&self, moving: impl Fn(&Pager) -> bool) -> MutexGuard<'_, Pager> {
        let mut pager = self.pager.lock().unwrap();
        while moving(&pager) {
            pager = self.rest.wait(pager).unwrap();
        }
        pager
    }

    /// The lock of those who need all pages at rest.
    fn at_rest(&self) -> MutexGuard<'_, Pager> {
        self.wait_while(|pager| pager.in_flight > 0)
    }

    fn begin(&self, mut pager: MutexGuard<'_, Pager>, page: usize) {
        (pager.busy[page], pager.in_flight) = (true, pager.in_flight + 1);
    }

    fn end(&self, page: usize) -> MutexGuard<'_, Pager> {
        let mut pager = self.pager.lock().unwrap();
        (pager.busy[page], pager.in_flight) = (false, pager.in_flight - 1);
        self.rest.notify_all();
        pager
    }

    fn serve(&self, pager: &mut Pager, page: usize) {
        assert!(!pager.busy[page], "a page in transit has its thread");
        match pager.state[page] {
            PageState::Free | PageState::LetGo => panic!("a fault in no extent"),
            PageState::Resident => {
                if self.put_in(page, ZEROS) {
                    pager.forget(page);
                    pager.change(page, Event::Vanish);
                    pager.change(page, Event::Touch);
                }
            }
            PageState::Standby => self.put_back(pager, page),
            PageState::Fresh => {
                assert!(self.put_in(page, ZEROS));
                pager.change(page, Event::Touch);
            }
            PageState::Out => {
                assert!(self.put_in(page, pager.stored[page].expect("out and stored nowhere")));
                pager.change(page, Event::FaultIn);
            }
        }
    }

    fn put_back(&self, pager: &mut Pager, page: usize) {
        assert!(self.put_in(page, pager.slot[page].take().expect("on standby without a frame")));
        pager.change(page, Event::PutBack);
    }

    /// A fault of the program: what is out is put together without the lock.
    fn fault(&self, page: usize) {
        let mut pager = self.wait_while(|pager| pager.busy[page]);
        if pager.state[page] != PageState::Out {
            return self.serve(&mut pager, page);
        }
        let contents = pager.stored[page].expect("out and stored nowhere");
        self.begin(pager, page);
        assert!(self.put_in(page, contents));
        let mut pager = self.end(page);
        pager.change(page, Event::FaultIn);
        pager.forget(page);
    }

    /// First half of reclaim: the move is atomic, whatever the program does at that moment.
    fn take_out(&self, page: usize) {
        let mut pager = self.pager.lock().unwrap();
        if pager.state[page] != PageState::Resident || pager.holds[page] != 0 {
            return;
        }
        match self.arena[page].swap(MISSING, SeqCst) {
            MISSING => {
                pager.forget(page);
                pager.change(page, Event::Vanish);
            }
            frame => {
                pager.change(page, Event::TakeOut);
                pager.slot[page] = Some(frame);
            }
        }
    }

    /// Second half of reclaim: packed without the lock. A refused page goes back (law 14).
    fn pack(&self, page: usize, room: bool) {
        let pager = self.pager.lock().unwrap();
        if pager.state[page] != PageState::Standby || pager.busy[page] {
            return;
        }
        let frame = pager.slot[page].expect("on standby without a frame");
        self.begin(pager, page);
        let mut pager = self.end(page);
        assert_eq!(pager.slot[page], Some(frame), "a lent frame was taken away");
        pager.forget(page);
        if room {
            pager.stored[page] = pager.slot[page].take();
            pager.change(page, Event::Pack);
        } else {
            self.put_back(&mut pager, page);
        }
    }

    fn release(&self, page: usize) {
        let mut pager = self.at_rest();
        pager.slot[page] = None;
        pager.forget(page);
        pager.change(page, Event::Release);
        self.arena[page].store(MISSING, SeqCst);
    }

    fn allocate(&self, page: usize) {
        self.at_rest().change(page, Event::Allocate);
    }

    fn write(&self, page: usize, value: u32) {
        loop {
            match self.arena[page].load(SeqCst) {
                MISSING => self.fault(page),
                frame if self.arena[page].compare_exchange(frame, value + 1, SeqCst, SeqCst).is_ok() => {
                    return;
                }
                _ => {}
            }
        }
    }

    fn read(&self, page: usize) -> u32 {
        loop {
            match self.arena[page].load(SeqCst) {
                MISSING => self.fault(page),
                frame => return frame - 1,
            }
        }
    }

    /// The guard's way: present and held, then the kernel reads, which cannot wait for a fault to be served.
    fn system_call(&self, page: usize) -> u32 {
        let mut pager = self.at_rest();
        pager.holds[page] += 1;
        if pager.state[page] != PageState::Resident {
            self.serve(&mut pager, page);
        }
        drop(pager);
        let frame = self.arena[page].load(SeqCst);
        assert_ne!(frame, MISSING, "EFAULT");
        self.at_rest().holds[page] -= 1;
        frame - 1
    }

    /// Each page is where its state says, and nowhere else.
    fn check(&self) {
        let pager = self.pager.lock().unwrap();
        assert_eq!((pager.busy, pager.in_flight), ([false; PAGES], 0));
        for page in 0..PAGES {
            let (state, stored) = (pager.state[page], pager.stored[page].is_some());
            assert_eq!(pager.slot[page].is_some(), state == PageState::Standby, "{state:?}");
            assert_eq!(self.arena[page].load(SeqCst) != MISSING, state == PageState::Resident, "{state:?}");
            assert!(stored || state != PageState::Out, "out and stored nowhere");
            assert!(
                !stored || !matches!(state, PageState::Free | PageState::Fresh),
                "no contents, and stored"
            );
        }
    }
}

fn every_order(body: impl Fn(&Arc<Machine>) + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(move || {
        let machine = Machine::new();
        body(&machine);
        machine.check();
    });
}

fn beside(machine: &Arc<Machine>, f: impl FnOnce(&Machine) + 'static) -> thread::JoinHandle<()> {
    let machine = Arc::clone(machine);
    thread::spawn(move || f(&machine))
}

fn evict(machine: &Machine, page: usize, room: bool) {
    machine.take_out(page);
    machine.pack(page, room);
}

#[test]
fn what_was_written_is_read_while_pages_are_evicted_and_released() {
    every_order(|machine| {
        let evictor = beside(machine, |m| {
            evict(m, 0, true);
            evict(m, 1, true);
        });
        let releaser = beside(machine, |m| {
            m.write(1, 9);
            m.release(1);
            m.allocate(1);
            assert_eq!(m.read(1), 0, "an old array's contents");
        });
        machine.write(0, 7);
        assert_eq!(machine.read(0), 7);
        machine.write(0, 8);
        assert_eq!(machine.read(0), 8);
        evictor.join().unwrap();
        releaser.join().unwrap();
        assert_eq!(machine.read(0), 8);
    });
}

#[test]
fn two_threads_that_fault_on_one_page_get_its_contents() {
    every_order(|machine| {
        machine.write(0, 7);
        evict(machine, 0, true);
        let other = beside(machine, |m| assert_eq!(m.read(0), 7));
        let evictor = beside(machine, |m| evict(m, 0, true));
        assert_eq!(machine.read(0), 7);
        other.join().unwrap();
        evictor.join().unwrap();
        assert_eq!(machine.read(0), 7);
    });
}

#[test]
fn pages_in_transit_are_left_alone_by_faults_and_by_those_who_need_them_at_rest() {
    every_order(|machine| {
        machine.write(0, 7);
        machine.take_out(0);
        let packer = beside(machine, |m| m.pack(0, true));
        let other = beside(machine, |m| {
            m.release(1);
            m.allocate(1);
        });
        assert_eq!(machine.read(0), 7);
        packer.join().unwrap();
        other.join().unwrap();
        assert_eq!(machine.read(0), 7);
    });
}

#[test]
fn refused_pages_go_back_and_keep_their_contents() {
    every_order(|machine| {
        machine.write(0, 3);
        let evictor = beside(machine, |m| evict(m, 0, false));
        machine.write(0, 4);
        assert_eq!(machine.read(0), 4);
        evictor.join().unwrap();
        assert_eq!(machine.read(0), 4);
    });
}

#[test]
fn held_pages_are_present_until_the_call_is_over() {
    every_order(|machine| {
        machine.write(0, 7);
        let evictor = beside(machine, |m| {
            evict(m, 0, true);
            evict(m, 0, true);
        });
        let other = beside(machine, |m| assert_eq!(m.system_call(0), 7));
        assert_eq!(machine.system_call(0), 7);
        evictor.join().unwrap();
        other.join().unwrap();
        assert_eq!(machine.read(0), 7);
    });
}

#[test]
fn pages_that_the_program_dropped_are_zeros_or_what_had_left_before() {
    every_order(|machine| {
        let evictor = beside(machine, |m| evict(m, 0, true));
        machine.write(0, 5);
        machine.arena[0].swap(MISSING, SeqCst);
        assert!([0, 5].contains(&machine.read(0)));
        machine.write(0, 6);
        evictor.join().unwrap();
        assert_eq!(machine.read(0), 6);
    });
}

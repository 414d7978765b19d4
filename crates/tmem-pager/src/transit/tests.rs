// SPDX-License-Identifier: Apache-2.0
//! Owns: walks of one page through the list of refused pages, over a kernel that is played. Law 12: what was written last is
//! what is read, however often the page left and came back before the list is settled.

use super::*;
use crate::arm::Choice;
use crate::pager::{self, Backend, Config, MIN_RAM};
use tmem_sys::entry::{self, Entry};
use tmem_sys::{PAGE_SIZE, ThreadKey, fake};

const PAGES: usize = 2000;

/// A pager whose pages are all written, each with contents of its own that pack, and whose store refuses those that do not. It
/// is never dropped: the kernel that is played knows nothing of unmapping, and would find its pages present where another test's
/// come to lie.
fn pager() -> (&'static mut State, Worker) {
    tmem_sys::time::calibrate();
    let mut config = Config {
        ram: MIN_RAM,
        swap: None,
        faults: Choice::Only(Entry::Thread),
        name: "refused".into(),
        background: None,
        backends: vec![Backend::Store],
        dedup: tmem_store::Dedup::Off,
        arena: pager::ARENA_BYTES,
        guarded: false,
    };
    let mut state = pager::build(&config).unwrap();
    // Only now: a store above a swap device keeps every page until its turn comes.
    config.swap = Some((std::env::temp_dir(), 64 << 20));
    state.swap = pager::swap_device(&config, state.frames.arena_pages(), state.dictionaries.clone()).unwrap();
    let s = Box::leak(Box::new(state));
    entry::start(Entry::Thread).unwrap();
    s.allocate(&(0..PAGES)).unwrap();
    s.arm(Entry::Thread, false).unwrap();
    (0..PAGES).for_each(|page| write(s, page, |i| (page * 512 + i / 32) as u64));
    let worker = Worker::new(s.secret.clone(), s.dictionaries.clone()).unwrap();
    (s, worker)
}

fn addr(s: &State, page: usize) -> usize {
    s.frames.arena_addr() + page * PAGE_SIZE
}

fn touch(s: &mut State, page: usize) {
    if fake::presence(addr(s, page)) == Some(false) {
        let _ = s.fault(page, ThreadKey::of(1), None);
    }
}

fn write(s: &mut State, page: usize, word: impl Fn(usize) -> u64) {
    touch(s, page);
    fake::write_page(addr(s, page), word);
}

fn numbers(first: u64) -> impl Fn(usize) -> u64 {
    move |i| first + (i / 32) as u64
}

fn noise(i: usize) -> u64 {
    let x = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 32
}

/// Packs standby pages, oldest first, until page 0 is out or refused.
fn pack_page_0(s: &mut State, worker: &mut Worker) {
    while !s.states.is(0, PageState::Out) && s.meta[0].flags & REFUSED == 0 {
        let job = s.begin_pack().expect("a page to pack");
        let packed = job.run(worker);
        s.end_pack(job, &packed);
    }
}

/// Takes page 0 out into a slot, which whoever has it gives up before.
fn take_out_to(s: &mut State, slot: usize) {
    if let Some(other) = s.slots.owner(slot) {
        s.put_back(other, 1);
    }
    if s.frames.is_filled(slot) {
        s.give_up_frames(usize::MAX);
    }
    assert_eq!(s.take_out(0, 1, slot), 1);
}

fn last_hole(s: &State) -> usize {
    (0..s.slots.capacity()).rev().find(|&slot| !s.frames.is_filled(slot)).unwrap()
}

/// A pager whose page 0 was refused and has come back, and the slot it was in.
fn refused_and_back() -> (&'static mut State, Worker, usize) {
    let (s, mut worker) = pager();
    write(s, 0, noise);
    pack_page_0(s, &mut worker);
    assert_eq!((s.refused.count, s.states.get(0)), (1, PageState::Standby));
    let slot = s.meta[0].slot as usize;
    touch(s, 0);
    (s, worker, slot)
}

#[test]
fn a_refused_page_that_came_back_and_left_again_is_not_taken_for_the_one_that_was_refused() {
    let (s, mut worker, slot) = refused_and_back();
    write(s, 0, numbers(1000));
    let hole = last_hole(s);
    take_out_to(s, hole);
    pack_page_0(s, &mut worker);
    assert!(s.states.is(0, PageState::Out) && s.frontswap.is_present(0));
    s.bring_run(0, 1, true);
    write(s, 0, numbers(2000));
    take_out_to(s, slot);
    s.settle_refused();
    assert!(s.check().is_empty(), "{:?}", s.check());
    touch(s, 0);
    assert_eq!(fake::swap_word(addr(s, 0), |word| word), 2000, "what was written last");
}

#[test]
fn no_slot_of_the_device_is_lost_to_a_page_that_was_refused_twice() {
    let (s, _, slot) = refused_and_back();
    let hole = last_hole(s);
    take_out_to(s, hole);
    s.forget_old(0);
    assert_eq!(s.swap_out(&[hole]), 1);
    s.bring_run(0, 1, false);
    take_out_to(s, slot);
    s.settle_refused();
    touch(s, 0);
    s.release(&(0..PAGES)).unwrap();
    assert_eq!(s.swap.stats().used, 0);
    assert!(s.check().is_empty(), "{:?}", s.check());
}

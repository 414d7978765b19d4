// SPDX-License-Identifier: Apache-2.0
//! The first flow, at its top: fault entry → `serve` → `State::fault` → frontswap.load → store. Owns: when one fault holds the
//! pager's lock. It is let go of while a page is packed or put together, so that faults on different pages share it for the
//! bookkeeping only. Callers: `registry`. Locks: the pager's, taken and left here; a worker's, taken under it and left under it.
//! Law 17: no heap, no GIL, no paged memory touched.

use crate::fault::Step;
use crate::registry::{Held, Slot};
use crate::state::State;
use crate::stats::Stat;
use crate::transit::Worker;
use tmem_sys::entry::Served;
use tmem_sys::syscall::{die, give_way};
use tmem_sys::{ThreadKey, time};

/// Pages that one fault packs at most to keep ahead: it uses up one frame.
const AHEAD: usize = 2;

/// Serves the fault of a thread at an address of the slot's arena.
pub fn serve(slot: &Slot, addr: usize, who: ThreadKey) -> Served {
    let begin = time::ticks();
    let mut held = slot.lock_in_handler();
    let mut turns = 0;
    let served = loop {
        // One that waits for all pages to be at rest would wait for ever if new ones set out all the time.
        let mut worker = if slot.rest_wanted() { None } else { slot.worker() };
        if let Some(worker) = worker.as_deref_mut().and_then(Option::as_mut) {
            held = keep_ahead(slot, held, worker, addr);
        }
        let Some(state) = held.as_mut() else { return Served::NotOurs };
        let Some(page) = state.page_of(addr) else { return Served::NotOurs };
        if turns == 0 {
            state.note_thread(who);
        }
        if state.wants_exchange() {
            slot.while_others_sleep(state, State::exchange);
        }
        match state.fault(page, who, worker.as_deref_mut().and_then(Option::as_mut)) {
            Step::Served(served) => break served,
            Step::Wait => {
                drop(worker);
                drop(held);
                give_way(turns);
                turns += 1;
                held = slot.lock_in_handler();
            }
            Step::Load(job) => {
                let Some(worker) = worker.as_deref_mut().and_then(Option::as_mut) else {
                    die("a page is in transit without a worker (law 12)")
                };
                drop(held);
                let (tries, brought) = job.run(worker);
                held = slot.lock_in_handler();
                let state = here(&mut held);
                state.end_load(page, tries, brought);
                state.expect_victim();
                break Served::Yes;
            }
        }
    };
    here(&mut held).stats.add(Stat::FaultNs, time::ns_from_ticks(time::ticks() - begin));
    served
}

/// While a page is in transit, or was just found, the pager does not go.
fn here<'a>(held: &'a mut Held<'_>) -> &'a mut State {
    held.as_mut().unwrap_or_else(|| die("a pager went while it served a fault (law 12)"))
}

/// Packs as many pages as a fault uses frames, before it needs them. Meanwhile what the fault will read comes.
fn keep_ahead<'a>(slot: &'a Slot, mut held: Held<'a>, worker: &mut Worker, addr: usize) -> Held<'a> {
    let Some(page) = held.as_ref().and_then(|state| state.page_of(addr)) else { return held };
    for i in 0..AHEAD {
        let Some(state) = held.as_mut() else { break };
        if !state.is_behind() {
            break;
        }
        if i == 0 {
            state.expect_fault(page);
        }
        let Some(job) = state.begin_pack() else { break };
        drop(held);
        let packed = job.run(worker);
        held = slot.lock_in_handler();
        let state = here(&mut held);
        if i == 0 {
            state.expect_bytes(page);
        }
        state.end_pack(job, &packed);
    }
    held
}

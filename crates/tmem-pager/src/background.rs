// SPDX-License-Identifier: Apache-2.0
//! Owns: what is done to stored pages when nobody waits: cold ones are packed tighter, free slots are gathered into whole
//! chunks. Callers: the process's background thread, and `Pager::settle` in the caller's. Locks: the pager's, for one bounded
//! step; packing holds none. Law 17: no fault waits for more than a step; this thread uses the heap, and no paged memory.
//!
//! A page is cold that was stored some seconds ago and has not come back since. Sooner, and pages that go to and fro would be
//! packed for nothing: a cold form takes some twenty times as long to make as it takes longer to unpack.

use crate::registry::{self, Held, MAX_PAGERS, Slot};
use crate::state::State;
use crate::stats::Stat;
use std::sync::Arc;
use tmem_store::codec::{Decoder, Recoder};
use tmem_store::{ColdBatch, Dictionaries};
use tmem_sys::background::{self, Maker, may_change_importance, pause, run_when_idle};
use tmem_sys::signals::Blocked;
use tmem_sys::{Errno, PAGE_SIZE, Page, Table, time};

/// Between two looks at the stores, and the unit of the clock by which they date their pages.
const TICK_MS: u64 = 250;
/// Pages stored so many ticks ago are cold: three seconds.
const COLD_AFTER: u32 = 12;
/// Without the privilege to run only when the processor is idle, so much time is let pass for each batch.
const GIVE_WAY_MS: u64 = 8;
/// Faults within a tick that are none to speak of.
const FEW: u64 = 64;
/// A smaller store gains less by cold forms than the memory takes that makes them.
const LEAST_BYTES: usize = 4 << 20;
/// Pages that a dictionary is made from, at most.
const SAMPLES: usize = 256;
/// Pages of one step of the order, where it is dense.
const STEP: usize = 1024;
/// A store of fewer pages has no dictionary: a sample of it, one batch of each step, would be too small to make one of.
const LEAST_PAGES: usize = 4096;
/// Another is made when the store is this many times as large as it was for the last.
const GROWN: usize = 4;

/// What one thread needs to work on one store.
pub struct Tools {
    dictionaries: Arc<Dictionaries>,
    recoder: Recoder,
    decoder: Decoder,
    batch: ColdBatch,
    page: Table<Page>,
    /// The tighter form of each page of a batch.
    tighter: Table<Page>,
    lens: [usize; ColdBatch::MOST],
    /// Pages in the store when dictionaries were made last.
    trained: usize,
}

/// Bytes of a thread's tools beside what the recoder counts by itself.
const TOOLS: usize = 2 * ColdBatch::FOOTPRINT + PAGE_SIZE;

impl Tools {
    fn new(dictionaries: Arc<Dictionaries>) -> Result<Tools, Errno> {
        let made = Tools {
            recoder: Recoder::new(dictionaries.clone())?,
            decoder: Decoder::new(dictionaries.clone())?,
            batch: ColdBatch::new()?,
            page: Table::new(1)?,
            tighter: Table::new(ColdBatch::MOST)?,
            lens: [0; ColdBatch::MOST],
            trained: 0,
            dictionaries,
        };
        made.dictionaries.charge(TOOLS);
        Ok(made)
    }

    /// Whether these are for the store that is in the slot now.
    fn are_for(&self, state: &State) -> bool {
        Arc::ptr_eq(&self.dictionaries, &state.dictionaries)
    }

    /// Packs the batch's pages, without a lock.
    fn pack(&mut self) {
        for n in 0..self.batch.len() {
            let stored = self.batch.stored(n);
            self.lens[n] = 0;
            let packed = if stored.len() == PAGE_SIZE { None } else { Some(stored) };
            let page = &mut self.page[0];
            match packed {
                None => page.copy_from_slice(stored),
                // What does not decode stays as it is: the program that asks for it is told.
                Some(packed) if !self.decoder.decode(packed, page) => continue,
                Some(_) => {}
            }
            if let Some(tighter) = self.recoder.recode(page, packed) {
                self.tighter[n][..tighter.len()].copy_from_slice(tighter);
                self.lens[n] = tighter.len();
            }
        }
    }

    /// Makes dictionaries of a sample of the whole store, where it has grown enough since.
    fn train(&mut self, slot: &Slot, manner: Manner) {
        let Some(pages) = with(slot, manner, |state| state.frontswap.present_count()) else { return };
        if pages < LEAST_PAGES.max(self.trained * GROWN) || !self.dictionaries.has_room() {
            return;
        }
        self.trained = pages;
        self.dictionaries.charge(SAMPLES * PAGE_SIZE);
        let mut samples = Vec::with_capacity(SAMPLES);
        let (every, each) = sampled_of(pages);
        let (mut step, mut steps) = (0, 0);
        while samples.len() < SAMPLES {
            let batch = &mut self.batch;
            let Some(next) = with(slot, manner, |state| state.frontswap.sample(step, each, batch)) else {
                break;
            };
            let taken = if steps % every == 0 { self.batch.len() } else { 0 };
            for n in 0..taken.min(SAMPLES - samples.len()) {
                let (stored, page) = (self.batch.stored(n), &mut self.page[0]);
                if stored.len() < PAGE_SIZE && self.decoder.decode(stored, page) {
                    samples.push(*page);
                }
            }
            steps += 1;
            step = next;
            if step == 0 {
                break;
            }
        }
        // A failure leaves what there was.
        let _ = self.recoder.train(&samples, pages);
        self.dictionaries.discharge(SAMPLES * PAGE_SIZE);
    }
}

/// Of which steps of the order samples are taken, one in so many, and how many pages of each: [`SAMPLES`] of so many `pages`.
fn sampled_of(pages: usize) -> (usize, usize) {
    let wanted = SAMPLES * STEP;
    ((pages / wanted).max(1), wanted.div_ceil(pages.max(1)).clamp(1, ColdBatch::MOST))
}

impl Drop for Tools {
    fn drop(&mut self) {
        self.dictionaries.discharge(TOOLS);
    }
}

/// What a round found to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Done,
    /// There is more.
    More,
}

/// How a thread works beside others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Like any other: a caller waits for it.
    Plain,
    /// When the processor is idle, but like any other while it holds a lock.
    WhenIdle,
    /// Like any other, with pauses: it has no privilege to do better.
    WithPauses,
}

/// Runs with a slot's pager under its lock; `None` where there is none, or memory is plain.
fn with<R>(slot: &Slot, manner: Manner, work: impl FnOnce(&mut State) -> R) -> Option<R> {
    let _blocked = Blocked::new();
    if manner == Manner::WhenIdle {
        run_when_idle(false);
    }
    let mut held: Held<'_> = slot.lock_in_handler();
    let done = held.as_mut().filter(|state| state.is_armed()).map(work);
    drop(held);
    if manner == Manner::WhenIdle {
        run_when_idle(true);
    }
    done
}

/// The clock by which stores date their pages, in ticks.
pub fn clock() -> u32 {
    (time::now_ns() / 1_000_000 / TICK_MS) as u32
}

/// Packs one batch of pages that were stored before the tick `before`.
///
/// Free slots are gathered where few faults came since there were `faults` of them: while pages come and go, slots come free and are
/// taken by themselves, and a fault would wait.
fn round(
    slot: &Slot,
    manner: Manner,
    tools: &mut Option<Tools>,
    before: u32,
    faults: u64,
) -> Result<Round, Errno> {
    let now = clock();
    let found = with(slot, manner, |state| {
        state.frontswap.set_clock(now);
        let is_quiet = state.stats.get(Stat::Faults).saturating_sub(faults) <= FEW;
        let tidied = is_quiet && state.frontswap.tidy(false);
        let worth = state.frontswap.footprint() >= LEAST_BYTES && state.frontswap.has_cold(before);
        let ours = tools.as_ref().is_some_and(|tools| tools.are_for(state));
        (tidied, worth, (worth && !ours).then(|| state.dictionaries.clone()))
    });
    let Some((tidied, worth, others)) = found else { return Ok(Round::Done) };
    if let Some(dictionaries) = others {
        *tools = Some(Tools::new(dictionaries)?);
    }
    let Some(tools) = tools.as_mut().filter(|_| worth) else {
        return Ok(if tidied { Round::More } else { Round::Done });
    };
    let batch = &mut tools.batch;
    let more = with(slot, manner, |state| state.frontswap.take_cold(before, batch)) == Some(true);
    if !tools.batch.is_empty() {
        tools.pack();
        settle(slot, manner, tools);
        tools.train(slot, manner);
    }
    Ok(if more || tidied { Round::More } else { Round::Done })
}

/// Exchanges the forms of the batch's pages.
fn settle(slot: &Slot, manner: Manner, tools: &Tools) {
    with(slot, manner, |state| {
        if !tools.are_for(state) {
            return;
        }
        for n in 0..tools.batch.len() {
            let tighter = Some(&tools.tighter[n][..tools.lens[n]]).filter(|bytes| !bytes.is_empty());
            if state.frontswap.settle_cold(&tools.batch, n, tighter) {
                state.stats.add(Stat::Recoded, 1);
            }
        }
    });
}

/// Packs everything a slot's store holds as tightly as can be, as if it were cold.
///
/// # Errors
/// `ENOMEM`.
pub fn settle_all(slot: &Slot) -> Result<(), Errno> {
    let mut tools = None;
    // What is stored meanwhile is not waited for: there may be no end of it.
    let before = clock() + 1;
    while round(slot, Manner::Plain, &mut tools, before, u64::MAX)? == Round::More {}
    while with(slot, Manner::Plain, |state| state.frontswap.tidy(true)) == Some(true) {}
    Ok(())
}

/// Sees to it that the process has the background thread.
///
/// # Errors
/// The kernel's, when a thread cannot be made.
pub fn start(make: Maker) -> Result<(), Errno> {
    background::start(make, run)
}

fn run() {
    let manner = if may_change_importance() { Manner::WhenIdle } else { Manner::WithPauses };
    let mut tools: [Option<Tools>; MAX_PAGERS] = [const { None }; MAX_PAGERS];
    let mut faults = [0; MAX_PAGERS];
    loop {
        pause(TICK_MS);
        for ((slot, tools), faults) in registry::slots().zip(&mut tools).zip(&mut faults) {
            if slot.is_paged() && slot.is_kept() {
                let before = *faults;
                *faults = with(slot, manner, |state| state.stats.get(Stat::Faults)).unwrap_or(0);
                // Without memory for its tools it tries again later.
                let cold = || (clock() + 1).saturating_sub(COLD_AFTER);
                while matches!(round(slot, manner, tools, cold(), before), Ok(Round::More)) {
                    if manner == Manner::WithPauses {
                        pause(GIVE_WAY_MS);
                    }
                }
            } else {
                *tools = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_of_all_and_as_large_for_any_store() {
        for pages in [LEAST_PAGES, 100_000, SAMPLES * STEP, 1_000_000, 16 << 20] {
            let (every, each) = sampled_of(pages);
            let samples = pages.div_ceil(STEP).div_ceil(every) * each;
            assert!((64..=2 * SAMPLES).contains(&samples), "{samples} samples of {pages} pages");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: pages in transit: what one thread does to a page, packing it or putting it together, while others fault. Callers:
//! `serve`, which lets go of the pager's lock between the begin and the end of each. Lock: the pager's, held in all of this
//! but [`PackJob::run`] and [`LoadJob::run`].
//! Law 12: a page in transit is busy: no other thread moves it, packs it or lets its copy go, and its frame is lent to the
//! one that works. Whoever needs all pages at rest waits for `in_flight` to be 0 (`registry`).

use crate::evict::KEEP_FREE;
use crate::fault::TRIES;
use crate::page::{Event, PageState};
use crate::several::EXCHANGE;
use crate::state::{BUSY, COPY, REFUSED, State};
use crate::stats::Stat;
use crate::swapout::MAX_BATCH;
use std::sync::Arc;
use tmem_store::codec::{self, Codec, Coded};
use tmem_store::{Copied, Corrupt, Dictionaries};
use tmem_sys::frames::{Copier, Left, Lent, Moved};
use tmem_sys::hash::PageHash;
use tmem_sys::syscall::{die, sched_yield};
use tmem_sys::{Errno, Page, Table};

/// What a thread needs to work on a page without the lock.
pub struct Worker {
    codec: Codec,
    /// Packed bytes on their way out of the store.
    packed: Table<Page>,
    /// A page that is put together for a new frame.
    beside: Table<Page>,
    hash: Arc<PageHash>,
}

impl Worker {
    /// # Errors
    /// `ENOMEM`.
    pub fn new(hash: Arc<PageHash>, dictionaries: Arc<Dictionaries>) -> Result<Worker, Errno> {
        Ok(Worker {
            codec: Codec::sharing(dictionaries)?,
            packed: Table::new(1)?,
            beside: Table::new(1)?,
            hash,
        })
    }
}

/// A standby page that is being packed.
pub struct PackJob {
    page: usize,
    lent: Lent,
    /// The hash of the copy that is stored, if there is one.
    copy: Option<[u64; 2]>,
}

/// What became of it.
pub enum Packed<'a> {
    /// It equals its stored copy.
    Unchanged,
    Coded(Coded<'a>),
}

impl PackJob {
    /// The work itself, without the lock.
    pub fn run<'a>(&self, worker: &'a mut Worker) -> Packed<'a> {
        let page = self.lent.page();
        if self.copy.is_some_and(|stored| worker.hash.hash(page) == stored) {
            return Packed::Unchanged;
        }
        Packed::Coded(worker.codec.encode(page, true))
    }
}

/// A page that is out and is being put together.
pub struct LoadJob {
    page: usize,
    frame: Frame,
    copied: Copied,
}

/// Where it is put together.
enum Frame {
    /// In a free frame, which is moved in.
    Lent(Lent),
    /// Beside, to be copied into a new frame.
    New(Copier),
}

/// Where the frame of a [`LoadJob`] is now.
pub enum Brought {
    Moved(Left),
    Copied,
    /// The kernel does not take it: the frame is still lent, if there was one.
    TurnedAway(Option<Lent>),
}

impl LoadJob {
    /// The work itself, without the lock: unpacks, and brings the page in. How often the kernel had to be asked again.
    pub fn run(self, worker: &mut Worker) -> (usize, Brought) {
        let Worker { codec, packed, beside, .. } = worker;
        match self.frame {
            Frame::Lent(mut lent) => {
                unpack(codec, self.copied, &packed[0], lent.page_mut());
                move_in(lent, self.page)
            }
            Frame::New(copier) => {
                unpack(codec, self.copied, &packed[0], &mut beside[0]);
                copy_in(copier, self.page, &beside[0])
            }
        }
    }
}

fn unpack(codec: &mut Codec, copied: Copied, packed: &Page, into: &mut Page) {
    match copied {
        Copied::Same(word) => codec::fill(word, into),
        Copied::Packed(len) if codec.decode(&packed[..len], into) => {}
        Copied::Packed(_) => die(Corrupt::Undecodable.text()),
        Copied::Raw => into.copy_from_slice(packed),
    }
}

/// Whether the kernel turned a transfer away for the moment only.
fn is_again(moved: Moved) -> bool {
    matches!(moved.stopped, Some(Errno::EAGAIN | Errno::EBUSY | Errno::EINTR))
}

fn move_in(mut lent: Lent, page: usize) -> (usize, Brought) {
    let mut tries = 0;
    loop {
        lent = match lent.put_in(page) {
            Ok(left) => return (tries, Brought::Moved(left)),
            Err((lent, moved)) if is_again(moved) && tries < TRIES => lent,
            Err((lent, _)) => return (tries, Brought::TurnedAway(Some(lent))),
        };
        tries += 1;
        sched_yield();
    }
}

fn copy_in(copier: Copier, page: usize, data: &Page) -> (usize, Brought) {
    let mut tries = 0;
    loop {
        match copier.copy_in(page, data) {
            Moved { pages: 1, .. } => return (tries, Brought::Copied),
            moved if is_again(moved) && tries < TRIES => {}
            _ => return (tries, Brought::TurnedAway(None)),
        }
        tries += 1;
        sched_yield();
    }
}

/// Standby pages that the store refused, until there are enough of them for one write to the swap device.
pub struct Refused {
    slots: [u32; MAX_BATCH],
    pages: [u32; MAX_BATCH],
    count: usize,
}

impl Default for Refused {
    fn default() -> Refused {
        Refused { slots: [0; MAX_BATCH], pages: [0; MAX_BATCH], count: 0 }
    }
}

impl State {
    pub fn is_busy(&self, page: usize) -> bool {
        self.meta[page].flags & BUSY != 0
    }

    /// Whether frames are to be made free before they are needed. Not while the store is full: pages would be packed only to be
    /// refused, which `reclaim` does unseen, many at a time.
    pub fn is_behind(&mut self) -> bool {
        let keep = if self.are_several() { EXCHANGE } else { KEEP_FREE };
        self.is_armed() && self.backoff == 0 && self.is_short_of(keep) && !self.frontswap.is_full()
    }

    /// Takes the page that waited on standby longest, to be packed; pages follow from the arena as standby runs short.
    pub fn begin_pack(&mut self) -> Option<PackJob> {
        if !self.fill_standby() {
            return None;
        }
        let slot = self.slots.pop_oldest()?;
        let Some(page) = self.slots.owner(slot) else { die("a standby slot without a page (law 12)") };
        let meta = &mut self.meta[page];
        meta.flags |= BUSY;
        let copy = (meta.flags & COPY != 0).then_some(meta.hash);
        self.in_flight += 1;
        Some(PackJob { page, lent: self.frames.lend(slot), copy })
    }

    pub fn end_pack(&mut self, job: PackJob, packed: &Packed<'_>) {
        let (page, slot) = (job.page, self.frames.take_back(job.lent));
        self.meta[page].flags &= !BUSY;
        self.in_flight -= 1;
        match packed {
            Packed::Unchanged if self.unchanged(page, slot) => {}
            Packed::Coded(coded) if self.changed(page, slot, Some(coded)) => {}
            Packed::Unchanged | Packed::Coded(_) => self.refuse(page, slot),
        }
    }

    fn refuse(&mut self, page: usize, slot: usize) {
        let at = self.refused.count;
        (self.refused.slots[at], self.refused.pages[at]) = (slot as u32, page as u32);
        self.refused.count += 1;
        self.meta[page].flags |= REFUSED;
        if self.refused.count == MAX_BATCH {
            self.settle_refused();
        }
    }

    /// Writes the pages that the store refused to the swap device, but for those that went back meanwhile. How many frames
    /// became free.
    pub fn settle_refused(&mut self) -> usize {
        let (mut slots, mut n) = ([0usize; MAX_BATCH], 0);
        for i in 0..std::mem::take(&mut self.refused.count) {
            let (slot, page) = (self.refused.slots[i] as usize, self.refused.pages[i] as usize);
            // A page that went back meanwhile may be on standby again, even in this slot: with other contents, and packed in
            // its turn. Only the mark tells that it never left.
            if self.meta[page].flags & REFUSED != 0 && self.slots.owner(slot) == Some(page) {
                self.meta[page].flags &= !REFUSED;
                slots[n] = slot;
                n += 1;
            }
        }
        self.swap_out(&slots[..n])
    }

    /// Takes a free frame and what is stored for a page, to be put together by a thread of its own. `None` where that is not
    /// worth it, or cannot be: then it is done under the lock.
    pub fn begin_load(&mut self, page: usize, worker: &mut Worker) -> Option<LoadJob> {
        let copied = match self.frontswap.copy_packed(page, &mut worker.packed[0]) {
            Ok(copied) => copied?,
            Err(lost) => die(lost.text()),
        };
        let frame = if self.takes_new_frame() {
            self.new_frames += 1;
            Frame::New(self.frames.copier())
        } else {
            let slot = self.slots.lend_free()?;
            Frame::Lent(self.frames.lend(slot))
        };
        self.meta[page].flags |= BUSY;
        self.in_flight += 1;
        Some(LoadJob { page, frame, copied })
    }

    /// Whether a single page comes in by a copy into a new frame.
    pub fn takes_new_frame(&self) -> bool {
        self.are_several() && self.has_room()
    }

    pub fn end_load(&mut self, page: usize, tries: usize, brought: Brought) {
        self.meta[page].flags &= !BUSY;
        self.in_flight -= 1;
        self.stats.add(Stat::Moves, 1 + tries as u64);
        self.stats.add(Stat::MoveRetries, tries as u64);
        match brought {
            Brought::Moved(left) => {
                let slot = self.frames.take_empty(left);
                self.slots.end_loan(slot, false);
                self.came_in(page);
            }
            Brought::Copied => {
                self.new_frames -= 1;
                self.came_in(page);
            }
            // Whatever the kernel has against it is seen to under the lock, or reported.
            Brought::TurnedAway(lent) => {
                match lent {
                    Some(lent) => {
                        let slot = self.frames.take_back(lent);
                        self.slots.end_loan(slot, true);
                    }
                    None => self.new_frames -= 1,
                }
                self.bring_run(page, 1, false);
            }
        }
        if !self.states.is(page, PageState::Resident) {
            die("a faulted page could not be made resident (law 12)");
        }
    }

    fn came_in(&mut self, page: usize) {
        self.states.change(page, Event::FaultIn);
        self.forget_copies(page);
    }
}

#[cfg(all(test, feature = "fake-kernel"))]
mod tests;

// SPDX-License-Identifier: Apache-2.0
//! The second flow, down: `supply` → `reclaim` → `take_out` (arena → standby) → `pack` → frontswap.store → store, whose
//! oldest pages go on to the swap device (`writeback`); refused → swap device; refused there too → the page stays (law 14).
//! Before frames run out, `serve` takes the same steps a page at a time, and packs without the lock (`transit`).
//! Owns: who leaves and when. Callers: `fault` (frames are wanted), `verbs`. Lock: the pager's, held.
//! Law 3 is frontswap's; law 13 is kept here: frames are given up whenever everything together passes the budget.

use crate::fault::Supply;
use crate::notices::Notice;
use crate::page::{Event, PageState};
use crate::readahead::Window;
use crate::state::{BATCH, COPY, HASHED, PACKED, REFUSED, SECOND_CHANCE, State};
use crate::stats::Stat;
use crate::swapout::MAX_BATCH;
use std::ops::Range;
use tmem_store::codec::Coded;
use tmem_store::{Blob, Outcome, Reason};
use tmem_sys::entry::Entry;
use tmem_sys::syscall::die;
use tmem_sys::{Errno, entry, guard};

/// Free frames to have at hand, so that a fault finds one and need not send a page out first.
pub const KEEP_FREE: usize = 32;
/// Faults to let pass after reclaim found nothing: each try costs a walk over the resident set.
const BACKOFF: u32 = 256;
/// Pages looked at for a packed copy to drop before a page goes to the swap device instead.
const DROP_WALK: usize = 4096;
/// Times that room is made in the store for one page: what leaves may leave slots of other sizes than the page needs.
const MADE_ROOM: usize = 8;
/// Batches one fault may reclaim before it takes what there is.
const ROUNDS: usize = 64;

impl State {
    /// Sees to it that up to `want` frames can be had.
    pub fn supply(&mut self, want: usize) -> Supply {
        let mut rested = false;
        for _ in 0..ROUNDS {
            if self.is_heir {
                self.shrink_inheritance();
            }
            let total = self.frame_count();
            let allowance = self.allowance();
            if total > allowance {
                self.give_up_frames(total - allowance);
            } else {
                self.overshot = false;
            }
            if self.slots.free_count() >= want {
                return Supply::Free;
            }
            if self.frame_count() + want <= allowance {
                return Supply::New;
            }
            if self.take_back(want) {
                continue;
            }
            if self.backoff > 0 {
                self.backoff -= 1;
                rested = true;
                break;
            }
            if self.reclaim() == 0 {
                self.backoff = BACKOFF;
                break;
            }
        }
        if self.slots.free_count() > 0 {
            return Supply::Free;
        }
        if !rested {
            // Pages may move to and fro for all rounds and none find a place: that is no progress either.
            self.backoff = BACKOFF;
        }
        self.overshoot();
        Supply::New
    }

    /// Whether `want` frames cannot be had without sending pages out.
    pub fn is_short_of(&mut self, want: usize) -> bool {
        self.slots.free_count() < want
            && self.frame_count() + want > self.allowance()
            && !self.take_back(want)
    }

    /// Sends out what a stream has left behind, without a second chance: its frames are the next window's.
    pub fn drop_behind(&mut self, window: Window) {
        if !self.may_evict() {
            return;
        }
        self.share_out();
        let top = self.top;
        for run in window.runs().filter(|run| run.end <= top) {
            let mut page = run.start;
            while page < run.end {
                if !self.states.is(page, PageState::Resident) || self.spare(page) {
                    page += 1;
                    continue;
                }
                let want = self.victim_run(page, run.end - page);
                let Some((slot, n)) = self.slots.find_holes(want) else { return };
                let taken = self.take_out(page, n, slot);
                self.pack_all(slot..slot + taken);
                page += taken.max(1);
            }
        }
    }

    pub fn overshoot(&mut self) {
        self.stats.add(Stat::OvershootEvents, 1);
        if !self.overshot {
            self.overshot = true;
            self.notices.tell(Notice::Overshoot);
        }
    }

    /// Returns free frames to the system, at most `n`; how many.
    pub fn give_up_frames(&mut self, n: usize) -> usize {
        let mut left = n;
        while left > 0 {
            let Some((slot, len)) = self.slots.find_free(left.min(BATCH)) else { break };
            self.frames.discard_frames(slot..slot + len);
            if self.frames.is_filled(slot) {
                break;
            }
            self.slots.use_free(slot, len);
            left -= len;
        }
        n - left
    }

    /// Sees to it that pages are on standby beyond what is to stay there; false where nothing may leave now.
    pub fn fill_standby(&mut self) -> bool {
        let target = self.standby_target();
        // With several threads, many are taken out at once, and not here.
        let least = if self.are_several() { target / 2 } else { target };
        if self.slots.standby_count() > least {
            return true;
        }
        self.take_out_more(target + BATCH - self.slots.standby_count()) > 0
    }

    /// Takes pages out of the arena; how many.
    pub fn take_out_more(&mut self, want: usize) -> usize {
        if !self.may_evict() {
            return 0;
        }
        self.share_out();
        self.take_out_victims(want)
    }

    /// One batch of each half: pages leave the arena for standby, the oldest standby pages are packed. How many
    /// pages moved on.
    pub fn reclaim(&mut self) -> usize {
        if !self.may_evict() {
            return 0;
        }
        self.share_out();
        let target = self.standby_target();
        let short = (target + BATCH).saturating_sub(self.slots.standby_count());
        let taken = self.take_out_victims(short.min(2 * BATCH));
        let surplus = self.slots.standby_count().saturating_sub(target);
        let packed = self.pack_oldest(if taken == 0 { BATCH } else { surplus.clamp(1, BATCH) });
        // Moving pages to standby is no progress by itself: only frames that became free are.
        if packed == 0 && self.slots.standby_count() > target { 0 } else { taken + packed }
    }

    /// Nothing may become missing that an uncovered thread could hand to the kernel, or whose fault would find a
    /// stranger's handler (law 16, and the handler's manners).
    fn may_evict(&mut self) -> bool {
        let Some(entry) = self.entry else { return false };
        if self.guarded && guard::all_covered().is_err() {
            self.notices.tell(Notice::Uncovered);
            return false;
        }
        if entry == Entry::Signal && entry::ensure_handlers(entry).is_err() {
            self.notices.tell(Notice::Handlers);
            return false;
        }
        true
    }

    /// Moves up to `want` resident pages to standby, walking the arena like a clock.
    fn take_out_victims(&mut self, want: usize) -> usize {
        let mut taken = 0;
        let mut walked = 0;
        // Twice round: the first may only clear second chances.
        while taken < want && walked <= 2 * self.top {
            let from = self.hand;
            let Some(page) = self.find(PageState::Resident, from, self.top) else {
                walked += self.top - from + 1;
                self.hand = 0;
                continue;
            };
            walked += page - from + 1;
            self.hand = page + 1;
            if self.spare(page) {
                continue;
            }
            let run = self.victim_run(page, (want - taken).min(BATCH));
            let Some((slot, n)) = self.slots.find_holes(run) else { break };
            taken += self.take_out(page, n.min(run), slot);
            self.hand = page + n.min(run);
        }
        taken
    }

    /// Whether a resident page is no victim now. A second chance is used up by asking.
    fn spare(&mut self, page: usize) -> bool {
        let meta = &mut self.meta[page];
        if meta.flags & SECOND_CHANCE != 0 {
            meta.flags &= !SECOND_CHANCE;
            return true;
        }
        meta.pins != 0 || meta.holds != 0 || self.recent.is_spared(page)
    }

    fn victim_run(&mut self, page: usize, want: usize) -> usize {
        let mut n = 1;
        while n < want
            && page + n < self.top
            && self.states.is(page + n, PageState::Resident)
            && !self.spare(page + n)
        {
            n += 1;
        }
        n
    }

    /// Moves a run of resident pages to the holes at `slot`. What the kernel turns away stays, marked.
    pub fn take_out(&mut self, page: usize, n: usize, slot: usize) -> usize {
        let mut done = 0;
        let mut unshared = None;
        let mut most = n;
        while done < n {
            let run = most.min(n - done);
            let moved = self.frames.take_out(page + done, run, slot + done);
            self.stats.add(Stat::Moves, 1);
            for i in done..done + moved.pages {
                self.states.change(page + i, Event::TakeOut);
                self.slots.put_standby(slot + i, page + i);
                self.meta[page + i].slot = (slot + i) as u32;
                self.meta[page + i].flags &= !REFUSED;
            }
            done += moved.pages;
            match moved.stopped {
                None => {}
                // The program's advice ends inside the run, and a transfer does not cross that.
                Some(Errno::EINVAL) if run > 1 => most = 1,
                // Shared with a forked child, perhaps one long gone: a write of our own unshares, and then it moves.
                // Of this page alone is it known that it is there: the write of a missing one would wait for this lock.
                Some(Errno::EBUSY)
                    if unshared != Some(done) && self.frames.unshare(page + done, 1).is_ok() =>
                {
                    self.stats.add(Stat::Unshared, 1);
                    unshared = Some(done);
                }
                Some(why) => {
                    self.turned_away(page + done, why);
                    break;
                }
            }
        }
        done
    }

    /// The page at `at` could not be moved out.
    fn turned_away(&mut self, at: usize, why: Errno) {
        match why {
            // Pinned by the kernel, or referenced for a moment: it keeps its place until the hand comes round again.
            Errno::EBUSY => {
                self.stats.add(Stat::MoveBusy, 1);
                self.meta[at].flags |= SECOND_CHANCE;
            }
            Errno::EAGAIN | Errno::EINTR => self.stats.add(Stat::MoveRetries, 1),
            // The program dropped the page (madvise): it reads as zeros, as on plain memory.
            Errno::ENOENT => {
                self.forget_copies(at);
                self.states.change(at, Event::Vanish);
            }
            Errno::EEXIST => die("a frame lies where a hole is noted (law 12)"),
            _ => self.meta[at].flags |= SECOND_CHANCE,
        }
    }

    /// Packs up to `want` pages, those first that waited on standby longest. How many frames became free.
    pub fn pack_oldest(&mut self, want: usize) -> usize {
        let mut left = want;
        self.settle_refused()
            + self.pack_each(|state| {
                left = left.checked_sub(1)?;
                state.slots.pop_oldest()
            })
    }

    /// Packs the pages of standby slots. How many frames became free.
    fn pack_all(&mut self, mut slots: Range<usize>) -> usize {
        self.pack_each(|_| slots.next())
    }

    fn pack_each(&mut self, mut next: impl FnMut(&mut State) -> Option<usize>) -> usize {
        let mut refused = [0usize; MAX_BATCH];
        let (mut packed, mut waiting) = (0, 0);
        while let Some(slot) = next(self) {
            if self.pack(slot) {
                packed += 1;
            } else {
                refused[waiting] = slot;
                waiting += 1;
            }
            if waiting == MAX_BATCH {
                packed += self.swap_out(&refused[..waiting]);
                waiting = 0;
            }
        }
        packed + self.swap_out(&refused[..waiting])
    }

    /// Stores one standby page behind frontswap; false when it was refused there.
    fn pack(&mut self, slot: usize) -> bool {
        let Some(page) = self.slots.owner(slot) else { die("a standby slot without a page (law 12)") };
        let frame = self.frames.frame(slot);
        if self.meta[page].flags & COPY != 0 && self.secret.hash(frame) == self.meta[page].hash {
            return self.unchanged(page, slot);
        }
        self.changed(page, slot, None)
    }

    /// A standby page equals its stored copy. False where it is to leave it for leased memory, and was refused there: one that is
    /// asked for so often would be read from the swap device for ever, however much memory a host has by now.
    pub fn unchanged(&mut self, page: usize, slot: usize) -> bool {
        if self.swap.holds(page) && self.frontswap.has_lease_room() {
            return self.changed(page, slot, None);
        }
        self.stats.add(Stat::CleanEvictions, 1);
        self.frontswap.touch(page);
        self.packed(page, slot);
        true
    }

    /// A standby page is to be stored anew, in the form that was made of it if one was; false when frontswap refused it.
    pub fn changed(&mut self, page: usize, slot: usize, coded: Option<&Coded<'_>>) -> bool {
        self.forget_old(page);
        let mut outcome = self.offer(page, slot, coded);
        for _ in 0..MADE_ROOM {
            // What is lent goes first, then copies of pages in RAM, then the oldest pages of all.
            if outcome != Outcome::Refused(Reason::StoreFull)
                || !(self.take_back_for_store() || self.drop_copies() || self.write_back() > 0)
            {
                break;
            }
            outcome = self.offer(page, slot, coded);
        }
        if outcome.is_stored() {
            self.packed(page, slot);
        }
        outcome.is_stored()
    }

    fn offer(&mut self, page: usize, slot: usize, coded: Option<&Coded<'_>>) -> Outcome {
        let frame = self.frames.frame(slot);
        match coded {
            Some(coded) => self.frontswap.store_coded(page, frame, coded),
            None => self.frontswap.store(page, frame),
        }
    }

    /// What was stored for a page is not what is about to be stored.
    pub fn forget_old(&mut self, page: usize) {
        if self.meta[page].flags & COPY != 0 {
            self.unmark_copy(page);
            self.swap.forget(page);
        }
        self.meta[page].flags &= !HASHED;
    }

    fn packed(&mut self, page: usize, slot: usize) {
        self.unmark_copy(page);
        self.states.change(page, Event::Pack);
        self.slots.free_standby(slot);
        self.stats.add(Stat::Evictions, 1);
    }

    /// Packed copies of resident pages go first when the store has no room. Whether any went.
    fn drop_copies(&mut self) -> bool {
        let mut dropped = 0;
        let mut walked = 0;
        while dropped < BATCH && self.packed_copies > 0 && walked < DROP_WALK.min(self.top) {
            if self.copy_hand >= self.top {
                self.copy_hand = 0;
            }
            let Some(page) = self.huge.next_used(self.copy_hand, self.top) else {
                walked += self.top - self.copy_hand;
                self.copy_hand = self.top;
                continue;
            };
            self.copy_hand = page + 1;
            walked += 1;
            let kept = self.meta[page].flags & PACKED != 0 && self.states.is(page, PageState::Resident);
            if kept && self.frontswap.is_present(page) {
                self.forget_copies(page);
                dropped += 1;
            }
        }
        self.stats.add(Stat::CopiesDropped, dropped as u64);
        dropped > 0
    }

    /// Tells the program why pages cannot go to the swap device.
    pub fn tell_swap(&mut self, reason: Reason) {
        match reason {
            Reason::SwapFull => self.notices.tell(Notice::SwapFull),
            Reason::SwapError => self.notices.tell(Notice::SwapError),
            _ => {}
        }
    }

    /// Writes standby pages that the store refused to the swap device. Those it refuses too go back to the arena.
    pub fn swap_out(&mut self, slots: &[usize]) -> usize {
        if slots.is_empty() {
            return 0;
        }
        let mut pages = [0usize; MAX_BATCH];
        let mut blobs = [Blob::Same(0); MAX_BATCH];
        for (i, &slot) in slots.iter().enumerate() {
            pages[i] = self.slots.owner(slot).unwrap_or_default();
            blobs[i] = Blob::Page(self.frames.frame(slot));
        }
        let (stored, why) = self.swap.store(&pages[..slots.len()], &blobs[..slots.len()]);
        self.stats.add(Stat::SwapStores, stored as u64);
        for (&page, &slot) in pages.iter().zip(&slots[..stored]) {
            self.packed(page, slot);
        }
        if let Some(reason) = why {
            self.tell_swap(reason);
            for &page in &pages[stored..slots.len()] {
                if self.states.is(page, PageState::Standby) {
                    self.put_back(page, 1);
                }
            }
        }
        stored
    }
}

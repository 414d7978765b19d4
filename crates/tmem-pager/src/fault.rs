// SPDX-License-Identifier: Apache-2.0
//! The first flow, down: `serve` → `fault` → `fault_in` → frontswap.load → store; up: the frame is moved in.
//! Owns: what a missing page gets. Callers: `serve` (both entries), `verbs`. Lock: the pager's, held.
//! Laws 12 and 17: the bytes that left come back, or the process stops; no heap, no GIL, no paged memory touched.

use crate::page::{Event, PageState, States};
use crate::readahead::{Pattern, Plan, STREAM, Window};
use crate::slots::GROUP;
use crate::state::{HASHED, Meta, SECOND_CHANCE, State};
use crate::stats::Stat;
use crate::swapout::SwapOut;
use crate::transit::{LoadJob, Worker};
use tmem_store::{Frontswap, Loaded};
use tmem_sys::entry::Served;
use tmem_sys::frames::{Frames, Moved};
use tmem_sys::hash::PageHash;
use tmem_sys::syscall::{die, sched_yield};
use tmem_sys::{Errno, Page, Table, ThreadKey};

/// Tries of one transfer that the kernel turns away for the moment: some milliseconds, what refers to a page meanwhile
/// is gone by then.
pub const TRIES: usize = 4096;

/// Pages in RAM that a stream may pass over before its next fault and still be known.
const LOOK_AHEAD: usize = 1 << 15;
/// As many steps of a stream that takes more than one page at each.
const STRIDES_AHEAD: usize = 1 << 10;

const CLOSED: &str = "the program closed the pager's userfaultfd, so that paged memory cannot be served any more (law 17). Close only \
     what you opened, or close the rest before the first tmem.Memory";

/// Where the frames of a fault come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// Frames that circulate.
    Free,
    /// New frames: the budget has room, or reclaim found nothing and law 14 applies.
    New,
}

/// How a fault goes on.
pub enum Step {
    Served(Served),
    /// Another thread is at the page: the lock is to be let go of.
    Wait,
    /// The page is to be put together without the lock.
    Load(LoadJob),
}

impl State {
    /// Serves a fault at `page`, or says what is to be done without the lock, for which it takes a `worker`.
    pub fn fault(&mut self, page: usize, who: ThreadKey, worker: Option<&mut Worker>) -> Step {
        if self.is_busy(page) {
            return Step::Wait;
        }
        match self.states.get(page) {
            // The page was unmapped, or let go of, after the fault: tried again, the touch is the kernel's to answer.
            PageState::Free | PageState::LetGo if self.frames.is_guarded() => {
                return Step::Served(Served::Yes);
            }
            PageState::Free | PageState::LetGo => return Step::Served(Served::NotOurs),
            PageState::Resident => {
                // Another thread's fault, or its read-ahead, was first.
                self.stats.add(Stat::Spurious, 1);
                self.renew_if_dropped(page);
                return Step::Served(Served::Yes);
            }
            PageState::Standby => {
                self.recent.note(who, page);
                self.stats.add(Stat::StandbyHits, 1);
                let slot = self.meta[page].slot as usize;
                if !(self.takes_new_frame() && self.copy_back(page, slot)) {
                    let _ = self.put_back(page, GROUP);
                }
            }
            PageState::Fresh | PageState::Out => {
                self.recent.note(who, page);
                let pattern = pattern_of(&self.meta[page]);
                let fresh = self.states.is(page, PageState::Fresh);
                let states = &self.states;
                let in_ram = |a, b| states.find_other(PageState::Resident, a, b).is_none();
                self.ahead.frames = self.states.count(PageState::Resident);
                let plan = self.ahead.plan(page, pattern, fresh, in_ram);
                if plan.window.count == 1
                    && !fresh
                    && let Some(worker) = worker
                    && (self.takes_new_frame() || self.supply(1) == Supply::Free)
                    && let Some(job) = self.begin_load(page, worker)
                {
                    self.stats.add(Stat::Faults, 1);
                    return Step::Load(job);
                }
                self.fault_in(&plan);
            }
        }
        self.stats.add(Stat::Faults, 1);
        if self.states.is(page, PageState::Resident) {
            Step::Served(Served::Yes)
        } else {
            die("a faulted page could not be made resident (law 12)")
        }
    }

    /// A page that is noted as resident and is missing was dropped by the program itself (`madvise`): it reads as zeros, as on
    /// plain memory. Where it is present after all, the kernel says so and nothing changes.
    fn renew_if_dropped(&mut self, page: usize) {
        self.scratch[0].fill(0);
        if self.frames.copy_in(page, &self.scratch[..1]).pages == 1 {
            self.forget_copies(page);
            self.states.change(page, Event::Vanish);
            self.states.change(page, Event::Touch);
        }
    }

    /// Brings in the window's first page, and the rest of the window as far as frames are at hand.
    fn fault_in(&mut self, plan: &Plan) {
        // Past the budget only what is needed comes in (law 14), and no window takes much of a small budget.
        let limit = if self.overshot { 1 } else { (self.allowance() / 64).clamp(1, GROUP) };
        let window = Window { count: plan.window.count.min(limit), ..plan.window };
        if let Some(behind) = plan.behind
            && self.is_short_of(window.count)
        {
            self.drop_behind(behind);
        }
        if window.count == 1 {
            return self.bring_run(window.first, 1, false);
        }
        let keep = window.count >= STREAM;
        let next = match window.stride {
            1 => self.bring_forward(window, keep),
            -1 => self.bring_backward(window, keep),
            _ => self.bring_strided(window, keep),
        };
        if let (Some(stream), Some(next)) = (plan.stream, next) {
            self.ahead.expect(stream, next);
        }
        if keep {
            let passed = self.kept.push(window);
            self.forget_window(passed);
        }
        self.stats.add(Stat::ReadaheadPages, window.count as u64 - 1);
    }

    /// Brings in the missing pages of a window, those on standby too: left alone, each would be a fault. The stream's next.
    fn bring_forward(&mut self, window: Window, keep: bool) -> Option<usize> {
        let end = (window.first + window.count).min(self.top);
        let mut page = window.first;
        while page < end {
            page += self.bring_some(page, end, keep)?;
        }
        let far = (end + LOOK_AHEAD).min(self.top);
        self.states.find_other(PageState::Resident, end, far)
    }

    /// As `bring_forward`, downwards.
    fn bring_backward(&mut self, window: Window, keep: bool) -> Option<usize> {
        let first = (window.first + 1).saturating_sub(window.count);
        // From the page that faulted downwards, as far as nothing stands between.
        let start = (first..=window.first).rev().take_while(|&p| self.is_paged(p)).last()?;
        let mut page = start;
        while page <= window.first {
            page += self.bring_some(page, window.first + 1, keep)?;
        }
        self.states.rfind_other(PageState::Resident, start.saturating_sub(LOOK_AHEAD), start)
    }

    /// Brings in what lies at `page` and is alike beside it; how many pages that were. `None` where the extent ends.
    fn bring_some(&mut self, page: usize, end: usize, keep: bool) -> Option<usize> {
        let run = |is: &dyn Fn(usize) -> bool| (page..end).take_while(|&p| is(p)).count();
        Some(match self.states.get(page) {
            // Whoever is at it brings it, or sends it out.
            _ if self.is_busy(page) => 1,
            PageState::Free | PageState::LetGo => return None,
            PageState::Resident => run(&|p| self.states.is(p, PageState::Resident)),
            PageState::Standby => self.put_back(page, end - page),
            PageState::Fresh | PageState::Out => {
                let n = run(&|p| self.is_missing(p));
                self.bring_run(page, n, keep);
                n
            }
        })
    }

    fn is_paged(&self, page: usize) -> bool {
        !matches!(self.states.get(page), PageState::Free | PageState::LetGo)
    }

    fn is_missing(&self, page: usize) -> bool {
        matches!(self.states.get(page), PageState::Fresh | PageState::Out) && !self.is_busy(page)
    }

    fn bring_strided(&mut self, window: Window, keep: bool) -> Option<usize> {
        for i in 0..window.count {
            let page = window.page(i).filter(|&page| page < self.top)?;
            match self.states.get(page) {
                PageState::Free | PageState::LetGo => return None,
                _ if self.is_busy(page) => {}
                PageState::Resident => {}
                PageState::Standby => drop(self.put_back(page, 1)),
                PageState::Fresh | PageState::Out => self.bring_run(page, 1, keep),
            }
        }
        let after = window.count..window.count + STRIDES_AHEAD;
        let mut pages = after.map_while(|i| window.page(i).filter(|&page| page < self.top));
        pages.find(|&page| !self.states.is(page, PageState::Resident))
    }

    /// Makes `n` missing pages from `page` resident. Unless told to `keep` the packed copies, they go: what they take can
    /// keep other pages in RAM.
    pub fn bring_run(&mut self, page: usize, n: usize, keep: bool) {
        let mut done = 0;
        let mut tries = 0;
        while done < n {
            let got = match self.supply(n - done) {
                Supply::Free => self.bring_by_move(page + done, n - done, keep),
                Supply::New => self.bring_by_copy(page + done, n - done, keep),
            };
            done += got;
            tries = if got == 0 { tries + 1 } else { 0 };
            if tries > TRIES {
                die("the kernel keeps refusing to move a page in (law 12)");
            }
        }
    }

    fn bring_by_move(&mut self, page: usize, want: usize, keep: bool) -> usize {
        let Some((slot, n)) = self.slots.find_free(want.min(GROUP)) else { return 0 };
        let State { frames, frontswap, swap, states, meta, secret, .. } = self;
        Stored { frontswap, swap, states, meta, secret, keep }.fill(page, n, &mut Staged { frames, slot });
        let moved = self.frames.put_in(slot, n, page);
        self.stats.add(Stat::Moves, 1);
        self.slots.use_free(slot, moved.pages);
        if moved == (Moved { pages: 0, stopped: Some(Errno::EINVAL) }) {
            // The program locked the page (mlock), and frames do not move between locked and other memory; or its
            // advice ends inside the run, and a transfer does not cross that.
            return self.bring_by_copy(page, 1, keep);
        }
        self.arrived(page, moved, keep)
    }

    fn bring_by_copy(&mut self, page: usize, want: usize, keep: bool) -> usize {
        let n = want.min(GROUP);
        let fresh = (page..page + n).all(|p| self.states.is(p, PageState::Fresh));
        if !fresh {
            let State { scratch, frontswap, swap, states, meta, secret, .. } = self;
            Stored { frontswap, swap, states, meta, secret, keep }.fill(page, n, scratch);
        }
        let from = if fresh { &self.zeros } else { &self.scratch };
        let moved = self.frames.copy_in(page, &from[..n]);
        if n > 1 && moved.pages == 0 && matches!(moved.stopped, Some(Errno::EINVAL | Errno::ENOENT)) {
            return self.bring_by_copy(page, 1, keep);
        }
        self.arrived(page, moved, keep)
    }

    /// Notes pages that are in the arena now; how many.
    fn arrived(&mut self, page: usize, moved: Moved, keep: bool) -> usize {
        for p in page..page + moved.pages {
            if self.states.is(p, PageState::Fresh) {
                self.states.change(p, Event::Touch);
                continue;
            }
            self.states.change(p, Event::FaultIn);
            if keep || !self.frontswap.is_present(p) {
                self.mark_copy(p);
            } else {
                self.forget_copies(p);
            }
        }
        match moved.stopped {
            None => {}
            Some(Errno::EAGAIN | Errno::EBUSY | Errno::EINTR) => {
                self.stats.add(Stat::MoveRetries, 1);
                sched_yield();
            }
            Some(Errno::ENOMEM) => die("the kernel has no memory left to bring a page back (law 12)"),
            Some(Errno::EEXIST) => die("a page that is noted as missing is present (law 12)"),
            Some(Errno::EBADF | Errno::ENOTTY) => die(CLOSED),
            Some(_) => die("the kernel refuses to move a page in (law 12)"),
        }
        moved.pages
    }

    /// Moves a standby page, and its successors that wait beside it, back to the arena; how many.
    pub fn put_back(&mut self, page: usize, want: usize) -> usize {
        let slot = self.meta[page].slot as usize;
        let mut n = 1;
        while n < want
            && page + n < self.top
            && self.states.is(page + n, PageState::Standby)
            && !self.is_busy(page + n)
            && self.meta[page + n].slot as usize == slot + n
        {
            n += 1;
        }
        for _ in 0..TRIES {
            let moved = self.frames.put_in(slot, n, page);
            self.stats.add(Stat::Moves, 1);
            for i in 0..moved.pages {
                self.slots.leave_standby(slot + i);
                self.states.change(page + i, Event::PutBack);
                self.meta[page + i].flags |= SECOND_CHANCE;
            }
            match (moved.pages, moved.stopped) {
                (1.., _) | (_, None) => return moved.pages,
                (0, Some(Errno::EAGAIN | Errno::EBUSY | Errno::EINTR)) => {
                    self.stats.add(Stat::MoveRetries, 1);
                    sched_yield();
                }
                (0, Some(Errno::EINVAL)) if self.copy_back(page, slot) => return 1,
                (0, Some(Errno::EBADF | Errno::ENOTTY)) => die(CLOSED),
                _ => break,
            }
        }
        die("a page on standby cannot be moved back (law 12)")
    }

    /// As `put_back` for one page, where a frame cannot be moved (the program has locked the range) or had better not be (other
    /// threads run): its frame stays and is free.
    fn copy_back(&mut self, page: usize, slot: usize) -> bool {
        self.scratch[0].copy_from_slice(self.frames.frame(slot));
        if self.frames.copy_in(page, &self.scratch[..1]).pages == 0 {
            return false;
        }
        self.slots.free_standby(slot);
        self.states.change(page, Event::PutBack);
        self.meta[page].flags |= SECOND_CHANCE;
        true
    }
}

/// What is stored for a page was loaded; it hashes the same each time.
fn note_hash(meta: &mut Meta, secret: &PageHash, page: &Page) {
    if meta.flags & HASHED == 0 {
        meta.hash = secret.hash(page);
        meta.flags |= HASHED;
    }
}

pub fn pattern_of(meta: &Meta) -> Pattern {
    match meta.pattern {
        1 => Pattern::Sequential,
        2 => Pattern::Random,
        _ => Pattern::Normal,
    }
}

/// Pages that are being put together before they go to the arena.
trait Pages {
    fn at(&mut self, i: usize) -> &mut Page;
}

/// Free frames in the staging area, from `slot` on.
struct Staged<'a> {
    frames: &'a mut Frames,
    slot: usize,
}

impl Pages for Staged<'_> {
    fn at(&mut self, i: usize) -> &mut Page {
        self.frames.frame_mut(self.slot + i)
    }
}

impl Pages for Table<Page> {
    fn at(&mut self, i: usize) -> &mut Page {
        &mut self[i]
    }
}

/// The parts of the state that know what a missing page holds.
struct Stored<'a> {
    frontswap: &'a mut Frontswap,
    swap: &'a mut SwapOut,
    states: &'a States,
    meta: &'a mut Table<Meta>,
    secret: &'a PageHash,
    keep: bool,
}

impl Stored<'_> {
    /// Puts together the contents of `n` missing pages from `page`.
    fn fill(&mut self, page: usize, n: usize, into: &mut impl Pages) {
        let mut i = 0;
        while i < n {
            i += self.fill_some(page + i, n - i, i, into);
        }
    }

    /// Puts together one page, or as many as lie side by side on the swap device: each read of it is a system call.
    fn fill_some(&mut self, page: usize, most: usize, first: usize, into: &mut impl Pages) -> usize {
        if self.states.is(page, PageState::Fresh) {
            into.at(first).fill(0);
            return 1;
        }
        match self.frontswap.load(page, into.at(first)) {
            Ok(Loaded::Loaded) => {
                // A copy that goes at once needs no hash to be compared with.
                if self.keep {
                    note_hash(&mut self.meta[page], self.secret, into.at(first));
                }
                1
            }
            Ok(Loaded::Absent) => {
                let (meta, secret) = (&mut *self.meta, self.secret);
                let n = self.swap.load_run(page, most, &mut |k, bytes| {
                    note_hash(&mut meta[page + k], secret, bytes);
                    into.at(first + k).copy_from_slice(bytes);
                });
                if n == 0 {
                    die("a page that is out is stored nowhere (law 12)");
                }
                n
            }
            Err(lost) => die(lost.text()),
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the thread that tells threads in the thread entry to go on. It has the idle policy and runs where the handler runs.
//! Caller: `handler`. No locks. Law 17: nothing allocates; whoever waits is woken, by this thread or by the handler.
//!
//! Why a thread of its own: the kernel puts a thread that is woken on an idle processor if there is one, and a processor on
//! which the handler runs is none. So the faulting thread would change processors at every fault, at the price of an interrupt
//! between processors and the end of another one's sleep each time (tens of microseconds on virtual machines). A processor that
//! runs nothing but an idle-policy thread counts as idle: woken from there, the thread stays where its caches are. The price of
//! the policy: beside a busy thread this one may wait for milliseconds. It measures that, and then the handler wakes by itself
//! for a while.

use crate::errno::Errno;
use crate::own;
use crate::page::PAGE_SIZE;
use crate::syscall::{call, gettid, sched_yield};
use crate::time;
use crate::uffd::Uffd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Faults that may wait to be told at once.
const RING: usize = 64;
/// A wake that waited longer for its processor was late, in nanoseconds: what waking across processors costs.
const LATE_NS: u64 = 60_000;
/// So late that there is no doubt: somebody keeps the processor busy.
const VERY_LATE_NS: u64 = 1_000_000;
/// Late wakes weigh so much, timely ones take one off; at the limit the handler does it.
const LATE_WEIGHT: u32 = 4;
const LATE_LIMIT: u32 = 12;
/// For so many faults the handler wakes; each time it comes to that, twice as many.
const FIRST_REST: u32 = 256;
const LONGEST_REST: u32 = 1 << 16;
/// After a rest so many wakes are watched: the handler does not wait longer than a moment for them.
const TRIAL: u32 = 64;
/// Timely wakes in a row after which it counts from the beginning.
const GOOD: u32 = 4096;

struct Item {
    page: AtomicUsize,
    posted_at: AtomicU64,
}

static ITEMS: [Item; RING] =
    [const { Item { page: AtomicUsize::new(0), posted_at: AtomicU64::new(0) } }; RING];
/// Written by the handler; the waker sleeps on it.
static POSTED: AtomicU32 = AtomicU32::new(0);
/// Written by the waker: wakes begun, and wakes after which it came to run again.
static BEGUN: AtomicU32 = AtomicU32::new(0);
static TAKEN: AtomicU32 = AtomicU32::new(0);
static ASLEEP: AtomicBool = AtomicBool::new(false);
/// What late wakes weigh, summed up by the waker.
static LATENESS: AtomicU32 = AtomicU32::new(0);
static STRAYS: AtomicU32 = AtomicU32::new(0);
static TID: AtomicI32 = AtomicI32::new(0);

/// The waker's thread, 0 when there is none.
pub fn tid() -> i32 {
    TID.load(Ordering::Acquire)
}

/// Starts the thread. Where the kernel refuses the idle policy there is none, and the handler wakes.
///
/// # Errors
/// The kernel's, when no thread can be made.
pub fn start(uffd: &'static Uffd) -> Result<(), Errno> {
    static READY: AtomicBool = AtomicBool::new(false);
    READY.store(false, Ordering::Release);
    for word in [&POSTED, &BEGUN, &TAKEN, &LATENESS, &STRAYS] {
        word.store(0, Ordering::Release);
    }
    ASLEEP.store(false, Ordering::Release);
    own::spawn(c"tmem-waker", 64 << 10, move || {
        let idle = become_idle();
        TID.store(if idle { gettid() } else { 0 }, Ordering::Release);
        READY.store(true, Ordering::Release);
        if idle {
            serve(uffd);
        }
    })?;
    while !READY.load(Ordering::Acquire) {
        sched_yield();
    }
    Ok(())
}

/// In a forked child the thread does not exist.
pub fn reset_after_fork() {
    TID.store(0, Ordering::Release);
}

fn become_idle() -> bool {
    let priority = 0i32;
    let args = [0, libc::SCHED_IDLE as usize, &raw const priority as usize];
    // SAFETY: a live `sched_param` of one word; the calling thread only.
    unsafe { call(libc::SYS_sched_setscheduler, args) }.is_ok()
}

/// The handler's side: what it posted, and whether it trusts the waker.
pub struct Waking {
    patience: Patience,
    lateness: u32,
}

impl Waking {
    pub fn new() -> Waking {
        Waking { patience: Patience::new(), lateness: LATENESS.load(Ordering::Relaxed) }
    }

    /// Has whoever waits for `page` woken; false when the caller must do it.
    pub fn post(&mut self, page: usize) -> bool {
        let lateness = LATENESS.load(Ordering::Relaxed);
        let more = lateness.wrapping_sub(std::mem::replace(&mut self.lateness, lateness));
        let posted = POSTED.load(Ordering::Relaxed);
        let full = posted.wrapping_sub(TAKEN.load(Ordering::Acquire)) as usize >= RING;
        if !self.patience.allows(more) || tid() == 0 || full {
            return false;
        }
        let item = &ITEMS[posted as usize % RING];
        item.page.store(page, Ordering::Relaxed);
        item.posted_at.store(time::ticks(), Ordering::Relaxed);
        POSTED.store(posted.wrapping_add(1), Ordering::SeqCst);
        if ASLEEP.load(Ordering::SeqCst) {
            let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            // SAFETY: the word is a static.
            let _ = unsafe { call(libc::SYS_futex, [POSTED.as_ptr() as usize, op as usize, 1]) };
        }
        true
    }

    /// A fault for which the handler wakes whatever the waker could do.
    pub fn pass(&mut self) {
        self.patience.rest = self.patience.rest.saturating_sub(1);
    }

    /// Whether the handler wakes by itself for the moment.
    pub fn is_resting(&self) -> bool {
        self.patience.rest > 0
    }

    /// Whether something is posted that the handler must not wait for without end.
    pub fn is_watched(&self) -> bool {
        self.patience.trial > 0 && BEGUN.load(Ordering::Acquire) != POSTED.load(Ordering::Relaxed)
    }

    /// The moment is over: whoever still waits is woken here. The waker's own wake, later, does no harm.
    pub fn take_over(&mut self, uffd: &Uffd) {
        let (from, to) = (BEGUN.load(Ordering::Acquire), POSTED.load(Ordering::Relaxed));
        (0..to.wrapping_sub(from)).for_each(|i| {
            let item = &ITEMS[from.wrapping_add(i) as usize % RING];
            uffd.wake(item.page.load(Ordering::Relaxed), PAGE_SIZE);
        });
        self.patience.late(LATE_LIMIT);
    }
}

fn serve(uffd: &Uffd) {
    let mut taken = 0u32;
    loop {
        if POSTED.load(Ordering::Acquire) == taken {
            sleep(taken);
            continue;
        }
        let item = &ITEMS[taken as usize % RING];
        let page = item.page.load(Ordering::Relaxed);
        let waited = time::ticks().wrapping_sub(item.posted_at.load(Ordering::Relaxed));
        match time::ns_from_ticks(waited) {
            VERY_LATE_NS.. => LATENESS.fetch_add(LATE_LIMIT, Ordering::Relaxed),
            LATE_NS.. => LATENESS.fetch_add(LATE_WEIGHT, Ordering::Relaxed),
            _ => 0,
        };
        // A thread that goes to sleep having run more than its share (the handler, beside this one) is kept in the queue for a
        // moment, and its processor does not count as idle. Before the next choice the kernel takes it out.
        sched_yield();
        taken = taken.wrapping_add(1);
        BEGUN.store(taken, Ordering::Release);
        uffd.wake(page, PAGE_SIZE);
        TAKEN.store(taken, Ordering::Release);
        note_where(POSTED.load(Ordering::Relaxed) != taken);
    }
}

/// A thread woken on this processor runs before this one does, up to its next fault. One that went to another processor has not
/// come so far.
fn note_where(faulted_again: bool) {
    let strays = if faulted_again { 0 } else { STRAYS.load(Ordering::Relaxed) + 1 };
    STRAYS.store(strays, Ordering::Relaxed);
}

/// Wakes in a row whose thread seems to have gone to another processor.
pub fn strays() -> u32 {
    STRAYS.load(Ordering::Relaxed)
}

/// Until something is posted, or for no reason.
fn sleep(taken: u32) {
    ASLEEP.store(true, Ordering::SeqCst);
    if POSTED.load(Ordering::SeqCst) == taken {
        let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the word is a static; no timeout.
        let _ = unsafe { call(libc::SYS_futex, [POSTED.as_ptr() as usize, op as usize, taken as usize, 0]) };
    }
    ASLEEP.store(false, Ordering::SeqCst);
}

/// Decides when late is too late too often.
struct Patience {
    late: u32,
    good: u32,
    /// Faults for which the handler still wakes, and for how many the next time.
    rest: u32,
    next_rest: u32,
    /// Wakes still watched.
    trial: u32,
}

impl Patience {
    fn new() -> Patience {
        Patience { late: 0, good: 0, rest: 0, next_rest: FIRST_REST, trial: TRIAL }
    }

    /// Whether the waker may wake once more, after so much new lateness.
    fn allows(&mut self, lateness: u32) -> bool {
        if self.rest > 0 {
            // What is told now was posted before the rest.
            self.rest -= 1;
            return false;
        }
        if lateness > 0 {
            self.late(lateness);
            return self.rest == 0;
        }
        self.late = self.late.saturating_sub(1);
        self.trial = self.trial.saturating_sub(1);
        self.good += 1;
        if self.good == GOOD {
            (self.next_rest, self.good) = (FIRST_REST, 0);
        }
        true
    }

    fn late(&mut self, weight: u32) {
        self.good = 0;
        self.late += weight;
        if self.late >= LATE_LIMIT {
            (self.late, self.trial) = (0, TRIAL);
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest_of(p: &mut Patience) -> u32 {
        (0..).find(|_| p.allows(0)).unwrap_or(0)
    }

    #[test]
    fn the_handler_takes_over_for_longer_each_time_and_forgets_after_a_good_while() {
        let mut p = Patience::new();
        assert!(p.allows(LATE_WEIGHT) && p.allows(LATE_WEIGHT) && !p.allows(LATE_WEIGHT));
        assert_eq!(rest_of(&mut p), 256);
        assert!(!p.allows(LATE_LIMIT), "no doubt");
        assert_eq!(rest_of(&mut p), 512);
        assert!((0..GOOD).all(|_| p.allows(0)));
        p.late(LATE_LIMIT);
        assert_eq!(rest_of(&mut p), 256);
        for _ in 0..20 {
            p.late(LATE_LIMIT);
        }
        assert_eq!(p.rest, LONGEST_REST);
    }

    #[test]
    fn one_late_wake_among_many_changes_nothing_and_after_a_rest_wakes_are_watched() {
        let mut p = Patience::new();
        for i in 0..10_000 {
            assert!(p.allows(if i % 8 == 0 { LATE_WEIGHT } else { 0 }));
        }
        assert_eq!(p.trial, 0);
        p.late(LATE_LIMIT);
        assert_eq!(p.trial, TRIAL);
    }
}

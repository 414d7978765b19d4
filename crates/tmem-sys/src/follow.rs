// SPDX-License-Identifier: Apache-2.0
//! Owns: on which processor the thread entry's own threads run: on that of the thread that faults. A fault that is served on
//! another processor costs an interrupt there and back, ten times the rest of it. Caller: `handler`. No locks, no heap.
//! Law: only tmem's own threads are moved. Where the kernel refuses, they run anywhere, and that is counted.

use crate::errno::Errno;
use crate::syscall::{call, close};
use crate::waker;
use std::sync::atomic::{AtomicU64, Ordering};

/// Faults between two looks, while the last one found everything in its place.
const CALM: u32 = 64;
/// Faults between two looks once another processor was seen.
const CLOSER: u32 = 2;
/// Looks in a row that must find the same other processor: two threads on two of them are not run after.
const SURE: u32 = 3;
/// Wakes in a row that seem to have gone elsewhere call for a look.
const STRAYS: u32 = 3;
/// Faults until the next try after the kernel refused.
const LATER: u32 = 4096;
/// Processors that a mask has room for.
const PROCESSORS: usize = 4096;
type Mask = [u64; PROCESSORS / 64];

static MOVED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// How often the handler changed processors, and how often it could not follow.
pub fn counts() -> (u64, u64) {
    (MOVED.load(Ordering::Relaxed), REFUSED.load(Ordering::Relaxed))
}

/// The handler's view of where it should be.
pub struct Follow {
    here: Option<usize>,
    other: usize,
    seen: u32,
    left: u32,
    /// Faults since the last look, and how many must pass before strays call for the next.
    since: u32,
    wait: u32,
    /// The thread last looked at may run on one processor only.
    tied: bool,
}

impl Follow {
    pub fn new() -> Follow {
        Follow { here: None, other: 0, seen: 0, left: 1, since: 0, wait: STRAYS, tied: false }
    }

    /// A thread faulted. Looks at it now and then, and goes where it is.
    pub fn note(&mut self, tid: i32, resting: bool) {
        self.left = self.left.saturating_sub(1);
        self.since += 1;
        if resting && !self.tied {
            return self.stay_free(tid);
        }
        let strayed = self.here.is_some() && waker::strays() >= STRAYS && self.since >= self.wait;
        if self.left > 0 && !strayed {
            return;
        }
        self.since = 0;
        self.left = CALM;
        let Some(there) = processor_of(tid) else { return self.give_up() };
        self.tied = is_tied(tid);
        if self.here.is_some_and(|here| Some(here) != current_processor()) {
            // Whoever runs the machine moved this thread, or took the processor away.
            self.here = None;
        }
        if self.decide(there) && self.go(there).is_err() {
            self.give_up();
        }
    }

    /// Somebody else keeps this processor busy: anywhere is better, until the waker is tried again or the thread is tied.
    fn stay_free(&mut self, tid: i32) {
        if self.here.is_some() {
            self.let_go(1);
        } else if self.left == 0 {
            self.tied = is_tied(tid);
            self.left = if self.tied { 1 } else { CALM };
        }
    }

    /// Whether a woken thread would go to another processor, and a wake from an idle-policy thread keep it here.
    pub fn wants_waker(&self) -> bool {
        self.here.is_some() && !self.tied
    }

    /// Whether to go to the processor where a thread was seen.
    fn decide(&mut self, there: usize) -> bool {
        if self.here.is_none() {
            return true;
        }
        if self.here == Some(there) {
            self.seen = 0;
            // Strays that are none: the thread waits for something else between its faults, or there are several.
            self.wait = (self.wait * 2).min(CALM);
            return false;
        }
        self.seen = if self.other == there { self.seen + 1 } else { 1 };
        self.other = there;
        self.left = CLOSER;
        self.seen >= SURE
    }

    fn go(&mut self, there: usize) -> Result<(), Errno> {
        let mut mask: Mask = [0; _];
        *mask.get_mut(there / 64).ok_or(Errno::EINVAL)? |= 1 << (there % 64);
        set_affinity(0, &mask)?;
        self.here = Some(there);
        (self.seen, self.left, self.wait) = (0, CALM, STRAYS);
        MOVED.fetch_add(1, Ordering::Relaxed);
        match waker::tid() {
            0 => Ok(()),
            tid => set_affinity(tid, &mask),
        }
    }

    /// Runs anywhere that the process may.
    fn give_up(&mut self) {
        REFUSED.fetch_add(1, Ordering::Relaxed);
        self.let_go(LATER);
    }

    fn let_go(&mut self, look_after: u32) {
        self.left = look_after;
        if self.here.take().is_some() {
            let _ = set_affinity(0, &[u64::MAX; _]);
        }
    }
}

fn set_affinity(tid: i32, mask: &Mask) -> Result<(), Errno> {
    let args = [tid as usize, size_of_val(mask), mask.as_ptr() as usize];
    // SAFETY: pointer and length of a live mask; the thread is one of tmem's own.
    unsafe { call(libc::SYS_sched_setaffinity, args) }.map(drop)
}

fn current_processor() -> Option<usize> {
    let mut processor = 0u32;
    // SAFETY: one live word; no node is asked for.
    unsafe { call(libc::SYS_getcpu, [&raw mut processor as usize, 0, 0]) }.ok()?;
    usize::try_from(processor).ok()
}

fn is_tied(tid: i32) -> bool {
    let mut mask: Mask = [0; _];
    let args = [tid as usize, size_of_val(&mask), mask.as_mut_ptr() as usize];
    // SAFETY: pointer and length of a live mask.
    let got = unsafe { call(libc::SYS_sched_getaffinity, args) };
    got.is_ok() && mask.iter().map(|word| word.count_ones()).sum::<u32>() == 1
}

/// The processor that a thread of this process ran on last.
fn processor_of(tid: i32) -> Option<usize> {
    let mut path = *b"/proc/self/task/0000000000/stat\0";
    let mut rest = u32::try_from(tid).ok()?;
    for digit in path[16..26].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    // The kernel knows a thread's directory by the number without zeros in front.
    let zeros = path[16..25].iter().take_while(|&&b| b == b'0').count();
    path.copy_within(16 + zeros.., 16);
    let how = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
    let args = [libc::AT_FDCWD as usize, path.as_ptr() as usize, how, 0];
    // SAFETY: the path ends with a zero byte.
    let fd = unsafe { call(libc::SYS_openat, args) }.ok()?;
    let mut text = [0u8; 1024];
    // SAFETY: pointer and length of a live buffer.
    let got = unsafe { call(libc::SYS_read, [fd, text.as_mut_ptr() as usize, text.len()]) };
    close(fd as i32);
    processor_in(&text[..got.ok()?])
}

/// The 39th field of a `stat` file; the second may have spaces and brackets in it.
fn processor_in(stat: &[u8]) -> Option<usize> {
    let name_end = stat.iter().rposition(|&b| b == b')')?;
    let field = stat.get(name_end + 2..)?.split(|&b| b == b' ').nth(36)?;
    std::str::from_utf8(field).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscall::gettid;

    #[test]
    fn the_processor_of_a_thread_is_read_whatever_its_name() {
        let here = processor_of(gettid()).unwrap();
        assert!(here < 4096);
        assert_eq!(processor_of(i32::MAX), None);
        let fields: Vec<String> = (4..53).map(|field| field.to_string()).collect();
        let stat = format!("7 (a ) b) S {}\n", fields.join(" "));
        assert_eq!(processor_in(stat.as_bytes()), Some(39), "each field here is its own number");
        assert_eq!(processor_in(b"7 (x) S 1"), None);
    }

    #[test]
    fn a_thread_that_moved_is_followed_and_two_that_alternate_are_not() {
        let mut f = Follow::new();
        assert!(f.decide(0));
        f.here = Some(0);
        assert_eq!([1, 1, 1].map(|cpu| f.decide(cpu)), [false, false, true]);
        f.here = Some(0);
        f.seen = 0;
        for _ in 0..100 {
            assert!(!f.decide(1) && !f.decide(1) && !f.decide(0));
        }
    }

    /// Where it can run anywhere, it says so.
    #[test]
    fn the_thread_that_follows_runs_where_the_other_ran() {
        let tid = gettid();
        std::thread::spawn(move || {
            let mut f = Follow::new();
            let (before, _) = counts();
            f.note(tid, false);
            assert!(f.here.is_some() && counts().0 > before);
            assert!(is_tied(gettid()), "one processor only");
            f.give_up();
            assert!(f.here.is_none() && !f.wants_waker());
        })
        .join()
        .unwrap();
    }
}

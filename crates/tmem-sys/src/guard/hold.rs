// SPDX-License-Identifier: Apache-2.0
//! The pages one system call keeps present while it runs. Called by all parts that issue calls; lives on the stack of the call.
//!
//! Law: whatever was held is released exactly once. Usually that is when the call is over; but a signal handler of the program
//! may leave by `longjmp` and never come back to it, and a thread may end inside one. So each hold is kept in a table outside
//! the stack, with the thread and the stack address it belongs to: what lies below the stack pointer of a thread's next call is
//! dead. A process that borrows this memory until it executes another program never comes back to that call either; the thread
//! that waited for it ends its holds. The table is lock-free; a record belongs to whoever moved its `call` to `BUSY`.

use super::{HOLDS, count, hooks};
use crate::syscall::{call, gettid};
use crate::{PAGE_SIZE, ThreadKey};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Holds of all calls at once.
const RECORDS: usize = 16384;
const FREE: u64 = 0;
const BUSY: u64 = 1;
/// The end of a call's list, whose links are one more than the record's number: a table that begins as zeros takes no room in a file.
const END: u32 = 0;
/// Further above a record's address a stack pointer is on some other stack.
const ONE_STACK: usize = 1 << 20;

/// Less than a signal's frame takes: a call from no further below is not one of a handler that came between.
const NEAR: usize = 640;

struct Record {
    /// Which call it belongs to, or one of the states above.
    call: AtomicU64,
    tid: AtomicU32,
    next: AtomicU32,
    frame: AtomicUsize,
    /// What the hold is released by, or the address of a room.
    token: AtomicU64,
    /// Bytes of a room, 0 for a hold.
    room: AtomicUsize,
    /// Where its thread counts it as live.
    place: AtomicU32,
}

impl Record {
    const fn new() -> Record {
        Record {
            call: AtomicU64::new(FREE),
            tid: AtomicU32::new(0),
            next: AtomicU32::new(END),
            frame: AtomicUsize::new(0),
            token: AtomicU64::new(0),
            room: AtomicUsize::new(0),
            place: AtomicU32::new(0),
        }
    }

    fn free(&self) {
        let place = self.place.load(Ordering::Relaxed);
        self.call.store(FREE, Ordering::Release);
        LIVE[place as usize].fetch_sub(1, Ordering::AcqRel);
    }

    fn take(&self, from: u64) -> bool {
        self.call.compare_exchange(from, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Ends the hold of a record that was taken, or unmaps its room.
    fn end(&self) {
        let token = self.token.load(Ordering::Relaxed);
        let room = self.room.swap(0, Ordering::Relaxed);
        self.free();
        if room != 0 {
            // SAFETY: the mapping is the room's, which nobody knows of but the call that has ended.
            let _ = unsafe { call(libc::SYS_munmap, [token as usize, room]) };
        } else if let Some(hooks) = hooks() {
            (hooks.release)(token);
        }
    }
}

static TABLE: [Record; RECORDS] = [const { Record::new() }; RECORDS];
/// Live records of the threads whose key falls in the place: a thread that has none of its own looks no further.
static LIVE: [AtomicU32; PLACES] = [const { AtomicU32::new(0) }; PLACES];
const PLACES: usize = 1024;
/// No record at or above this was ever in use. Never lowered: a claim under way elsewhere would be lost from sight.
static HIGH: AtomicUsize = AtomicUsize::new(0);
static NEXT_CALL: AtomicU64 = AtomicU64::new(BUSY + 1);

/// The holds of one call. Released when dropped.
pub(super) struct Holds {
    call: u64,
    tid: u32,
    head: u32,
    /// Where the next search for a free record starts.
    from: usize,
    /// The pages held last, and whether they may be written to: much that a call names lies side by side.
    last: (usize, usize, bool),
}

impl Holds {
    pub(super) fn new() -> Holds {
        Holds { call: FREE, tid: 0, head: END, from: 0, last: (0, 0, false) }
    }

    /// Makes the paged part of a range present. True if all of it is held now, or none of it is paged.
    pub(super) fn range(&mut self, addr: usize, len: usize, write: bool) -> bool {
        self.prefix(addr, len, write) == len
    }

    /// As [`Holds::range`], but answers how many bytes from the start may be used.
    pub(super) fn prefix(&mut self, addr: usize, len: usize, write: bool) -> usize {
        let Some(hooks) = hooks() else { return len };
        let reach = len.min(usize::MAX - addr);
        if reach == 0 || !(hooks.owns)(addr, reach) {
            return len;
        }
        let (first, end, writes) = self.last;
        if addr >= first && addr + reach <= end && (writes || !write) {
            return len;
        }
        let Some((index, record)) = self.claim() else { return 0 };
        count(&HOLDS);
        let answer = (hooks.hold)(addr, reach, write);
        self.note(index, record, answer.token);
        let part = answer.held_len < reach;
        let held = if part { answer.held_len } else { reach };
        if held <= ONE_STACK {
            let end = addr + held;
            self.last =
                (addr & !(PAGE_SIZE - 1), if part { end } else { end.next_multiple_of(PAGE_SIZE) }, write);
        }
        if part { held } else { len }
    }

    /// Room outside paged memory that goes with the holds; only what is written to takes memory. None: no record, no room.
    pub(super) fn room(&mut self, len: usize) -> Option<usize> {
        let (index, record) = self.claim()?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping where the kernel likes.
        match unsafe { call(libc::SYS_mmap, [0, len, prot as usize, flags as usize, usize::MAX, 0]) } {
            Ok(addr) => {
                record.room.store(len, Ordering::Relaxed);
                self.note(index, record, addr as u64);
                Some(addr)
            }
            Err(_) => {
                record.free();
                None
            }
        }
    }

    /// Fills in a record that was claimed.
    fn note(&mut self, index: usize, record: &Record, token: u64) {
        record.tid.store(self.tid, Ordering::Relaxed);
        record.next.store(self.head, Ordering::Relaxed);
        record.frame.store(core::ptr::from_ref(self) as usize, Ordering::Relaxed);
        record.token.store(token, Ordering::Relaxed);
        record.call.store(self.call, Ordering::Release);
        self.head = index as u32 + 1;
    }

    /// Takes a free record.
    fn claim(&mut self) -> Option<(usize, &'static Record)> {
        if self.call == FREE {
            self.call = NEXT_CALL.fetch_add(1, Ordering::Relaxed);
            self.tid = gettid() as u32;
        }
        let index = (self.from..RECORDS)
            .find(|&i| TABLE[i].call.load(Ordering::Relaxed) == FREE && TABLE[i].take(FREE))?;
        let place = place();
        LIVE[place].fetch_add(1, Ordering::AcqRel);
        TABLE[index].place.store(place as u32, Ordering::Relaxed);
        HIGH.fetch_max(index + 1, Ordering::AcqRel);
        self.from = index + 1;
        Some((index, &TABLE[index]))
    }

    /// Ends all holds.
    pub(super) fn release(&mut self) {
        while let Some(record) = (self.head as usize).checked_sub(1).and_then(|i| TABLE.get(i)) {
            let next = record.next.load(Ordering::Relaxed);
            if !record.take(self.call) {
                // Not ours any more: the call was taken for dead, and all its holds were ended.
                break;
            }
            record.end();
            self.head = next;
        }
        self.head = END;
        self.from = 0;
        self.last = (0, 0, false);
    }

    /// Leaves the holds to end with the thread's next call: the one at hand is made after the handler has returned to a program
    /// whose stack pointer is `stack`.
    pub(super) fn linger(self, stack: usize) {
        let records = used().filter(|r| r.call.load(Ordering::Acquire) == self.call);
        records.for_each(|r| r.frame.store(stack - NEAR, Ordering::Relaxed));
        core::mem::forget(self);
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        if self.head != END {
            self.release();
        }
    }
}

/// Ends the holds of calls that this thread has left behind: they are below its stack pointer. Costs one load when it holds nothing.
pub(super) fn reclaim(stack: usize) {
    if LIVE[place()].load(Ordering::Relaxed) == 0 {
        return;
    }
    let below = |frame: usize| frame < stack && stack - frame < ONE_STACK;
    if used().any(|r| below(r.frame.load(Ordering::Relaxed))) {
        let tid = gettid() as u32;
        end_where(|r| r.tid.load(Ordering::Relaxed) == tid && below(r.frame.load(Ordering::Relaxed)));
    }
}

/// Ends the holds of the calls of a thread that is about to end, or of a borrower that has gone.
pub(super) fn reclaim_thread(tid: i32) {
    end_where(|r| r.tid.load(Ordering::Relaxed) == tid as u32);
}

/// In a forked child: the calls went on in the parent.
pub(super) fn reclaim_after_fork() {
    end_where(|_| true);
}

/// Where the calling thread counts its records. A process that borrows this memory counts with the thread that lends it.
fn place() -> usize {
    let key = ThreadKey::current().bits();
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % PLACES
}

fn used() -> impl Iterator<Item = &'static Record> {
    TABLE[..HIGH.load(Ordering::Relaxed).min(RECORDS)]
        .iter()
        .filter(|r| r.call.load(Ordering::Acquire) > BUSY)
}

fn end_where(dead: impl Fn(&Record) -> bool) {
    for record in used() {
        let call = record.call.load(Ordering::Acquire);
        if call > BUSY && dead(record) && record.take(call) {
            record.end();
        }
    }
}

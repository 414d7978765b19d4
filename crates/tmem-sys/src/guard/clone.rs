// SPDX-License-Identifier: Apache-2.0
//! `clone`, `clone3`, `fork` and `vfork`. They cannot be issued from the handler: the child would return into its frame, which a new
//! stack does not have and a shared one loses. So the program is sent on to a landing place in the stub, which makes the call on
//! the program's own stack and registers and jumps back. Called by `trap`. No locks: a slot is claimed by compare and swap.
//!
//! A new thread arms itself before its first instruction of its own, and so does a process that borrows this memory (`vfork`,
//! `posix_spawn`): it uses paged memory as its maker does, in system calls and out of them. It is no thread of this process and
//! never counted as one. A process with a copy of this memory runs unguarded until the at-fork handler arms it.
//!
//! A borrower has a table of signal actions of its own, into which ours are put, and shares everything else: the guard's tables,
//! what the program believes its actions are, the thread pointer of the thread that waits for it. What it leaves behind when it
//! executes another program or is ended, the thread that waited for it clears away.

use super::frame::Frame;
use super::hold::{self, Holds};
use super::ordinary::{self, Args, issue};
use super::{hooks, refuse, standing, threads, user};
use crate::PAGE_SIZE;
use crate::stub::{self, Born};
use crate::syscall::gettid;
use core::ops::Range;
use core::sync::atomic::Ordering;

const NO_SLOT: &str = "a clone was refused: it is called from more places in the program than the system call guard keeps; \
     create threads and processes through the C library";

const STACK: &str = "a clone was refused with EAGAIN: the new thread's stack lies in paged memory, where the guard's signals cannot reach it; \
     let the C library make the stack, or map it with MAP_STACK";
const NO_ACTIONS: &str = "a clone3 was refused with EINVAL: CLONE_VM with CLONE_CLEAR_SIGHAND makes a process that uses paged memory without the \
     signal handlers that serve it; add CLONE_VFORK, or leave CLONE_CLEAR_SIGHAND out";
/// `CLONE_CLEAR_SIGHAND`.
const CLEAR_SIGHAND: u64 = 1 << 32;

/// Sends the program on to its landing place, or answers what the call gives at once.
pub(super) fn call(frame: &mut Frame, nr: usize) -> Option<isize> {
    let (flags, stack) = request(frame, nr);
    let has = |flag: i32| flags & flag as u64 != 0;
    let born = match (has(libc::CLONE_VM), has(libc::CLONE_VFORK)) {
        (true, true) => Born::Borrower,
        (true, false) if flags & CLEAR_SIGHAND != 0 => return Some(refuse(libc::EINVAL, NO_ACTIONS)),
        (true, false) => Born::Thread,
        (false, _) => Born::Copy,
    };
    if !stack.is_empty() && hooks().is_some_and(|h| (h.owns)(stack.start, stack.len())) {
        return Some(refuse(libc::EAGAIN, STACK));
    }
    let back = frame.pc();
    match slot(back) {
        Some(i) => {
            let mut holds = Holds::new();
            if !hold_named(&mut holds, frame.args(), nr) {
                return Some(refuse(libc::EAGAIN, ordinary::TOO_LARGE));
            }
            holds.linger(frame.stack());
            frame.set_pc(stub::landing(i, born));
            None
        }
        // A child with a copy of everything, this frame included, may return through it.
        None if born == Born::Copy && stack.is_empty() => Some(issue(nr, frame.args())),
        None => Some(refuse(libc::EAGAIN, NO_SLOT)),
    }
}

/// What a borrower did not get to release: it has executed another program, or was ended.
pub(super) fn goodbye(borrower: usize) -> isize {
    if let Ok(tid @ 1..) = i32::try_from(borrower) {
        hold::reclaim_thread(tid);
        standing::end_borrower(tid);
    }
    0
}

/// A thread that unmaps its own stack has no place for another signal frame: it leaves the guard and goes on natively to its end.
pub(super) fn without_stack(frame: &mut Frame) -> Option<isize> {
    hold::reclaim_thread(gettid());
    standing::leave(gettid());
    threads::leave();
    frame.run_again();
    None
}

/// The flags of the call, and what is known of the stack that the child gets for itself.
fn request(frame: &Frame, nr: usize) -> (u64, Range<usize>) {
    let a = frame.args();
    match nr as libc::c_long {
        libc::SYS_fork => (0, 0..0),
        libc::SYS_vfork => ((libc::CLONE_VM | libc::CLONE_VFORK) as u64, 0..0),
        libc::SYS_clone => (a[0] as u64, a[1].saturating_sub(1)..a[1]),
        // `struct clone_args`: the flags come first, the stack sixth, its size after it. What cannot be read, the kernel refuses.
        _ => user::read::<[u64; 7]>(a[0]).map_or((0, 0..0), |args| {
            (args[0], args[5] as usize..(args[5] as usize).saturating_add(args[6] as usize))
        }),
    }
}

/// Holds what the call names: the kernel reads it when the handler has gone.
fn hold_named(holds: &mut Holds, a: Args, nr: usize) -> bool {
    match nr as libc::c_long {
        libc::SYS_clone => holds.range(a[2], 4, true) && holds.range(a[3], 4, true),
        libc::SYS_clone3 => {
            let named = user::read::<[u64; 8]>(a[0]);
            // Of `struct clone_args`: after the flags pidfd, child_tid, parent_tid.
            let places = named.iter().flat_map(|args| &args[1..4]);
            holds.range(a[0], a[1].min(PAGE_SIZE), false)
                && places.into_iter().all(|&place| holds.range(place as usize, 4, true))
        }
        _ => true,
    }
}

/// The slot that returns to `back`, claimed on first use.
fn slot(back: usize) -> Option<usize> {
    for (i, slot) in stub::return_slots().iter().enumerate() {
        let now = slot.load(Ordering::Acquire);
        if now == back {
            return Some(i);
        }
        if now == 0 {
            match slot.compare_exchange(0, back, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(i),
                Err(other) if other == back => return Some(i),
                Err(_) => {}
            }
        }
    }
    None
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the program's break, the end of the heap that `malloc` grows. It begins as the kernel's; when it has grown by some MiB it
//! goes on in the arena: `malloc` takes a break that is somewhere else for one that another has moved. A program that moves the
//! break by itself may count on its growing in one piece: for it the kernel's goes on. Caller: `hooks`, with signals blocked.
//! Lock order: this, then the pager's.

use crate::door::{self, Door, door_for};
use crate::{patch, space};
use std::ops::Range;
use tmem_sys::syscall::call;
use tmem_sys::{Errno, Lock, PAGE_SIZE};

unsafe extern "C" {
    /// The C library's own note of the break.
    static mut __curbrk: usize;
}

/// The heap in the arena: what is reserved for it, and the break.
struct Heap {
    room: Range<usize>,
    now: usize,
}

static HEAP: Lock<Option<Heap>> = Lock::new(None);

/// Address space of the heap: what the program maps otherwise must find room, too.
const SHARE_OF_ARENA: usize = 8;

/// `brk`.
///
/// # Errors
/// `ENOMEM`.
pub fn change(to: usize) -> Result<(), Errno> {
    let mut heap = HEAP.lock();
    match &mut *heap {
        Some(heap) if to == 0 => note(heap.now),
        Some(heap) => heap.set(to)?,
        None => native(to)?,
    }
    Ok(())
}

/// `sbrk`, called from `caller`: the break as it was, or where the new memory begins.
///
/// # Errors
/// `ENOMEM`.
pub fn grow(by: isize, caller: usize) -> Result<usize, Errno> {
    let mut heap = HEAP.lock();
    if heap.is_none() && by > 0 && patch::is_libc(caller) {
        *heap = begin(by as usize);
    }
    if let Some(heap) = &mut *heap {
        let before = heap.now;
        heap.set(before.checked_add_signed(by).ok_or(Errno::ENOMEM)?)?;
        return Ok(before);
    }
    let before = match now() {
        0 => native(0).map(|()| now())?,
        known => known,
    };
    if by != 0 {
        native(before.checked_add_signed(by).ok_or(Errno::ENOMEM)?)?;
    }
    Ok(before)
}

/// A heap in the arena, where the kernel's has grown enough.
fn begin(by: usize) -> Option<Heap> {
    let door = door_for(by)?;
    let len = (door.arena.len() / SHARE_OF_ARENA).next_multiple_of(PAGE_SIZE);
    let start = door.pager.reserve(len, PAGE_SIZE).ok()?;
    note(start);
    Some(Heap { room: start..start + len, now: start })
}

impl Heap {
    fn set(&mut self, to: usize) -> Result<(), Errno> {
        let door: &Door = door::door().ok_or(Errno::ENOMEM)?;
        if to < self.room.start || to > self.room.end {
            return Err(Errno::ENOMEM);
        }
        let (had, has) = (self.now.next_multiple_of(PAGE_SIZE), to.next_multiple_of(PAGE_SIZE));
        if has > had {
            space::commit(door, had..has)?;
        } else if has < had {
            door.pager.decommit(has, had - has).map_err(|e| door::errno(&e))?;
        }
        self.now = to;
        note(to);
        Ok(())
    }
}

/// The kernel's break.
fn native(to: usize) -> Result<(), Errno> {
    // SAFETY: the program's own wish; beyond the break lies nothing of ours.
    let end = unsafe { call(libc::SYS_brk, [to]) }?;
    note(end);
    if end < to { Err(Errno::ENOMEM) } else { Ok(()) }
}

fn note(end: usize) {
    // SAFETY: the C library reads and writes it in `brk` and `sbrk` alone, which are ours; under the lock.
    unsafe { __curbrk = end };
}

fn now() -> usize {
    // SAFETY: as in `note`.
    unsafe { __curbrk }
}

/// Before a fork.
pub fn pause() {
    HEAP.lock().keep_across_fork();
}

/// After it, in parent and child.
pub fn resume() {
    drop(HEAP.reclaim());
}

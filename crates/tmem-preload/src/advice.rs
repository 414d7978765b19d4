// SPDX-License-Identifier: Apache-2.0
//! Owns: `madvise`, `mlock` and `mincore` on managed memory. Caller: `hooks`, with signals blocked (but for `resident`, which
//! blocks them itself). Locks: the pager's alone.

use crate::door::{self, Door, errno, parts, touches_arena};
use crate::refusal::{self, Refusal};
use crate::space::{pages, runs};
use crate::{forks, rlimit};
use core::ffi::c_int;
use std::ops::Range;
use tmem_pager::{Advice, Kind, Pattern};
use tmem_sys::signals::Blocked;
use tmem_sys::syscall::call;
use tmem_sys::{Errno, PAGE_SIZE};

const DONTNEED_LOCKED: c_int = 24;
const COLD: c_int = 20;
const PAGEOUT: c_int = 21;
const POPULATE_READ: c_int = 22;
const POPULATE_WRITE: c_int = 23;
const COLLAPSE: c_int = 25;

/// `madvise`.
///
/// # Errors
/// The kernel's; `EINVAL` for what managed memory does not know.
pub fn advise(at: usize, len: usize, advice: c_int) -> Result<(), Errno> {
    let range = pages(at, len).map_err(|_| Errno::EINVAL)?;
    if range.is_empty() || !touches_arena(&range) {
        return native(&range, advice);
    }
    let mut absent = false;
    for (part, door) in parts(range) {
        let Some(door) = door else {
            native(&part, advice)?;
            continue;
        };
        for (run, kind) in runs(door, part) {
            match kind {
                Kind::Managed => managed(door, &run, advice)?,
                Kind::LetGo => native(&run, advice)?,
                Kind::Reserved => {}
                // As the kernel: what is mapped is advised, and the hole is told of.
                Kind::Unmapped => absent = true,
            }
        }
    }
    if absent { Err(Errno::ENOMEM) } else { Ok(()) }
}

fn managed(door: &Door, run: &Range<usize>, advice: c_int) -> Result<(), Errno> {
    let (at, len) = (run.start, run.len());
    let told = |e| errno(&e);
    match advice {
        // What may be freed at any time may be freed at once.
        libc::MADV_DONTNEED | libc::MADV_FREE | DONTNEED_LOCKED => door.pager.discard(at, len).map_err(told),
        libc::MADV_WILLNEED | POPULATE_READ | POPULATE_WRITE => door.pager.prefetch(at, len).map_err(told),
        libc::MADV_NORMAL => door.pager.advise(at, len, Advice::Pattern(Pattern::Normal)).map_err(told),
        libc::MADV_SEQUENTIAL => {
            door.pager.advise(at, len, Advice::Pattern(Pattern::Sequential)).map_err(told)
        }
        libc::MADV_RANDOM => door.pager.advise(at, len, Advice::Pattern(Pattern::Random)).map_err(told),
        COLD | PAGEOUT => door.pager.advise(at, len, Advice::Cold).map_err(told),
        libc::MADV_DONTFORK => forks::mark(run, forks::Rule::Absent),
        libc::MADV_WIPEONFORK => forks::mark(run, forks::Rule::Wiped),
        libc::MADV_DOFORK | libc::MADV_KEEPONFORK => {
            forks::forget(run);
            Ok(())
        }
        // Hints about pages of which the pager has its own opinion, and about dumps, which never hold managed memory.
        libc::MADV_HUGEPAGE | libc::MADV_NOHUGEPAGE | COLLAPSE | libc::MADV_DONTDUMP | libc::MADV_DODUMP => {
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    }
}

fn native(range: &Range<usize>, advice: c_int) -> Result<(), Errno> {
    // SAFETY: the program's own memory, by its own wish.
    unsafe { call(libc::SYS_madvise, [range.start, range.len(), advice as usize]) }.map(drop)
}

/// The pages that a range of bytes reaches into.
fn covered(at: usize, len: usize) -> Result<Range<usize>, Errno> {
    let start = at & !(PAGE_SIZE - 1);
    let end = at.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE_SIZE));
    Ok(start..end.ok_or(Errno::EINVAL)?)
}

/// `mlock2`.
///
/// # Errors
/// The kernel's; `ENOMEM` also where the budget cannot spare so much.
pub fn lock(at: usize, len: usize, flags: c_int) -> Result<(), Errno> {
    const ONFAULT: c_int = 1;
    if flags & !ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    for (part, door) in parts(covered(at, len)?) {
        match door {
            Some(door) => lock_part(door, &part)?,
            // SAFETY: the program's own memory, by its own wish.
            None => drop(unsafe { call(libc::SYS_mlock2, [part.start, part.len(), flags as usize]) }?),
        }
    }
    Ok(())
}

fn lock_part(door: &Door, part: &Range<usize>) -> Result<(), Errno> {
    if runs(door, part.clone()).any(|(_, kind)| kind == Kind::Unmapped) {
        return Err(Errno::ENOMEM);
    }
    if let Some(limit) = rlimit::lockable()
        && door.pager.locked_with(part.start, part.len()).map_err(|e| errno(&e))? as u64 > limit
    {
        return Err(if limit == 0 { Errno::EPERM } else { Errno::ENOMEM });
    }
    for (run, kind) in runs(door, part.clone()) {
        match kind {
            Kind::Managed => {
                door.pager.lock(run.start, run.len()).map_err(|e| refusal::answer(Refusal::Lock, &e))?;
            }
            // SAFETY: the program's own memory, by its own wish.
            Kind::LetGo => drop(unsafe { call(libc::SYS_mlock, [run.start, run.len()]) }?),
            Kind::Reserved | Kind::Unmapped => return Err(Errno::ENOMEM),
        }
    }
    Ok(())
}

/// `munlock`.
///
/// # Errors
/// The kernel's.
pub fn unlock(at: usize, len: usize) -> Result<(), Errno> {
    for (part, door) in parts(covered(at, len)?) {
        let Some(door) = door else {
            // SAFETY: the program's own memory, by its own wish.
            unsafe { call(libc::SYS_munlock, [part.start, part.len()]) }?;
            continue;
        };
        for (run, kind) in runs(door, part) {
            match kind {
                Kind::Managed => {
                    door.pager.unlock(run.start, run.len()).map_err(|e| errno(&e))?;
                }
                // SAFETY: as above.
                Kind::LetGo => drop(unsafe { call(libc::SYS_munlock, [run.start, run.len()]) }?),
                Kind::Reserved => {}
                Kind::Unmapped => return Err(Errno::ENOMEM),
            }
        }
    }
    Ok(())
}

/// `mlockall`: where there is a pager it is refused, since most of what is mapped could not stay in the budget.
///
/// # Errors
/// The kernel's; `ENOMEM`.
pub fn lock_all(flags: c_int) -> Result<(), Errno> {
    const KNOWN: c_int = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    if flags & !KNOWN != 0 || flags & !libc::MCL_ONFAULT == 0 {
        return Err(Errno::EINVAL);
    }
    // A process that wants all its memory locked gets no pager later.
    if door::door().is_some() || !door::give_up() {
        return Err(refusal::refuse(Refusal::LockAll));
    }
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_mlockall, [flags as usize]) }.map(drop)
}

/// `munlockall`.
///
/// # Errors
/// The kernel's.
pub fn unlock_all() -> Result<(), Errno> {
    if let Some(door) = door::door() {
        door.pager.unlock_all().map_err(|e| errno(&e))?;
    }
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_munlockall, []) }.map(drop)
}

/// `mincore`.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// `answer` has a byte for each page.
pub unsafe fn resident(at: usize, len: usize, answer: *mut u8) -> Result<(), Errno> {
    const CHUNK: usize = 512;
    let range = pages(at, len)?;
    let mut bytes = [0u8; CHUNK];
    let mut from = range.start;
    while from < range.end {
        let chunk = from..range.end.min(from + CHUNK * PAGE_SIZE);
        let n = chunk.len() / PAGE_SIZE;
        resident_chunk(chunk.clone(), &mut bytes[..n])?;
        // No lock is held here: the answer may be paged memory itself.
        for (i, byte) in bytes[..n].iter().enumerate() {
            // SAFETY: passed on to the caller.
            unsafe { answer.add((from - range.start) / PAGE_SIZE + i).write(*byte) };
        }
        from = chunk.end;
    }
    Ok(())
}

fn resident_chunk(chunk: Range<usize>, answer: &mut [u8]) -> Result<(), Errno> {
    let _blocked = Blocked::new();
    let start = chunk.start;
    for (part, door) in parts(chunk) {
        let runs: Box<dyn Iterator<Item = (Range<usize>, Kind)>> = match door {
            Some(door) => Box::new(runs(door, part)),
            None => Box::new(std::iter::once((part, Kind::LetGo))),
        };
        for (run, kind) in runs {
            let bytes = &mut answer[(run.start - start) / PAGE_SIZE..(run.end - start) / PAGE_SIZE];
            match (kind, door) {
                (Kind::Managed, Some(door)) => {
                    door.pager.resident(run.start, bytes).map_err(|e| errno(&e))?
                }
                (Kind::Reserved, _) => bytes.fill(0),
                (Kind::Unmapped, _) => return Err(Errno::ENOMEM),
                // SAFETY: a live slice with a byte for each page of the range.
                _ => drop(unsafe {
                    call(libc::SYS_mincore, [run.start, run.len(), bytes.as_mut_ptr() as usize])
                }?),
            }
        }
    }
    Ok(())
}

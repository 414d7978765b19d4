// SPDX-License-Identifier: Apache-2.0
//! Owns: which mappings are the pager's and which the kernel's, and what becomes of either when they are mapped over, protected
//! or unmapped. Caller: `hooks`, with signals blocked. Locks: none of its own; the pager takes its own.
//!
//! Private anonymous memory that may be read and written is managed, and so are reservations that will become such. All else
//! is the kernel's: files, shared memory, code, stacks. A managed range that becomes something else is let go, with its contents.

use crate::door::{Door, LARGE, door_for, errno, parts, touches_arena};
use crate::marks::Marks;
use crate::refusal::{self, Refusal};
use crate::{early, forks, ledger, rlimit};
use core::ffi::c_int;
use std::ops::Range;
use tmem_pager::Kind;
use tmem_sys::syscall::{self, call};
use tmem_sys::{Errno, PAGE_SIZE};

pub use crate::advice::{advise, lock, lock_all, resident, unlock, unlock_all};
pub use crate::remap::remap;

/// The arguments of `mmap`.
pub struct Wish {
    pub at: usize,
    pub len: usize,
    pub prot: c_int,
    pub flags: c_int,
    pub fd: c_int,
    pub offset: i64,
}

pub const READ_WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;
const FIXED: c_int = libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE;
/// Memory for which the kernel has a manner of its own. Stacks are not paged (law 16).
const OWN_MANNER: c_int =
    libc::MAP_STACK | libc::MAP_GROWSDOWN | libc::MAP_HUGETLB | libc::MAP_32BIT | libc::MAP_LOCKED;

impl Wish {
    /// Whether it is for memory of the kind that is managed.
    fn is_plain(&self) -> bool {
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        self.flags & (kind | libc::MAP_SHARED | OWN_MANNER) == kind
            && (self.prot == READ_WRITE || self.prot == libc::PROT_NONE)
    }

    /// Asks the kernel whether it would, by doing it elsewhere for a moment: a call that fails must leave what was there.
    fn rehearse(&self) -> Result<(), Errno> {
        let flags = self.flags & !(FIXED | libc::MAP_POPULATE | libc::MAP_LOCKED);
        let at = Wish { at: 0, flags, ..*self }.native()?;
        native_unmap(at, self.len)
    }

    /// Has the kernel do it.
    fn native(&self) -> Result<usize, Errno> {
        let (prot, flags) = (self.prot as usize, self.flags as usize);
        // SAFETY: the program's own wish. Where it maps over something, that is the program's, or was let go before.
        unsafe {
            call(libc::SYS_mmap, [self.at, self.len, prot, flags, self.fd as usize, self.offset as usize])
        }
    }
}

/// `mmap`.
///
/// # Errors
/// The kernel's; `ENOMEM` also where the budget has no room.
pub fn map(wish: &Wish) -> Result<usize, Errno> {
    let Some(len) = wish.len.checked_next_multiple_of(PAGE_SIZE).filter(|&len| len > 0) else {
        return wish.native();
    };
    if !(wish.offset as usize).is_multiple_of(PAGE_SIZE) {
        return wish.native();
    }
    if wish.flags & FIXED != 0 {
        return map_fixed(wish, len);
    }
    if wish.is_plain() && len >= LARGE {
        // What is only reserved now will grow: it must be in the arena from the start.
        let counts = if wish.prot == libc::PROT_NONE { usize::MAX } else { len };
        if let Some(door) = door_for(counts) {
            if let Some(at) = map_managed(door, wish, len)? {
                return Ok(at);
            }
        } else if wish.prot == READ_WRITE {
            return wish.native().inspect(|&at| early::note(at..at + len));
        }
    }
    wish.native()
}

/// Maps in the arena; `None` where that has no room, or the tables would take too much of the budget.
fn map_managed(door: &Door, wish: &Wish, len: usize) -> Result<Option<usize>, Errno> {
    if wish.prot == libc::PROT_NONE {
        return Ok(door.pager.reserve(len, PAGE_SIZE).ok());
    }
    if !rlimit::permits(len, door.pager.committed()) {
        return Err(Errno::ENOMEM);
    }
    ledger::make_room(door, len);
    match door.pager.map(len) {
        Ok(at) => {
            if wish.flags & libc::MAP_POPULATE != 0 {
                let _ = door.pager.prefetch(at, len);
            }
            Ok(Some(at))
        }
        // A mapping that is never filled may well be of many times the budget.
        Err(_) if len / SPARSE >= door.pager.ram() => Ok(None),
        Err(why) => Err(refusal::answer(Refusal::Map, &why)),
    }
}

/// Mappings of so many budgets are taken to be used here and there only.
const SPARSE: usize = 16;

fn map_fixed(wish: &Wish, len: usize) -> Result<usize, Errno> {
    let range = wish.at..wish.at.checked_add(len).ok_or(Errno::ENOMEM)?;
    if !touches_arena(&range) || !wish.at.is_multiple_of(PAGE_SIZE) {
        return wish.native();
    }
    let Some((_, Some(door))) = parts(range.clone()).next().filter(|(part, _)| *part == range) else {
        // Half in the arena and half outside: nobody has reserved such a range.
        return Err(Errno::ENOMEM);
    };
    if wish.flags & libc::MAP_FIXED_NOREPLACE == libc::MAP_FIXED_NOREPLACE
        && runs(door, range.clone()).any(|(_, kind)| kind != Kind::Unmapped)
    {
        return Err(Errno::EEXIST);
    }
    if !wish.is_plain() {
        wish.rehearse()?;
    }
    forget(&range);
    door.pager.claim(wish.at, len).map_err(|e| errno(&e))?;
    if wish.is_plain() {
        if wish.prot == READ_WRITE {
            commit(door, range)?;
        }
        return Ok(wish.at);
    }
    hand_over(door, &range)?;
    OTHERS.set(&range, ())?;
    wish.native()
}

/// What is mapped in the arena and is no plain memory, and so never comes back to the pager.
pub static OTHERS: Marks<()> = Marks::new();

/// Lets the kernel have a range of extents, with what it holds.
///
/// # Errors
/// `ENOMEM` where the budget cannot spare so much.
pub fn hand_over(door: &Door, range: &Range<usize>) -> Result<(), Errno> {
    door.pager.commit(range.start, range.len()).map_err(|e| errno(&e))?;
    door.pager.let_go(range.start, range.len()).map_err(|e| refusal::answer(Refusal::Protect, &e))
}

/// Notes that nothing of what was noted of a range holds any more.
pub fn forget(range: &Range<usize>) {
    forks::forget(range);
    OTHERS.forget(range);
}

/// Makes reserved memory usable.
///
/// # Errors
/// `ENOMEM`.
pub fn commit(door: &Door, range: Range<usize>) -> Result<(), Errno> {
    if !rlimit::permits(range.len(), door.pager.committed()) {
        return Err(Errno::ENOMEM);
    }
    ledger::make_room(door, range.len());
    door.pager.commit(range.start, range.len()).map_err(|e| refusal::answer(Refusal::Map, &e))
}

/// The runs of one kind in a range of the arena.
pub fn runs(door: &Door, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, Kind)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        (at < range.end).then(|| {
            let (kind, end) = door.pager.run_of(at, range.end);
            let run = at..end;
            at = run.end;
            (run, kind)
        })
    })
}

/// The pages of a range that begins at one.
///
/// # Errors
/// `EINVAL`; `ENOMEM` where there are no such addresses.
pub fn pages(at: usize, len: usize) -> Result<Range<usize>, Errno> {
    if !at.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
    Ok(at..at.checked_add(len).ok_or(Errno::ENOMEM)?)
}

/// `munmap`.
///
/// # Errors
/// The kernel's.
pub fn unmap(at: usize, len: usize) -> Result<(), Errno> {
    let range = pages(at, len).map_err(|_| Errno::EINVAL)?;
    if range.is_empty() || !touches_arena(&range) {
        early::forget(&range);
        return native_unmap(at, len);
    }
    for (part, door) in parts(range) {
        match door {
            Some(door) => {
                forget(&part);
                if part.len() >= LARGE {
                    ledger::note_peak(part.len());
                }
                door.pager.unmap(part.start, part.len()).map_err(|e| errno(&e))?;
            }
            None => native_unmap(part.start, part.len())?,
        }
    }
    Ok(())
}

pub fn native_unmap(at: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: the program's own memory, by its own wish; nothing of ours lies outside the arena at an address it has.
    unsafe { call(libc::SYS_munmap, [at, len]) }.map(drop)
}

/// `mprotect`, or `pkey_mprotect` with a key.
///
/// # Errors
/// The kernel's; `ENOMEM` also where the budget has no room.
pub fn protect(at: usize, len: usize, prot: c_int, key: Option<c_int>) -> Result<(), Errno> {
    let range = pages(at, len)?;
    if range.is_empty() || !touches_arena(&range) {
        return native_protect(range, prot, key);
    }
    for (part, door) in parts(range) {
        let Some(door) = door else {
            native_protect(part, prot, key)?;
            continue;
        };
        for (run, kind) in runs(door, part) {
            protect_run(door, run, kind, prot, key)?;
        }
    }
    Ok(())
}

fn protect_run(
    door: &Door,
    run: Range<usize>,
    kind: Kind,
    prot: c_int,
    key: Option<c_int>,
) -> Result<(), Errno> {
    match kind {
        Kind::Unmapped => Err(Errno::ENOMEM),
        Kind::Reserved if prot == libc::PROT_NONE => Ok(()),
        Kind::Managed if prot == READ_WRITE && key.is_none() => Ok(()),
        Kind::Reserved if prot == READ_WRITE && key.is_none() => commit(door, run),
        // What was never written has nothing to keep: guard pages above all.
        Kind::Managed if prot == libc::PROT_NONE && door.pager.is_fresh(run.start, run.len()) => {
            door.pager.decommit(run.start, run.len()).map_err(|e| errno(&e))
        }
        Kind::Reserved | Kind::Managed => {
            hand_over(door, &run)?;
            native_protect(run, prot, key)
        }
        Kind::LetGo => {
            native_protect(run.clone(), prot, key)?;
            if prot == READ_WRITE && key.is_none() && !OTHERS.touch(&run) {
                return door.pager.adopt(run.start, run.len()).map_err(|e| errno(&e));
            }
            Ok(())
        }
    }
}

fn native_protect(range: Range<usize>, prot: c_int, key: Option<c_int>) -> Result<(), Errno> {
    let (nr, key) = key.map_or((libc::SYS_mprotect, 0), |key| (libc::SYS_pkey_mprotect, key));
    // SAFETY: the program's own memory, by its own wish.
    unsafe { call(nr, [range.start, range.len(), prot as usize, key as usize]) }.map(drop)
}

/// Ends the process.
pub fn end_process(code: c_int) -> ! {
    loop {
        // SAFETY: no pointers; it does not return.
        let _ = unsafe { call(libc::SYS_exit_group, [code as usize]) };
        syscall::sched_yield();
    }
}

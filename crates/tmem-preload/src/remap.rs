// SPDX-License-Identifier: Apache-2.0
//! Owns: `mremap` where either side is in the arena, or comes into it. Caller: `hooks`, with signals blocked. Locks: the pager's.

use crate::door::{Door, LARGE, door, door_for, errno, touches_arena};
use crate::space::{self, READ_WRITE, Wish, pages, runs};
use crate::{early, procfs, rlimit};
use core::ffi::c_int;
use std::ops::Range;
use tmem_pager::Kind;
use tmem_sys::Errno;
use tmem_sys::page::PAGE_SIZE;
use tmem_sys::syscall::{call, die};

/// `mremap`.
///
/// # Errors
/// The kernel's; `ENOMEM` also where the budget has no room.
pub fn remap(at: usize, old: usize, new: usize, flags: c_int, to: usize) -> Result<usize, Errno> {
    let from = pages(at, old).map_err(|_| Errno::EINVAL)?;
    let fixed = flags & libc::MREMAP_FIXED != 0;
    let into = if fixed { pages(to, new).map_err(|_| Errno::EINVAL)? } else { 0..0 };
    let new = new.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EINVAL)?;
    if !is_sound(from.len(), new, flags) || (from.is_empty() && touches_arena(&(at..at + 1))) {
        return Err(Errno::EINVAL);
    }
    match door().filter(|_| touches_arena(&from)) {
        Some(door) => Move { door, from, new, flags, into: fixed.then_some(into) }.run(),
        None if fixed && flags & libc::MREMAP_DONTUNMAP == 0 && can_be_ours(&from, &into) => {
            take_in(&from, &into)
        }
        None if fixed && touches_arena(&into) => {
            // The kernel maps over it, as it would over anything.
            make_way(&into)?;
            native(at, old, new, flags, to)
        }
        None => match grow_into_arena(&from, new, flags) {
            Some(done) => done,
            None => {
                let known = early::is_known(&from);
                early::forget(&from);
                let to = native(at, old, new, flags, to)?;
                if known {
                    early::note(to..to + new);
                }
                Ok(to)
            }
        },
    }
}

/// Whether the kernel would take these, wherever they are.
fn is_sound(old: usize, new: usize, flags: c_int) -> bool {
    const KNOWN: c_int = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    const ADDRESSES: usize = 1 << 47;
    let moves = flags & libc::MREMAP_MAYMOVE != 0;
    let keeps = flags & libc::MREMAP_DONTUNMAP != 0;
    flags & !KNOWN == 0
        && (1..=ADDRESSES).contains(&new)
        && (moves || flags & libc::MREMAP_FIXED == 0)
        && (!keeps || (moves && old == new))
}

/// Whether memory outside the arena may become managed by being moved into it.
fn can_be_ours(from: &Range<usize>, into: &Range<usize>) -> bool {
    let inside = door().is_some_and(|d| into.start >= d.arena.start && into.end <= d.arena.end);
    inside && !from.is_empty() && into.len() >= LARGE && procfs::is_plain(from)
}

/// Moves memory into the arena, over whatever is there.
fn take_in(from: &Range<usize>, into: &Range<usize>) -> Result<usize, Errno> {
    let door = door().ok_or(Errno::ENOMEM)?;
    space::forget(into);
    door.pager.claim(into.start, into.len()).map_err(|e| errno(&e))?;
    if let Err(e) = space::commit(door, into.clone()) {
        let _ = door.pager.unmap(into.start, into.len());
        return Err(e);
    }
    let len = from.len().min(into.len());
    // SAFETY: both are the program's, readable and writable, and do not overlap; no lock is held.
    unsafe { core::ptr::copy_nonoverlapping(from.start as *const u8, into.start as *mut u8, len) };
    space::unmap(from.start, from.len())?;
    Ok(into.start)
}

/// Gives a range of the arena to the kernel, whatever was there.
fn make_way(range: &Range<usize>) -> Result<(), Errno> {
    let door =
        door().filter(|d| range.start >= d.arena.start && range.end <= d.arena.end).ok_or(Errno::ENOMEM)?;
    space::forget(range);
    door.pager.claim(range.start, range.len()).map_err(|e| errno(&e))?;
    if let Err(e) = space::hand_over(door, range) {
        let _ = door.pager.unmap(range.start, range.len());
        return Err(e);
    }
    space::OTHERS.set(range, ())
}

fn native(at: usize, old: usize, new: usize, flags: c_int, to: usize) -> Result<usize, Errno> {
    // SAFETY: the program's own memory, by its own wish.
    unsafe { call(libc::SYS_mremap, [at, old, new, flags as usize, to]) }
}

/// A mapping from before there was a pager grows large: its contents come into the arena. `None` where it is to stay.
fn grow_into_arena(from: &Range<usize>, new: usize, flags: c_int) -> Option<Result<usize, Errno>> {
    if flags != libc::MREMAP_MAYMOVE || new <= from.len() || new < LARGE || !early::is_known(from) {
        return None;
    }
    door_for(new - from.len())?;
    let wish = Wish {
        at: 0,
        len: new,
        prot: READ_WRITE,
        flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        fd: -1,
        offset: 0,
    };
    let at = match space::map(&wish) {
        Ok(at) => at,
        Err(e) => return Some(Err(e)),
    };
    // SAFETY: both are the program's, readable and writable, and do not overlap; no lock is held.
    unsafe { core::ptr::copy_nonoverlapping(from.start as *const u8, at as *mut u8, from.len()) };
    Some(space::unmap(from.start, from.len()).map(|()| at))
}

/// Law 12.
const TORN: &str = "a mapping that was moved in part can be moved neither way";

/// Moves a range that the kernel has over another. The old addresses stay mapped where the kernel can do that, so that nobody
/// else is given them before they are the arena's again.
fn move_native(run: &Range<usize>, to: usize) -> Result<(), Errno> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let kept = native(run.start, run.len(), run.len(), flags | libc::MREMAP_DONTUNMAP, to);
    kept.or_else(|_| native(run.start, run.len(), run.len(), flags, to)).map(drop)
}

/// A mapping of the arena that changes its size or place.
struct Move<'a> {
    door: &'a Door,
    from: Range<usize>,
    new: usize,
    flags: c_int,
    into: Option<Range<usize>>,
}

impl Move<'_> {
    fn run(&self) -> Result<usize, Errno> {
        let pager = &self.door.pager;
        if runs(self.door, self.from.clone()).any(|(_, kind)| kind == Kind::Unmapped) {
            return Err(Errno(libc::EFAULT));
        }
        if !rlimit::permits(self.new.saturating_sub(self.from.len()), pager.committed()) {
            return Err(Errno::ENOMEM);
        }
        if let Some(into) = &self.into {
            if into.start < self.from.end && into.end > self.from.start {
                return Err(Errno::EINVAL);
            }
            return self.to_fixed(into.clone());
        }
        if self.flags & libc::MREMAP_DONTUNMAP != 0 {
            return self.elsewhere();
        }
        if self.new <= self.from.len() {
            let tail = self.from.start + self.new..self.from.end;
            if !tail.is_empty() {
                space::unmap(tail.start, tail.len())?;
            }
            return Ok(self.from.start);
        }
        let more = self.new - self.from.len();
        crate::ledger::make_room(self.door, more);
        if pager.extend(self.from.start, self.from.len(), self.new) {
            return Ok(self.from.start);
        }
        if self.flags & libc::MREMAP_MAYMOVE == 0 {
            return Err(Errno::ENOMEM);
        }
        self.elsewhere()
    }

    /// To an address of our choice.
    fn elsewhere(&self) -> Result<usize, Errno> {
        let to = self.door.pager.reserve(self.new, PAGE_SIZE).map_err(|e| errno(&e))?;
        let done = self.carry(to);
        if done.is_err() {
            let _ = self.door.pager.unmap(to, self.new);
        }
        done
    }

    fn to_fixed(&self, into: Range<usize>) -> Result<usize, Errno> {
        if !touches_arena(&into) {
            return self.out_of_arena(into);
        }
        space::forget(&into);
        self.door.pager.claim(into.start, into.len()).map_err(|e| errno(&e))?;
        let done = self.carry(into.start);
        if done.is_err() {
            // As in the kernel, what was there has gone.
            let _ = self.door.pager.unmap(into.start, into.len());
        }
        done
    }

    /// Carries all runs to reserved memory at `to`, each as what it is, and ends the old mapping. Where that cannot be done, all
    /// is where it was: what may be refused comes before anything moves.
    fn carry(&self, to: usize) -> Result<usize, Errno> {
        let len = self.from.len().min(self.new);
        let (mut managed, mut let_go) = (Vec::new(), Vec::new());
        for (run, kind) in runs(self.door, self.from.start..self.from.start + len) {
            match kind {
                Kind::Managed => managed.push(run),
                Kind::LetGo => let_go.push(run),
                Kind::Reserved | Kind::Unmapped => {}
            }
        }
        if self.new > len {
            self.commit(&(to + len..to + self.new))?;
        }
        self.prepare(to, &managed, &let_go)?;
        let there = |run: &Range<usize>| to + (run.start - self.from.start);
        for (i, run) in managed.iter().enumerate() {
            if let Err(e) = self.shift(run, there(run)) {
                self.bring_back(&managed[..i], there);
                return Err(e);
            }
        }
        for (i, run) in let_go.iter().enumerate() {
            if let Err(e) = move_native(run, there(run)) {
                for run in &let_go[..i] {
                    let back = there(run)..there(run) + run.len();
                    if move_native(&back, run.start).is_err() {
                        die(TORN);
                    }
                }
                self.bring_back(&managed, there);
                return Err(e);
            }
        }
        for run in &let_go {
            self.door.pager.restore(run.start, run.len()).map_err(|e| errno(&e))?;
        }
        if self.flags & libc::MREMAP_DONTUNMAP == 0 {
            space::unmap(self.from.start, self.from.len())?;
        }
        Ok(to)
    }

    /// Makes the target usable. The limit on address space was asked before, about what is more than there was.
    fn commit(&self, range: &Range<usize>) -> Result<(), Errno> {
        crate::ledger::make_room(self.door, range.len());
        self.door.pager.commit(range.start, range.len()).map_err(|e| errno(&e))
    }

    /// Carries one run; what the kernel will not move now, because somebody else holds a page of it for a moment, is copied.
    fn shift(&self, run: &Range<usize>, there: usize) -> Result<(), Errno> {
        match self.door.pager.relocate(run.start, there, run.len()).map_err(|e| errno(&e)) {
            Err(Errno::EBUSY) => {
                // SAFETY: both are the program's, readable and writable, and do not overlap; no lock is held.
                unsafe {
                    core::ptr::copy_nonoverlapping(run.start as *const u8, there as *mut u8, run.len());
                }
                self.door.pager.discard(run.start, run.len()).map_err(|e| errno(&e))
            }
            done => done,
        }
    }

    /// Makes the places of all runs ready.
    fn prepare(&self, to: usize, managed: &[Range<usize>], let_go: &[Range<usize>]) -> Result<(), Errno> {
        let there = |run: &Range<usize>| to + (run.start - self.from.start)..to + (run.end - self.from.start);
        for run in managed.iter().chain(let_go).map(there) {
            self.door.pager.commit_for_moving(run.start, run.len()).map_err(|e| errno(&e))?;
        }
        for run in let_go.iter().map(there) {
            self.door.pager.let_go(run.start, run.len()).map_err(|e| errno(&e))?;
            // Not worth asking what it is: it stays the kernel's.
            space::OTHERS.set(&run, ())?;
        }
        Ok(())
    }

    fn bring_back(&self, moved: &[Range<usize>], there: impl Fn(&Range<usize>) -> usize) {
        for run in moved {
            let back = there(run)..there(run) + run.len();
            if self.shift(&back, run.start).is_err() {
                die(TORN);
            }
        }
    }

    /// To an address outside the arena: the contents are copied into memory of the kernel's.
    fn out_of_arena(&self, into: Range<usize>) -> Result<usize, Errno> {
        if runs(self.door, self.from.clone()).any(|(_, kind)| kind != Kind::Managed) {
            return Err(Errno::ENOMEM);
        }
        // As for those without privilege: what copies knows no null page.
        if into.start == 0 {
            return Err(Errno::EPERM);
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let wish = Wish { at: into.start, len: into.len(), prot: READ_WRITE, flags, fd: -1, offset: 0 };
        space::map(&wish)?;
        let len = self.from.len().min(into.len());
        // SAFETY: both are the program's, readable and writable, and do not overlap; no lock is held.
        unsafe { core::ptr::copy_nonoverlapping(self.from.start as *const u8, into.start as *mut u8, len) };
        if self.flags & libc::MREMAP_DONTUNMAP == 0 {
            space::unmap(self.from.start, self.from.len())?;
        } else {
            self.door.pager.discard(self.from.start, self.from.len()).map_err(|e| errno(&e))?;
        }
        Ok(into.start)
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: numbers for descriptors of leased memory that the program cannot have itself: those from its limit of open files on, as far
//! as the hard limit goes. Callers: `lease`, the guests' connection, in no handler of a signal. Locks: none; one thread at a
//! time finds such a number, others meanwhile take one as all of tmem's own are.
//!
//! A lease of some GiB has more descriptors than many a process may open, and each of the program's own files needs a number below
//! the limit. A descriptor that is open stays so whatever the limit becomes, so that it is raised only for as long as one call takes.

use crate::kept;
use crate::syscall::call;
use std::sync::atomic::{AtomicBool, Ordering};

/// As many as stay free of those that the hard limit allows: somebody else may raise the limit for itself.
const SPARE: usize = 64;

static BUSY: AtomicBool = AtomicBool::new(false);
/// The kernel, or a filter of system calls, does not let the limit be raised.
static DENIED: AtomicBool = AtomicBool::new(false);

/// The limits of open files, as they are and as they may be.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Limits {
    soft: u64,
    hard: u64,
}

/// Sets the limits where new ones are given; those before.
fn limits(new: Option<&Limits>) -> Option<Limits> {
    let mut old = Limits { soft: 0, hard: 0 };
    let new = new.map_or(0, |new| std::ptr::from_ref(new) as usize);
    // SAFETY: the kernel reads one live structure, where one is given, and writes another.
    let done =
        unsafe { call(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, new, &raw mut old as usize]) };
    done.ok().map(|_| old)
}

/// The numbers that the program cannot have and that are kept track of.
fn numbers(limits: Limits) -> std::ops::Range<usize> {
    let upto = limits.hard.min(kept::TRACKED as u64) as usize;
    (limits.soft.min(upto as u64) as usize).max(kept::LOWEST).min(upto)..upto
}

/// A new descriptor becomes tmem's own, under a number beyond the program's where there is one; its number from then on.
pub fn own(fd: i32) -> i32 {
    let is_there = limits(None).is_some_and(|now| numbers(now).contains(&(fd as usize)));
    match if is_there { None } else { copy(fd) } {
        Some(high) => {
            kept::close(fd);
            high
        }
        None => kept::own(fd),
    }
}

/// The open file of a descriptor, as tmem's own, beyond the program's numbers where it can be.
pub fn duplicate(fd: i32) -> Option<i32> {
    copy(fd).or_else(|| kept::duplicate(fd)).or_else(|| {
        let any = copy_from(fd, 0)?;
        kept::keep(any);
        Some(any)
    })
}

/// Under the first number that is free from one on.
fn copy_from(fd: i32, from: usize) -> Option<i32> {
    // SAFETY: no pointers.
    let made = unsafe { call(libc::SYS_fcntl, [fd as usize, libc::F_DUPFD_CLOEXEC as usize, from]) };
    made.ok().map(|fd| fd as i32)
}

fn copy(fd: i32) -> Option<i32> {
    let before = limits(None)?;
    let places = numbers(before);
    if places.is_empty() || DENIED.load(Ordering::Relaxed) || BUSY.swap(true, Ordering::Acquire) {
        return None;
    }
    let raised = Limits { soft: places.end as u64, hard: before.hard };
    let made = raise(raised, || copy_from(fd, places.start));
    BUSY.store(false, Ordering::Release);
    let high = made?;
    kept::keep(high);
    Some(high)
}

/// Does `work` under other limits.
fn raise<R>(raised: Limits, work: impl FnOnce() -> Option<R>) -> Option<R> {
    let Some(found) = limits(Some(&raised)) else {
        DENIED.store(true, Ordering::Relaxed);
        return None;
    };
    let done = work();
    // What the program set meanwhile holds.
    if let Some(now) = limits(Some(&found))
        && now != raised
    {
        let _ = limits(Some(&now));
    }
    done
}

/// Whether this process may have descriptors of so many more extents, without a lack of numbers for the program's own files.
pub fn has_room(more: usize) -> bool {
    let Some(limits) = limits(None) else { return false };
    let places = numbers(limits);
    if places.len() > SPARE && !DENIED.load(Ordering::Relaxed) {
        return kept::count(places.clone()) + more + SPARE <= places.len();
    }
    // Half of all numbers are the program's.
    kept::count(0..kept::TRACKED) + more <= places.end.min(limits.soft as usize) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::LeaseFd;
    use crate::syscall::getpid;

    /// In a process of its own: limits are everybody's.
    fn in_a_child(work: impl FnOnce() -> bool) {
        let mut status = 0;
        // SAFETY: the child makes plain system calls, and ends.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                // Another thread of the tests may just have been at work.
                BUSY.store(false, Ordering::Relaxed);
                while let Some(fd) = kept::next(0) {
                    kept::close(fd as i32);
                }
                libc::_exit(i32::from(!work()));
            }
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        }
        assert_eq!(status, 0, "as the child of {} saw it", getpid());
    }

    fn dup() -> Option<i32> {
        copy_from(2, 0)
    }

    #[test]
    fn leases_take_no_number_that_the_program_can_have() {
        in_a_child(|| {
            let few = Limits { soft: 600, hard: 1200 };
            limits(Some(&few)).unwrap();
            let mine: [LeaseFd; 500] = std::array::from_fn(|_| LeaseFd::new(4096).unwrap());
            let beyond = mine.iter().all(|one| one.raw() >= 600 && one.is_open());
            let works = mine.iter().all(|one| one.write_at(0, b"x").is_ok());
            let room = has_room(36) && !has_room(37);
            let copy = mine[0].duplicate().is_ok_and(|copy| copy.raw() >= 600);
            let own = (0..550).all(|_| dup().is_some_and(|fd| fd < 600));
            // Where the program has all of its own, a lease has one all the same, and the limit is as before.
            while dup().is_some() {}
            beyond && works && room && copy && own && limits(None) == Some(few) && LeaseFd::of(2).is_ok()
        });
    }

    #[test]
    fn where_the_limit_is_fixed_half_of_the_numbers_stay_the_programs() {
        in_a_child(|| {
            limits(Some(&Limits { soft: 1024, hard: 1024 })).unwrap();
            let room = has_room(512) && !has_room(513);
            let one = LeaseFd::new(4096).unwrap();
            room && !has_room(512) && (512..1024).contains(&one.raw())
        });
    }

    #[test]
    fn few_numbers_are_few_leases() {
        in_a_child(|| {
            limits(Some(&Limits { soft: 64, hard: 64 })).unwrap();
            let one = LeaseFd::new(4096).unwrap();
            let other = LeaseFd::of(one.raw());
            has_room(30) && !has_room(31) && other.is_ok_and(|other| other.is_open() && other.raw() < 64)
        });
    }
}

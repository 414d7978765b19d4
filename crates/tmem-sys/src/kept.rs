// SPDX-License-Identifier: Apache-2.0
//! Owns: which descriptors of the process are tmem's own, and the thread that keeps one open where no close can reach it.
//! Callers: whoever opens one (`uffd`, `file`, `counters`, the pager's `fork`), the guard, `entry`. No locks.
//!
//! Law 12: when the last reference to a userfaultfd goes, the kernel forgets the registration, and every page that is out reads
//! as zeros from then on. Programs do close what they did not open (daemons begin with `closerange`). Where calls are guarded,
//! such a close is answered with EBADF; where they are not, a door may do the same in the C
//! library's functions, and a keeper holds a second reference, so that the next transfer fails and ends the process with a report.

use crate::errno::Errno;
use crate::own;
use crate::syscall::{self, call};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Descriptors above this are not kept track of: few processes may open as many.
pub(crate) const TRACKED: usize = 1 << 16;
static KEPT: [AtomicU64; TRACKED / 64] = [const { AtomicU64::new(0) }; TRACKED / 64];

const CLOSE_RANGE_UNSHARE: usize = 2;
const LAST: usize = u32::MAX as usize;

fn place(fd: usize) -> Option<(&'static AtomicU64, u64)> {
    KEPT.get(fd / 64).map(|word| (word, 1 << (fd % 64)))
}

/// The descriptor is tmem's own from now on.
pub fn keep(fd: i32) {
    if let Some((word, bit)) = place(fd as usize) {
        word.fetch_or(bit, Ordering::Release);
    }
}

/// Where tmem's own begin: programs open the lowest, count on their numbers, and put others there by hand.
pub(crate) const LOWEST: usize = 512;

/// The same open file under a high number, where this process may have that many; `fd` itself where not.
pub fn raised(fd: i32) -> i32 {
    // SAFETY: no pointers.
    let made = unsafe { call(libc::SYS_fcntl, [fd as usize, libc::F_DUPFD_CLOEXEC as usize, LOWEST]) };
    match made {
        Ok(high) if fd >= 0 && (fd as usize) < LOWEST => {
            syscall::close(fd);
            high as i32
        }
        Ok(high) => {
            syscall::close(high as i32);
            fd
        }
        Err(_) => fd,
    }
}

/// The open file of one of the program's descriptors, as tmem's own, where this process may have a number high enough.
pub fn duplicate(fd: i32) -> Option<i32> {
    // SAFETY: no pointers.
    let made = unsafe { call(libc::SYS_fcntl, [fd as usize, libc::F_DUPFD_CLOEXEC as usize, LOWEST]) };
    let fd = made.ok()? as i32;
    keep(fd);
    Some(fd)
}

/// A new descriptor becomes tmem's own; its number from then on.
pub fn own(fd: i32) -> i32 {
    let fd = raised(fd);
    keep(fd);
    fd
}

/// Descriptors that this process may have open.
pub fn most_open() -> usize {
    let mut limit = [0u64; 2];
    let into = &raw mut limit as usize;
    // SAFETY: the kernel writes the two words, which are live.
    let got = unsafe { call(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, 0, into]) };
    got.map_or(0, |_| usize::try_from(limit[0]).unwrap_or(usize::MAX))
}

/// Closes a descriptor that was kept, or is not known.
pub fn close(fd: i32) {
    if let Some((word, bit)) = place(fd as usize) {
        word.fetch_and(!bit, Ordering::Release);
    }
    syscall::close(fd);
}

pub fn is_kept(fd: usize) -> bool {
    place(fd).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
}

/// How many are kept of a range of numbers.
pub(crate) fn count(numbers: std::ops::Range<usize>) -> usize {
    let words = KEPT.iter().enumerate().take(numbers.end.div_ceil(64)).skip(numbers.start / 64);
    let inside = |n: usize| {
        let (from, to) = (numbers.start.saturating_sub(n * 64), numbers.end - n * 64);
        let below = |bits: usize| if bits < 64 { (1u64 << bits) - 1 } else { u64::MAX };
        below(to) & !below(from)
    };
    words.map(|(n, word)| (word.load(Ordering::Relaxed) & inside(n)).count_ones() as usize).sum()
}

/// The first kept descriptor from `from` on.
pub fn next(from: usize) -> Option<usize> {
    (from / 64..KEPT.len()).find_map(|i| {
        let below = if i == from / 64 { (1 << (from % 64)) - 1 } else { 0 };
        let rest = KEPT[i].load(Ordering::Acquire) & !below;
        (rest != 0).then(|| i * 64 + rest.trailing_zeros() as usize)
    })
}

/// Starts a thread whose own table of descriptors holds `fd` and nothing else, until the process ends.
///
/// # Errors
/// The kernel's.
pub fn start_keeper(fd: i32) -> Result<(), Errno> {
    static READY: AtomicBool = AtomicBool::new(false);
    READY.store(false, Ordering::Release);
    own::spawn(c"tmem-keeper", 64 << 10, move || {
        leave_only(fd as usize);
        READY.store(true, Ordering::Release);
        loop {
            // SAFETY: no pointers; a guard that asks this thread for itself interrupts the wait.
            let _ = unsafe { call(libc::SYS_pause, []) };
        }
    })?;
    while !READY.load(Ordering::Acquire) {
        syscall::sched_yield();
    }
    Ok(())
}

/// Gives this thread a table of its own with one descriptor. Where the kernel refuses, nothing is closed.
fn leave_only(fd: usize) {
    // SAFETY: no pointers; what is closed is this thread's copy of the table.
    unsafe {
        if call(libc::SYS_unshare, [libc::CLONE_FILES as usize]).is_err() {
            return;
        }
        if fd > 0 {
            let _ = call(libc::SYS_close_range, [0, fd - 1, CLOSE_RANGE_UNSHARE]);
        }
        let _ = call(libc::SYS_close_range, [fd + 1, LAST, CLOSE_RANGE_UNSHARE]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_descriptors_are_found_in_order_until_they_are_closed() {
        // Numbers that no file of this test has.
        let (low, high) = (60_000, 60_129);
        keep(low);
        keep(high);
        assert_eq!((next(59_000), next(60_001), next(60_130)), (Some(60_000), Some(60_129), None));
        assert_eq!((count(60_000..60_129), count(60_000..60_130), count(60_001..60_100)), (1, 2, 0));
        assert!(is_kept(60_129) && !is_kept(60_128) && !is_kept(TRACKED + 5));
        close(low);
        close(high);
        assert_eq!(next(59_000), None);
    }
}

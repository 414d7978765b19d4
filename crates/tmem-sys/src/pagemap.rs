// SPDX-License-Identifier: Apache-2.0
//! Owns: the reading of `/proc/self/pagemap`: which pages of this process are there. Callers: `frames`, on the path of a
//! page where the kernel's answer is in doubt: no heap, system calls through the stub.

use crate::errno::Errno;
use crate::page::PAGE_SHIFT;
use crate::syscall::{call, close};

/// Entries of one read.
const BATCH: usize = 512;
const PRESENT_OR_SWAPPED: u64 = 3 << 62;

/// Calls `each(page, there)` for each of `pages` pages from the address `start`: whether it has a frame, or an entry in the
/// kernel's own swap.
///
/// # Errors
/// The kernel's, when the file cannot be read.
pub fn each_page(start: usize, pages: usize, mut each: impl FnMut(usize, bool)) -> Result<(), Errno> {
    #[cfg(feature = "fake-kernel")]
    if crate::fake::presence(start).is_some() {
        let there = |i: usize| crate::fake::presence(start + (i << PAGE_SHIFT)).unwrap_or(false);
        (0..pages).for_each(|i| each(i, there(i)));
        return Ok(());
    }
    let path = c"/proc/self/pagemap";
    let how = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
    // SAFETY: the path is a static C string.
    let fd = unsafe { call(libc::SYS_openat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, how, 0])? };
    let mut entries = [0u64; BATCH];
    let mut page = 0;
    let mut answer = Ok(());
    while page < pages {
        let want = BATCH.min(pages - page);
        let offset = ((start >> PAGE_SHIFT) + page) * 8;
        // SAFETY: the buffer is live and holds `want * 8` bytes.
        let got = unsafe { call(libc::SYS_pread64, [fd, entries.as_mut_ptr() as usize, want * 8, offset]) };
        match got {
            Ok(n) if n >= 8 => {
                (0..n / 8).for_each(|i| each(page + i, entries[i] & PRESENT_OR_SWAPPED != 0));
                page += n / 8;
            }
            Err(Errno::EINTR) => {}
            other => {
                answer = Err(other.err().unwrap_or(Errno::EIO));
                break;
            }
        }
    }
    close(fd as i32);
    answer
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: reading small files of `/proc` and what the kernel says of this process, without the C library's streams. Callers:
//! `rlimit`, `ledger`, `usage`. No locks, no heap.

use core::ffi::CStr;
use tmem_sys::Errno;
use tmem_sys::syscall::{call, close};

/// Reads the beginning of a file; how many bytes.
///
/// # Errors
/// The kernel's.
pub fn read(path: &CStr, into: &mut [u8]) -> Result<usize, Errno> {
    let at = libc::AT_FDCWD as usize;
    // SAFETY: a live string.
    let fd = unsafe { call(libc::SYS_openat, [at, path.as_ptr() as usize, libc::O_CLOEXEC as usize, 0])? };
    // SAFETY: a live slice of that length.
    let got = unsafe { call(libc::SYS_read, [fd, into.as_mut_ptr() as usize, into.len()]) };
    close(fd as i32);
    got
}

/// The decimal numbers of a text, in order.
pub fn numbers(text: &[u8]) -> impl Iterator<Item = u64> {
    text.split(|b| !b.is_ascii_digit())
        .filter(|word| !word.is_empty())
        .map(|word| word.iter().fold(0, |n: u64, b| n.wrapping_mul(10).wrapping_add(u64::from(b - b'0'))))
}

/// When this process began, in the kernel's ticks since it booted: with its number, this names it for good.
pub fn start_time() -> Option<u64> {
    let mut text = [0u8; 1024];
    let len = read(c"/proc/self/stat", &mut text).ok()?;
    // The second field is the program's name in parentheses, which may hold anything; the start is the twenty-second.
    let end = text[..len].iter().rposition(|&b| b == b')')?;
    let field = text[end + 1..len].split(|&b| b == b' ').filter(|w| !w.is_empty()).nth(19)?;
    numbers(field).next()
}

/// The namespace that this process has its number in; 0 where that is not told.
pub fn namespace() -> u64 {
    let mut text = [0u8; 64];
    let name = c"/proc/self/ns/pid";
    let at = libc::AT_FDCWD as usize;
    // SAFETY: a live string, and a live slice of that length.
    let got = unsafe {
        call(libc::SYS_readlinkat, [at, name.as_ptr() as usize, text.as_mut_ptr() as usize, text.len()])
    };
    got.ok().and_then(|len| numbers(&text[..len]).next()).unwrap_or(0)
}

/// Whether this thread has a capability in force.
pub fn has_capability(number: u32) -> bool {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let mut sets = [0u32; 6];
    // SAFETY: both are live and of the kernel's layout.
    let asked = unsafe { call(libc::SYS_capget, [header.as_ptr() as usize, sets.as_mut_ptr() as usize]) };
    asked.is_ok() && sets[number as usize / 32 * 3] >> (number % 32) & 1 == 1
}

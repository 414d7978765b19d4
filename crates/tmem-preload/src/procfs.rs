// SPDX-License-Identifier: Apache-2.0
//! Owns: reading small files of `/proc` and what the kernel says of this process, without the C library's streams. Callers:
//! `rlimit`, `ledger`, `usage`, `remap`. No locks, no heap.

use core::ffi::CStr;
use std::ops::Range;
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

/// Whether a range is private anonymous memory that may be read and written, in one mapping or several, and none of the process's
/// memory is locked: what can be at another place, or another's, and nobody sees it. False where that cannot be told.
pub fn is_plain(range: &Range<usize>) -> bool {
    let mut at = range.start;
    let read = each_line(c"/proc/self/maps", |line| {
        let Some((start, end, rest)) = mapping(line) else { return false };
        if end <= at {
            return true;
        }
        // Access, offset, device, inode, and no name, or that of the heap.
        let is_anonymous = rest.starts_with(b"rw-p 00000000 00:00 0");
        let is_named = rest.iter().any(|&b| b == b'/' || b == b'[');
        if start > at || !is_anonymous || is_named {
            return false;
        }
        at = end;
        at < range.end
    });
    let mut locked = true;
    let asked = each_line(c"/proc/self/status", |line| {
        if let Some(rest) = line.strip_prefix(b"VmLck:") {
            locked = numbers(rest).next() != Some(0);
        }
        locked
    });
    read.is_ok() && asked.is_ok() && at >= range.end && !locked
}

/// The addresses of a line of `maps`, and the rest of it.
fn mapping(line: &[u8]) -> Option<(usize, usize, &[u8])> {
    let (addresses, rest) = line.split_at(line.iter().position(|&b| b == b' ')?);
    let (start, end) = addresses.split_at(addresses.iter().position(|&b| b == b'-')?);
    let hex = |text: &[u8]| usize::from_str_radix(core::str::from_utf8(text).ok()?, 16).ok();
    Some((hex(start)?, hex(&end[1..])?, &rest[1..]))
}

/// Hands out a file's lines, cut off at some length, until `each` has enough.
fn each_line(path: &CStr, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), Errno> {
    const LONG: usize = 4096;
    let at = libc::AT_FDCWD as usize;
    // SAFETY: a live string.
    let fd = unsafe { call(libc::SYS_openat, [at, path.as_ptr() as usize, libc::O_CLOEXEC as usize, 0])? };
    let (mut text, mut kept) = ([0u8; 2 * LONG], 0);
    let done = loop {
        // SAFETY: the rest of a live array.
        let got = match unsafe {
            call(libc::SYS_read, [fd, text[kept..].as_mut_ptr() as usize, text.len() - kept])
        } {
            Ok(0) => break Ok(()),
            Ok(got) => got,
            Err(e) => break Err(e),
        };
        let len = kept + got;
        let whole = text[..len].iter().rposition(|&b| b == b'\n').map_or(0, |last| last + 1);
        if !text[..whole].split(|&b| b == b'\n').filter(|line| !line.is_empty()).all(&mut each) {
            break Ok(());
        }
        // What is longer than there is room for is no line of these files that anybody asks about.
        kept = if len - whole < text.len() { len - whole } else { 0 };
        text.copy_within(whole..whole + kept, 0);
    };
    close(fd as i32);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_memory_is_told_from_other() {
        let map = |prot: i32, flags: i32| {
            // SAFETY: a new mapping.
            unsafe {
                libc::mmap(core::ptr::null_mut(), 8192, prot, flags | libc::MAP_ANONYMOUS, -1, 0) as usize
            }
        };
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let plain = map(both, libc::MAP_PRIVATE);
        assert!(is_plain(&(plain..plain + 8192)) && is_plain(&(plain + 4096..plain + 8192)));
        for (prot, flags) in [(both, libc::MAP_SHARED), (libc::PROT_READ, libc::MAP_PRIVATE)] {
            let other = map(prot, flags);
            assert!(!is_plain(&(other..other + 4096)));
        }
        assert!(!is_plain(&(4096..8192)), "nothing is mapped there");
        let text = plain_memory_is_told_from_other as fn() as usize & !4095;
        assert!(!is_plain(&(text..text + 4096)));
    }
}

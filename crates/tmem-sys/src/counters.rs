// SPDX-License-Identifier: Apache-2.0
//! Owns: the counters of one `Memory`, in a shared page behind a memfd, so that another process of the same
//! user can read them live (`/proc/PID/fd`) at no cost to the path of a page.
//! Callers: the pager writes, `tmem stats` reads. Law: counts only, never contents.

use crate::errno::Errno;
use crate::kept;
use crate::page::PAGE_SIZE;
use crate::syscall::{call, close, getpid};
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: u64 = u64::from_le_bytes(*b"tmemstat");
const VERSION: u64 = 2;
const HEADER: usize = 16;
const SLOTS: usize = PAGE_SIZE / 8 - HEADER;

/// A shared page of 64-bit counters: magic, version, pid, name (8 words), then the values.
pub struct Counters {
    addr: usize,
    fd: i32,
}

impl Counters {
    /// # Errors
    /// The kernel's.
    pub fn new(name: &str) -> Result<Counters, Errno> {
        let fd = memfd()?;
        let addr = map(fd, 0, 0).inspect_err(|_| close(fd))?;
        let fd = kept::own(fd);
        let this = Counters { addr, fd };
        this.stamp(name);
        Ok(this)
    }

    fn stamp(&self, name: &str) {
        let mut bytes = [0u8; 64];
        let n = name.len().min(63);
        bytes[..n].copy_from_slice(&name.as_bytes()[..n]);
        for (i, word) in bytes.chunks_exact(8).enumerate() {
            let mut w = [0u8; 8];
            w.copy_from_slice(word);
            self.word(4 + i).store(u64::from_le_bytes(w), Ordering::Relaxed);
        }
        self.word(1).store(VERSION, Ordering::Relaxed);
        self.word(2).store(getpid() as u64, Ordering::Relaxed);
        self.word(0).store(MAGIC, Ordering::Release);
    }

    /// In a forked child: a page of its own in place of the shared one, with the same values.
    ///
    /// # Errors
    /// The kernel's.
    pub fn renew_after_fork(&mut self) -> Result<(), Errno> {
        let mut copy = [0u64; PAGE_SIZE / 8];
        copy.iter_mut().enumerate().for_each(|(i, v)| *v = self.word(i).load(Ordering::Relaxed));
        let fd = memfd()?;
        map(fd, self.addr, libc::MAP_FIXED).inspect_err(|_| close(fd))?;
        kept::close(self.fd);
        self.fd = kept::own(fd);
        copy.iter().enumerate().for_each(|(i, &v)| self.word(i).store(v, Ordering::Relaxed));
        self.word(2).store(getpid() as u64, Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    fn word(&self, i: usize) -> &AtomicU64 {
        assert!(i < PAGE_SIZE / 8);
        // SAFETY: the page is mapped read-write while `self` lives, and only ever reached as atomics.
        unsafe { &*(self.addr as *const AtomicU64).add(i) }
    }

    /// The counter at `i`.
    #[inline]
    pub fn at(&self, i: usize) -> &AtomicU64 {
        self.word(HEADER + i)
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        let _ = unsafe { call(libc::SYS_munmap, [self.addr, PAGE_SIZE]) };
        kept::close(self.fd);
    }
}

fn memfd() -> Result<i32, Errno> {
    let name = c"tmem-stats";
    // SAFETY: the name is a static C string.
    let fd = unsafe { call(libc::SYS_memfd_create, [name.as_ptr() as usize, libc::MFD_CLOEXEC as usize])? };
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_ftruncate, [fd, PAGE_SIZE]) }.inspect_err(|_| close(fd as i32))?;
    Ok(fd as i32)
}

fn map(fd: i32, at: usize, flags: i32) -> Result<usize, Errno> {
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = (flags | libc::MAP_SHARED) as usize;
    // SAFETY: either a new mapping, or over the page that the caller owns (after a fork).
    unsafe { call(libc::SYS_mmap, [at, PAGE_SIZE, prot, flags, fd as usize, 0]) }
}

/// A snapshot of another process's counters.
pub struct Snapshot {
    pub pid: u64,
    pub name: String,
    pub values: [u64; SLOTS],
}

/// Decodes the bytes of a counter page; `None` when they are none.
pub fn decode(bytes: &[u8]) -> Option<Snapshot> {
    let word = |i: usize| Some(u64::from_le_bytes(bytes.get(i * 8..i * 8 + 8)?.try_into().ok()?));
    if bytes.len() < PAGE_SIZE || word(0)? != MAGIC || word(1)? != VERSION {
        return None;
    }
    let raw = &bytes[32..96];
    let end = raw.iter().position(|&b| b == 0).unwrap_or(raw.len());
    let name = String::from_utf8_lossy(&raw[..end]).into_owned();
    let mut values = [0u64; SLOTS];
    for (i, v) in values.iter_mut().enumerate() {
        *v = word(HEADER + i)?;
    }
    Some(Snapshot { pid: word(2)?, name, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_read_back_through_the_descriptor() {
        let c = Counters::new("a name").unwrap();
        c.at(3).store(42, Ordering::Relaxed);
        let bytes = std::fs::read(format!("/proc/self/fd/{}", c.fd)).unwrap();
        let s = decode(&bytes).unwrap();
        assert_eq!((s.name.as_str(), s.values[3]), ("a name", 42));
        assert_eq!(s.pid, u64::from(std::process::id()));
        assert!(decode(&bytes[..100]).is_none());
    }
}

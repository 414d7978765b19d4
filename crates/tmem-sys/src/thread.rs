// SPDX-License-Identifier: Apache-2.0
//! Owns: how the path of a page tells threads apart without a system call. Callers: `entry`, and the pager for the holder of
//! its lock and for what each thread faulted last. No locks, no thread-local storage: that may allocate when first touched.

use crate::syscall::gettid;
use std::sync::atomic::{AtomicU8, Ordering};

/// Thread pointers are addresses of user space, so that this bit is theirs never.
const BY_NUMBER: u64 = 1 << 63;
/// `HWCAP2_FSGSBASE`: the kernel lets programs read the register.
const FSGSBASE: u64 = 1 << 1;

/// A number that no other live thread of the process has: the thread pointer, or for a thread whose registers are out of
/// reach the kernel's number, marked. A thread made by hand without thread-local storage of its own shares its maker's key;
/// such a thread runs no code of the C library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadKey(u64);

impl ThreadKey {
    /// No thread's.
    pub const NONE: ThreadKey = ThreadKey(0);

    /// The calling thread's.
    #[inline]
    pub fn current() -> ThreadKey {
        match how() {
            BY_REGISTER => match thread_pointer() {
                0 => ThreadKey::of(gettid()),
                pointer => ThreadKey(pointer),
            },
            _ => ThreadKey::of(gettid()),
        }
    }

    /// The key of a thread that only the kernel's number is known of.
    pub fn of(tid: i32) -> ThreadKey {
        ThreadKey(BY_NUMBER | tid as u32 as u64)
    }

    /// For tables of plain words.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

const UNKNOWN: u8 = 0;
const BY_REGISTER: u8 = 1;
const BY_CALL: u8 = 2;
static HOW: AtomicU8 = AtomicU8::new(UNKNOWN);

#[inline]
fn how() -> u8 {
    match HOW.load(Ordering::Relaxed) {
        UNKNOWN => find_out(),
        known => known,
    }
}

#[cold]
fn find_out() -> u8 {
    // SAFETY: reads the auxiliary vector that the process was started with.
    let known =
        if unsafe { libc::getauxval(libc::AT_HWCAP2) } & FSGSBASE != 0 { BY_REGISTER } else { BY_CALL };
    HOW.store(known, Ordering::Relaxed);
    known
}

#[inline]
fn thread_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: the kernel said that the instruction may be used; it touches no memory.
    unsafe { std::arch::asm!("rdfsbase {}", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_one_key_and_no_other_has_it() {
        let here = ThreadKey::current();
        assert_eq!(here, ThreadKey::current());
        let there = std::thread::spawn(|| (ThreadKey::current(), ThreadKey::of(gettid()))).join().unwrap();
        let all = [here, there.0, there.1, ThreadKey::of(gettid()), ThreadKey::NONE];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "{all:x?}");
        }
    }
}

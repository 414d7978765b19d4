// SPDX-License-Identifier: Apache-2.0
//! Owns: the ledger's file in memory: words that every process of the tree reads and writes. Caller: `ledger`. The lock in it is
//! held for microseconds; a holder that was killed is found out and passed over.
//!
//! The file is made by `tmem run`: a header of one page, then slots of 128 bytes, one for each process with a pager.

use crate::refusal::Refusal;
use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tmem_sys::background::pause;
use tmem_sys::syscall::{call, close, getpid, give_way};
use tmem_sys::{Errno, PAGE_SIZE};

const BYTES: usize = 64 << 10;
const MAGIC: u64 = u64::from_le_bytes(*b"tmemledg");
const VERSION: u64 = 1;
const SLOT_BYTES: usize = 128;
pub const SLOTS: usize = (BYTES - PAGE_SIZE) / SLOT_BYTES;

/// Words of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Head {
    Magic = 0,
    Version = 1,
    /// The tree's budget.
    Ram = 2,
    /// When the first process of the tree began.
    Since = 4,
    /// Which process holds the lock.
    Holder = 5,
    /// Processes that ever had a pager.
    Joined = 6,
    /// The most that the tree used at a time, as far as was looked.
    Peak = 7,
    /// How faults arrive in the process that last began paging: the pager's number of it.
    Entry = 8,
    /// How often all were called to look; what they sleep on.
    Calls = 9,
    /// Of processes that have ended, from here on: as many words as [`Of::SUMMED`].
    Ended = 16,
    /// Calls of the programs that were refused for the budget's sake, by kind, from here on.
    Refused = 48,
}

/// Words of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Of {
    Pid = 0,
    Start = 1,
    /// What the process may use.
    Grant = 2,
    /// What counts against the budget: the pager's, and anonymous memory that it does not manage.
    Usage = 3,
    /// What it would use if it might.
    Want = 4,
    Managed = 5,
    Unmanaged = 6,
    Resident = 7,
    Faults = 8,
    Evictions = 9,
    FaultNs = 10,
    SwapUsed = 11,
    Packed = 12,
    PackedInto = 13,
    /// Memory on lease.
    Leased = 14,
    /// The namespace of the process's number.
    Space = 15,
}

impl Of {
    /// What is added up when a process ends; the others are of a moment, or peaks.
    pub const SUMMED: [Of; 10] = [
        Of::Managed,
        Of::Unmanaged,
        Of::Resident,
        Of::Faults,
        Of::Evictions,
        Of::FaultNs,
        Of::SwapUsed,
        Of::Packed,
        Of::PackedInto,
        Of::Leased,
    ];
}

#[derive(Clone, Copy)]
pub struct Shared(usize);

impl Shared {
    /// Maps the file.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` where it is no ledger of this version.
    pub fn open(path: &Path) -> Result<Shared, Errno> {
        let mut name = [0u8; 4096];
        let bytes = path.as_os_str().as_bytes();
        name.get_mut(..bytes.len())
            .filter(|_| bytes.len() < 4095)
            .ok_or(Errno::EINVAL)?
            .copy_from_slice(bytes);
        let flags = (libc::O_RDWR | libc::O_CLOEXEC | libc::O_NOFOLLOW) as usize;
        // SAFETY: a live string that ends with a zero.
        let fd =
            unsafe { call(libc::SYS_openat, [libc::AT_FDCWD as usize, name.as_ptr() as usize, flags, 0])? };
        let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        // SAFETY: a descriptor of ours.
        let size = unsafe { call(libc::SYS_lseek, [fd, 0, libc::SEEK_END as usize]) };
        let mapped = if size == Ok(BYTES) {
            // SAFETY: a new mapping.
            unsafe { call(libc::SYS_mmap, [0, BYTES, prot, libc::MAP_SHARED as usize, fd, 0]) }
        } else {
            Err(Errno::EINVAL)
        };
        close(fd as i32);
        let shared = Shared(mapped?);
        if shared.head(Head::Magic) != MAGIC || shared.head(Head::Version) != VERSION {
            return Err(Errno::EINVAL);
        }
        Ok(shared)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < BYTES / 8);
        // SAFETY: the file is mapped for good, and reached as atomics only.
        unsafe { &*(self.0 as *const AtomicU64).add(at) }
    }

    pub fn head(&self, word: Head) -> u64 {
        self.word(word as usize).load(Ordering::Relaxed)
    }

    pub fn head_word(&self, word: Head) -> &AtomicU64 {
        self.word(word as usize)
    }

    /// How often something was refused, in all processes.
    pub fn refused(&self, what: Refusal) -> &AtomicU64 {
        self.word(Head::Refused as usize + what as usize)
    }

    /// What ended processes left of one kind.
    pub fn ended(&self, of: Of) -> u64 {
        self.word(Head::Ended as usize + of as usize).load(Ordering::Relaxed)
    }

    pub fn slot(&self, slot: usize, of: Of) -> u64 {
        self.word(place(slot, of)).load(Ordering::Relaxed)
    }

    pub fn set(&self, slot: usize, of: Of, value: u64) {
        self.word(place(slot, of)).store(value, Ordering::Relaxed);
    }

    /// Ends a slot: what its process did is added to what others did.
    pub fn retire(&self, slot: usize) {
        for of in Of::SUMMED {
            self.word(Head::Ended as usize + of as usize).fetch_add(self.slot(slot, of), Ordering::Relaxed);
        }
        for at in 0..SLOT_BYTES / 8 {
            self.word(PAGE_SIZE / 8 + slot * SLOT_BYTES / 8 + at).store(0, Ordering::Relaxed);
        }
    }

    /// Does something that no other process does meanwhile. Not within itself. `space` is the namespace of this process's number.
    pub fn alone<R>(&self, space: u64, work: impl FnOnce() -> R) -> R {
        // A process holds it for microseconds; one that was killed, or stopped in between, for ever. No more is at stake than
        // sums that are found anew four times a second: what cannot be had in a second is taken.
        const TURNS: u32 = 64;
        const LONG: u32 = 10_000;
        let me = space << 32 | getpid() as u64;
        let holder = self.head_word(Head::Holder);
        let mut turns = 0;
        while let Err(other) = holder.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
            let gone = turns > TURNS && other >> 32 == space & LOW && !is_alive(other as i32);
            if gone || turns > LONG {
                let _ = holder.compare_exchange(other, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
            give_way(turns);
            turns += 1;
        }
        let done = work();
        let _ = holder.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed);
        done
    }

    /// Sleeps until all are called to look, `ms` at most.
    pub fn sleep(&self, ms: u64) {
        let word = self.head_word(Head::Calls);
        let seen = word.load(Ordering::Relaxed) as u32;
        let most = [ms / 1000, ms % 1000 * 1_000_000];
        // The lower half of the word is what lies at its address. Not private: processes share the file.
        let args = [word.as_ptr() as usize, libc::FUTEX_WAIT as usize, seen as usize, most.as_ptr() as usize];
        // SAFETY: a live `timespec`, and a word that is mapped for good; one that is gone from its file is an error.
        let slept = unsafe { call(libc::SYS_futex, args) };
        if !matches!(slept, Ok(_) | Err(Errno(libc::EAGAIN | libc::EINTR | libc::ETIMEDOUT))) {
            pause(ms);
        }
    }

    /// Calls all to look.
    pub fn call(&self) {
        let word = self.head_word(Head::Calls);
        word.fetch_add(1, Ordering::Relaxed);
        let args = [word.as_ptr() as usize, libc::FUTEX_WAKE as usize, i32::MAX as usize];
        // SAFETY: as above; nothing is read but the word.
        let _ = unsafe { call(libc::SYS_futex, args) };
    }

    /// Whether a slot's process is one, as far as a process of `space` can tell: numbers of other namespaces say nothing here.
    pub fn lives(&self, slot: usize, space: u64) -> bool {
        let pid = self.slot(slot, Of::Pid);
        pid != 0 && (self.slot(slot, Of::Space) != space || is_alive(pid as i32))
    }

    /// Puts zeros in place of a file that was cut short, which must not be touched any more.
    ///
    /// # Errors
    /// The kernel's, where it was: then it can no longer be used.
    pub fn check(&self, path: &CStr) -> Result<(), Errno> {
        // SAFETY: plain data.
        let mut about: libc::stat = unsafe { core::mem::zeroed() };
        let into = &raw mut about as usize;
        // SAFETY: a live string, and a live place of the kernel's layout.
        let asked =
            unsafe { call(libc::SYS_newfstatat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, into, 0]) };
        // Where the name leads nowhere, or not from here, the file is as it was.
        if asked.is_err() || about.st_size as usize >= BYTES {
            return Ok(());
        }
        let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as usize;
        // SAFETY: over our own mapping, which is reached as atomics only.
        unsafe { call(libc::SYS_mmap, [self.0, BYTES, prot, flags, usize::MAX, 0]) }?;
        Err(Errno(libc::EIO))
    }
}

/// What is kept of a namespace beside a process's number.
const LOW: u64 = 0xffff_ffff;

fn place(slot: usize, of: Of) -> usize {
    PAGE_SIZE / 8 + slot * SLOT_BYTES / 8 + of as usize
}

/// Whether there is a process of this number.
fn is_alive(pid: i32) -> bool {
    // SAFETY: no pointers, no signal.
    let answer = unsafe { call(libc::SYS_kill, [pid as usize, 0]) };
    answer != Err(Errno(libc::ESRCH))
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: a userfaultfd made of ordinary memory, for counting the pager's instructions under valgrind, which knows the real one
//! not (feature `fake-kernel`; never in what is installed). Callers: `uffd`, `mapping` and `pagemap` in place of the kernel, and
//! the example that counts. Law 12 holds here too: a page is present or missing, and what leaves a place is overwritten there.
//!
//! It does what the kernel does for one thread: moves, copies, dropped pages. What else a pager may come to ask of the kernel
//! is answered with EINVAL, and belongs here then. Its own work is not counted.

use crate::errno::Errno;
use crate::page::{PAGE_SHIFT, PAGE_SIZE};
use crate::uffd::abi;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const GONE: u8 = 0xdb;

struct Machine {
    registered: Vec<Range<usize>>,
    present: BTreeSet<usize>,
    /// Pages in the order in which they were moved away, newest last.
    left: Vec<usize>,
}

static MACHINE: Mutex<Machine> =
    Mutex::new(Machine { registered: Vec::new(), present: BTreeSet::new(), left: Vec::new() });

fn machine() -> MutexGuard<'static, Machine> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    fn has(&self, addr: usize) -> bool {
        self.registered.iter().any(|r| r.contains(&addr))
    }
}

/// What the kernel would make of an `ioctl` on a userfaultfd.
///
/// # Safety
/// `arg` must point to the structure that `request` names, and the memory it names must be the pager's.
pub unsafe fn ioctl(_fd: i32, request: usize, arg: *mut u8) -> Result<usize, Errno> {
    let _pause = Pause::new();
    // SAFETY: the caller's promise, for each request in turn.
    unsafe {
        match request {
            abi::UFFDIO_API => (*arg.cast::<abi::Api>()).features = u64::MAX,
            abi::UFFDIO_REGISTER => return register(&(*arg.cast::<abi::Register>()).range),
            abi::UFFDIO_UNREGISTER => {
                let range = &*arg.cast::<abi::Range>();
                machine().registered.retain(|r| r.start != range.start as usize);
            }
            abi::UFFDIO_WAKE => {}
            abi::UFFDIO_COPY => {
                let a = &mut *arg.cast::<abi::Copy>();
                return transfer(a.dst, a.src, a.len, false, &mut a.copy);
            }
            abi::UFFDIO_MOVE => {
                let a = &mut *arg.cast::<abi::Move>();
                return transfer(a.dst, a.src, a.len, true, &mut a.moved);
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(0)
}

/// From here on presence is noted here. What the program touched before is told by the real kernel.
fn register(range: &abi::Range) -> Result<usize, Errno> {
    let pages = range.start as usize..(range.start + range.len) as usize;
    let mut there = Vec::new();
    crate::pagemap::each_page(pages.start, pages.len() >> PAGE_SHIFT, |i, is| {
        if is {
            there.push(pages.start + (i << PAGE_SHIFT));
        }
    })?;
    let mut machine = machine();
    machine.registered.push(pages);
    machine.present.extend(there);
    Ok(0)
}

/// # Safety
/// Both ranges must be the pager's memory.
unsafe fn transfer(dst: u64, src: u64, len: u64, moves: bool, done: &mut i64) -> Result<usize, Errno> {
    let mut machine = machine();
    *done = 0;
    for at in (0..len as usize).step_by(PAGE_SIZE) {
        let (to, from) = (dst as usize + at, src as usize + at);
        let refused = match (machine.has(to), machine.present.contains(&to)) {
            (false, _) => Some(Errno::ENOENT),
            (true, true) => Some(Errno::EEXIST),
            _ if moves && !machine.present.contains(&from) => Some(Errno::ENOENT),
            _ => None,
        };
        if let Some(errno) = refused {
            *done = if at == 0 { -i64::from(errno.0) } else { at as i64 };
            return Err(if at == 0 { errno } else { Errno::EAGAIN });
        }
        // SAFETY: whole pages of the pager's memory that overlap nowhere; a copy's source is readable by its contract.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, PAGE_SIZE) };
        machine.present.insert(to);
        if moves {
            machine.present.remove(&from);
            machine.left.push(from);
            // SAFETY: as above; the page is missing from now on.
            unsafe { std::ptr::write_bytes(from as *mut u8, GONE, PAGE_SIZE) };
        }
        *done = (at + PAGE_SIZE) as i64;
    }
    Ok(0)
}

/// The program or the pager gives a range of memory back.
pub fn dropped(range: Range<usize>) {
    let _pause = Pause::new();
    let mut machine = machine();
    let gone: Vec<usize> = machine.present.range(range).copied().collect();
    gone.iter().for_each(|page| {
        machine.present.remove(page);
    });
}

/// Whether a page is there, if it is in a registered range.
pub fn presence(addr: usize) -> Option<bool> {
    let machine = machine();
    machine.has(addr).then(|| machine.present.contains(&(addr & !(PAGE_SIZE - 1))))
}

/// The pages that left last, newest first, as far as they lie in `range` and have not come back.
pub fn newest_gone(range: &Range<usize>, most: usize) -> Vec<usize> {
    let machine = machine();
    let gone = machine.left.iter().rev().filter(|p| range.contains(p) && !machine.present.contains(p));
    gone.take(most).copied().collect()
}

/// A word of memory that is present, and what is to be there after.
///
/// # Panics
/// When the page is missing: the fault function has not done its work.
pub fn swap_word(addr: usize, change: impl FnOnce(u64) -> u64) -> u64 {
    assert_eq!(presence(addr), Some(true), "a touch of a missing page");
    // SAFETY: the page is present and belongs to an extent of the caller's; one thread runs.
    unsafe {
        let word = addr as *mut u64;
        let old = word.read_volatile();
        let new = change(old);
        if new != old {
            word.write_volatile(new);
        }
        old
    }
}

/// Writes a whole page that is present, word by word.
///
/// # Panics
/// As [`swap_word`].
pub fn write_page(addr: usize, word: impl Fn(usize) -> u64) {
    assert_eq!(presence(addr), Some(true), "a write of a missing page");
    // SAFETY: as in `swap_word`; a page is 512 words, aligned.
    (0..PAGE_SIZE / 8).for_each(|i| unsafe { (addr as *mut u64).add(i).write_volatile(word(i)) });
}

static COUNTING: AtomicBool = AtomicBool::new(false);

/// Requests of callgrind's (valgrind/callgrind.h).
const BASE: u64 = (b'C' as u64) << 24 | (b'T' as u64) << 16;
const ZERO: u64 = BASE + 1;
const TOGGLE: u64 = BASE + 2;
const DUMP_AT: u64 = BASE + 3;
const INSTRUMENT: u64 = BASE + 4;
const LEAVE_BE: u64 = BASE + 5;

/// The instruction sequence that valgrind knows and processors make nothing of.
fn request(number: u64, argument: u64) {
    let words = [number, argument, 0, 0, 0, 0];
    // SAFETY: four rotations that cancel out and an exchange of a register with itself; valgrind reads the live array.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            in("rax") words.as_ptr(),
            inout("rdx") 0u64 => _,
            inout("rdi") 0u64 => _,
        );
    }
}

/// Counts the instructions of what `work` asks to be counted; callgrind writes the sum down under `name`.
pub fn count<R>(name: &std::ffi::CStr, work: impl FnOnce() -> R) -> R {
    request(INSTRUMENT, 0);
    request(ZERO, 0);
    let result = work();
    request(DUMP_AT, name.as_ptr() as u64);
    request(LEAVE_BE, 0);
    result
}

/// Inside [`count`]: what counts.
pub fn counted<R>(work: impl FnOnce() -> R) -> R {
    COUNTING.store(true, Ordering::Relaxed);
    request(TOGGLE, 0);
    let result = work();
    request(TOGGLE, 0);
    COUNTING.store(false, Ordering::Relaxed);
    result
}

/// While it lives, nothing counts.
struct Pause(bool);

impl Pause {
    fn new() -> Pause {
        let counting = COUNTING.swap(false, Ordering::Relaxed);
        if counting {
            request(TOGGLE, 0);
        }
        Pause(counting)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        if self.0 {
            request(TOGGLE, 0);
            COUNTING.store(true, Ordering::Relaxed);
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: how the pager's own threads are made: by `clone`, on stacks of our own, unknown to the C library. Callers: `handler`,
//! `waker`, `kept`, `background`. No locks, no heap.
//!
//! Law 17: a pager may have to start its threads while the program is inside `malloc`, with its lock held, and the C library's way
//! to make a thread allocates. It also takes a program that never made a thread for one that has several from then on.
//!
//! The price: to such a thread the C library's own state is not there. It runs no code of the C library but what computes (copies,
//! `errno`), allocates only from a heap that is not the C library's, and has no thread-local variables of a library that was
//! loaded late: their first use ends the process, a Rust panic's included, with a report (`entry`). Of what the C library does to
//! all threads it knows nothing is done to these: they keep the user ids that the process started them with.

use crate::errno::Errno;
use crate::mapping::{Advice, Mapping};
use crate::page::PAGE_SIZE;
use crate::signals::{self, Blocked};
use crate::stub;
use crate::syscall::call;
use core::ffi::CStr;
use core::mem::ManuallyDrop;

const FLAGS: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS;

/// The thread's block, where the thread pointer points. The compiler knows the first word and the canary, the C library the rest.
#[repr(C)]
struct Block {
    itself: usize,
    /// Where late thread-local variables would be found: nowhere.
    late: usize,
    thread: usize,
    _threads: usize,
    _system: usize,
    canary: usize,
    pointer_guard: usize,
}

/// What a new thread finds at the upper end of its stack.
#[repr(C, align(16))]
struct Start<F> {
    name: &'static CStr,
    room: ManuallyDrop<Mapping>,
    work: F,
}

/// Starts a thread that does `work` on a stack of `stack` bytes and then ends; the kernel's number of it. It takes none of the
/// program's signals. In a forked child it does not exist, nor its stack.
///
/// # Errors
/// `ENOMEM`, `EAGAIN`: the kernel has no room for it.
pub fn spawn<F>(name: &'static CStr, stack: usize, work: F) -> Result<i32, Errno>
where
    F: FnOnce() + Send + 'static,
{
    let variables = early_variables();
    let stack = stack.next_multiple_of(PAGE_SIZE) + size_of::<Start<F>>().next_multiple_of(PAGE_SIZE);
    // From below: a page that nobody may touch, the stack, thread-local variables, and the block, of a page.
    let room = Mapping::new(PAGE_SIZE + stack + variables + PAGE_SIZE)?;
    let _ = room.advise(0..room.len(), Advice::DontFork);
    let top = room.addr() + PAGE_SIZE + stack;
    let pointer = room.addr() + room.len() - PAGE_SIZE;
    let start = (top - size_of::<Start<F>>()) & !(align_of::<Start<F>>() - 1);
    // Two words, and the stack is aligned to 16 bytes where they are taken.
    let entered: [usize; 2] = [start, enter::<F> as extern "C" fn(*mut Start<F>) -> ! as usize];
    let first = start - size_of_val(&entered);
    let blocked = Blocked::new();
    // SAFETY: all that is written lies in the new mapping, in its stack and its last page; the thread is the only one to use it
    // from then on and gives it back at its end. `start` is aligned for what is put there.
    let answer = unsafe {
        call(libc::SYS_mprotect, [room.addr(), PAGE_SIZE, libc::PROT_NONE as usize])?;
        (pointer as *mut Block).write(block(pointer));
        let (addr, len) = (room.addr(), room.len());
        (start as *mut Start<F>).write(Start { name, room: ManuallyDrop::new(room), work });
        (first as *mut [usize; 2]).write(entered);
        let answer = Errno::split(stub::tmem_own_thread(FLAGS as usize, first, pointer));
        if answer.is_err() {
            let unused = (start as *mut Start<F>).read();
            debug_assert!(unused.room.addr() == addr && unused.room.len() == len);
            drop(ManuallyDrop::into_inner(unused.room));
        }
        answer
    };
    drop(blocked);
    answer.map(|tid| tid as i32)
}

/// What the kernel calls the calling thread.
pub fn set_name(name: &'static CStr) {
    // SAFETY: a C string that lives as long as the process.
    let _ = unsafe { call(libc::SYS_prctl, [libc::PR_SET_NAME as usize, name.as_ptr() as usize]) };
}

/// Where the thread begins.
extern "C" fn enter<F: FnOnce()>(start: *mut Start<F>) -> ! {
    // SAFETY: `spawn` left it there for this thread alone, which reads it once.
    let Start { name, room, work } = unsafe { start.read() };
    let (at, len) = (room.addr(), room.len());
    set_name(name);
    work();
    // A signal would find no stack.
    signals::set_mask(u64::MAX, libc::SIG_SETMASK);
    // SAFETY: the mapping is this thread's, and nothing in it is used after this.
    unsafe { stub::tmem_end_thread(at, len) }
}

/// The calling thread's thread pointer. Every thread has its block's address in the block's first word.
fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: the first word of the block is there in every thread of this architecture.
    unsafe {
        core::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags))
    };
    pointer
}

/// A block like the calling thread's, as far as compiled code looks at it.
fn block(pointer: usize) -> Block {
    let (canary, pointer_guard): (usize, usize);
    // SAFETY: the two words are there in every thread's block.
    unsafe {
        core::arch::asm!("mov {}, fs:40", out(reg) canary, options(nostack, readonly, preserves_flags));
        core::arch::asm!("mov {}, fs:48", out(reg) pointer_guard, options(nostack, readonly, preserves_flags));
    }
    Block { itself: pointer, late: 0, thread: pointer, _threads: 0, _system: 0, canary, pointer_guard }
}

/// Bytes below the thread pointer for the variables of what was loaded before the C library, and its own: as far as `errno`, and
/// as much again as a page for what lies beyond.
fn early_variables() -> usize {
    // SAFETY: a pure function of the C library.
    let errno = unsafe { libc::__errno_location() } as usize;
    // Where it lies above the pointer, it lies in the block.
    thread_pointer().saturating_sub(errno).next_multiple_of(PAGE_SIZE) + PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ThreadKey;
    use crate::syscall::{getpid, gettid, sched_yield};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

    fn wait(done: impl Fn() -> bool) {
        while !done() {
            sched_yield();
        }
    }

    fn is_there(tid: i32) -> bool {
        std::path::Path::new(&format!("/proc/self/task/{tid}")).exists()
    }

    #[test]
    fn a_thread_works_by_its_name_without_the_programs_signals_and_goes() {
        static KEY: AtomicU64 = AtomicU64::new(0);
        static MASK: AtomicU64 = AtomicU64::new(0);
        static ERRNO: AtomicI32 = AtomicI32::new(0);
        static GO: AtomicBool = AtomicBool::new(false);
        let tid = spawn(c"tmem-test", 64 << 10, || {
            MASK.store(signals::set_mask(0, libc::SIG_BLOCK), Ordering::Relaxed);
            // SAFETY: a descriptor that is none; the C library writes the thread's own `errno`.
            unsafe {
                libc::close(-1);
                ERRNO.store(*libc::__errno_location(), Ordering::Relaxed);
            }
            KEY.store(ThreadKey::current().bits(), Ordering::Release);
            wait(|| GO.load(Ordering::Acquire));
        })
        .unwrap();
        // SAFETY: this thread's own.
        unsafe { *libc::__errno_location() = 7 };
        wait(|| KEY.load(Ordering::Acquire) != 0);
        // SAFETY: as above.
        assert_eq!(unsafe { *libc::__errno_location() }, 7, "errno is each thread's own");
        let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap();
        assert_eq!(name.trim_end(), "tmem-test");
        assert_ne!(KEY.load(Ordering::Relaxed), ThreadKey::current().bits());
        assert_eq!(ERRNO.load(Ordering::Relaxed), libc::EBADF);
        let block =
            signals::ALL_BUT_SYNCHRONOUS & !signals::bit(libc::SIGKILL) & !signals::bit(libc::SIGSTOP);
        // The C library's own two are among them.
        assert_eq!(MASK.load(Ordering::Relaxed) & block, block);
        GO.store(true, Ordering::Release);
        wait(|| !is_there(tid));
    }

    #[test]
    fn what_a_thread_was_given_is_dropped_and_its_stack_goes_with_it() {
        let given = Arc::new(());
        for _ in 0..2000 {
            // The heap here is the C library's, which such a thread must not enter: the last reference stays here.
            let theirs = Arc::clone(&given);
            spawn(c"tmem-test", 1 << 20, move || drop(theirs)).unwrap();
            wait(|| Arc::strong_count(&given) == 1);
        }
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(maps.lines().count() < 1000, "{} mappings are left", maps.lines().count());
    }

    #[test]
    fn a_forked_child_makes_its_own() {
        static DONE: AtomicI32 = AtomicI32::new(0);
        // SAFETY: the child makes one thread and ends, without entering the C library's heap.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let made = spawn(c"tmem-test", 64 << 10, || DONE.store(gettid(), Ordering::Release));
            wait(|| made.is_err() || DONE.load(Ordering::Acquire) != 0);
            let right = made.is_ok_and(|tid| tid == DONE.load(Ordering::Relaxed) && tid != getpid());
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = 1;
        // SAFETY: waits for the child just made, into a live word.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: guarded stacks on which the work of a fault runs. A handler may be entered on any stack, a 16 KiB
//! alternate one included; packing and unpacking pages there could run over its end.
//! Callers: `entry`, `guard`. Law: a stack is one thread's at a time; when all are busy, the fault waits.

use crate::mapping::Mapping;
use crate::page::PAGE_SIZE;
use crate::syscall::{call, sched_yield};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const STACKS: usize = 64;
const STACK_SIZE: usize = 64 << 10;

static BUSY: AtomicU64 = AtomicU64::new(0);
static POOL: OnceLock<Mapping> = OnceLock::new();

/// Maps the pool. Must run before the first [`run`], outside signal handlers.
///
/// # Errors
/// `ENOMEM`.
pub fn prepare() -> Result<(), crate::Errno> {
    if POOL.get().is_some() {
        return Ok(());
    }
    let pool = Mapping::new(STACKS * STACK_SIZE)?;
    for i in 0..STACKS {
        // SAFETY: the lowest page of each stack, inside the mapping just made, becomes its guard.
        unsafe {
            call(libc::SYS_mprotect, [pool.addr() + i * STACK_SIZE, PAGE_SIZE, libc::PROT_NONE as usize])?
        };
    }
    let _ = POOL.set(pool);
    Ok(())
}

/// Forgets which stacks were in use: in a forked child the threads that used them do not exist.
pub fn reset_after_fork() {
    BUSY.store(0, Ordering::Release);
}

fn acquire() -> usize {
    loop {
        let busy = BUSY.load(Ordering::Relaxed);
        let free = (!busy).trailing_zeros() as usize;
        if free >= STACKS {
            sched_yield();
        } else if BUSY.compare_exchange(busy, busy | 1 << free, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            return free;
        }
    }
}

/// Calls `f(arg)` on a guarded stack. `f` must return.
pub fn run(f: extern "C" fn(*mut u8), arg: *mut u8) {
    let Some(pool) = POOL.get() else { return f(arg) };
    let here = &raw const arg as usize;
    if pool.contains(here) {
        return f(arg);
    }
    let index = acquire();
    let top = pool.addr() + (index + 1) * STACK_SIZE;
    // SAFETY: `top` is the 16-byte aligned end of a stack that only this thread uses until the bit is cleared;
    // the old stack pointer is kept in a callee-saved register, and `f` follows the C calling convention.
    unsafe {
        std::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {f}",
            "mov rsp, r12",
            top = in(reg) top,
            f = in(reg) f,
            in("rdi") arg,
            out("r12") _,
            clobber_abi("C"),
        );
    }
    BUSY.fetch_and(!(1 << index), Ordering::Release);
}

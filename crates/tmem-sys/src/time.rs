// SPDX-License-Identifier: Apache-2.0
//! Owns: the clock of the fault path. The time-stamp counter needs no system call, which a handler may not make
//! outside the stub (the C library's clock falls back to one on some clock sources).

use crate::syscall::call;
use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds per tick in 32.32 fixed point; zero until calibrated.
static SCALE: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counter.
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor and touches no memory.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Monotonic time in nanoseconds, by a system call through the stub.
pub fn now_ns() -> u64 {
    let mut ts = [0u64; 2];
    // SAFETY: `ts` has the layout of `struct timespec` on x86-64 and outlives the call.
    let _ =
        unsafe { call(libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, ts.as_mut_ptr() as usize]) };
    ts[0] * 1_000_000_000 + ts[1]
}

/// Time for which the calling thread ran, in nanoseconds.
pub fn thread_ns() -> u64 {
    let mut ts = [0u64; 2];
    // SAFETY: as in `now_ns`.
    let _ = unsafe {
        call(libc::SYS_clock_gettime, [libc::CLOCK_THREAD_CPUTIME_ID as usize, ts.as_mut_ptr() as usize])
    };
    ts[0] * 1_000_000_000 + ts[1]
}

/// Measures the counter against the clock for about two milliseconds, once a process.
pub fn calibrate() {
    if SCALE.load(Ordering::Relaxed) != 0 {
        return;
    }
    let (t0, n0) = (ticks(), now_ns());
    let mut n1 = n0;
    while n1 - n0 < 2_000_000 {
        n1 = now_ns();
    }
    let per_tick = (u128::from(n1 - n0) << 32) / u128::from((ticks() - t0).max(1));
    SCALE.store(per_tick as u64, Ordering::Relaxed);
}

/// Converts a difference of [`ticks`] to nanoseconds.
pub fn ns_from_ticks(delta: u64) -> u64 {
    ((u128::from(delta) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

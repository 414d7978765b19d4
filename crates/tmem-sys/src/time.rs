// SPDX-License-Identifier: Apache-2.0
//! Owns: the clock of the fault path. The time-stamp counter needs no system call, which a handler may not make
//! outside the stub (the C library's clock falls back to one on some clock sources).

use crate::syscall::call;
use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds per tick in 32.32 fixed point; zero until calibrated.
static SCALE: AtomicU64 = AtomicU64::new(0);
static BEGAN_TICKS: AtomicU64 = AtomicU64::new(0);
static BEGAN_NS: AtomicU64 = AtomicU64::new(0);

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

/// The counter and the clock at one moment.
fn moment() -> (u64, u64) {
    // Between the two the thread may lose its processor: the closest of a few is taken.
    let reads = [(); 4].map(|()| {
        let (before, ns) = (ticks(), now_ns());
        (ticks() - before, before, ns)
    });
    let (_, ticks, ns) = reads.into_iter().min().unwrap_or_default();
    (ticks, ns)
}

/// Begins to measure the counter against the clock, once a process; whoever converts first ends it.
pub fn calibrate() {
    if BEGAN_NS.load(Ordering::Acquire) == 0 {
        let (ticks, ns) = moment();
        BEGAN_TICKS.store(ticks, Ordering::Relaxed);
        BEGAN_NS.store(ns, Ordering::Release);
    }
}

/// Waits until the measurement is good for a thousandth, which it most often is by now: a process that never asks waits for nothing.
#[cold]
fn settle() -> u64 {
    const LEAST_NS: u64 = 500_000;
    calibrate();
    let began = (BEGAN_TICKS.load(Ordering::Relaxed), BEGAN_NS.load(Ordering::Acquire));
    loop {
        let (ticks, ns) = moment();
        let (ticks, ns) = (ticks.saturating_sub(began.0), ns.saturating_sub(began.1));
        if ns >= LEAST_NS {
            let per_tick = ((u128::from(ns) << 32) / u128::from(ticks.max(1))).max(1) as u64;
            SCALE.store(per_tick, Ordering::Relaxed);
            return per_tick;
        }
    }
}

/// Converts a difference of [`ticks`] to nanoseconds.
pub fn ns_from_ticks(delta: u64) -> u64 {
    if delta == 0 {
        return 0;
    }
    let known = SCALE.load(Ordering::Relaxed);
    let scale = if known == 0 { settle() } else { known };
    ((u128::from(delta) * u128::from(scale)) >> 32) as u64
}

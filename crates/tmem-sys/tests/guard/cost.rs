// SPDX-License-Identifier: Apache-2.0
//! What a guarded call costs. Printed, not judged: machines differ.

use crate::arena;
use std::time::Instant;

const ROUNDS: u32 = 50_000;

fn nanoseconds_a_call() -> f64 {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        unsafe { libc::getppid() };
    }
    start.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
}

pub fn intercepted_call() {
    let native = nanoseconds_a_call();
    arena::arm();
    let guarded = nanoseconds_a_call();
    println!("measured getppid: native {native:.0} ns, guarded {guarded:.0} ns");
}

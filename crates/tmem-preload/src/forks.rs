// SPDX-License-Identifier: Apache-2.0
//! Owns: what happens to the door around `fork`, and the ranges that a child is not to have, or to have empty. Callers: the fork
//! that stands in for `_Fork`, or the C library, in the forking thread; `advice` and `space` for the ranges. Lock order: the break's, the early mappings', the rules',
//! then the pager's. The heap's lock comes last of all and is let go of first.
//!
//! The pager's arena is inherited whole or not at all, so that the kernel's own marks (`MADV_DONTFORK`, `MADV_WIPEONFORK`) on
//! parts of it would be lost: the child sees to them itself, before it returns from `fork`.

use crate::marks::Marks;
use crate::{HEAP, brk, door, early, ledger, report, space};
use core::sync::atomic::{AtomicU64, Ordering};
use std::ops::Range;
use tmem_sys::{Errno, fork, signals, syscall};

/// What a child finds in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing is mapped there.
    Absent,
    /// Zeros.
    Wiped,
}

static RULES: Marks<Rule> = Marks::new();
static MASK: AtomicU64 = AtomicU64::new(0);

/// # Errors
/// `ENOMEM` for too many.
pub fn mark(range: &Range<usize>, rule: Rule) -> Result<(), Errno> {
    RULES.set(range, rule)
}

/// A range is inherited as any other.
pub fn forget(range: &Range<usize>) {
    RULES.forget(range);
}

/// Registers all handlers there are, in the order that the locks need: those registered last come first before a fork.
///
/// # Errors
/// `ENOMEM`.
pub fn register() -> Result<(), Errno> {
    fork::register(pause_heap, resume_heap, resume_heap)?;
    tmem_pager::register_fork().map_err(|_| Errno::ENOMEM)?;
    fork::register(prepare, parent, child)
}

extern "C" fn pause_heap() {
    HEAP.pause();
}

extern "C" fn resume_heap() {
    HEAP.resume();
}

extern "C" fn prepare() {
    let mask = signals::block_all();
    // Only from here on this thread is the only one that forks.
    brk::pause();
    MASK.store(mask, Ordering::Relaxed);
    early::pause();
    RULES.pause();
    space::OTHERS.pause();
}

extern "C" fn parent() {
    finish();
}

extern "C" fn child() {
    ledger::forked();
    report::forked();
    apply();
    finish();
}

fn finish() {
    drop(RULES.resume());
    drop(space::OTHERS.resume());
    early::resume();
    let mask = MASK.load(Ordering::Relaxed);
    brk::resume();
    signals::restore_mask(mask);
}

/// In a child.
fn apply() {
    let rules = RULES.resume();
    if let Some(door) = door::door() {
        for (range, rule) in rules.iter() {
            let done = match rule {
                Rule::Absent => door.pager.unmap(range.start, range.len()),
                Rule::Wiped => door.pager.discard(range.start, range.len()),
            };
            if done.is_err() {
                syscall::die(
                    "a forked child keeps memory that it was not to have (MADV_DONTFORK, MADV_WIPEONFORK)",
                );
            }
        }
    }
    rules.keep_across_fork();
}

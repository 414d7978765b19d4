// SPDX-License-Identifier: Apache-2.0
//! Owns: what is noted of ranges of addresses. Callers: `forks` (what a child is to find), `space` (what is no plain memory). Lock:
//! one for each set, after the break's and before the pager's.

use std::ops::Range;
use tmem_sys::{Errno, Lock, LockGuard};

/// Ranges in a set at most: most looks go through all of them.
const MOST: usize = 4096;

/// Ranges that do not overlap, each with its note.
pub struct Marks<T>(Lock<Vec<(Range<usize>, T)>>);

impl<T: Copy> Marks<T> {
    pub const fn new() -> Marks<T> {
        Marks(Lock::new(Vec::new()))
    }

    /// Notes something of a range, in place of what was noted before.
    ///
    /// # Errors
    /// `ENOMEM` for too many.
    pub fn set(&self, range: &Range<usize>, note: T) -> Result<(), Errno> {
        self.forget(range);
        let mut all = self.0.lock();
        if all.len() >= MOST {
            return Err(Errno::ENOMEM);
        }
        all.push((range.clone(), note));
        Ok(())
    }

    /// Nothing is noted of a range any more.
    pub fn forget(&self, range: &Range<usize>) {
        let mut all = self.0.lock();
        if all.iter().all(|(known, _)| known.end <= range.start || known.start >= range.end) {
            return;
        }
        let mut rest = Vec::with_capacity(all.len() + 1);
        for (known, note) in all.drain(..) {
            for part in [known.start..known.end.min(range.start), known.start.max(range.end)..known.end] {
                if part.start < part.end {
                    rest.push((part, note));
                }
            }
        }
        *all = rest;
    }

    /// Whether something is noted of any part of a range.
    pub fn touch(&self, range: &Range<usize>) -> bool {
        self.0.lock().iter().any(|(known, _)| known.start < range.end && known.end > range.start)
    }

    /// Before a fork.
    pub fn pause(&self) {
        self.0.lock().keep_across_fork();
    }

    /// After it, in parent and child.
    pub fn resume(&self) -> LockGuard<'_, Vec<(Range<usize>, T)>> {
        self.0.reclaim()
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the large mappings that a process made before it had a pager. One that grows later is taken into the arena: many a
//! program keeps all it has in one block that began small. Callers: `space`, `remap`. Lock: its own, the last of all.

use std::ops::Range;
use tmem_sys::Lock;

/// All that can be made before there is a pager, if each is as small as a large one can be.
const MOST: usize = 64;

static EARLY: Lock<[(usize, usize); MOST]> = Lock::new([(0, 0); MOST]);

/// The program has a new mapping. Where there is no place, it stays the kernel's for good.
pub fn note(range: Range<usize>) {
    if let Some(place) = EARLY.lock().iter_mut().find(|(at, _)| *at == 0) {
        *place = (range.start, range.end);
    }
}

/// A part of such a mapping is gone, and with it what was known of the whole.
pub fn forget(range: &Range<usize>) {
    for place in EARLY.lock().iter_mut().filter(|(at, end)| *at < range.end && *end > range.start) {
        *place = (0, 0);
    }
}

/// Whether a range is just such a mapping.
pub fn is_known(range: &Range<usize>) -> bool {
    EARLY.lock().contains(&(range.start, range.end))
}

/// Before a fork.
pub fn pause() {
    EARLY.lock().keep_across_fork();
}

/// After it, in parent and child.
pub fn resume() {
    drop(EARLY.reclaim());
}

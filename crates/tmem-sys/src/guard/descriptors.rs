// SPDX-License-Identifier: Apache-2.0
//! Calls of the program that close descriptors. Called by `trap` and the door. Those that are tmem's own look as if they were not open: without
//! its userfaultfd a page that is out would read as zeros (law 12). No locks.

use super::ordinary::{Args, issue};
use crate::kept;

const NOT_OPEN: isize = -(libc::EBADF as isize);

/// Issues a call that closes descriptors, but for the kept ones. None: not such a call.
pub(super) fn call(nr: usize, a: Args) -> Option<isize> {
    // The kernel takes descriptors as 32 bits.
    let number = |arg: usize| a[arg] as u32 as usize;
    match nr as libc::c_long {
        libc::SYS_close if kept::is_kept(number(0)) => Some(NOT_OPEN),
        libc::SYS_dup2 | libc::SYS_dup3 if kept::is_kept(number(1)) => Some(NOT_OPEN),
        libc::SYS_close_range => Some(close_range(nr, a, number(0), number(1))),
        _ => None,
    }
}

/// For a door that stands in for the C library's functions: such a call's answer, as the kernel's would be. Only the program's own
/// descriptors are closed.
pub fn close_call(nr: libc::c_long, a: [usize; 3]) -> isize {
    let all = [a[0], a[1], a[2], 0, 0, 0];
    call(nr as usize, all).unwrap_or_else(|| issue(nr as usize, all))
}

/// Closes the range in the pieces that the kept descriptors leave of it.
fn close_range(nr: usize, a: Args, first: usize, last: usize) -> isize {
    let mut from = first;
    while let Some(kept) = kept::next(from).filter(|&fd| fd <= last) {
        if kept > from {
            let answer = issue(nr, [from, kept - 1, a[2], 0, 0, 0]);
            if answer < 0 {
                return answer;
            }
        }
        from = kept + 1;
    }
    if from <= last || first > last { issue(nr, [from, last, a[2], 0, 0, 0]) } else { 0 }
}

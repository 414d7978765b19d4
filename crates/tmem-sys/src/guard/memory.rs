// SPDX-License-Identifier: Apache-2.0
//! Calls of the program that would change mappings the pager manages. Called by `trap`. Advice on paged memory is taken and not
//! followed (the pager decides); what would break the pager is refused with a notice. No locks.

use super::ordinary::{Args, issue};
use super::{hooks, refuse};

const LOCKED: &str =
    "paged memory cannot be locked in RAM (mlock); allocate what must stay there outside paged memory";
const CHANGED: &str = "a change of paged memory's mapping was refused (munmap, mremap, mprotect, madvise, mmap over it); \
     free it by the library that allocated it";

/// Issues a call on mappings, unless it names paged memory and would change it. None: not such a call.
pub(super) fn call(nr: usize, a: Args) -> Option<isize> {
    let paged =
        |addr: usize, len: usize| hooks().is_some_and(|h| (h.owns)(addr, len.min(usize::MAX - addr).max(1)));
    let refused = match nr as libc::c_long {
        libc::SYS_madvise if paged(a[0], a[1]) => return Some(advise(a[2] as i32)),
        libc::SYS_munmap
        | libc::SYS_mprotect
        | libc::SYS_pkey_mprotect
        | libc::SYS_mbind
        | libc::SYS_remap_file_pages
        | 462 => paged(a[0], a[1]).then_some((libc::EINVAL, CHANGED)),
        libc::SYS_mremap => {
            let onto = a[3] & libc::MREMAP_FIXED as usize != 0 && paged(a[4], a[2]);
            (onto || paged(a[0], a[1])).then_some((libc::EINVAL, CHANGED))
        }
        libc::SYS_mmap => {
            let fixed = a[3] & libc::MAP_FIXED as usize != 0;
            (fixed && paged(a[0], a[1])).then_some((libc::EINVAL, CHANGED))
        }
        libc::SYS_mlock | libc::SYS_mlock2 => paged(a[0], a[1]).then_some((libc::ENOMEM, LOCKED)),
        libc::SYS_mlockall => Some((libc::ENOMEM, LOCKED)),
        libc::SYS_madvise => None,
        _ => return None,
    };
    Some(match refused {
        Some((errno, text)) => refuse(errno, text),
        None => issue(nr, a),
    })
}

/// Whether an unmapping takes the stack that its caller stands on: some C libraries end a thread so.
pub(super) fn takes_stack(a: Args, stack: usize) -> bool {
    a[0] <= stack && stack - a[0] < a[1]
}

/// Hints are answered as if taken.
fn advise(advice: i32) -> isize {
    match advice {
        libc::MADV_NORMAL
        | libc::MADV_RANDOM
        | libc::MADV_SEQUENTIAL
        | libc::MADV_WILLNEED
        | libc::MADV_DONTFORK
        | libc::MADV_MERGEABLE
        | libc::MADV_UNMERGEABLE
        | libc::MADV_HUGEPAGE
        | libc::MADV_NOHUGEPAGE
        | libc::MADV_DONTDUMP
        | libc::MADV_DODUMP
        | libc::MADV_COLD
        | libc::MADV_PAGEOUT
        | libc::MADV_POPULATE_READ
        | libc::MADV_POPULATE_WRITE
        | libc::MADV_COLLAPSE => 0,
        _ => refuse(libc::EINVAL, CHANGED),
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: what is refused to the program because the RAM budget has no room for it: counted for the report, and told on standard
//! error with the remedy, once of a kind in each process. Callers: `space`, `advice`, `remap`. Locks: none.

use crate::{door, ledger};
use core::sync::atomic::{AtomicBool, Ordering};
use tmem_pager::PagerError;
use tmem_sys::Errno;

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Refusal {
    Map,
    Protect,
    Lock,
    LockAll,
}

impl Refusal {
    pub const ALL: [Refusal; 4] = [Refusal::Map, Refusal::Protect, Refusal::Lock, Refusal::LockAll];

    /// Its system call.
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::Map => "mmap",
            Refusal::Protect => "mprotect",
            Refusal::Lock => "mlock",
            Refusal::LockAll => "mlockall",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Refusal::Map => {
                "more memory is in use than RAM budget and swap have room for: raise --ram or --swap"
            }
            Refusal::Protect => {
                "memory that may not be written is not paged, and must fit the RAM budget: raise --ram"
            }
            Refusal::Lock => {
                "locked memory must fit the RAM budget beside what is paged: lock less, or raise --ram"
            }
            Refusal::LockAll => {
                "what is mapped could not all stay in the RAM budget: lock what needs it by mlock"
            }
        }
    }
}

/// Refuses; what the program is answered.
pub fn refuse(what: Refusal) -> Errno {
    count(what, None)
}

/// What the kernel would have answered, where the pager could not; refusals for the budget's sake are counted.
pub fn answer(what: Refusal, error: &PagerError) -> Errno {
    match error {
        PagerError::Budget(why) => count(what, Some(why)),
        other => door::errno(other),
    }
}

#[cold]
fn count(what: Refusal, why: Option<&str>) -> Errno {
    static TOLD: [AtomicBool; Refusal::ALL.len()] = [const { AtomicBool::new(false) }; Refusal::ALL.len()];
    ledger::note_refusal(what);
    if !TOLD[what as usize].swap(true, Ordering::Relaxed) {
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        door::tell(&format!("{} was refused", what.name()), &format!("{}{why}", what.remedy()));
    }
    Errno::ENOMEM
}

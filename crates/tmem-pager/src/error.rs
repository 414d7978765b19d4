// SPDX-License-Identifier: Apache-2.0
//! Owns: what can go wrong in a call that a program makes on purpose. Each text ends with the next step.

use std::fmt;
use tmem_sys::Errno;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PagerError {
    /// The machine does not permit what was asked.
    Unsupported(String),
    /// It would not fit the budget.
    Budget(String),
    /// No swap device can be made.
    Swap(Errno, String),
    Closed,
    /// The range is not paged memory of this object.
    NotOurs,
    /// A call to the kernel failed.
    Kernel(&'static str, Errno),
}

impl fmt::Display for PagerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PagerError::Unsupported(why) | PagerError::Budget(why) | PagerError::Swap(_, why) => {
                f.write_str(why)
            }
            PagerError::Closed => f.write_str("this Memory is closed; make a new one"),
            PagerError::NotOurs => f.write_str(
                "that memory is not paged by this Memory; pass an array that it made, or a view of one",
            ),
            PagerError::Kernel(what, errno) => write!(f, "{what} failed: {errno}"),
        }
    }
}

impl std::error::Error for PagerError {}

impl From<Errno> for PagerError {
    fn from(e: Errno) -> PagerError {
        if e == Errno::ENOMEM {
            return PagerError::Budget(
                "no address space for arrays and tables (a little over 1 TiB, which takes no RAM): raise the limit \
                 (ulimit -v unlimited), or let the kernel overcommit (sysctl vm.overcommit_memory=0)"
                    .into(),
            );
        }
        PagerError::Kernel("reserving memory", e)
    }
}

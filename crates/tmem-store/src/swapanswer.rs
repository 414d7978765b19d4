// SPDX-License-Identifier: Apache-2.0
//! Owns: what the swap device answers: slots, faults, refusals, why it cannot be made. Pure data. Callers: `swap`, the pager.

use crate::ops::Reason;
use std::fmt;
use tmem_sys::Errno;

/// Numbers of the records of a level; the bits above are the level.
const INDEX_BITS: u32 = 28;
/// The most pages of one level, and the most blocks of its file; one number less than fits, so that no slot is [`SwapSlot::NONE`].
pub const MAX_CAP: u64 = (1 << INDEX_BITS) - 1;

/// By what a page on the device is found; where it lies may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SwapSlot(pub u32);

impl SwapSlot {
    /// No slot.
    pub const NONE: SwapSlot = SwapSlot(u32::MAX);

    pub(crate) fn new(level: usize, index: usize) -> SwapSlot {
        SwapSlot((level as u32) << INDEX_BITS | index as u32)
    }

    pub(crate) fn level(self) -> usize {
        (self.0 >> INDEX_BITS) as usize
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize & MAX_CAP as usize
    }
}

/// A page that was written cannot be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapFault {
    /// The bytes are not those that were written, or the slot holds no page.
    Corrupt(SwapSlot),
    Io(SwapSlot, Errno),
}

impl fmt::Display for SwapFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |s: &SwapSlot| format!("slot {} of swap file {}", s.index(), s.level());
        match self {
            SwapFault::Corrupt(slot) => {
                write!(
                    f,
                    "{} holds other bytes than were written to it: its checksum does not match",
                    place(slot)
                )
            }
            SwapFault::Io(slot, errno) => write!(f, "{} cannot be read: {errno}", place(slot)),
        }
    }
}

impl std::error::Error for SwapFault {}

/// Why there is no swap device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapOpenError {
    /// The directory is on a file system that is itself memory.
    InMemory,
    Errno(Errno),
}

impl fmt::Display for SwapOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SwapOpenError::InMemory => f.write_str(
                "the swap directory is on tmpfs, which is memory itself; name a directory on a disk, or allow memory",
            ),
            SwapOpenError::Errno(errno) => write!(f, "no swap file can be made in the swap directory: {errno}"),
        }
    }
}

impl std::error::Error for SwapOpenError {}

impl From<Errno> for SwapOpenError {
    fn from(errno: Errno) -> SwapOpenError {
        SwapOpenError::Errno(errno)
    }
}

/// Whether a failed write says that the file system is full for us.
pub(crate) fn is_full(errno: Errno) -> bool {
    errno == Errno::ENOSPC || matches!(errno.name(), "EDQUOT" | "EFBIG")
}

/// What a failed write says to whoever offered the page.
pub(crate) fn refusal_of(errno: Errno) -> Reason {
    if is_full(errno) { Reason::SwapFull } else { Reason::SwapError }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_become_reasons() {
        assert_eq!(refusal_of(Errno::ENOSPC), Reason::SwapFull);
        assert_eq!(refusal_of(Errno(122)), Reason::SwapFull);
        assert_eq!(refusal_of(Errno::EIO), Reason::SwapError);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: why a save or a restore did not come to its end. Callers: `saver`, `restorer`; the bindings make exceptions of
//! them. Pure. Each text ends with the next step.

use crate::guests::PAGE_METADATA;
use crate::object::ObjectId;
use crate::ops::{Corrupt, Reason};
use crate::pool::StoreError;
use crate::save::Need;
use crate::save::format::VERSION;
use std::fmt;
use tmem_sys::{Errno, PAGE_SIZE};

/// Why pools could not be saved.
#[derive(Debug)]
pub enum SaveError {
    /// Another save holds one of the pools.
    Held,
    /// A pool was destroyed, or this is a forked child of who began.
    Over,
    /// A page that cannot be given back.
    Lost(ObjectId, u64, Corrupt),
    Store(StoreError),
    /// No address space.
    Room(Errno),
}

impl fmt::Display for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SaveError::Held => {
                f.write_str("the pool is being saved already: wait for that save to end, and name a pool once")
            }
            SaveError::Over => f.write_str(
                "the save cannot go on: a pool was destroyed meanwhile, or this is a forked child; save again",
            ),
            SaveError::Lost(object, index, corrupt) => {
                let [a, b, c] = object.0;
                write!(f, "object 0x{c:016x}{b:016x}{a:016x} index {index}: {corrupt}; flush it and save again")
            }
            SaveError::Store(error) => error.fmt(f),
            SaveError::Room(errno) => {
                write!(f, "no address space for a save ({errno}): raise `ulimit -v`, or free memory")
            }
        }
    }
}

impl std::error::Error for SaveError {}

/// Why pools could not be restored.
#[derive(Debug)]
pub enum RestoreError {
    Io(std::io::Error),
    /// The file does not begin as one of ours.
    Strange,
    /// The file ends before it should, so long as it is.
    Short(u64),
    /// What is wrong, and at which byte.
    Damaged(&'static str, u64),
    Version(u32),
    PageSize(u32),
    /// Packed by a codec that this version has not.
    Codec(u8),
    /// A section, or a kind of pool, that this version has not.
    Unknown(u32),
    /// The host took no more.
    Refused(Reason, Need),
    /// The pools that were made for the file cannot be those.
    Misused(&'static str),
    Store(StoreError),
    /// No address space.
    Room(Errno),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NEWER: &str = "it was saved by a newer tmem: restore it with that version or a later one";
        const AGAIN: &str = "use another copy of it, or save the pools again";
        match self {
            RestoreError::Io(error) => write!(f, "it cannot be read ({error}): {AGAIN}"),
            RestoreError::Strange => {
                f.write_str("it is no file of saved pools: give one that Pool.save made")
            }
            RestoreError::Short(len) => write!(f, "it is cut short, at {len} bytes: {AGAIN}"),
            RestoreError::Damaged(what, at) => write!(f, "it is damaged: {what} at byte {at}; {AGAIN}"),
            RestoreError::Version(version) => {
                write!(f, "its format is version {version}, and this tmem reads up to {VERSION}: {NEWER}")
            }
            RestoreError::PageSize(size) => {
                write!(f, "its pages have {size} bytes, and here they have {PAGE_SIZE}: {NEWER}")
            }
            RestoreError::Codec(code) => {
                write!(f, "a page is packed by codec {code}, which this tmem has not: {NEWER}")
            }
            RestoreError::Unknown(kind) => {
                write!(f, "it has a part of kind {kind}, which this tmem has not: {NEWER}")
            }
            RestoreError::Refused(Reason::OverCap, need) => {
                let charge = need.charge + need.charged;
                write!(
                    f,
                    "the guest's cap has no room for it: at least {charge} bytes are needed; raise it by Host.set"
                )
            }
            RestoreError::Refused(Reason::StoreFull | Reason::IndexFull, need) => {
                let (room, pages) = (need.room + need.used, need.pages);
                write!(
                    f,
                    "the host has no room for its {pages} pages: a capacity of {room} bytes is needed; "
                )?;
                f.write_str("use Host.resize, or flush other pages")
            }
            RestoreError::Refused(reason, _) => {
                write!(f, "a page was refused ({reason}): thaw the guest's pools and restore again")
            }
            RestoreError::Misused(what) => write!(f, "{what}: make the pool as the file says"),
            RestoreError::Store(error) => error.fmt(f),
            RestoreError::Room(errno) => {
                write!(f, "no address space for a restore ({errno}): raise `ulimit -v`, or free memory")
            }
        }
    }
}

impl std::error::Error for RestoreError {}

impl From<std::io::Error> for RestoreError {
    fn from(error: std::io::Error) -> RestoreError {
        RestoreError::Io(error)
    }
}

/// Bytes that a guest is charged for a page.
pub(crate) fn charge_of(slot_bytes: usize) -> u64 {
    slot_bytes as u64 + PAGE_METADATA
}

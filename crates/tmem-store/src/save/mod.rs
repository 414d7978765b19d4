// SPDX-License-Identifier: Apache-2.0
//! Owns: files of saved pools. A saver makes the bytes of one while its pools are frozen and in use; a restorer puts the
//! pages of one into new pools. Files themselves are the callers' affair: the bindings. Nothing here is on the path of a
//! page but the notes of what leaves a pool that is being saved. Locks: the host's, for one run of pages.
//! Law: what is saved can only shrink. The file has what the pools had at one moment, the last in which the saver held
//! the lock: what was flushed before it is not in the file, what was refused is not either.

mod error;
mod format;
mod hold;
mod need;
mod restorer;
mod saver;
mod scan;

pub use error::{RestoreError, SaveError};
pub use format::Described;
pub(crate) use hold::Saves;
pub use need::Need;
pub use restorer::{Restorer, Step};
pub use saver::{Saved, Saver};

#[cfg(test)]
mod damage;
#[cfg(test)]
mod tests;

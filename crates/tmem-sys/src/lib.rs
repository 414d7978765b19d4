// SPDX-License-Identifier: Apache-2.0
//! The kernel edge of tmem. Everything `unsafe` below the doors lives in this crate; the floors above get
//! owned types whose use is safe.
//!
//! Two rules hold for every function here that the path of a page may call:
//! - system calls go through the stub (`syscall`), never through libc: under the guard any other system call
//!   instruction traps, and inside our signal handlers such a trap is fatal;
//! - nothing allocates from the heap.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!(
    "tmem needs x86-64 Linux: userfaultfd, the signal frame and system call dispatch are used as they are there"
);

mod errno;
pub mod page;
pub mod stub;
pub mod syscall;

pub mod lock;
pub mod mapping;
#[cfg(loom)]
pub mod model;
pub mod random;
pub mod table;
pub mod time;

pub mod frames;
pub mod pagemap;

pub mod uffd;

pub mod background;
pub mod beyond;
pub mod entry;
#[cfg(feature = "fake-kernel")]
pub mod fake;
mod follow;
pub mod fork;
pub mod guard;
pub mod handler;
pub mod own;
pub mod signals;
pub mod stack;
pub mod thread;
mod waker;

pub mod caps;
pub mod channel;
pub mod counters;
pub mod file;
pub mod hash;
pub mod heap;
pub mod kept;
pub mod lease;
pub mod link;
pub mod lz4;
pub mod memory;
pub mod overlay;
pub mod pack;
pub mod proc;
pub mod zstd;

pub use errno::Errno;
pub use lock::{Lock, LockGuard};
pub use mapping::Mapping;
pub use page::{PAGE_SHIFT, PAGE_SIZE, Page};
pub use table::{Pod, Table};
pub use thread::ThreadKey;

// SPDX-License-Identifier: Apache-2.0
//! Where pages live. A page on its way out of the pager is offered here and may be refused; a page taken is
//! given back byte for byte. Modules in the order of the flow: hook, host, pool, room, index, codec, slab, swap device,
//! files of saved pools.
//!
//! Nothing here is `unsafe`, and nothing on the path of a page (put, get, flush) uses the heap: all memory comes
//! from `tmem_sys` tables. Only `check` and constructors allocate.
#![forbid(unsafe_code)]

pub mod frontswap;
pub mod ops;
pub mod process;
pub mod stack;
pub mod testback;

mod areas;

pub mod backend;
mod batch;
mod board;
mod coders;
mod config;
mod facts;
pub mod guests;
pub mod host;
pub mod lease;
mod leasing;
pub mod pool;
pub mod revocable;
mod shard;
mod supply;
mod sync;

pub mod cache;
mod shape;

mod age;
mod backfill;
mod candidates;
mod cold;
mod dedup;
mod expect;
mod held;
mod leave;
mod lend;
mod oldest;
mod order;
mod outside;
mod place;
mod room;
mod shared;
mod whole;

mod entry;
mod nodes;
mod object;
mod tree;

mod chunks;
mod class;
#[doc(hidden)]
pub mod codec;
mod compact;
mod leased;
mod slab;
mod sums;
mod vacate;
mod windows;

pub mod swap;
mod swapanswer;
mod swapblob;
mod swapclean;
mod swapfork;
mod swaplevel;
mod swapmap;
mod swaprecord;

pub mod save;

mod check;
pub mod stats;

pub use backend::LocalBackend;
pub use cache::Cache;
pub use codec::Dictionaries;
pub use cold::ColdBatch;
pub use frontswap::{Frontswap, FrontswapCounters, Mode};
pub use guests::{GuestError, GuestHoldings, GuestId, GuestLimits, GuestStats};
pub use host::{Host, HostConfig, HostError};
pub use lease::{Extent, Holder, Kind, LinkState, Mailbox, Report};
pub use object::ObjectId;
pub use ops::{BackendOps, Blob, Copied, Corrupt, Loaded, Oldest, Outcome, Reason, Soon};
pub use pool::{Dedup, PageStore, PoolConfig, PoolId, PoolKind, StoreConfig, StoreError};
pub use process::ProcessBackend;
pub use stack::{Lost, Stack};
pub use stats::{DedupStats, Holdings, PoolStats, Refusals, StoreStats, SwapStats, Traffic};
pub use swap::{Batch, SwapConfig, SwapDevice, SwapFault, SwapOpenError, SwapSlot};
pub use vacate::{Vacated, Vacating};

/// Rounds a number of bytes up to whole pages: what the kernel charges for a touched table.
pub(crate) const fn page_bytes(bytes: usize) -> usize {
    tmem_sys::page::pages_for(bytes) * tmem_sys::PAGE_SIZE
}

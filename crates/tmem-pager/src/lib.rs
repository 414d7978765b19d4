// SPDX-License-Identifier: Apache-2.0
//! Who is resident. Start reading at `fault` (the way in) and `evict` (the way out); both end at `frontswap`.
//!
//! One lock per pager guards its `state`; the path of a page allocates nothing, takes no GIL and touches no paged
//! memory while it holds that lock. Nothing here is `unsafe`: the kernel edge is `tmem_sys`.
#![forbid(unsafe_code)]

pub mod registry;

mod evict;
mod expect;
mod fault;
mod lodgers;
mod page;
mod readahead;
mod recent;
mod serve;
mod several;
mod slots;
mod state;
mod swapout;
mod transit;
mod writeback;

mod admit;
mod arm;
mod budget;
mod bulk;
mod chance;
mod check;
mod fork;
mod letgo;
mod locked;
mod relocate;
mod space;
mod unstore;
mod verbs;

mod background;
mod blocks;
mod error;
mod extents;
mod huge;
mod idle;
mod notices;
mod pager;
mod runs;
pub mod stats;
mod survey;
mod tenancy;
mod tiers;

#[doc(hidden)]
pub use page::{Event, PageState, next};

pub use arm::Choice;
pub use blocks::Block;
pub use error::PagerError;
pub use pager::{ARENA_BYTES, Backend, Config, MIN_RAM, Pager, finalize};
pub use readahead::Pattern;
pub use space::Kind;
pub use survey::register_fork;
pub use tiers::Tier;
pub use verbs::Advice;

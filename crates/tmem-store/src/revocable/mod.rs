// SPDX-License-Identifier: Apache-2.0
//! Owns: ephemeral pages in memory that its lender can cut off at any moment, from another process, this one running or not.
//! Callers: the doors, for users' pools on a host's connection. `owner` is what they use; `store` keeps pages under its lock, by
//! `pages` (which page, where), `log` (the extents) and `room` (which extent next); `shared` is a pool of several guests.
//!
//! Nothing here maps an extent: bytes are copied in and out by system calls, which end short where the memory is gone, and a copy is
//! checked against a checksum in private memory before it is decoded. So what was cut off is a miss and never a signal, zeros or
//! another page's bytes (laws 6, 12 and 19).

mod fork;
mod log;
mod owner;
mod pages;
mod room;
pub mod shared;
mod store;
mod walk;

pub use owner::Revocable;
pub use store::{RevocableConfig, RevocableStats};

#[cfg(all(test, not(loom)))]
mod tests;

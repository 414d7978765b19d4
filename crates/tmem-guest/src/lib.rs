// SPDX-License-Identifier: Apache-2.0
//! A guest's connection to the daemon, which leases memory to the stores of this process. Start reading at `client`, the handle, and
//! `session`, the thread: it looks for a host, claims what is still held, and serves (`serve`, `orders`, `giving`) until it ends.
//!
//! It stands between the store and the doors: a store leaves what it wants in a mailbox and finds extents there; what the host wants
//! goes to the store's owner, a `Holder`. No page ever passes through here, and none ever waits for what is done here. The thread
//! uses no heap: in a program that knows nothing of us, and in every forked child, the C library does not know it.
#![forbid(unsafe_code)]

mod balloon;
mod claim;
mod client;
mod giving;
mod lane;
mod orders;
mod serve;
mod session;
mod shared;
mod tenant;
mod threads;
pub mod wire;

pub use client::{Client, Config, Standing, Status, When, host_id};
pub use shared::{Joined, NotJoined, Pools};
pub use tenant::Tenant;

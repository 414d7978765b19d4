// SPDX-License-Identifier: Apache-2.0
//! Owns: a `Memory` as the guest of a daemon: its connection, and what is told of it. Caller: `memory`. The connection's thread never
//! asks for the GIL.

use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tmem_guest::{Client, Config, Standing, Tenant, When};
use tmem_pager::Pager;
use tmem_store::lease::{Kind, Mailbox};
use tmem_sys::Errno;
use tmem_sys::background::known_to_libc;
use tmem_sys::proc;

const MIB: usize = 1 << 20;
/// How long a page waits for a lease that has nowhere else to go.
const PATIENCE_MS: u64 = 500;
/// How long a new `Memory` waits for a daemon that is there to answer.
const FIRST_MS: u64 = 500;

/// Whom to take memory on lease from: the socket, the guest's name (else the program's), and a user that the daemon may run as
/// beside root and this one.
#[derive(FromPyObject)]
pub struct Host(pub PathBuf, pub Option<String>, pub Option<u32>);

/// The connection of one `Memory`.
pub struct Lease {
    client: Client,
    told: AtomicBool,
}

/// Address space for leases: as much as the machine has RAM, or a part of what this process may map: tables for it take several
/// times as much.
pub fn reserve() -> usize {
    let machine = proc::total_memory().unwrap_or(1 << 30);
    machine.min(proc::most_address_space().unwrap_or(usize::MAX) / 16) & !(MIB - 1)
}

impl Lease {
    /// Connects a pager whose store was made for it, from now on and for as long as it lives.
    ///
    /// # Errors
    /// The kernel's, when no thread can be made; `ENOSPC` for too many connections.
    pub fn begin(pager: &Arc<Pager>, host: Host, has_swap: bool) -> Result<Lease, Errno> {
        let Host(path, name, host_uid) = host;
        let config = Config {
            path,
            name: name.unwrap_or_else(program),
            host_uid,
            when: When::Now,
            maker: known_to_libc,
            ends_with_stores: true,
        };
        let (client, mailbox) = (Client::new(config, None), Mailbox::new(Kind::Persistent)?);
        if !has_swap {
            mailbox.set_patience(PATIENCE_MS);
        }
        // Not the pager itself: arrays alone keep that.
        let pager_if_there = Arc::downgrade(pager);
        let tenant = Tenant(move || pager_if_there.upgrade());
        client.attach(Arc::clone(&mailbox), Arc::new(tenant), 0)?;
        // Closed meanwhile, it holds nothing, and the connection ends by itself.
        let _ = pager.set_mailbox(Some(mailbox));
        client.start()?;
        client.await_first(FIRST_MS);
        Ok(Lease { client, told: AtomicBool::new(false) })
    }

    /// A word for how it stands.
    pub fn standing(&self) -> &'static str {
        standing_word(self.client.standing())
    }

    /// Once: what somebody could mend.
    pub fn notice(&self) -> Option<String> {
        let status = self.client.status();
        let text = match status.standing {
            Standing::Distrusted => {
                let uid = status.host_uid.unwrap_or_default();
                format!(
                    "the daemon runs as user {uid}, whom this process does not trust, so no memory is taken on lease: set \
                     TMEM_HOST_UID={uid} if that is meant"
                )
            }
            Standing::TurnedAway => format!("the daemon turned this guest away: {}", status.text),
            Standing::Garbled => {
                "the daemon is not understood, so no memory is taken on lease: start one of the same version"
                    .to_owned()
            }
            Standing::Alone | Standing::Connected | Standing::Ended => return None,
        };
        (!self.told.swap(true, Ordering::Relaxed)).then_some(text)
    }
}

/// How a connection stands, in a word.
pub fn standing_word(standing: Standing) -> &'static str {
    match standing {
        Standing::Alone => "alone",
        Standing::Connected => "connected",
        Standing::Distrusted => "distrusted",
        Standing::TurnedAway => "turned away",
        Standing::Garbled => "garbled",
        Standing::Ended => "ended",
    }
}

/// What the kernel calls the program.
pub fn program() -> String {
    std::fs::read_to_string("/proc/self/comm").map(|name| name.trim_end().to_owned()).unwrap_or_default()
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the handle of one connection to the daemon, as the doors use it, and what handle and thread share. Callers: `tmem-py`,
//! `tmem-preload`. Lock: the connection's, a leaf beside the mailboxes'. The thread itself is `session`'s.
//! Law 18: the host is believed only where the kernel says that it runs as root, as this user, or as whom the user named.

use crate::lane::{Lane, Lanes};
use crate::shared::{Desk, Joined, NotJoined, Pools};
use crate::threads;
use crate::wire::{MOST_NAME, SECRET};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use tmem_store::lease::{HOST_BITS, Holder, Mailbox};
use tmem_sys::background::Maker;
use tmem_sys::lease::{ring, wait_while};
use tmem_sys::signals::Blocked;
use tmem_sys::time::now_ns;
use tmem_sys::{Errno, Lock};

pub use tmem_store::lease::host_id;

/// An id among all connections of this guest; `None` for a number that no extent has.
pub(crate) fn tagged(id: u64, epoch: u64) -> Option<u64> {
    // The highest bit is for those that no host knows.
    (id != 0 && id >> HOST_BITS == 0).then_some(id | (epoch & 0x7fff) << HOST_BITS)
}

/// In an id: no host knows the extent, which is the guest's alone as long as it is mapped.
pub(crate) const LOST: u64 = 1 << 63;

/// Whether an id is of that connection.
pub(crate) fn is_of(id: u64, epoch: u64) -> bool {
    id >> HOST_BITS == epoch & 0x7fff
}

/// When a guest connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once, so that the operator sees it.
    Now,
    /// When one of its stores first wants room.
    Wanted,
}

/// Whom to connect to, and as whom.
pub struct Config {
    pub path: PathBuf,
    /// Shown to the operator: cut to 63 printable bytes.
    pub name: String,
    /// A user beside root and this one that the host may run as.
    pub host_uid: Option<u32>,
    pub when: When,
    /// How the thread is made; in a forked child it is always one that the C library does not know.
    pub maker: Maker,
    /// The connection ends by itself when all its stores have: those whose mailboxes nobody else has any more.
    pub ends_with_stores: bool,
}

/// How a guest stands with its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none, or it does not answer; the guest looks again by itself.
    Alone = 0,
    Connected = 1,
    /// Who answers runs as a user that this guest does not trust.
    Distrusted = 2,
    /// The host turned the guest away.
    TurnedAway = 3,
    /// Host and guest do not understand each other: what is held is kept, and given back as far as there is room elsewhere.
    Garbled = 4,
    /// The guest has ended its connection.
    Ended = 5,
}

const STANDINGS: [Standing; 6] = [
    Standing::Alone,
    Standing::Connected,
    Standing::Distrusted,
    Standing::TurnedAway,
    Standing::Garbled,
    Standing::Ended,
];

/// What a guest knows of its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub standing: Standing,
    /// The host's number for it; 0 where there is none.
    pub guest: u64,
    pub extent_bytes: u64,
    /// The guest will never hold more.
    pub most_bytes: u64,
    /// Extents that it holds.
    pub held: u64,
    pub granted: u64,
    pub refused: u64,
    /// How often it was connected.
    pub connections: u64,
    /// Whom the host runs as, once one was seen.
    pub host_uid: Option<u32>,
    /// What the host said last before it hung up.
    pub text: String,
}

const MOST_TEXT: usize = 256;

pub(crate) struct Inside {
    pub lanes: Lanes,
    pub desk: Desk,
    text: [u8; MOST_TEXT],
    text_len: usize,
}

/// What handle and thread have in common.
pub(crate) struct Shared {
    pub config: Config,
    pub inside: Lock<Inside>,
    pub pools: Option<Arc<dyn Pools>>,
    /// Counts what somebody who joins may sleep for.
    pub news: AtomicU32,
    pub standing: AtomicU64,
    pub guest: AtomicU64,
    pub extent_bytes: AtomicU64,
    pub most_bytes: AtomicU64,
    pub held: AtomicU64,
    pub granted: AtomicU64,
    pub refused: AtomicU64,
    pub connections: AtomicU64,
    pub host_uid: AtomicU64,
    /// Whether it is known if there is a host.
    pub has_looked: AtomicBool,
    pub is_ending: AtomicBool,
    /// When all stores were first seen to have ended; 0 while one lives.
    over_since_ns: AtomicU64,
    /// Descriptors of the thread's; -1 for none.
    pub link: AtomicI32,
    pub bell: AtomicI32,
}

const OVER_NS: u64 = 200_000_000;
const NO_UID: u64 = u64::MAX;

impl Shared {
    pub fn with<R>(&self, work: impl FnOnce(&mut Inside) -> R) -> R {
        let _blocked = Blocked::new();
        work(&mut self.inside.lock())
    }

    /// The store at a place, and a number that no other there had.
    pub fn lane(&self, place: usize) -> Option<(Lane, u64)> {
        self.with(|inside| inside.lanes.at(place))
    }

    /// The places that have a store.
    pub fn lanes(&self) -> impl Iterator<Item = (usize, Lane)> {
        (0..crate::lane::MOST_LANES).filter_map(|n| self.lane(n).map(|(lane, _)| (n, lane)))
    }

    pub fn stand(&self, standing: Standing) {
        self.standing.store(standing as u64, Ordering::Release);
    }

    pub fn stands(&self) -> Standing {
        STANDINGS[(self.standing.load(Ordering::Acquire) as usize).min(STANDINGS.len() - 1)]
    }

    /// Whether nothing of what the connection is for is left. A store that ends may let go of its mailbox before its memory, and a
    /// host empties that as soon as the connection ends.
    pub fn is_over(&self) -> bool {
        if !self.config.ends_with_stores || !self.with(|inside| inside.lanes.are_over()) {
            self.over_since_ns.store(0, Ordering::Relaxed);
            return false;
        }
        let now = now_ns();
        let since = match self.over_since_ns.load(Ordering::Relaxed) {
            0 => now,
            since => since,
        };
        self.over_since_ns.store(since, Ordering::Relaxed);
        now - since >= OVER_NS
    }

    /// Keeps what the host said.
    pub fn note(&self, text: &str) {
        self.with(|inside| {
            let len = (0..=text.len().min(MOST_TEXT)).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(0);
            inside.text[..len].copy_from_slice(&text.as_bytes()[..len]);
            inside.text_len = len;
        });
    }

    /// There is no connection, or in a forked child none yet.
    pub fn forget_host(&self) {
        self.guest.store(0, Ordering::Release);
        self.held.store(0, Ordering::Release);
        self.stand(Standing::Alone);
    }

    /// So many extents are no longer held.
    pub fn let_go(&self, extents: usize) {
        let less = |held: u64| Some(held.saturating_sub(extents as u64));
        let _ = self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    pub fn ring(&self) {
        // Under the lock, so that it is not closed meanwhile.
        self.with(|_| {
            let bell = self.bell.load(Ordering::Acquire);
            if bell >= 0 {
                ring(bell);
            }
        });
    }
}

/// One connection, and its thread. Dropped, it goes on for as long as what it is for.
pub struct Client {
    shared: Arc<Shared>,
}

impl Client {
    /// A client of no store as yet.
    pub fn new(mut config: Config, pools: Option<Arc<dyn Pools>>) -> Client {
        config.name = printable(&config.name);
        let inside = Inside { lanes: Lanes::new(), desk: Desk::default(), text: [0; MOST_TEXT], text_len: 0 };
        let shared = Shared {
            config,
            inside: Lock::new(inside),
            pools,
            news: 0.into(),
            standing: (Standing::Alone as u64).into(),
            guest: 0.into(),
            extent_bytes: 0.into(),
            most_bytes: 0.into(),
            held: 0.into(),
            granted: 0.into(),
            refused: 0.into(),
            connections: 0.into(),
            host_uid: NO_UID.into(),
            has_looked: false.into(),
            is_ending: false.into(),
            over_since_ns: 0.into(),
            link: (-1).into(),
            bell: (-1).into(),
        };
        Client { shared: Arc::new(shared) }
    }

    /// Sees to it that the process has the connection's thread. In a forked child there is one without it.
    ///
    /// # Errors
    /// The kernel's, when no thread can be made; `ENOSPC` for too many connections.
    pub fn start(&self) -> Result<(), Errno> {
        threads::start(&self.shared)
    }

    /// Waits until it is known whether there is a host, for so long: a store that fills at once would find none yet.
    pub fn await_first(&self, wait_ms: u64) {
        let end = now_ns().saturating_add(wait_ms.saturating_mul(1_000_000));
        loop {
            let news = self.shared.news.load(Ordering::Acquire);
            let now = now_ns();
            if self.shared.has_looked.load(Ordering::Acquire) || now >= end {
                return;
            }
            wait_while(&self.shared.news, news, end - now);
        }
    }

    /// Serves a store from now on.
    ///
    /// # Errors
    /// `ENOSPC` for too many of them.
    pub fn attach(&self, mailbox: Arc<Mailbox>, holder: Arc<dyn Holder>, pool: u64) -> Result<(), Errno> {
        let lane = Lane { mailbox, holder, pool };
        let before = self.shared.with(|inside| inside.lanes.attach(lane));
        self.shared.ring();
        before.map(drop).map_err(|_| Errno::ENOSPC)
    }

    /// Serves a store no more, which holds nothing.
    pub fn detach(&self, mailbox: &Arc<Mailbox>) {
        self.shared.with(|inside| inside.lanes.detach(mailbox));
        self.shared.ring();
    }

    /// Becomes a member of a shared pool; waits for the host's answer, for so long.
    ///
    /// # Errors
    /// [`NotJoined`]: the host's reason, or that there is none.
    pub fn join(&self, secret: &[u8; SECRET], wait_ms: u64) -> Result<Joined, NotJoined> {
        crate::shared::join(&self.shared, secret, wait_ms)
    }

    /// Leaves a shared pool; what this guest held of it has been let go of.
    pub fn leave(&self, pool: u64) {
        crate::shared::leave(&self.shared, pool);
    }

    pub fn standing(&self) -> Standing {
        self.shared.stands()
    }

    pub fn status(&self) -> Status {
        let get = |number: &AtomicU64| number.load(Ordering::Acquire);
        let shared = &*self.shared;
        let (text, len) = shared.with(|inside| (inside.text, inside.text_len));
        Status {
            standing: shared.stands(),
            guest: get(&shared.guest),
            extent_bytes: get(&shared.extent_bytes),
            most_bytes: get(&shared.most_bytes),
            held: get(&shared.held),
            granted: get(&shared.granted),
            refused: get(&shared.refused),
            connections: get(&shared.connections),
            host_uid: u32::try_from(get(&shared.host_uid)).ok(),
            text: String::from_utf8_lossy(&text[..len]).into_owned(),
        }
    }

    /// Gives everything back and ends the connection, by its thread, soon. What finds no room elsewhere keeps it going, without
    /// further leases: a host empties what a guest holds when the connection ends.
    pub fn stop(&self) {
        self.shared.is_ending.store(true, Ordering::Release);
        self.shared.ring();
    }
}

/// A name as hosts take it.
fn printable(name: &str) -> String {
    let mut fits = String::with_capacity(MOST_NAME);
    for c in name.chars().map(|c| if c.is_control() { '?' } else { c }) {
        if fits.len() + c.len_utf8() > MOST_NAME {
            break;
        }
        fits.push(c);
    }
    if fits.is_empty() { "guest".to_owned() } else { fits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_to_what_hosts_take() {
        assert_eq!(printable("sort\n\u{7}x"), "sort??x");
        assert_eq!(printable(""), "guest");
        assert_eq!(printable(&"é".repeat(60)).len(), 62);
    }

    #[test]
    fn an_id_is_the_hosts_among_those_of_one_connection() {
        let id = tagged(77, 3).unwrap();
        assert_eq!((host_id(id), id != tagged(77, 4).unwrap()), (77, true));
        assert_eq!((tagged(0, 1), tagged(1 << 48, 1)), (None, None));
    }
}

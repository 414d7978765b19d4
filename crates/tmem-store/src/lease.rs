// SPDX-License-Identifier: Apache-2.0
//! Owns: what passes between a store that takes memory on lease and whoever fetches it from a host: extents, how many more are
//! wanted, how the host answered; and what a host may ask of a store's owner.
//! Callers: the store's side under its owner's lock (`pool`, `revocable`), the client's side in the thread of the connection.
//! Locks: the mailbox's own, a leaf. Law 17: the store's side uses no heap, and waits for a bounded time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tmem_sys::lease::{LeaseFd, ring, wait_while, wake_all};
use tmem_sys::signals::Blocked;
use tmem_sys::{Errno, Lock, time};

/// What an extent is for. The number is what hosts are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The guest's until it gives it back.
    Persistent = 0,
    /// Taken back at any time.
    Ephemeral = 1,
    /// The data of a pool that several guests share, of which this one writes its own part.
    SharedData = 2,
    /// Where that data is.
    SharedIndex = 3,
}

impl Kind {
    /// What a number says; `None` for one that no kind has.
    pub fn from_number(number: u64) -> Option<Kind> {
        [Kind::Persistent, Kind::Ephemeral, Kind::SharedData, Kind::SharedIndex]
            .into_iter()
            .find(|kind| *kind as u64 == number)
    }
}

/// Bits of an extent's id that are the host's; the rest tells a guest's connections apart: another host may give the same numbers.
pub const HOST_BITS: u32 = 48;

/// What the host calls an extent.
pub fn host_id(id: u64) -> u64 {
    id & ((1 << HOST_BITS) - 1)
}

/// Memory on lease. Dropped, it is let go of here; the host is told by whoever fetched it.
#[derive(Debug)]
pub struct Extent {
    pub id: u64,
    pub fd: LeaseFd,
    pub bytes: usize,
}

/// How whoever fetches extents stands with the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// There is no host.
    Alone,
    /// A request is under way.
    Asking,
    /// The host refused, and is not asked again before that moment (`tmem_sys::time::now_ns`).
    Refused {
        until_ns: u64,
    },
    Idle,
}

/// As one word: smaller numbers than any moment since the machine was started.
const ALONE: u64 = 0;
const ASKING: u64 = 1;
const IDLE: u64 = 2;

/// Extents that may lie in a mailbox.
const ROOM: usize = 32;
/// After a wait that brought nothing there is none for so long: each page on its way out would wait again.
const REST_NS: u64 = 500_000_000;
const NO_BELL: i32 = -1;

struct Inside {
    came: [Option<Extent>; ROOM],
    /// Extents that the store had no use for, or no more, let go of already.
    refused: Vec<u64>,
    bell: i32,
}

/// Between a store and whoever fetches its extents.
pub struct Mailbox {
    kind: Kind,
    wanted: AtomicU32,
    state: AtomicU64,
    /// Waits are at least so long, where there are any.
    patience_ms: AtomicU64,
    /// No wait before that moment.
    rests_until: AtomicU64,
    /// Counts what the store's side may sleep for: extents that came, and answers.
    news: AtomicU32,
    /// Counts what the client sleeps for, and what of it the client has seen.
    pokes: AtomicU32,
    seen: AtomicU32,
    /// Extents in it, so that an empty one is seen without the lock.
    count: AtomicU32,
    inside: Lock<Inside>,
}

impl Mailbox {
    /// # Errors
    /// None as yet; the signature leaves room for a mailbox in a mapping of its own.
    pub fn new(kind: Kind) -> Result<Arc<Mailbox>, Errno> {
        Ok(Arc::new(Mailbox {
            kind,
            wanted: AtomicU32::new(0),
            state: AtomicU64::new(ALONE),
            patience_ms: AtomicU64::new(0),
            rests_until: AtomicU64::new(0),
            news: AtomicU32::new(0),
            pokes: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            count: AtomicU32::new(0),
            inside: Lock::new(Inside {
                came: [const { None }; ROOM],
                refused: Vec::with_capacity(ROOM),
                bell: NO_BELL,
            }),
        }))
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    // The store's side.

    /// Says how many more extents are wanted, instead of what was said before.
    pub fn want(&self, extents: u32) {
        if self.wanted.swap(extents, Ordering::AcqRel) < extents {
            self.poke();
        }
    }

    /// An extent that came. Waits up to so long for one while a request is under way and the host did not just refuse.
    pub fn take(&self, wait_ms: u64) -> Option<Extent> {
        let mut began = None;
        let wait_ms = if wait_ms == 0 { 0 } else { wait_ms.max(self.patience_ms.load(Ordering::Relaxed)) };
        loop {
            let news = self.news.load(Ordering::Acquire);
            if let Some(extent) = self.pop() {
                return Some(extent);
            }
            if wait_ms == 0 || !self.is_under_way() {
                return None;
            }
            let now = time::now_ns();
            let end = *began.get_or_insert(now) + wait_ms * 1_000_000;
            if now >= end {
                self.rests_until.store(now + REST_NS, Ordering::Relaxed);
                return None;
            }
            wait_while(&self.news, news, end - now);
        }
    }

    /// Lets go of an extent that the store cannot use; the client gives it back to the host.
    pub fn refuse(&self, extent: Extent) {
        let id = extent.id;
        drop(extent);
        let blocked = Blocked::new();
        let mut inside = self.inside.lock();
        // No more than that were ever deposited and not answered for.
        if inside.refused.len() < inside.refused.capacity() {
            inside.refused.push(id);
        }
        drop(inside);
        drop(blocked);
        self.poke();
    }

    /// As [`Mailbox::refuse`], of all that a store held that ends. Not on the path of a page.
    pub fn leave(&self, extents: impl Iterator<Item = Extent>) {
        let ids: Vec<u64> = extents.map(|extent| extent.id).collect();
        let blocked = Blocked::new();
        let mut inside = self.inside.lock();
        inside.refused.reserve(ids.len() + ROOM);
        inside.refused.extend(ids);
        drop(inside);
        drop(blocked);
        self.poke();
    }

    /// Whether an extent may come soon: one is asked for, or the client has just been told to ask.
    fn is_under_way(&self) -> bool {
        let rests = |until| time::now_ns() < until;
        let wanted = self.wanted.load(Ordering::Acquire) > 0;
        let open = match self.state() {
            LinkState::Alone => false,
            LinkState::Asking => true,
            LinkState::Idle => wanted,
            LinkState::Refused { until_ns } => wanted && !rests(until_ns),
        };
        open && !rests(self.rests_until.load(Ordering::Relaxed))
    }

    fn pop(&self) -> Option<Extent> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let _blocked = Blocked::new();
        let extent = self.inside.lock().came.iter_mut().find_map(Option::take);
        self.count.fetch_sub(u32::from(extent.is_some()), Ordering::Release);
        extent
    }

    /// For a store whose pages have no other place to go: it is better that they wait so long than that they stay.
    pub fn set_patience(&self, ms: u64) {
        self.patience_ms.store(ms, Ordering::Relaxed);
    }

    // The client's side.

    /// How many more extents the store wants.
    pub fn wanted(&self) -> u32 {
        self.wanted.load(Ordering::Acquire)
    }

    /// Extents that came and were not taken.
    pub fn waiting(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Leaves an extent for the store.
    ///
    /// # Errors
    /// The extent, where the mailbox is full.
    pub fn deposit(&self, extent: Extent) -> Result<(), Extent> {
        let blocked = Blocked::new();
        let mut inside = self.inside.lock();
        let Some(place) = inside.came.iter_mut().find(|place| place.is_none()) else { return Err(extent) };
        *place = Some(extent);
        self.count.fetch_add(1, Ordering::Release);
        drop(inside);
        drop(blocked);
        let less = |wanted: u32| wanted.checked_sub(1);
        let _ = self.wanted.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        self.rests_until.store(0, Ordering::Relaxed);
        self.tell();
        Ok(())
    }

    /// Takes an extent back that the store did not take, to return it to the host.
    pub fn withdraw(&self) -> Option<Extent> {
        self.pop()
    }

    /// The id of an extent that the store let go of without being asked for it, each once: the host is to be told.
    pub fn next_refused(&self) -> Option<u64> {
        let _blocked = Blocked::new();
        self.inside.lock().refused.pop()
    }

    /// The extents that lie in the mailbox, for a claim.
    pub fn each_waiting(&self, each: &mut dyn FnMut(u64, i32)) {
        let _blocked = Blocked::new();
        self.inside.lock().came.iter().flatten().for_each(|extent| each(extent.id, extent.fd.raw()));
    }

    /// An extent that lies in the mailbox has another id now, or with `None` is let go of. Whether it was there.
    pub fn amend(&self, id: u64, new: Option<u64>) -> bool {
        let _blocked = Blocked::new();
        let mut inside = self.inside.lock();
        let Some(place) = inside.came.iter_mut().find(|e| e.as_ref().is_some_and(|e| e.id == id)) else {
            return false;
        };
        match (new, place.as_mut()) {
            (Some(new), Some(extent)) => extent.id = new,
            _ => {
                *place = None;
                self.count.fetch_sub(1, Ordering::Release);
            }
        }
        true
    }

    pub fn set_state(&self, state: LinkState) {
        let word = match state {
            LinkState::Alone => ALONE,
            LinkState::Asking => ASKING,
            LinkState::Idle => IDLE,
            LinkState::Refused { until_ns } => until_ns.max(IDLE + 1),
        };
        self.state.store(word, Ordering::Release);
        self.tell();
    }

    pub fn state(&self) -> LinkState {
        match self.state.load(Ordering::Acquire) {
            ALONE => LinkState::Alone,
            ASKING => LinkState::Asking,
            IDLE => LinkState::Idle,
            until_ns => LinkState::Refused { until_ns },
        }
    }

    /// The client sleeps until it is poked, or for so long. A poke since the last wait counts.
    pub fn wait(&self, ms: u64) {
        let seen = self.seen.load(Ordering::Relaxed);
        if self.pokes.load(Ordering::Acquire) == seen {
            wait_while(&self.pokes, seen, ms.saturating_mul(1_000_000));
        }
        self.seen.store(self.pokes.load(Ordering::Acquire), Ordering::Relaxed);
    }

    /// Wakes the client: something is wanted, or it is to end.
    pub fn poke(&self) {
        self.pokes.fetch_add(1, Ordering::AcqRel);
        wake_all(&self.pokes);
        let _blocked = Blocked::new();
        let inside = self.inside.lock();
        if inside.bell != NO_BELL {
            ring(inside.bell);
        }
    }

    /// An event descriptor (`eventfd`, not blocking) that each poke makes readable, for a client that waits for other things
    /// too; several mailboxes may have the same. `None` before the client closes it.
    pub fn set_bell(&self, bell: Option<i32>) {
        let _blocked = Blocked::new();
        self.inside.lock().bell = bell.unwrap_or(NO_BELL);
    }

    fn tell(&self) {
        self.news.fetch_add(1, Ordering::AcqRel);
        wake_all(&self.news);
    }

    // Around a fork, in the forking thread with signals blocked.

    pub fn before_fork(&self) {
        self.inside.lock().keep_across_fork();
    }

    pub fn after_fork_in_parent(&self) {
        drop(self.inside.reclaim());
    }

    /// The child's copy is empty and without a host.
    pub fn after_fork_in_child(&self) {
        let mut inside = self.inside.reclaim();
        inside.came.iter_mut().for_each(|place| *place = None);
        inside.refused.clear();
        inside.bell = NO_BELL;
        self.count.store(0, Ordering::Release);
        self.wanted.store(0, Ordering::Release);
        self.state.store(ALONE, Ordering::Release);
    }
}

/// What a guest tells of itself, in the order of the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The budget in force.
    pub ram: u64,
    pub resident: u64,
    pub standby: u64,
    /// Private bytes of the store.
    pub store_bytes: u64,
    /// Bytes of slots in leased memory.
    pub leased_used: u64,
    pub stored_pages: u64,
    pub swap_bytes: u64,
    pub faults: u64,
    pub fault_ns: u64,
    pub loads: u64,
    pub stores: u64,
    pub refused_full: u64,
    pub want_bytes: u64,
    /// Stored pages looked at, picked at random.
    pub sampled: u64,
    /// Of these, pages that were stored or touched in the last 30 seconds.
    pub active: u64,
}

impl Report {
    pub fn numbers(&self) -> [u64; 15] {
        [
            self.ram,
            self.resident,
            self.standby,
            self.store_bytes,
            self.leased_used,
            self.stored_pages,
            self.swap_bytes,
            self.faults,
            self.fault_ns,
            self.loads,
            self.stores,
            self.refused_full,
            self.want_bytes,
            self.sampled,
            self.active,
        ]
    }
}

/// What the client asks of a store's owner, who takes its own lock inside, for a bounded step at a time. Called by the
/// client's thread only.
pub trait Holder: Send + Sync {
    /// Every extent it holds: id, descriptor, kind. The descriptor is good during the call.
    fn held(&self, each: &mut dyn FnMut(u64, i32, Kind));
    /// After a claim: an extent has another id.
    fn renumber(&self, old: u64, new: u64);
    /// A claim was not accepted: the extent is emptied as far as there is room elsewhere, or kept as it is; its memory stays
    /// valid as long as it is mapped.
    fn lose(&self, id: u64);
    /// Empties persistent extents worth so many bytes and unmaps them; told of each id.
    fn give(&self, bytes: usize, give: &mut dyn FnMut(u64));
    /// Bytes of extents that it could give now without a loss.
    fn surplus(&self) -> usize;
    /// Extents are empty already: the host cut them off.
    fn revoked(&self, ids: &[u64]);
    fn set(&self, frozen: bool, compress: bool);
    /// Sets the target of the resident set and all else its own budget covers; 0: its own budget again. What it came to.
    fn balloon(&self, ram: usize) -> usize;
    fn report(&self) -> Report;
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0
//! Owns: the making of room: who loses an ephemeral page when a page has none, and the limits that make it necessary.
//! Callers: `pool` on a put that was refused, `host` when a limit changes. Locks: the store's.
//!
//! Law 11, who gives first. A guest's share of the room for ephemeral pages is its weight over the weights of all
//! guests that hold such pages. The guest that holds most for its weight gives first, if it holds more than its
//! share; when nobody does, the oldest page of all goes. A guest of weight 0 is never over its share, but what it
//! holds counts as room that others could have. Only guests with something to give are looked at, whoever asks;
//! within a guest the oldest page goes first.
//!
//! Caps come before: a guest at its cap loses its own oldest pages, and nobody else's. Persistent pages are never
//! taken.

use crate::class::{CHUNK, class_of, slot_size};
use crate::coders::{Coder, MOST};
use crate::guests::{GuestId, GuestLimits, PAGE_METADATA};
use crate::ops::Reason;
use crate::pool::PageStore;
use tmem_sys::PAGE_SIZE;

/// What the tables may grow by in one put: a chain of new nodes, each on a page of its own. Kept free, so that the
/// limit holds after the put as it did before.
const MARGIN: usize = 40 * PAGE_SIZE;
/// Leaves of the index looked at when nothing is left to evict: the search for sparse chunks is spread over many
/// puts.
const COMPACTED_AT_ONCE: usize = 2;
/// Evictions after which chunks are emptied by moving pages: this part of all there are, within these bounds. Fewer, and
/// the walk that moves them would not be worth it; more, and one put would keep all others waiting.
const EVICTED_PART: u64 = 32;
const EVICTED_LEAST: u64 = 64;
const EVICTED_MOST: u64 = 8192;
/// No limit but the slab's own capacity.
pub(crate) const UNLIMITED: usize = usize::MAX;

/// What was done for one put so far.
#[derive(Default)]
pub(crate) struct Effort {
    /// Since chunks were last emptied.
    evicted: u64,
    compacted: bool,
}

impl PageStore {
    /// Sets how many bytes may be taken for everything: chunks, index, order of age, tables. Ephemeral pages go until
    /// it fits; persistent ones stay, and puts are refused until flushes have made up for it.
    pub fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes;
        self.refit();
        let mut effort = Effort::default();
        while self.is_over() && self.evict_for_room(&mut effort) {
            self.refit();
        }
        if self.is_over() {
            self.evacuate();
            self.refit();
        }
    }

    /// Bytes that may be taken for everything.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Sets a guest's weight and cap. Under a lower cap its oldest ephemeral pages go at once; persistent ones stay.
    pub fn set_guest(&mut self, guest: GuestId, limits: GuestLimits) {
        self.guests.set(guest, limits);
        let cap = limits.cap.unwrap_or(u64::MAX);
        while self.guests.get(guest).held.charge > cap && self.evict_oldest(guest) {}
    }

    /// Bytes that eviction could free.
    pub fn freeable(&self) -> u64 {
        self.guests.freeable()
    }

    /// Lets the slab have what the tables leave of the limit.
    pub(crate) fn refit(&mut self) {
        let chunks = self.limit.saturating_sub(self.tables() + MARGIN);
        if chunks / CHUNK * CHUNK != self.slab.capacity_bytes() {
            self.slab.set_capacity(chunks);
        }
    }

    fn tables(&self) -> usize {
        self.footprint() - self.slab.mapped_bytes()
    }

    fn is_over(&self) -> bool {
        self.footprint() + MARGIN > self.limit
    }

    /// Whether a page that packs to `len` bytes (0 for none) may be stored for a guest, as far as limits go.
    #[inline]
    pub(crate) fn admit(&mut self, guest: GuestId, len: usize) -> Result<(), Reason> {
        if self.limit == UNLIMITED {
            return Ok(());
        }
        self.admit_slot(guest, if len == 0 { 0 } else { slot_size(class_of(len)) })?;
        self.refit();
        if self.is_over() { Err(Reason::StoreFull) } else { Ok(()) }
    }

    /// Whether a guest's cap has room for a page in a slot of `bytes`.
    #[inline]
    pub(crate) fn admit_slot(&self, guest: GuestId, bytes: usize) -> Result<(), Reason> {
        let guest = self.guests.get(guest);
        let cap = guest.limits.cap.unwrap_or(u64::MAX);
        let fits = guest.held.charge + bytes as u64 + PAGE_METADATA <= cap;
        if fits { Ok(()) } else { Err(Reason::OverCap) }
    }

    /// Makes some room for a put that was refused; false when there is none to be made.
    #[cold]
    pub(crate) fn make_room(
        &mut self,
        guest: GuestId,
        len: usize,
        reason: Reason,
        effort: &mut Effort,
    ) -> bool {
        match reason {
            Reason::OverCap => self.make_room_below_cap(guest, len),
            Reason::StoreFull | Reason::IndexFull => self.evict_for_room(effort) || self.compact_once(effort),
            _ => false,
        }
    }

    /// Takes a guest's own oldest page, unless all of them together would not do.
    fn make_room_below_cap(&mut self, guest: GuestId, len: usize) -> bool {
        let known = self.guests.get(guest);
        let stays = known.held.charge - known.held.ephemeral_charge + len as u64 + PAGE_METADATA;
        stays <= known.limits.cap.unwrap_or(u64::MAX) && self.evict_oldest(guest)
    }

    /// Evicts one page of whoever is to give first. Freed slots of one size are no room for another until a whole
    /// chunk is empty, so after some evictions the sparse chunks are emptied into the others.
    fn evict_for_room(&mut self, effort: &mut Effort) -> bool {
        let evicted = self.who_gives().is_some_and(|guest| self.evict_oldest(guest));
        if evicted {
            effort.evicted += 1;
            let left: u64 = self.guests.iter().map(|(_, g)| g.held.ephemeral_pages).sum();
            if effort.evicted >= (left / EVICTED_PART).clamp(EVICTED_LEAST, EVICTED_MOST) {
                effort.evicted = 0;
                self.evacuate();
            }
        }
        evicted
    }

    /// When nothing is left to evict: what was evicted for this put is gathered into whole chunks, else a few leaves
    /// are looked at.
    fn compact_once(&mut self, effort: &mut Effort) -> bool {
        if self.limit == UNLIMITED || std::mem::replace(&mut effort.compacted, true) {
            return false;
        }
        if effort.evicted > 0 { self.evacuate() } else { self.compact(COMPACTED_AT_ONCE) > 0 }
    }

    /// The guest that loses the next ephemeral page; `None` when nobody has one.
    fn who_gives(&self) -> Option<GuestId> {
        let holders = || self.guests.iter().filter(|(_, g)| g.held.ephemeral_pages > 0);
        let all: u128 = holders().map(|(_, g)| u128::from(g.held.ephemeral_charge)).sum();
        let weights: u128 = holders().map(|(_, g)| u128::from(g.limits.weight)).sum();
        // Held for its weight, compared without a division: `a` is more over than `b` where a.held * b.weight is
        // more.
        let mut most: Option<(GuestId, u128, u128)> = None;
        for (id, guest) in holders() {
            let (held, weight) = (u128::from(guest.held.ephemeral_charge), u128::from(guest.limits.weight));
            let over = weight > 0 && held * weights > all * weight;
            if over && most.is_none_or(|(_, h, w)| held * w > h * weight) {
                most = Some((id, held, weight));
            }
        }
        let oldest = || {
            holders()
                .filter_map(|(id, _)| self.ages.oldest_of(id).map(|(_, record)| (record.stamp, id)))
                .min_by_key(|(stamp, _)| *stamp)
        };
        most.map(|(id, ..)| id).or_else(|| oldest().map(|(_, id)| id))
    }

    /// Forgets a guest's oldest ephemeral page; false when it has none.
    fn evict_oldest(&mut self, guest: GuestId) -> bool {
        let Some((number, record)) = self.ages.oldest_of(guest) else { return false };
        if let Some((pool, entry)) = self.objects.take(record.object, record.index) {
            self.release(pool as usize, entry);
            self.pools[pool as usize].stats.traffic.evicted += 1;
            self.traffic.evicted += 1;
            self.guests.get_mut(guest).evicted += 1;
        }
        // Where stray writes broke the way from record to entry, the record goes all the same: the search must end.
        if self.ages.oldest_of(guest).is_some_and(|(n, r)| (n, r.stamp) == (number, record.stamp)) {
            self.ages.remove(number);
        }
        true
    }

    /// Bytes of the smallest limit under which a store can hold anything.
    pub const SMALLEST_LIMIT: usize = 1 << 20;
}

const _: () = assert!(PageStore::SMALLEST_LIMIT > MARGIN + MOST * Coder::FOOTPRINT + 8 * CHUNK);

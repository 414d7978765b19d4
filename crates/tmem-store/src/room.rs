// SPDX-License-Identifier: Apache-2.0
//! Owns: the making of room: who loses an ephemeral page when a page has none, and the limits that make it necessary.
//! Callers: `place` on a put that was refused, `supply` for other shards and when a limit changes. Locks: the store's.
//!
//! Law 11, who gives first. A guest's share of the room for ephemeral pages is its weight over the weights of all
//! guests that hold such pages. The guest that holds most for its weight gives first, if it holds more than its
//! share; when nobody does, the oldest page of all goes. A guest of weight 0 is never over its share, but what it
//! holds counts as room that others could have. Only guests with something to give are looked at, whoever asks;
//! within a guest the oldest page goes first: of a host's shards, in the one that needs the room, unless one in another is
//! more than twice as old.
//!
//! Caps come before: a guest at its cap loses its own oldest pages, and nobody else's. Persistent pages are never
//! taken.

use crate::class::{CHUNK, slot_for};
use crate::codec::{Codec, Decoder};
use crate::coders::{Coder, MOST};
use crate::dedup::Search;
use crate::guests::{GuestId, PAGE_METADATA};
use crate::ops::Reason;
use crate::pool::PageStore;
use tmem_sys::PAGE_SIZE;

/// What the tables may grow by in one put: a chain of new nodes, each on a page of its own, a share and a candidate. Kept
/// free, so that the limit holds after the put as it did before.
pub(crate) const MARGIN: usize = 44 * PAGE_SIZE;
/// Pages moved at most when nothing is left to evict: a chunk comes free for each few puts.
const COMPACTED_AT_ONCE: usize = 64;
/// Pages moved in one step when all sparse chunks are emptied; nobody is to wait for all of it.
const GATHERED_AT_ONCE: usize = 256;
/// Evictions after which chunks are emptied by moving pages: this part of all there are, within these bounds. Fewer, and
/// the walk that moves them would not be worth it; more, and one put would forget too much for itself.
const EVICTED_PART: u64 = 32;
const EVICTED_LEAST: u64 = 64;
const EVICTED_MOST: u64 = 8192;
/// No limit but the slab's own capacity.
pub(crate) const UNLIMITED: usize = usize::MAX;

/// Bytes by which a shard's grant grows.
const GRANT: usize = 2 * CHUNK;
/// Pages evicted before those who wait for the lock get on.
const EVICTED_AT_ONCE: u64 = 64;

/// What was done for one put so far.
#[derive(Default)]
pub(crate) struct Effort {
    /// Since chunks were last emptied.
    evicted: u64,
    /// The same, in other shards.
    elsewhere: u64,
    compacted: bool,
    /// The other shards were asked for what they do not need.
    pub asked: bool,
    /// The other shards have nothing to give, or cannot be asked.
    pub last: bool,
    /// What the search for the page's twin came to, where it was looked for.
    pub search: Option<Search>,
    /// A page that does not shrink is kept whatever its pool says of such pages.
    pub keeps_raw: bool,
}

impl Effort {
    /// Of a put that holds its lock throughout, and asks no other shard.
    pub fn alone() -> Effort {
        Effort { last: true, ..Effort::default() }
    }

    /// Of a put of a page that was stored elsewhere before.
    pub fn to_keep_raw() -> Effort {
        Effort { keeps_raw: true, ..Effort::default() }
    }
}

/// What a put that found no room can do.
pub(crate) enum Room {
    /// Try again.
    Made,
    /// Let others get on, and try again.
    Shortly,
    /// Have other shards give, and try again.
    Elsewhere(Need),
    None,
}

impl Room {
    /// Whether who holds the lock throughout is to try again.
    pub fn is_to_try_again(&self) -> bool {
        matches!(self, Room::Made | Room::Shortly)
    }
}

/// What other shards have to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A page of a guest that is at its cap.
    BelowCap(GuestId),
    /// Memory: what they do not need, or else pages of this guest.
    Memory(Option<GuestId>),
}

impl PageStore {
    /// Makes a new store a shard: its host grants it memory, and may pack outside. Then it only decodes.
    pub(crate) fn join_host(&mut self, packs: bool) {
        self.codec_bytes = if packs { Codec::FOOTPRINT } else { Decoder::FOOTPRINT };
        self.limit = self.footprint();
        self.guests.seat.board.overdraw(self.limit);
    }

    /// Whether tables may grow, perhaps after some more was granted.
    pub(crate) fn has_margin(&mut self) -> bool {
        while self.limit != UNLIMITED && self.is_over() {
            if !self.regrant() {
                return false;
            }
        }
        true
    }

    /// Bytes that may be taken for everything, by a host's only shard.
    pub(crate) fn limit(&self) -> usize {
        self.guests.seat.board.limit()
    }

    /// Bytes by which the limit of a host of one shard is short of `more` bytes beside what is taken, without an eviction.
    pub(crate) fn short_of(&self, more: usize) -> usize {
        (self.footprint() + MARGIN).saturating_add(more).saturating_sub(self.limit())
    }

    /// Gives back what the tables took, where there is no page.
    pub fn reset_if_empty(&mut self) {
        if self.objects.live() == 0 {
            self.objects.reset_if_empty();
            self.ages.reset_if_empty();
            self.slab.trim();
            self.compact_from = 0;
        }
    }

    /// Gives back what was granted and is not needed; how many bytes. A shard without pages needs no room to grow.
    pub(crate) fn surrender(&mut self) -> usize {
        self.slab.trim();
        let mut margin = MARGIN;
        if self.held.pages() == 0 {
            margin = 0;
            self.reset_if_empty();
        }
        let surplus = self.limit.saturating_sub(self.footprint() + margin);
        self.limit -= surplus;
        self.guests.seat.board.give(surplus);
        surplus
    }

    /// Takes more of what nobody was granted.
    fn regrant(&mut self) -> bool {
        if self.limit == UNLIMITED {
            return false;
        }
        if self.guests.seat.board.is_overdrawn() {
            self.surrender();
        }
        let got = self.guests.seat.board.take(GRANT);
        self.limit += got;
        got > 0
    }

    /// Bytes that may be taken for everything.
    pub(crate) fn granted(&self) -> usize {
        self.limit
    }

    /// Bytes that eviction could free here.
    pub fn freeable(&self) -> u64 {
        self.guests.iter().map(|(_, guest)| guest.held.ephemeral_charge).sum()
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
        self.footprint() + MARGIN > self.limit || self.guests.seat.board.is_overdrawn()
    }

    /// Whether a page that packs to `len` bytes (0 for none) may be stored for a guest, as far as limits go; where
    /// another page is forgotten for it, in the place of that one's slot of so many bytes.
    #[inline]
    pub(crate) fn admit(
        &mut self,
        guest: GuestId,
        len: usize,
        instead_of: Option<usize>,
    ) -> Result<(), Reason> {
        if self.limit == UNLIMITED {
            return Ok(());
        }
        if let Some(cap) = self.guests.get(guest).limits.cap {
            let freed = instead_of.map_or(0, |slot| slot as u64 + PAGE_METADATA);
            let needed = slot_for(len) as u64 + PAGE_METADATA;
            if self.guests.seat.board.capped(guest).saturating_sub(freed) + needed > cap {
                return Err(Reason::OverCap);
            }
        }
        self.refit();
        if self.is_over() { Err(Reason::StoreFull) } else { Ok(()) }
    }

    /// Makes some room for a put that was refused.
    #[cold]
    pub(crate) fn make_room(
        &mut self,
        guest: GuestId,
        len: usize,
        reason: Reason,
        effort: &mut Effort,
    ) -> Room {
        match reason {
            Reason::OverCap => self.make_room_below_cap(guest, len, effort),
            Reason::StoreFull if self.regrant() => Room::Made,
            Reason::StoreFull | Reason::IndexFull => self.make_room_in_limit(effort),
            _ => Room::None,
        }
    }

    /// Takes a guest's own oldest page, unless all of them together would not do.
    fn make_room_below_cap(&mut self, guest: GuestId, len: usize, effort: &Effort) -> Room {
        let cap = self.guests.get(guest).limits.cap.unwrap_or(u64::MAX);
        if self.guests.stays(guest) + len as u64 + PAGE_METADATA > cap {
            return Room::None;
        }
        match self.gives_here(guest) {
            Some(here) if here || effort.last => self.evict_here(guest),
            Some(_) => Room::Elsewhere(Need::BelowCap(guest)),
            None => Room::None,
        }
    }

    /// Evicts one page of whoever is to give first. Freed slots of one size are no room for another until a whole
    /// chunk is empty, so after some evictions the sparse chunks are emptied into the others, in steps.
    fn make_room_in_limit(&mut self, effort: &mut Effort) -> Room {
        if self.has_leaving() {
            self.empty_some();
            return Room::Shortly;
        }
        if self.gathering {
            self.gather_some();
            return Room::Shortly;
        }
        if let Some(guest) = self.guests.who_gives()
            && let Some(here) = self.gives_here(guest)
        {
            if !here && !effort.last {
                return Room::Elsewhere(Need::Memory(Some(guest)));
            }
            if self.evict_oldest(guest) {
                effort.evicted += 1;
                return self.after_eviction(effort);
            }
        }
        if self.guests.seat.has_others() && !effort.last {
            return Room::Elsewhere(Need::Memory(None));
        }
        self.compact_once(effort)
    }

    fn after_eviction(&mut self, effort: &mut Effort) -> Room {
        if self.is_due(effort.evicted) {
            effort.evicted = 0;
            self.gathering = true;
            return Room::Shortly;
        }
        if effort.evicted.is_multiple_of(EVICTED_AT_ONCE) { Room::Shortly } else { Room::Made }
    }

    /// Whether so many pages were evicted that sparse chunks are worth emptying.
    fn is_due(&self, evicted: u64) -> bool {
        let left: u64 = self.guests.iter().map(|(_, g)| g.held.ephemeral_pages).sum();
        evicted >= (left / EVICTED_PART).clamp(EVICTED_LEAST, EVICTED_MOST)
    }

    /// When nothing is left to evict: what was evicted for this put is gathered into whole chunks, else a few pages
    /// are moved.
    fn compact_once(&mut self, effort: &mut Effort) -> Room {
        if self.limit == UNLIMITED || std::mem::replace(&mut effort.compacted, true) {
            return Room::None;
        }
        if effort.evicted > 0 {
            self.gathering = true;
            Room::Shortly
        } else if self.compact(COMPACTED_AT_ONCE) > 0 {
            Room::Made
        } else {
            Room::None
        }
    }

    /// Whether a guest is to lose a page here rather than in another shard; `None` when it has no page anywhere. A slot
    /// that comes free here is room at once, one elsewhere only with its whole chunk: so a page goes here unless
    /// one elsewhere is more than twice as old.
    fn gives_here(&self, guest: GuestId) -> Option<bool> {
        let board = &self.guests.seat.board;
        let own = self.ages.oldest_of(guest).map(|(_, record)| record.stamp);
        let oldest = board.oldest(guest).map(|(stamp, _)| stamp);
        let (Some(own), Some(oldest)) = (own, oldest) else { return own.or(oldest).map(|_| own.is_some()) };
        let age = |stamp: u64| board.now().saturating_sub(stamp);
        Some(age(own).saturating_mul(2) >= age(oldest))
    }

    fn evict_here(&mut self, guest: GuestId) -> Room {
        if self.evict_oldest(guest) { Room::Made } else { Room::None }
    }

    /// For another shard: forgets up to so many of a guest's oldest pages, and gives back what comes free. False when
    /// it has none here.
    pub(crate) fn give_up(&mut self, guest: GuestId, most: u64, effort: &mut Effort) -> bool {
        let (leaving, gathering) = (self.has_leaving(), self.gathering);
        let mut gone = 0;
        if leaving {
            self.empty_some();
        } else if gathering {
            self.gather_some();
        } else {
            while gone < most && self.evict_oldest(guest) {
                gone += 1;
            }
            effort.elsewhere += gone;
            if self.is_due(effort.elsewhere) {
                effort.elsewhere = 0;
                self.gathering = true;
            }
        }
        self.surrender();
        leaving || gathering || gone > 0
    }

    /// Empties some of the sparse chunks into the fuller ones of their class.
    pub(crate) fn gather_some(&mut self) {
        self.gathering = self.compact(GATHERED_AT_ONCE) >= GATHERED_AT_ONCE;
    }

    /// Forgets a guest's oldest ephemeral page, and the rest of its object where the pool keeps objects whole; false
    /// when it has none.
    pub(crate) fn evict_oldest(&mut self, guest: GuestId) -> bool {
        let Some((number, record)) = self.ages.oldest_of(guest) else { return false };
        let id = self.objects.id_of(record.object);
        if let Some((pool, entry)) = self.objects.take(record.object, record.index) {
            self.release(pool as usize, entry);
            self.pools[pool as usize].stats.traffic.evicted += 1;
            self.traffic.evicted += 1;
            self.guests.get_mut(guest).evicted += 1;
            self.evict_rest(pool, id);
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

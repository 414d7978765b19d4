// SPDX-License-Identifier: Apache-2.0
//! Owns: the guests of a store: whose pages they are, what they are charged, weight and cap. Callers: `pool` charges,
//! `room` asks who is over. Locks: the store's. Law 11: charges are exact after every operation; `check` adds them up
//! again. Of a host's shards each has the same guests and limits, and holds a part of each guest's pages.
//!
//! Names are kept in place, not on the heap: a store's tables are all there is of it.

use crate::board::Seat;
use crate::entry::{Entry, Form};
use crate::slab::Slab;
use std::fmt;

/// As many guests as one store can have.
pub const MAX_GUESTS: usize = if cfg!(loom) { 2 } else { 64 };
/// Bytes of the longest name.
pub const LONGEST_NAME: usize = 63;
/// What a page is charged for its place in the index, whatever its data takes: an entry, its part of the tree and of
/// the order of age. So pages of one repeated word, which need no data, are not free.
pub const PAGE_METADATA: u64 = 64;

/// A guest of the store. A guest's number is another's once it was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestId(pub(crate) u8);

impl GuestId {
    /// The guest of pools that name none. It always exists.
    pub const FIRST: GuestId = GuestId(0);

    #[inline]
    pub(crate) fn slot(self) -> usize {
        self.0 as usize
    }
}

/// What the host decided about a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestLimits {
    /// Parts of the room for ephemeral pages that are this guest's. With 0 it is never taken to be over its share.
    pub weight: u32,
    /// Bytes that it may be charged at most.
    pub cap: Option<u64>,
}

impl Default for GuestLimits {
    fn default() -> GuestLimits {
        GuestLimits { weight: 1, cap: None }
    }
}

/// What a guest holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestHoldings {
    pub pages: u64,
    pub ephemeral_pages: u64,
    /// Bytes of its slots in use, and [`PAGE_METADATA`] for each page.
    pub charge: u64,
    /// The part of it that ephemeral pages are charged.
    pub ephemeral_charge: u64,
}

/// One guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestStats {
    pub limits: GuestLimits,
    pub held: GuestHoldings,
    pub pools: u32,
    /// Ephemeral pages that it lost to make room.
    pub evicted: u64,
}

#[derive(Clone, Copy)]
pub(crate) struct Guest {
    live: bool,
    /// Its limits were set: it is kept without pools.
    known: bool,
    name: [u8; LONGEST_NAME],
    name_len: u8,
    pub limits: GuestLimits,
    pub held: GuestHoldings,
    pub pools: u32,
    pub evicted: u64,
}

const NOBODY: Guest = Guest {
    live: false,
    known: false,
    name: [0; LONGEST_NAME],
    name_len: 0,
    limits: GuestLimits { weight: 1, cap: None },
    held: GuestHoldings { pages: 0, ephemeral_pages: 0, charge: 0, ephemeral_charge: 0 },
    pools: 0,
    evicted: 0,
};

/// Why a name cannot be that of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestError {
    /// Empty, or longer than [`LONGEST_NAME`].
    BadName,
    TooMany,
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GuestError::BadName => write!(f, "a guest's name has 1 to {LONGEST_NAME} bytes"),
            GuestError::TooMany => write!(f, "{MAX_GUESTS} guests exist; destroy the pools of one first"),
        }
    }
}

impl std::error::Error for GuestError {}

pub(crate) struct Guests {
    all: [Guest; MAX_GUESTS],
    /// Guests from here on never were.
    fresh: usize,
    pub seat: Seat,
}

impl Guests {
    pub fn new(seat: Seat) -> Guests {
        let mut all = [NOBODY; MAX_GUESTS];
        let name = b"default";
        all[0].name[..name.len()].copy_from_slice(name);
        (all[0].live, all[0].known, all[0].name_len) = (true, true, name.len() as u8);
        Guests { all, fresh: 1, seat }
    }

    #[inline]
    pub fn get(&self, guest: GuestId) -> &Guest {
        &self.all[guest.slot()]
    }

    #[inline]
    pub fn get_mut(&mut self, guest: GuestId) -> &mut Guest {
        &mut self.all[guest.slot()]
    }

    pub fn find(&self, name: &str) -> Option<GuestId> {
        self.iter().find(|(_, guest)| guest.name() == name.as_bytes()).map(|(id, _)| id)
    }

    /// The guest of a name, made where there is none.
    ///
    /// A guest without pools whose limits nobody set gives its place up when all are taken.
    pub fn find_or_make(&mut self, name: &str) -> Result<GuestId, GuestError> {
        if let Some(id) = self.find(name) {
            return Ok(id);
        }
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(GuestError::BadName);
        }
        let free = self.all.iter().position(|g| !g.live);
        let slot = free.or_else(|| self.all.iter().position(|g| !g.known && g.pools == 0));
        let slot = slot.ok_or(GuestError::TooMany)?;
        self.fresh = self.fresh.max(slot + 1);
        let guest = &mut self.all[slot];
        *guest = Guest { live: true, name_len: name.len() as u8, ..NOBODY };
        guest.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(GuestId(slot as u8))
    }

    /// Sets a guest's limits; from now on it is known, with or without pools.
    pub fn set(&mut self, guest: GuestId, limits: GuestLimits) {
        let guest = self.get_mut(guest);
        (guest.limits, guest.known) = (limits, true);
    }

    /// Every guest there is.
    pub fn iter(&self) -> impl Iterator<Item = (GuestId, &Guest)> {
        self.all[..self.fresh]
            .iter()
            .enumerate()
            .filter(|(_, g)| g.live)
            .map(|(slot, g)| (GuestId(slot as u8), g))
    }

    /// Takes room under a guest's cap for a page in a slot of so many bytes; false when there is none. Who got it charges
    /// the guest, or gives it back.
    #[inline]
    pub fn reserve(&self, guest: GuestId, slot_bytes: usize) -> bool {
        let bytes = slot_bytes as u64 + PAGE_METADATA;
        self.get(guest).limits.cap.is_none_or(|cap| self.seat.board.charge(guest, bytes, cap))
    }

    /// As [`Guests::reserve`], whatever the cap: for a page that is stored in another form.
    pub fn reserve_anyway(&self, guest: GuestId, slot_bytes: usize) {
        if self.get(guest).limits.cap.is_some() {
            let _ = self.seat.board.charge(guest, slot_bytes as u64 + PAGE_METADATA, u64::MAX);
        }
    }

    /// Gives back what [`Guests::reserve`] took.
    #[inline]
    pub fn cancel(&self, guest: GuestId, slot_bytes: usize) {
        if self.get(guest).limits.cap.is_some() {
            self.seat.board.discharge(guest, slot_bytes as u64 + PAGE_METADATA);
        }
    }

    /// Charges a guest for a page that takes `slot_bytes` of the slab, and that room was reserved for.
    #[inline]
    pub fn charge(&mut self, guest: GuestId, slot_bytes: usize, ephemeral: bool) {
        self.get_mut(guest).held.add(slot_bytes, ephemeral);
        if ephemeral {
            self.seat.show_charge(guest, self.get(guest).held.ephemeral_charge);
        }
    }

    /// Takes a page off its guest's charge.
    #[inline]
    pub fn discharge(&mut self, guest: GuestId, slot_bytes: usize, ephemeral: bool) {
        self.cancel(guest, slot_bytes);
        let (bytes, held) = (slot_bytes as u64 + PAGE_METADATA, &mut self.get_mut(guest).held);
        // Wrapping: where stray writes changed an entry, `check` tells, and a put must not panic.
        held.pages = held.pages.wrapping_sub(1);
        held.charge = held.charge.wrapping_sub(bytes);
        if ephemeral {
            held.ephemeral_pages = held.ephemeral_pages.wrapping_sub(1);
            held.ephemeral_charge = held.ephemeral_charge.wrapping_sub(bytes);
            self.seat.show_charge(guest, self.get(guest).held.ephemeral_charge);
        }
    }

    /// The guest that loses the next ephemeral page, of whichever shard; `None` when nobody has one.
    pub fn who_gives(&self) -> Option<GuestId> {
        let board = &self.seat.board;
        let holders = || {
            let all = self.iter().map(|(id, guest)| (id, board.ephemeral_charge(id), guest.limits.weight));
            all.filter(|(_, held, _)| *held > 0).map(|(id, held, w)| (id, u128::from(held), u128::from(w)))
        };
        let (mut all, mut weights) = (0, 0);
        holders().for_each(|(_, held, weight)| (all, weights) = (all + held, weights + weight));
        // Held for its weight, compared without a division: `a` is more over than `b` where a.held * b.weight is
        // more.
        let mut most: Option<(GuestId, u128, u128)> = None;
        for (id, held, weight) in holders() {
            let over = weight > 0 && held * weights > all * weight;
            if over && most.is_none_or(|(_, h, w)| held * w > h * weight) {
                most = Some((id, held, weight));
            }
        }
        let oldest = || holders().filter_map(|(id, ..)| board.oldest(id).map(|(stamp, _)| (stamp, id)));
        most.map(|(id, ..)| id).or_else(|| oldest().min_by_key(|(stamp, _)| *stamp).map(|(_, id)| id))
    }

    /// The part of a guest's charge that eviction cannot free, over all shards, where it has a cap.
    pub fn stays(&self, guest: GuestId) -> u64 {
        let board = &self.seat.board;
        board.capped(guest).saturating_sub(board.ephemeral_charge(guest))
    }
}

impl Guest {
    pub fn name(&self) -> &[u8] {
        &self.name[..self.name_len as usize]
    }

    /// Adds what it holds in this shard to what it holds in others.
    pub fn join_to(&self, sum: &mut Guest) {
        sum.held.join(self.held);
        sum.evicted += self.evicted;
    }

    pub fn stats(&self) -> GuestStats {
        GuestStats { limits: self.limits, held: self.held, pools: self.pools, evicted: self.evicted }
    }
}

impl GuestHoldings {
    /// Adds what another shard holds.
    pub(crate) fn join(&mut self, other: GuestHoldings) {
        self.pages += other.pages;
        self.ephemeral_pages += other.ephemeral_pages;
        self.charge += other.charge;
        self.ephemeral_charge += other.ephemeral_charge;
    }

    pub(crate) fn add(&mut self, slot_bytes: usize, ephemeral: bool) {
        let bytes = slot_bytes as u64 + PAGE_METADATA;
        self.pages += 1;
        self.charge += bytes;
        if ephemeral {
            self.ephemeral_pages += 1;
            self.ephemeral_charge += bytes;
        }
    }
}

/// Bytes of the slab that an entry's page takes.
pub(crate) fn slot_bytes(slab: &Slab, entry: Entry) -> usize {
    match entry.form() {
        Form::Packed(loc, _) | Form::Raw(loc) => slab.size_at(loc).unwrap_or(0),
        Form::Empty | Form::Same(_) | Form::Shared(_) | Form::Broken(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_few_and_places_of_the_forgotten_are_given_again() {
        let mut guests = Guests::new(Seat::alone());
        assert_eq!(guests.find("default"), Some(GuestId::FIRST));
        let first = guests.find_or_make("first").unwrap();
        guests.get_mut(first).pools = 1;
        let known = guests.find_or_make("known").unwrap();
        guests.set(known, GuestLimits { weight: 0, cap: Some(1) });
        for n in 0..200 {
            guests.find_or_make(&format!("passing-{n}")).unwrap();
        }
        assert_eq!((guests.find("first"), guests.find("known")), (Some(first), Some(known)));
        (0..MAX_GUESTS).for_each(|g| guests.all[g].pools = 1);
        assert_eq!(guests.find_or_make("one more"), Err(GuestError::TooMany));
        assert_eq!(guests.find_or_make(""), Err(GuestError::BadName));
        assert_eq!(guests.find_or_make(&"x".repeat(LONGEST_NAME + 1)), Err(GuestError::BadName));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: what the shards of a host tell one another without a lock: what of the limit none of them was granted, the
//! charge of guests that have a cap, who has ephemeral pages and how old, and the clock of their ages. Callers:
//! `guests`, `age` and `room` of each shard, `supply`, `host`. Locks: none; a shard shows its own numbers under its own
//! lock. What is read here may be out of date by the time it is acted on: who acts looks again under that lock.
//! Law 11: a cap is never passed, since the charge under it is taken in one step. Law 13: grants are taken from the
//! limit in one step, and no shard takes more than its grant.

use crate::guests::{GuestId, MAX_GUESTS};
use crate::sync::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

/// As many shards as a host ever has.
pub(crate) const MOST_SHARDS: usize = 8;

/// What a shard shows of a guest.
struct Shown {
    ephemeral_charge: AtomicU64,
    /// When its oldest ephemeral page there was last young; 0 where it has none.
    oldest: AtomicU64,
}

/// A shard's own numbers, apart from the others' in the processors' caches.
#[repr(align(128))]
struct Line([Shown; MAX_GUESTS]);

pub(crate) struct Board {
    limit: AtomicUsize,
    /// Bytes of the limit that nobody was granted; below 0 while more is taken than the limit allows.
    ungranted: AtomicI64,
    clock: AtomicU64,
    /// What guests with a cap are charged, over all shards.
    capped: [AtomicU64; MAX_GUESTS],
    lines: Vec<Line>,
}

impl Board {
    pub fn new(shards: usize) -> Board {
        let shown = || Shown { ephemeral_charge: AtomicU64::new(0), oldest: AtomicU64::new(0) };
        Board {
            limit: AtomicUsize::new(0),
            ungranted: AtomicI64::new(0),
            clock: AtomicU64::new(0),
            capped: std::array::from_fn(|_| AtomicU64::new(0)),
            lines: (0..shards).map(|_| Line(std::array::from_fn(|_| shown()))).collect(),
        }
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn set_limit(&self, bytes: usize) {
        let before = self.limit.swap(bytes, Ordering::Relaxed);
        self.ungranted.fetch_add(bytes as i64 - before as i64, Ordering::Relaxed);
    }

    pub fn ungranted(&self) -> i64 {
        self.ungranted.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn is_overdrawn(&self) -> bool {
        self.ungranted() < 0
    }

    /// Takes up to so many bytes; how many.
    pub fn take(&self, bytes: usize) -> usize {
        let got = |left: i64| left.clamp(0, bytes as i64);
        let took = self.ungranted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (got(left) > 0).then(|| left - got(left))
        });
        took.map_or(0, |left| got(left) as usize)
    }

    /// Takes bytes that are needed, whether they are there or not.
    pub fn overdraw(&self, bytes: usize) {
        self.ungranted.fetch_sub(bytes as i64, Ordering::Relaxed);
    }

    pub fn give(&self, bytes: usize) {
        self.ungranted.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    /// What a guest with a cap is charged.
    #[inline]
    pub fn capped(&self, guest: GuestId) -> u64 {
        self.capped[guest.slot()].load(Ordering::Relaxed)
    }

    pub fn set_capped(&self, guest: GuestId, charge: u64) {
        self.capped[guest.slot()].store(charge, Ordering::Relaxed);
    }

    /// Charges a guest with a cap if that allows it.
    pub fn charge(&self, guest: GuestId, bytes: u64, cap: u64) -> bool {
        let charge = &self.capped[guest.slot()];
        let fits = |charge: u64| charge.checked_add(bytes).filter(|sum| *sum <= cap);
        charge.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    pub fn discharge(&self, guest: GuestId, bytes: u64) {
        self.capped[guest.slot()].fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A stamp later than all before.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// What a guest's ephemeral pages are charged, over all shards.
    pub fn ephemeral_charge(&self, guest: GuestId) -> u64 {
        self.shown(guest).map(|shown| shown.ephemeral_charge.load(Ordering::Relaxed)).sum()
    }

    /// The stamp of a guest's oldest ephemeral page, and the shard that has it.
    pub fn oldest(&self, guest: GuestId) -> Option<(u64, usize)> {
        let stamps = self.shown(guest).map(|shown| shown.oldest.load(Ordering::Relaxed));
        stamps.zip(0..).filter(|(stamp, _)| *stamp != 0).min()
    }

    fn shown(&self, guest: GuestId) -> impl Iterator<Item = &Shown> {
        self.lines.iter().map(move |line| &line.0[guest.slot()])
    }
}

/// A shard's place at the board.
#[derive(Clone)]
pub(crate) struct Seat {
    pub board: Arc<Board>,
    pub shard: usize,
}

impl Seat {
    /// The seat of a store that shares nothing.
    pub fn alone() -> Seat {
        Seat { board: Arc::new(Board::new(1)), shard: 0 }
    }

    pub fn has_others(&self) -> bool {
        self.board.lines.len() > 1
    }

    #[inline]
    fn own(&self, guest: GuestId) -> &Shown {
        &self.board.lines[self.shard].0[guest.slot()]
    }

    #[inline]
    pub fn show_charge(&self, guest: GuestId, ephemeral: u64) {
        self.own(guest).ephemeral_charge.store(ephemeral, Ordering::Relaxed);
    }

    #[inline]
    pub fn show_oldest(&self, guest: GuestId, stamp: u64) {
        self.own(guest).oldest.store(stamp, Ordering::Relaxed);
    }

    /// What this shard shows: for `check`.
    pub fn shows(&self, guest: GuestId) -> (u64, u64) {
        let own = self.own(guest);
        (own.ephemeral_charge.load(Ordering::Relaxed), own.oldest.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const GUEST: GuestId = GuestId::FIRST;

    #[test]
    fn no_more_is_granted_than_there_is_and_what_is_overdrawn_is_owed() {
        let board = Board::new(2);
        board.set_limit(100);
        assert_eq!((board.take(60), board.take(60), board.take(60)), (60, 40, 0));
        board.set_limit(50);
        assert!(board.is_overdrawn());
        board.give(50);
        assert_eq!((board.is_overdrawn(), board.take(1)), (false, 0));
        board.overdraw(10);
        board.give(30);
        assert_eq!((board.take(100), board.ungranted()), (20, 0));
    }

    #[test]
    fn a_cap_is_reached_and_not_passed_by_threads_at_once() {
        let board = Board::new(1);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..1000).for_each(|_| assert!(board.charge(GUEST, 3, u64::MAX))));
            }
        });
        assert_eq!(board.capped(GUEST), 12_000);
        assert!(board.charge(GUEST, 10, 12_010) && !board.charge(GUEST, 1, 12_010));
        board.discharge(GUEST, 5);
        assert!(board.charge(GUEST, 5, 12_010));
    }

    #[test]
    fn the_oldest_of_all_shards_is_found() {
        let board = Arc::new(Board::new(3));
        let seats = [0, 1, 2].map(|shard| Seat { board: Arc::clone(&board), shard });
        assert_eq!(board.oldest(GUEST), None);
        seats[1].show_oldest(GUEST, 7);
        seats[2].show_oldest(GUEST, 5);
        seats[1].show_charge(GUEST, 100);
        seats[0].show_charge(GUEST, 1);
        assert_eq!((board.oldest(GUEST), board.ephemeral_charge(GUEST)), (Some((5, 2)), 101));
        assert_eq!(seats[1].shows(GUEST), (100, 7));
    }
}

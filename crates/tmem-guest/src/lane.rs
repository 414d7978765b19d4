// SPDX-License-Identifier: Apache-2.0
//! Owns: the stores that one connection fetches memory for. Callers: the doors through `client`, and the connection's thread.
//! Lock: the connection's own, a leaf, which the callers hold.
//!
//! The thread may be one that must not enter the heap: a store that leaves is dropped by whoever attaches the next, never there.

use std::sync::Arc;
use tmem_store::lease::{Holder, Mailbox};

/// Stores of one connection.
pub const MOST_LANES: usize = 64;

/// A store that takes memory on lease.
#[derive(Clone)]
pub struct Lane {
    pub mailbox: Arc<Mailbox>,
    pub holder: Arc<dyn Holder>,
    /// The shared pool that it is a member of; 0 for none.
    pub pool: u64,
}

struct Place {
    lane: Option<Lane>,
    /// Counts who had the place.
    generation: u64,
    /// The round of the thread in which it was left; 0 while somebody has it.
    left: u64,
}

/// The lanes of one connection.
pub struct Lanes {
    places: [Place; MOST_LANES],
    /// Rounds of the thread, which keeps no lane from one to the next.
    round: u64,
}

impl Lanes {
    pub fn new() -> Lanes {
        let place = |_| Place { lane: None, generation: 0, left: 0 };
        Lanes { places: std::array::from_fn(place), round: 1 }
    }

    /// Adds a store and returns who had its place, to be dropped without the lock.
    ///
    /// # Errors
    /// The lane, where there are too many.
    pub fn attach(&mut self, lane: Lane) -> Result<Option<Lane>, Lane> {
        let round = self.round;
        let is_free = |p: &&mut Place| p.lane.is_none() || (p.left != 0 && p.left + 1 < round);
        let Some(place) = self.places.iter_mut().find(is_free) else { return Err(lane) };
        (place.generation, place.left) = (place.generation + 1, 0);
        Ok(place.lane.replace(lane))
    }

    /// A store is served no more, as soon as the thread has ended its round.
    pub fn detach(&mut self, mailbox: &Arc<Mailbox>) {
        let has = |p: &&mut Place| p.lane.as_ref().is_some_and(|l| Arc::ptr_eq(&l.mailbox, mailbox));
        self.places.iter_mut().filter(has).for_each(|place| place.left = self.round);
    }

    /// The store at a place, and a number that no other there had.
    pub fn at(&self, place: usize) -> Option<(Lane, u64)> {
        let place = &self.places[place];
        let lane = place.lane.as_ref().filter(|_| place.left == 0)?;
        Some((lane.clone(), place.generation))
    }

    /// Whether there were stores, and all of them have ended: nobody else has their mailboxes any more.
    pub fn are_over(&self) -> bool {
        let mut lanes = self.places.iter().filter_map(|place| place.lane.as_ref()).peekable();
        lanes.peek().is_some() && lanes.all(|lane| Arc::strong_count(&lane.mailbox) == 1)
    }

    /// The thread begins another round; it has let go of all lanes.
    pub fn turn_round(&mut self) {
        self.round += 1;
    }
}

// SPDX-License-Identifier: Apache-2.0
//! A host of one shared pool, played for tests: it leases, tells late, cuts off, and sees members die.

use super::super::format::BOARD;
use super::super::{SECRET, SharedPool};
use crate::lease::{Extent, Holder, Kind, LinkState};
use std::collections::VecDeque;
use std::sync::Arc;
use tmem_sys::lease::LeaseFd;
use tmem_sys::time;

/// An index of seven buckets: a few hundred pages are more than it holds.
pub const EXTENT: usize = 32 << 10;
pub const KEY: [u8; SECRET] = *b"0123456789abcdef";

pub struct Held {
    pub id: u64,
    pub kind: Kind,
    pub fd: LeaseFd,
}

pub struct Seat {
    pub pool: Arc<SharedPool>,
    pub halves: [Arc<dyn Holder>; 2],
    pub extents: Vec<Held>,
    /// What it has not been told yet: of which member, which extent. Number 0: the member is gone.
    pub untold: VecDeque<(usize, u64, Kind, Option<LeaseFd>)>,
}

/// Plays the host of one pool.
pub struct Hub {
    pub board: LeaseFd,
    pub floor: u64,
    pub seats: Vec<Option<Seat>>,
    pub last: u64,
    pub late: bool,
}

impl Hub {
    pub fn new(members: usize, late: bool) -> Hub {
        let board = LeaseFd::new(4096).unwrap();
        let mut hub = Hub { board, floor: 0, seats: (0..members).map(|_| None).collect(), last: 0, late };
        (0..members).for_each(|member| hub.join(member));
        hub
    }

    pub fn write_board(&mut self) {
        let bits =
            (0..self.seats.len()).filter(|n| self.seats[*n].is_some()).fold(0u64, |all, n| all | 1 << n);
        let words = [0x746d_656d_626f_6172, self.floor, bits];
        let bytes: Vec<u8> = words.iter().flat_map(|w: &u64| w.to_le_bytes()).collect();
        assert_eq!(bytes.len(), BOARD);
        self.board.write_at(0, &bytes).unwrap();
    }

    pub fn join(&mut self, member: usize) {
        let pool = SharedPool::new(&KEY, 4 * EXTENT).unwrap();
        pool.mailboxes().iter().for_each(|mail| mail.set_state(LinkState::Refused { until_ns: u64::MAX }));
        let halves = pool.holders();
        let mut untold = VecDeque::new();
        for (other, seat) in self.seats.iter().enumerate() {
            for held in seat.iter().flat_map(|seat| &seat.extents) {
                untold.push_back((other, held.id, held.kind, Some(held.fd.duplicate().unwrap())));
            }
        }
        pool.enter(1, member, self.board.duplicate().unwrap());
        self.seats[member] = Some(Seat { pool, halves, extents: Vec::new(), untold });
        self.write_board();
        self.serve(member);
        if !self.late {
            self.tell_all();
        }
    }

    pub fn pool(&self, member: usize) -> &Arc<SharedPool> {
        &self.seats[member].as_ref().unwrap().pool
    }

    /// Leases what a member wants.
    pub fn serve(&mut self, member: usize) {
        let Some(seat) = &self.seats[member] else { return };
        let [data, index] = seat.pool.mailboxes().map(Arc::clone);
        for (mail, kind) in [(data, Kind::SharedData), (index, Kind::SharedIndex)] {
            if mail.wanted() == 0 {
                continue;
            }
            self.last += 1;
            let (id, fd) = (self.last, LeaseFd::new(EXTENT).unwrap());
            for (other, seat) in self.seats.iter_mut().enumerate() {
                if let Some(seat) = seat.as_mut().filter(|_| other != member) {
                    seat.untold.push_back((member, id, kind, Some(fd.duplicate().unwrap())));
                }
            }
            let theirs = fd.duplicate().unwrap();
            self.seats[member].as_mut().unwrap().extents.push(Held { id, kind, fd: theirs });
            mail.deposit(Extent { id, fd, bytes: EXTENT }).unwrap();
        }
        if !self.late {
            self.tell_all();
        }
    }

    pub fn tell(&mut self, member: usize) {
        if let Some(seat) = &mut self.seats[member]
            && let Some((other, id, kind, fd)) = seat.untold.pop_front()
        {
            match fd {
                Some(fd) => seat.pool.member(other, id, kind, fd),
                None => seat.pool.gone(other),
            }
        }
    }

    pub fn tell_all(&mut self) {
        for member in 0..self.seats.len() {
            while self.seats[member].as_ref().is_some_and(|seat| !seat.untold.is_empty()) {
                self.tell(member);
            }
        }
    }

    pub fn revoke(&mut self, member: usize, pick: usize, tell: bool) {
        let Some(seat) = &mut self.seats[member] else { return };
        if seat.extents.is_empty() {
            return;
        }
        let held = seat.extents.swap_remove(pick % seat.extents.len());
        if held.kind == Kind::SharedIndex {
            self.floor = self.floor.max(time::now_ns());
            self.write_board();
        }
        held.fd.set_size(0).unwrap();
        let seat = self.seats[member].as_ref().unwrap();
        if tell {
            seat.halves.iter().for_each(|half| half.revoked(&[held.id]));
        }
    }

    /// A member dies: the floor first, then what it held.
    pub fn die(&mut self, member: usize) {
        let Some(seat) = self.seats[member].take() else { return };
        self.floor = self.floor.max(time::now_ns());
        self.write_board();
        seat.extents.iter().for_each(|held| held.fd.set_size(0).unwrap());
        for other in self.seats.iter_mut().flatten() {
            other.untold.push_back((member, 0, Kind::SharedIndex, None));
        }
        if !self.late {
            self.tell_all();
        }
    }

    pub fn index_of(&self, member: usize) -> Option<LeaseFd> {
        let extents = &self.seats[member].as_ref()?.extents;
        extents.iter().find(|held| held.kind == Kind::SharedIndex)?.fd.duplicate().ok()
    }
}

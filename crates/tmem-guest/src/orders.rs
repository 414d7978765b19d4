// SPDX-License-Identifier: Apache-2.0
//! Owns: what a guest does when its host tells it something: it shrinks, keeps to another target, freezes, learns what was revoked and
//! who shares its pools. Caller: `serve`, in the connection's thread. Locks: the stores' owners', inside `Holder`.
//! Law 19: the host asks for persistent memory; what could be given is given first, and then the answer says how much it was.

use crate::client::{Shared, tagged};
use crate::serve::{MS, Serving};
use crate::session::{End, Worker};
use crate::shared::{Answer, Joined, tell};
use crate::wire::{FromHost, List, ToHost, decode};
use std::sync::atomic::Ordering;
use tmem_store::lease::Kind;
use tmem_sys::beyond::has_room;
use tmem_sys::link::{Arrival, Link};
use tmem_sys::time::now_ns;

/// A host says when it is to be asked again, within this.
const RETRY_MS: std::ops::RangeInclusive<u64> = 10..=10_000;
const REVOKED_IDS: usize = 256;

/// What is to be done about a message, without it.
enum Order {
    Nothing,
    Shrink { seq: u64, bytes: u64 },
    Balloon { seq: u64, ram: u64 },
    Leave { pool: u64 },
}

impl Serving {
    /// Does what a message of the host's says.
    pub(crate) fn obey(&mut self, at: &mut Worker<'_>, link: &Link, arrival: Arrival) -> Result<(), End> {
        match self.read_order(at, arrival)? {
            Order::Nothing => Ok(()),
            Order::Shrink { seq, bytes } => {
                let given = self.shrink(at, link, usize::try_from(bytes).unwrap_or(usize::MAX))?;
                at.send(link, &ToHost::Shrunk { seq, bytes: given as u64 }, &[])
            }
            Order::Balloon { seq, ram } => self.begin_shrinking(at, link, seq, ram),
            Order::Leave { pool } => {
                let seq = at.next_seq();
                at.send(link, &ToHost::Leave { seq, pool }, &[])
            }
        }
    }

    fn read_order(&mut self, at: &mut Worker<'_>, arrival: Arrival) -> Result<Order, End> {
        let Worker { packet, fds, shared, epoch, .. } = at;
        let message = decode(&packet[..arrival.bytes])?;
        let brings = match message {
            FromHost::Joined { .. } => 1,
            FromHost::Member { ids, .. } => ids.len(),
            _ => 0,
        };
        if fds.len() != brings && !(arrival.is_short_of_fds && fds.len() < brings) {
            return Err(End::Malformed);
        }
        match message {
            FromHost::Refused { seq, reason, retry_ms } => self.refused(shared, seq, reason, retry_ms),
            FromHost::Done { .. } => {}
            FromHost::Shrink { seq, bytes } => return Ok(Order::Shrink { seq, bytes }),
            FromHost::Balloon { seq, ram } => return Ok(Order::Balloon { seq, ram }),
            FromHost::Set { frozen, compress } => {
                let lanes = shared.lanes();
                lanes.for_each(|(n, lane)| self.quietly(n, &lane, |holder| holder.set(frozen, compress)));
            }
            FromHost::Revoked { ids } => self.revoked(shared, ids, *epoch)?,
            FromHost::Joined { seq, pool, member } => {
                let board = fds.take(0);
                let has_come = board.is_some_and(|board| {
                    let joined = Joined { pool, member, board };
                    shared.with(|i| i.desk.seq == Some(seq) && i.desk.answer(Answer::Joined(joined)))
                });
                tell(shared);
                return Ok(if has_come { Order::Nothing } else { Order::Leave { pool } });
            }
            FromHost::Member { pool, member, ids, kinds } => {
                if ids.len() != kinds.len() {
                    return Err(End::Malformed);
                }
                for (n, (id, kind)) in ids.iter().zip(kinds.iter()).enumerate() {
                    let kind = Kind::from_number(kind).ok_or(End::Malformed)?;
                    // Without another's data its pages are misses; without numbers the program has no files.
                    if let (Some(fd), Some(pools)) = (fds.take(n), &shared.pools)
                        && (kind != Kind::SharedData || has_room(0))
                    {
                        pools.member(pool, member, id, kind, fd);
                    }
                }
            }
            FromHost::Gone { pool, member } => {
                shared.pools.iter().for_each(|pools| pools.gone(pool, member));
            }
            FromHost::Error { text } => {
                shared.note(text);
                return Err(End::Gone);
            }
            FromHost::Welcome { .. } | FromHost::Granted { .. } => return Err(End::Malformed),
        }
        Ok(Order::Nothing)
    }

    /// The host said no: to a request for extents, or to somebody who wanted to join a pool.
    fn refused(&mut self, shared: &Shared, seq: u64, reason: &str, retry_ms: u64) {
        let retry_ms = retry_ms.clamp(*RETRY_MS.start(), *RETRY_MS.end());
        let Some(asked) = self.asked.take_if(|asked| asked.seq == seq) else {
            let is_joining = |inside: &mut crate::client::Inside| {
                inside.desk.seq == Some(seq) && inside.desk.answer(Answer::refused(reason))
            };
            shared.with(is_joining);
            return tell(shared);
        };
        shared.refused.fetch_add(1, Ordering::AcqRel);
        let pace = &mut self.paces[asked.place];
        pace.not_before_ns = now_ns() + retry_ms * MS;
        (pace.answered, pace.answered_ns) = (asked.count, pace.not_before_ns);
        if let Some((lane, _)) = shared.lane(asked.place) {
            self.settle(asked.place, &lane);
        }
    }

    /// Extents are empty already.
    fn revoked(&mut self, shared: &Shared, ids: List<'_>, epoch: u64) -> Result<(), End> {
        let mut rest = ids.iter();
        loop {
            let (mut some, mut len) = ([0; REVOKED_IDS], 0);
            for (place, id) in some.iter_mut().zip(rest.by_ref()) {
                *place = tagged(id, epoch).ok_or(End::Malformed)?;
                len += 1;
            }
            if len == 0 {
                return Ok(());
            }
            for (n, lane) in shared.lanes() {
                for &id in &some[..len] {
                    lane.mailbox.amend(id, None);
                }
                self.quietly(n, &lane, |holder| holder.revoked(&some[..len]));
            }
            shared.let_go(len);
        }
    }

    /// Gives back persistent extents worth so many bytes, as far as their owners can; how many bytes it were.
    fn shrink(&mut self, at: &mut Worker<'_>, link: &Link, bytes: usize) -> Result<usize, End> {
        let mut given = 0;
        for n in 0..crate::lane::MOST_LANES {
            let lane = at.shared.lane(n).map(|(lane, _)| lane);
            if let Some(lane) = lane.filter(|lane| lane.mailbox.kind() == Kind::Persistent && given < bytes) {
                given += self.give(at, link, n, &lane, bytes - given)?;
            }
        }
        Ok(given)
    }
}

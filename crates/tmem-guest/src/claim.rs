// SPDX-License-Identifier: Apache-2.0
//! Owns: how a guest comes back to a host with what it still holds from the one before. Caller: `session`, in the connection's thread,
//! before anything is asked for. Locks: the stores' owners', inside `Holder`; none while a message is on its way.
//! Law 18: what the host does not accept stays the guest's: its pages move out as they find room, and none is lost.

use crate::client::{LOST, is_of, tagged};
use crate::serve::{MS, Serving};
use crate::session::{End, Worker};
use crate::threads::in_turn;
use crate::wire::{FromHost, MOST_ASKED, ToHost, decode};
use std::sync::atomic::Ordering;
use tmem_store::lease::{Kind, LinkState};
use tmem_sys::kept;
use tmem_sys::lease::LeaseFd;
use tmem_sys::link::{self, Link};
use tmem_sys::time::now_ns;

const LOOK_MS: u64 = 250;
const RETRY_MS: u64 = 1000;

type Ids = [u64; MOST_ASKED];

/// Extents of one store and kind.
struct Batch {
    place: usize,
    kind: Kind,
    pool: u64,
    ids: Ids,
    /// Descriptors of this thread's own: the store may let go of its own meanwhile.
    fds: [Option<LeaseFd>; MOST_ASKED],
    len: usize,
}

impl Serving {
    /// Claims everything that is held and that this connection's host does not know yet.
    pub fn claim(&mut self, at: &mut Worker<'_>, link: &Link) -> Result<(), End> {
        while let Some(batch) = next(at) {
            if let Some(new) = self.ask_for(at, link, &batch)? {
                self.settle_claim(at, &batch, &new)?;
            }
        }
        Ok(())
    }

    /// The host's ids for them, 0 for what it does not accept; `None` where it has no time, after a while.
    fn ask_for(&mut self, at: &mut Worker<'_>, link: &Link, batch: &Batch) -> Result<Option<Ids>, End> {
        let seq = at.next_seq();
        let mut hosts = [0; MOST_ASKED];
        hosts.iter_mut().zip(batch.ids).for_each(|(place, id)| *place = crate::client::host_id(id));
        let mut fds = [-1; MOST_ASKED];
        fds.iter_mut().zip(&batch.fds).for_each(|(to, fd)| *to = fd.as_ref().map_or(-1, LeaseFd::raw));
        let (ids, fds) = (&hosts[..batch.len], &fds[..batch.len]);
        at.send(link, &ToHost::Claim { seq, kind: batch.kind as u64, pool: batch.pool, ids }, fds)?;
        loop {
            while let Some(arrival) = in_turn(|| at.receive(link))? {
                let has_fds = !at.fds.is_empty();
                match decode(&at.packet[..arrival.bytes])? {
                    FromHost::Granted { seq: of, ids } if of == seq && ids.len() == batch.len && !has_fds => {
                        let mut new = [0; MOST_ASKED];
                        new.iter_mut().zip(ids.iter()).for_each(|(to, id)| *to = id);
                        return Ok(Some(new));
                    }
                    FromHost::Granted { .. } => return Err(End::Malformed),
                    FromHost::Refused { seq: of, reason: "busy", retry_ms } if of == seq => {
                        self.pass_time(at, link, retry_ms.min(RETRY_MS))?;
                        return Ok(None);
                    }
                    FromHost::Refused { seq: of, .. } if of == seq => {
                        return Ok(Some([0; MOST_ASKED]));
                    }
                    _ => self.obey(at, link, arrival)?,
                }
            }
            self.look(at, link, LOOK_MS)?;
        }
    }

    /// Waits; a store asks for nothing before the claim is settled.
    fn pass_time(&mut self, at: &mut Worker<'_>, link: &Link, ms: u64) -> Result<(), End> {
        let until = now_ns() + ms * MS;
        while now_ns() < until {
            self.look(at, link, ms)?;
        }
        Ok(())
    }

    fn look(&mut self, at: &mut Worker<'_>, link: &Link, ms: u64) -> Result<(), End> {
        if at.is_over() {
            return Err(End::Over);
        }
        at.shared.lanes().for_each(|(_, lane)| lane.mailbox.set_state(LinkState::Alone));
        link::wait(Some(link), &at.bell, ms).map_err(|_| End::Gone).map(drop)
    }

    fn settle_claim(&mut self, at: &Worker<'_>, batch: &Batch, new: &[u64; MOST_ASKED]) -> Result<(), End> {
        let Some((lane, _)) = at.shared.lane(batch.place) else { return Ok(()) };
        for (&old, &new) in batch.ids[..batch.len].iter().zip(new) {
            if new == 0 {
                if !lane.mailbox.amend(old, None) {
                    lane.holder.renumber(old, old | LOST);
                    lane.holder.lose(old | LOST);
                    self.lost += 1;
                }
                continue;
            }
            let new = tagged(new, at.epoch).ok_or(End::Malformed)?;
            if !lane.mailbox.amend(old, Some(new)) {
                lane.holder.renumber(old, new);
            }
            at.shared.held.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }
}

/// The next extents that this connection's host does not know.
fn next(at: &Worker<'_>) -> Option<Batch> {
    at.shared.lanes().find_map(|(place, lane)| {
        let (pool, kind) = (lane.pool, lane.mailbox.kind());
        let fds = [const { None }; MOST_ASKED];
        let mut batch = Batch { place, kind, pool, ids: [0; MOST_ASKED], fds, len: 0 };
        let mut add = |id: u64, fd: i32, kind: Kind| {
            let is_known = id & LOST != 0 || is_of(id, at.epoch);
            let has_place = batch.len == 0 || (batch.len < MOST_ASKED && batch.kind == kind);
            if !is_known
                && has_place
                && kept::is_kept(fd as usize)
                && let Ok(fd) = LeaseFd::of(fd)
            {
                batch.kind = kind;
                (batch.ids[batch.len], batch.fds[batch.len]) = (id, Some(fd));
                batch.len += 1;
            }
        };
        lane.holder.held(&mut add);
        lane.mailbox.each_waiting(&mut |id, fd| add(id, fd, kind));
        (batch.len > 0).then_some(batch)
    })
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: what goes back to the host, and what it is told of the guest: memory that a store does not need, reports. Caller: `serve` and
//! `orders`, in the connection's thread. Locks: the stores' owners', inside `Holder`, for a bounded step at a time.

use crate::client::{LOST, host_id, is_of};
use crate::lane::{Lane, MOST_LANES};
use crate::serve::{Ids, MS, Pace, Serving};
use crate::session::{End, Worker};
use crate::wire::{MOST_GIVEN, ToHost};
use tmem_store::lease::Kind;
use tmem_sys::link::{Link, wait_writable};
use tmem_sys::time::now_ns;

/// Another's turn comes after so much at a time: at most 256 extents, which are of 1 MiB or more.
const STEP_BYTES: usize = 256 << 20;
/// A host that asks for much gets what was given by then.
const MOST_NS: u64 = 10_000 * MS;
/// While a store fills, a report may be so many times as late.
const LATE_REPORTS: u64 = 3;
const FILLING_NS: u64 = 250 * MS;
const SPARE: u32 = 2;
/// Between two looks at what could be given back, and how long it must have been there.
const TICK_NS: u64 = 1000 * MS;
const IDLE_NS: u64 = 5000 * MS;

impl Serving {
    /// When something is to be done next, at the latest.
    pub fn next_look_ms(&self, at: &Worker<'_>) -> u64 {
        let now = now_ns();
        if self.asked.is_some() {
            return TICK_NS / MS;
        }
        let report = self.reported_ns + self.welcome.report_ms * MS;
        let retries = at.shared.lanes().filter(|(_, lane)| lane.mailbox.wanted() > 0);
        let retries = retries.map(|(n, _)| self.paces[n].not_before_ns);
        let next = retries.chain([report, self.ticked_ns + TICK_NS]).min().unwrap_or(now);
        next.saturating_sub(now).div_ceil(MS).max(1)
    }

    /// Reports, and gives back what lies idle, when it is time to.
    pub fn look_after(&mut self, at: &mut Worker<'_>, link: &Link) -> Result<(), End> {
        let now = now_ns();
        let (since, every) = (now.saturating_sub(self.reported_ns), self.welcome.report_ms * MS);
        let fills = self.paces.iter().any(|pace| now.saturating_sub(pace.granted_ns) < FILLING_NS);
        if since >= every && (!fills || since >= every * LATE_REPORTS) {
            if fills && !self.has_spare && self.make_spare(at, link, now)? {
                return Ok(());
            }
            self.reported_ns = now;
            self.report(at, link)?;
        }
        if now.saturating_sub(self.ticked_ns) >= TICK_NS && !fills {
            self.ticked_ns = now;
            for place in 0..MOST_LANES {
                if let Some((lane, _)) = at.shared.lane(place) {
                    self.give_idle(at, link, place, &lane)?;
                }
            }
        }
        Ok(())
    }

    /// Before owners' locks are waited for: a store that fills meanwhile is to find an extent. Whether one was asked for.
    fn make_spare(&mut self, at: &mut Worker<'_>, link: &Link, now: u64) -> Result<bool, End> {
        self.has_spare = true;
        for place in 0..MOST_LANES {
            let Some((lane, generation)) = at.shared.lane(place) else { continue };
            let pace = &self.paces[place];
            let fills = now.saturating_sub(pace.granted_ns) < FILLING_NS && now >= pace.not_before_ns;
            if fills && lane.mailbox.waiting() == 0 {
                self.request(at, link, (place, generation), &lane, SPARE)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What all stores are, as one. A host that reads nothing is told nothing.
    fn report(&mut self, at: &mut Worker<'_>, link: &Link) -> Result<(), End> {
        if !wait_writable(link, 0).map_err(|_| End::Gone)? {
            return Ok(());
        }
        self.has_spare = false;
        let mut numbers = [0u64; 15];
        for (place, lane) in at.shared.lanes() {
            let of_one = self.quietly(place, &lane, |holder| holder.report()).numbers();
            numbers.iter_mut().zip(of_one).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        }
        at.send(link, &ToHost::Report { numbers }, &[])
    }

    /// All but one of the extents that were not needed for a while.
    fn give_idle(&mut self, at: &mut Worker<'_>, link: &Link, place: usize, lane: &Lane) -> Result<(), End> {
        let (now, one) = (now_ns(), self.welcome.extent_bytes);
        let lying = lane.mailbox.waiting() as usize * one;
        let surplus = self.quietly(place, lane, |holder| holder.surplus()) + lying;
        let pace = &mut self.paces[place];
        if surplus <= one || lane.mailbox.wanted() > 0 {
            pace.idle_bytes = 0;
            return Ok(());
        }
        if pace.idle_bytes == 0 {
            (pace.idle_bytes, pace.idle_since_ns) = (surplus, now);
        }
        pace.idle_bytes = pace.idle_bytes.min(surplus);
        let Pace { idle_bytes, idle_since_ns, .. } = *pace;
        if now - idle_since_ns < IDLE_NS {
            return Ok(());
        }
        pace.idle_bytes = 0;
        self.give(at, link, place, lane, idle_bytes - one).map(drop)
    }

    /// Gives back extents worth so many bytes, first those that nothing is in; how many bytes it were.
    pub fn give(
        &mut self,
        at: &mut Worker<'_>,
        link: &Link,
        place: usize,
        lane: &Lane,
        bytes: usize,
    ) -> Result<usize, End> {
        let (mut given, end) = (self.withdraw(at, link, lane, bytes)?, now_ns() + MOST_NS);
        while given < bytes && now_ns() < end {
            let (step, mut ids) = ((bytes - given).min(STEP_BYTES), Ids::new());
            self.quietly(place, lane, |holder| holder.give(step, &mut |id| ids.push(id)));
            if ids.all().is_empty() {
                break;
            }
            given += ids.all().len() * self.welcome.extent_bytes;
            self.tell_given(at, link, &ids)?;
        }
        Ok(given)
    }

    /// Extents that came and that no store took.
    fn withdraw(
        &mut self,
        at: &mut Worker<'_>,
        link: &Link,
        lane: &Lane,
        bytes: usize,
    ) -> Result<usize, End> {
        let (mut given, mut ids) = (0, Ids::new());
        while given < bytes
            && let Some(extent) = lane.mailbox.withdraw()
        {
            ids.push(extent.id);
            given += extent.bytes;
        }
        self.tell_given(at, link, &ids)?;
        Ok(given)
    }

    /// Extents that a store let go of by itself.
    pub fn return_refused(&mut self, at: &mut Worker<'_>, link: &Link) -> Result<(), End> {
        let mut ids = Ids::new();
        for (_, lane) in at.shared.lanes() {
            while !ids.is_full()
                && let Some(id) = lane.mailbox.next_refused()
            {
                ids.push(id);
            }
        }
        if ids.is_full() {
            // There may be more.
            at.shared.ring();
        }
        self.tell_given(at, link, &ids)
    }

    /// The host learns of those that it knows.
    fn tell_given(&mut self, at: &mut Worker<'_>, link: &Link, ids: &Ids) -> Result<(), End> {
        let mut known = Ids::new();
        for &id in ids.all() {
            match id & LOST != 0 {
                true => self.lost = self.lost.saturating_sub(1),
                false if is_of(id, at.epoch) => known.push(host_id(id)),
                false => {}
            }
        }
        at.shared.let_go(known.all().len());
        at.send_back(link, known.all())
    }

    /// Moves everything out of what is held, as far as there is room, for a host that is not spoken to any more; how many
    /// persistent extents are left.
    pub fn give_all(&mut self, at: &Worker<'_>) -> usize {
        let mut left = 0;
        for (place, lane) in at.shared.lanes() {
            while lane.mailbox.withdraw().is_some() {}
            self.quietly(place, &lane, |holder| {
                holder.give(usize::MAX, &mut |_| {});
                holder.held(&mut |_, _, kind| left += usize::from(kind == Kind::Persistent));
            });
        }
        left
    }
}

impl Worker<'_> {
    /// Tells the host of extents that it has again.
    pub(crate) fn send_back(&mut self, link: &Link, ids: &[u64]) -> Result<(), End> {
        ids.chunks(MOST_GIVEN).try_for_each(|ids| {
            let seq = self.next_seq();
            self.send(link, &ToHost::Give { seq, ids }, &[])
        })
    }

    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Passes on what somebody of this process wants of the shared pools.
    pub(crate) fn answer_desk(&mut self, link: &Link) -> Result<(), End> {
        // Who leaves a pool and joins it again is to be in it.
        while let Some(pool) = self.shared.with(|inside| inside.desk.next_leaving()) {
            let seq = self.next_seq();
            self.send(link, &ToHost::Leave { seq, pool }, &[])?;
        }
        let seq = self.seq + 1;
        let secret = self.shared.with(|inside| {
            let secret = inside.desk.asked.take()?;
            inside.desk.seq = Some(seq);
            Some(secret)
        });
        if let Some(secret) = secret {
            self.seq = seq;
            self.send(link, &ToHost::Join { seq, secret: &secret }, &[])?;
        }
        Ok(())
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: what a guest does while it is connected: leases for the stores that want room, what the host asks for, what is given back.
//! Caller: `session`, in the connection's thread. Locks: as there. Law 17: no heap, and no wait that a page would wait for: while an
//! owner's lock may be waited for here, its store is told not to wait.

use crate::balloon::Balloon;
use crate::client::tagged;
use crate::lane::{Lane, MOST_LANES};
use crate::session::{End, Welcome, Worker};
use crate::threads::in_turn;
use crate::wire::{FromHost, MOST_ASKED, ToHost, decode};
use std::sync::atomic::Ordering;
use tmem_store::lease::{Extent, Holder, LinkState};
use tmem_sys::beyond::has_room;
use tmem_sys::link::{self, Arrival, Link};
use tmem_sys::time::now_ns;

pub(crate) const MS: u64 = 1_000_000;
/// A request that follows an answer so soon is for twice as many.
const QUICK_NS: u64 = 250 * MS;
/// At most so many at once, of which none may be needed any more.
const MOST_AHEAD: u32 = 8;
/// How long a process that may open no more files asks for nothing.
const RETRY_SHORT_MS: u64 = 1000;
/// Extents that one step gives back.
const STEP_IDS: usize = 512;

/// A request under way.
pub(crate) struct Asked {
    pub seq: u64,
    pub place: usize,
    generation: u64,
    pub count: u32,
}

/// What is known of a store's wants.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pace {
    generation: u64,
    /// Extents that the last request was answered for, and when: one that follows soon is for twice as many, so that a host that
    /// refuses learns how much is wanted.
    pub answered: u32,
    pub answered_ns: u64,
    pub granted_ns: u64,
    pub not_before_ns: u64,
    /// The least that could be given since a moment.
    pub idle_bytes: usize,
    pub idle_since_ns: u64,
}

/// One connection's doings.
pub(crate) struct Serving {
    pub welcome: Welcome,
    pub asked: Option<Asked>,
    pub paces: [Pace; MOST_LANES],
    pub reported_ns: u64,
    pub ticked_ns: u64,
    /// Since the last report, room was asked for to make the next one.
    pub has_spare: bool,
    /// What the host wants of the resident set, while it is on its way there.
    pub balloon: Option<Balloon>,
    /// Whose turn it is to ask.
    next: usize,
    /// Of what was granted last, that which found no place here.
    back: Ids,
    /// Extents that no host knows.
    pub lost: usize,
}

/// Extents that go back to the host, by its numbers.
pub(crate) struct Ids {
    ids: [u64; STEP_IDS],
    len: usize,
}

impl Ids {
    pub fn new() -> Ids {
        Ids { ids: [0; STEP_IDS], len: 0 }
    }

    pub fn push(&mut self, id: u64) {
        if let Some(place) = self.ids.get_mut(self.len) {
            *place = id;
            self.len += 1;
        }
    }

    pub fn is_full(&self) -> bool {
        self.len == self.ids.len()
    }

    pub fn all(&self) -> &[u64] {
        &self.ids[..self.len]
    }
}

/// What a message was.
enum Heard {
    Nothing,
    Granted { place: usize, taken: u32, is_short: bool },
    Other(Arrival),
}

impl Serving {
    pub fn new(welcome: Welcome) -> Serving {
        let paces = [Pace::default(); MOST_LANES];
        Serving {
            welcome,
            asked: None,
            paces,
            reported_ns: 0,
            has_spare: false,
            balloon: None,
            ticked_ns: now_ns(),
            next: 0,
            back: Ids::new(),
            lost: 0,
        }
    }

    /// Until the connection ends.
    pub fn go_on(&mut self, at: &mut Worker<'_>, link: &Link) -> End {
        at.shared.lanes().for_each(|(_, lane)| lane.mailbox.set_state(LinkState::Idle));
        loop {
            at.shared.with(|inside| inside.lanes.turn_round());
            at.hang_bell();
            if let Err(end) = self.turn(at, link) {
                return end;
            }
            if link::wait(Some(link), &at.bell, self.next_look_ms(at)).is_err() {
                return End::Gone;
            }
        }
    }

    fn turn(&mut self, at: &mut Worker<'_>, link: &Link) -> Result<(), End> {
        while self.hear(at, link)? {}
        if at.is_over() {
            return Err(End::Over);
        }
        self.return_refused(at, link)?;
        self.ask(at, link)?;
        self.go_on_shrinking(at, link)?;
        at.answer_desk(link)?;
        if self.asked.is_none() { self.look_after(at, link) } else { Ok(()) }
    }

    /// Takes in one message; false where there is none.
    fn hear(&mut self, at: &mut Worker<'_>, link: &Link) -> Result<bool, End> {
        match in_turn(|| self.take_in(at, link))? {
            Heard::Nothing => return Ok(false),
            Heard::Granted { place, taken, is_short } => {
                self.after_grant(at, place, taken, is_short);
                at.send_back(link, self.back.all())?;
            }
            Heard::Other(arrival) => self.obey(at, link, arrival)?,
        }
        Ok(true)
    }

    /// The part of it that no fork may come between: what is granted goes to its mailbox.
    fn take_in(&mut self, at: &mut Worker<'_>, link: &Link) -> Result<Heard, End> {
        let Some(arrival) = at.receive(link)? else { return Ok(Heard::Nothing) };
        let Worker { packet, fds, shared, epoch, .. } = at;
        let FromHost::Granted { seq, ids } = decode(&packet[..arrival.bytes])? else {
            return Ok(Heard::Other(arrival));
        };
        let asked = self.asked.take_if(|asked| asked.seq == seq).ok_or(End::Malformed)?;
        let (is_short, bytes) = (arrival.is_short_of_fds, self.welcome.extent_bytes);
        if ids.is_empty() || ids.len() > asked.count as usize || (fds.len() != ids.len() && !is_short) {
            return Err(End::Malformed);
        }
        let lane = shared.lane(asked.place).filter(|(_, now)| *now == asked.generation);
        let mut taken = 0;
        self.back = Ids::new();
        for (n, id) in ids.iter().enumerate() {
            let tagged = tagged(id, *epoch).ok_or(End::Malformed)?;
            // Beyond what this process may open, and for a store that has ended meanwhile.
            let (Some(fd), Some((lane, _))) = (fds.take(n), &lane) else {
                self.back.push(id);
                continue;
            };
            match fd.size() {
                Ok(size) if size == bytes => {}
                Ok(0) | Err(_) => {
                    // Cut off while the grant was on its way, as it is where this process was stopped. That is told, too.
                    taken += 1;
                    continue;
                }
                Ok(_) => return Err(End::Malformed),
            }
            match lane.mailbox.deposit(Extent { id: tagged, fd, bytes }) {
                Ok(()) => taken += 1,
                Err(_) => self.back.push(id),
            }
        }
        Ok(Heard::Granted { place: asked.place, taken, is_short })
    }

    fn after_grant(&mut self, at: &Worker<'_>, place: usize, taken: u32, is_short: bool) {
        let now = now_ns();
        at.shared.held.fetch_add(taken.into(), Ordering::AcqRel);
        at.shared.granted.fetch_add(taken.into(), Ordering::AcqRel);
        let pace = &mut self.paces[place];
        (pace.answered, pace.answered_ns) = (taken, now);
        pace.granted_ns = now;
        if is_short {
            pace.not_before_ns = now + RETRY_SHORT_MS * MS;
        }
        if let Some((lane, _)) = at.shared.lane(place) {
            self.settle(place, &lane);
        }
    }

    /// Asks for what the next store wants.
    fn ask(&mut self, at: &mut Worker<'_>, link: &Link) -> Result<(), End> {
        if self.asked.is_some() {
            return Ok(());
        }
        for place in (self.next..MOST_LANES).chain(0..self.next) {
            let Some((lane, generation)) = at.shared.lane(place) else { continue };
            let wanted = lane.mailbox.wanted();
            if self.paces[place].generation != generation {
                self.paces[place] = Pace { generation, ..Pace::default() };
                self.settle(place, &lane);
            }
            let pace = &mut self.paces[place];
            if wanted == 0 || now_ns() < pace.not_before_ns {
                continue;
            }
            let is_quick = now_ns().saturating_sub(pace.answered_ns) < QUICK_NS;
            let ahead = if is_quick { (pace.answered * 2).min(MOST_AHEAD) } else { 1 };
            let count = wanted.max(ahead).clamp(1, MOST_ASKED as u32);
            // The program is to find numbers left for its own files.
            if !has_room(count as usize) {
                pace.not_before_ns = now_ns() + RETRY_SHORT_MS * MS;
                self.settle(place, &lane);
                continue;
            }
            self.next = (place + 1) % MOST_LANES;
            return self.request(at, link, (place, generation), &lane, count);
        }
        Ok(())
    }

    /// Asks for extents; the place is that of the lane, with its generation.
    pub fn request(
        &mut self,
        at: &mut Worker<'_>,
        link: &Link,
        (place, generation): (usize, u64),
        lane: &Lane,
        count: u32,
    ) -> Result<(), End> {
        lane.mailbox.set_state(LinkState::Asking);
        let (seq, kind) = (at.next_seq(), lane.mailbox.kind() as u64);
        self.asked = Some(Asked { seq, place, generation, count });
        at.send(link, &ToHost::Lease { seq, kind, pool: lane.pool, count: count.into() }, &[])
    }

    /// What its store is told of a place: whether it may wait for an extent.
    pub fn settle(&self, place: usize, lane: &Lane) {
        let until_ns = self.paces[place].not_before_ns;
        lane.mailbox.set_state(match &self.asked {
            Some(asked) if asked.place == place => LinkState::Asking,
            _ if now_ns() < until_ns => LinkState::Refused { until_ns },
            _ => LinkState::Idle,
        });
    }

    /// Does what may wait for the owner's lock, for which nobody is to wait meanwhile who has that lock.
    pub fn quietly<R>(&self, place: usize, lane: &Lane, work: impl FnOnce(&dyn Holder) -> R) -> R {
        lane.mailbox.set_state(LinkState::Refused { until_ns: u64::MAX });
        let done = work(&*lane.holder);
        self.settle(place, lane);
        done
    }
}

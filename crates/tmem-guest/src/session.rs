// SPDX-License-Identifier: Apache-2.0
//! Owns: one connection from its beginning to its end: looking for the host, who it is, what it is told of what is still held. Caller:
//! the connection's thread (`threads`). Locks: the connection's and the mailboxes', leaves; the stores' owners' inside `Holder`.
//! Law 17: no heap. Law 18: the daemon's death loses no page: what is held stays, and is claimed from the next one.
//!
//! A host empties what a guest holds when the connection ends, so that the guest never ends one while something of it is mapped:
//! with a host that it does not understand it goes on listening, in silence, until that one hangs up or nothing is left.

use crate::client::{Shared, Standing};
use crate::serve::Serving;
use crate::shared::{Answer, tell};
use crate::threads::in_turn;
use crate::wire::{FromHost, Malformed, ToHost, VERSION, decode, encode};
use std::sync::atomic::Ordering;
use tmem_store::lease::LinkState;
use tmem_sys::link::{self, Arrival, Bell, Link, MOST_BYTES, Received};
use tmem_sys::time::now_ns;
use tmem_sys::{Errno, Table};

/// Between two looks for a host, at first and at most.
const SOON_MS: u64 = 250;
const LATE_MS: u64 = 2000;
/// How long a host has to say welcome.
const WELCOME_MS: u64 = 5000;
/// How often a thread that waits for something else asks whether all is over.
pub(crate) const LOOK_MS: u64 = 250;

const SMALLEST: u64 = 1 << 20;
const LARGEST: u64 = 64 << 20;

/// Why a connection is no more, or not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The host hung up, or none is there.
    Gone,
    /// What came is no message, or has no place here.
    Malformed,
    /// All that it was for has ended, or it was told to end.
    Over,
}

impl From<Malformed> for End {
    fn from(_: Malformed) -> End {
        End::Malformed
    }
}

/// What the thread has for as long as it lives.
pub(crate) struct Worker<'a> {
    pub shared: &'a Shared,
    pub bell: Bell,
    pub packet: Table<u8>,
    pub fds: Received,
    out: [u8; 4096],
    pub seq: u64,
    /// Which of the connections this is.
    pub epoch: u64,
}

/// What the host said at the beginning.
#[derive(Clone, Copy)]
pub(crate) struct Welcome {
    pub extent_bytes: usize,
    pub report_ms: u64,
}

/// The thread's whole life.
pub(crate) fn run(shared: &Shared, waits: bool) {
    let (Ok(bell), Ok(packet)) = (Bell::new(), Table::new(MOST_BYTES)) else {
        // Without a descriptor, or a few pages, there are no leases to be had either.
        return shared.stand(Standing::Ended);
    };
    shared.bell.store(bell.raw(), Ordering::Release);
    let fds = Received::default();
    let mut worker = Worker { shared, bell, packet, fds, out: [0; 4096], seq: 0, epoch: 0 };
    worker.epoch = shared.connections.load(Ordering::Acquire);
    worker.live(waits);
    worker.end();
}

impl Worker<'_> {
    fn live(&mut self, waits: bool) {
        while waits && !self.is_wanted() {
            if self.is_over() {
                return;
            }
            self.rest(LOOK_MS * 4);
        }
        let mut pause = SOON_MS;
        while !self.is_over() {
            let ended = match self.connect() {
                Ok((link, welcome)) => {
                    pause = SOON_MS;
                    self.shared.lanes().for_each(|(_, lane)| lane.mailbox.set_state(LinkState::Idle));
                    self.has_looked();
                    let ended = self.serve(&link, welcome);
                    self.hang_up(Some(link));
                    self.alone();
                    ended
                }
                Err(end) => {
                    self.has_looked();
                    end
                }
            };
            if ended == End::Over {
                return;
            }
            let until = now_ns() + pause * 1_000_000;
            while now_ns() < until && !self.is_over() {
                self.rest(((until - now_ns()) / 1_000_000 + 1).min(LOOK_MS));
            }
            pause = (pause * 2).min(LATE_MS);
        }
    }

    /// Whoever waits for it knows now how this guest stands.
    fn has_looked(&self) {
        if !self.shared.has_looked.swap(true, Ordering::AcqRel) {
            tell(self.shared);
        }
    }

    /// A forked child has no copy of what is closed.
    fn hang_up(&self, link: Option<Link>) {
        in_turn(|| {
            self.shared.link.store(-1, Ordering::Release);
            drop(link);
        });
    }

    fn is_wanted(&self) -> bool {
        let is_sought = self.shared.with(|inside| inside.desk.is_sought);
        is_sought || self.shared.lanes().any(|(_, lane)| lane.mailbox.wanted() > 0)
    }

    pub fn is_over(&self) -> bool {
        self.shared.is_ending.load(Ordering::Acquire) || self.shared.is_over()
    }

    /// Sleeps, unless rung.
    fn rest(&self, ms: u64) {
        self.shared.with(|inside| inside.lanes.turn_round());
        self.hang_bell();
        let _ = link::wait(None, &self.bell, ms);
    }

    /// Every store rings it from now on. A fork takes it off, so that it is hung up now and then.
    pub fn hang_bell(&self) {
        let bell = Some(self.bell.raw());
        self.shared.lanes().for_each(|(_, lane)| lane.mailbox.set_bell(bell));
    }

    /// There is no host any more.
    fn alone(&self) {
        self.shared.lanes().for_each(|(_, lane)| lane.mailbox.set_state(LinkState::Alone));
        if self.shared.stands() == Standing::Connected {
            self.shared.stand(Standing::Alone);
        }
        self.shared.guest.store(0, Ordering::Release);
        if let Some(pools) = &self.shared.pools {
            pools.lost();
        }
        self.shared.with(|inside| inside.desk.answer(Answer::Alone));
        tell(self.shared);
    }

    /// The thread ends.
    fn end(&mut self) {
        self.shared.lanes().for_each(|(_, lane)| lane.mailbox.set_bell(None));
        self.shared.with(|_| self.shared.bell.store(-1, Ordering::Release));
        self.shared.stand(Standing::Ended);
    }

    /// A connection to a host that is trusted and says welcome.
    fn connect(&mut self) -> Result<(Link, Welcome), End> {
        let link = in_turn(|| -> Result<Link, End> {
            let link = Link::connect(&self.shared.config.path).map_err(|_| End::Gone)?;
            // A forked child closes its copy by this number.
            self.shared.link.store(link.raw(), Ordering::Release);
            Ok(link)
        });
        let link = link.inspect_err(|_| self.shared.stand(Standing::Alone))?;
        match self.greet(&link) {
            Ok(welcome) => Ok((link, welcome)),
            Err(end) => {
                self.hang_up(Some(link));
                Err(end)
            }
        }
    }

    fn greet(&mut self, link: &Link) -> Result<Welcome, End> {
        let shared = self.shared;
        let peer = link.peer().map_err(|_| End::Gone)?;
        shared.host_uid.store(peer.uid.into(), Ordering::Release);
        if peer.uid != 0 && peer.uid != link::user() && Some(peer.uid) != shared.config.host_uid {
            shared.stand(Standing::Distrusted);
            return Err(End::Gone);
        }
        self.send(link, &ToHost::Hello { version: VERSION, name: &shared.config.name }, &[])?;
        let welcome = self.welcome(link)?;
        self.epoch = shared.connections.fetch_add(1, Ordering::AcqRel) + 1;
        shared.held.store(0, Ordering::Release);
        shared.note("");
        shared.stand(Standing::Connected);
        Ok(welcome)
    }

    fn welcome(&mut self, link: &Link) -> Result<Welcome, End> {
        let until = now_ns() + WELCOME_MS * 1_000_000;
        loop {
            if let Some(arrival) = self.receive(link)? {
                return self.welcomed(arrival);
            }
            let now = now_ns();
            if now >= until || self.is_over() {
                return Err(End::Gone);
            }
            let ms = ((until - now) / 1_000_000 + 1).min(LOOK_MS);
            link::wait(Some(link), &self.bell, ms).map_err(|_| End::Gone)?;
        }
    }

    fn welcomed(&mut self, arrival: Arrival) -> Result<Welcome, End> {
        let shared = self.shared;
        match decode(&self.packet[..arrival.bytes]) {
            Ok(FromHost::Welcome { version: VERSION, guest, extent_bytes, most_bytes, report_ms })
                if extent_bytes % SMALLEST == 0 && (SMALLEST..=LARGEST).contains(&extent_bytes) =>
            {
                shared.guest.store(guest, Ordering::Release);
                shared.extent_bytes.store(extent_bytes, Ordering::Release);
                shared.most_bytes.store(most_bytes, Ordering::Release);
                Ok(Welcome { extent_bytes: extent_bytes as usize, report_ms: report_ms.clamp(100, 60_000) })
            }
            Ok(FromHost::Error { text }) => {
                shared.note(text);
                shared.stand(Standing::TurnedAway);
                Err(End::Gone)
            }
            _ => {
                shared.stand(Standing::Garbled);
                Err(End::Gone)
            }
        }
    }

    /// The next message, if there is one, in `packet`, and what came with it in `fds`.
    pub fn receive(&mut self, link: &Link) -> Result<Option<Arrival>, End> {
        let (packet, fds) = (&mut self.packet, &mut self.fds);
        // Descriptors that come are seen by no fork before they are in a mailbox: the caller holds its turn.
        match link.receive(packet, fds) {
            Ok(arrival) => Ok(Some(arrival)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EBADMSG) => Err(End::Malformed),
            Err(_) => Err(End::Gone),
        }
    }

    /// Sends one message. A host that takes none is waited for: nothing but this thread waits.
    pub fn send(&mut self, link: &Link, message: &ToHost<'_>, fds: &[i32]) -> Result<(), End> {
        let len = encode(message, &mut self.out)?;
        loop {
            match link.send(&self.out[..len], fds) {
                Ok(()) => return Ok(()),
                Err(Errno::EAGAIN) => {}
                Err(_) => return Err(End::Gone),
            }
            if self.is_over() {
                return Err(End::Over);
            }
            link::wait_writable(link, LOOK_MS).map_err(|_| End::Gone)?;
        }
    }

    /// From the welcome to the end.
    fn serve(&mut self, link: &Link, welcome: Welcome) -> End {
        let mut serving = Serving::new(welcome);
        let end = match serving.claim(self, link) {
            Ok(()) => serving.go_on(self, link),
            Err(end) => end,
        };
        if end == End::Malformed {
            self.shared.stand(Standing::Garbled);
        }
        if end == End::Gone || self.shared.is_over() { end } else { self.listen(link, &mut serving) }
    }

    /// Asks for nothing any more, moves out of what is held as far as there is room, and waits for the host's end or for that of
    /// what is held.
    fn listen(&mut self, link: &Link, serving: &mut Serving) -> End {
        let state = LinkState::Refused { until_ns: u64::MAX };
        loop {
            self.shared.lanes().for_each(|(_, lane)| lane.mailbox.set_state(state));
            if self.shared.is_over() {
                return End::Over;
            }
            if serving.give_all(self) == 0 {
                return if self.is_over() { End::Over } else { End::Gone };
            }
            // What comes is not read, but that it ends is seen.
            while let Ok(true) = in_turn(|| match self.receive(link) {
                Ok(arrived) => Ok(arrived.is_some()),
                Err(End::Malformed) => Ok(true),
                Err(end) => Err(end),
            }) {}
            if in_turn(|| self.receive(link)) == Err(End::Gone)
                || link::wait(Some(link), &self.bell, LOOK_MS).is_err()
            {
                return End::Gone;
            }
            self.shared.with(|inside| inside.lanes.turn_round());
        }
    }
}

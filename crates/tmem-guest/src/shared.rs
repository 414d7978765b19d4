// SPDX-License-Identifier: Apache-2.0
//! Owns: what passes between a connection and the shared pools that this guest is a member of. Callers: `client` for whoever joins,
//! `serve` for what the host says. Lock: the connection's, a leaf. Law 9: not allowed is an error, never a pool of one's own.

use crate::client::{Shared, Standing};
use crate::wire::SECRET;
use std::sync::atomic::Ordering;
use tmem_store::lease::Kind;
use tmem_sys::lease::{LeaseFd, wait_while, wake_all};
use tmem_sys::time::now_ns;

/// What the host says of shared pools. Called by the connection's thread, which may be one that must not enter the heap.
pub trait Pools: Send + Sync {
    /// Another member has an extent; the descriptor is for reading. `extent` is the host's number for it.
    fn member(&self, pool: u64, member: u64, extent: u64, kind: Kind, fd: LeaseFd);
    /// Another member left or died.
    fn gone(&self, pool: u64, member: u64);
    /// The connection has ended, and with it this guest's memberships: it is to join again.
    fn lost(&self);
}

/// A membership.
#[derive(Debug)]
pub struct Joined {
    pub pool: u64,
    pub member: u64,
    /// One page that the host writes, for reading.
    pub board: LeaseFd,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotJoined {
    /// There is no host.
    Alone,
    /// It did not answer in time.
    Late,
    /// In its own word.
    Refused(String),
}

const MOST_REASON: usize = 32;
const MOST_LEAVING: usize = 16;

/// A question of somebody who waits for the answer. One at a time.
#[derive(Default)]
pub(crate) struct Desk {
    /// Somebody wanted to join a pool: a host is to be looked for.
    pub is_sought: bool,
    /// Somebody asks, and the next waits.
    is_taken: bool,
    pub asked: Option<[u8; SECRET]>,
    /// Its number at the host, once it was sent.
    pub seq: Option<u64>,
    answer: Option<Answer>,
    /// Pools to leave; 0 where there is none.
    leaving: [u64; MOST_LEAVING],
}

pub(crate) enum Answer {
    Joined(Joined),
    Refused([u8; MOST_REASON], usize),
    Alone,
}

impl Desk {
    /// The host's answer, or the end of the connection.
    /// Whether somebody waits for it.
    pub fn answer(&mut self, answer: Answer) -> bool {
        let is_awaited = self.asked.is_some() || self.seq.is_some();
        if is_awaited {
            (self.asked, self.seq, self.answer) = (None, None, Some(answer));
        }
        is_awaited
    }

    /// The next pool to leave.
    pub fn next_leaving(&mut self) -> Option<u64> {
        self.leaving.iter_mut().find(|pool| **pool != 0).map(std::mem::take)
    }
}

impl Answer {
    pub fn refused(reason: &str) -> Answer {
        let mut text = [0; MOST_REASON];
        let len = reason.len().min(MOST_REASON);
        text[..len].copy_from_slice(&reason.as_bytes()[..len]);
        Answer::Refused(text, len)
    }
}

/// Somebody may go on.
pub(crate) fn tell(shared: &Shared) {
    shared.news.fetch_add(1, Ordering::AcqRel);
    wake_all(&shared.news);
}

pub(crate) fn join(shared: &Shared, secret: &[u8; SECRET], wait_ms: u64) -> Result<Joined, NotJoined> {
    let end = now_ns().saturating_add(wait_ms.saturating_mul(1_000_000));
    let mut has_asked = false;
    loop {
        let news = shared.news.load(Ordering::Acquire);
        let is_alone = shared.stands() != Standing::Connected;
        let found = shared.with(|inside| {
            let desk = &mut inside.desk;
            desk.is_sought = true;
            if !has_asked && !desk.is_taken && !is_alone {
                (desk.is_taken, desk.asked, desk.answer) = (true, Some(*secret), None);
                has_asked = true;
            }
            let is_late = now_ns() >= end;
            let answer = if has_asked { desk.answer.take() } else { None };
            if has_asked && (answer.is_some() || is_late) {
                (desk.is_taken, desk.asked, desk.seq) = (false, None, None);
            }
            (answer, is_late)
        });
        match found {
            (Some(Answer::Joined(joined)), _) => return done(shared, Ok(joined)),
            (Some(Answer::Refused(text, len)), _) => {
                let reason = String::from_utf8_lossy(&text[..len]).into_owned();
                return done(shared, Err(NotJoined::Refused(reason)));
            }
            (Some(Answer::Alone), _) => return done(shared, Err(NotJoined::Alone)),
            (None, true) if is_alone => return done(shared, Err(NotJoined::Alone)),
            (None, true) => return done(shared, Err(NotJoined::Late)),
            (None, false) => {}
        }
        shared.ring();
        wait_while(&shared.news, news, end.saturating_sub(now_ns()));
    }
}

/// Lets the next one ask.
fn done(shared: &Shared, answer: Result<Joined, NotJoined>) -> Result<Joined, NotJoined> {
    tell(shared);
    answer
}

pub(crate) fn leave(shared: &Shared, pool: u64) {
    shared.with(|inside| {
        // Past so many at once the host is told when the connection ends.
        if let Some(place) = inside.desk.leaving.iter_mut().find(|place| **place == 0) {
            *place = pool;
        }
    });
    shared.ring();
}

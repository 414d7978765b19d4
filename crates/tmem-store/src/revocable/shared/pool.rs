// SPDX-License-Identifier: Apache-2.0
//! Owns: a shared pool as several threads use it: packing and unpacking outside its lock, waiting for an extent outside it too, what
//! the host's connection says and asks, and forks. Callers: the doors, the connection's thread. Locks: a codec's, then the
//! state's; around a fork those of all (`fork`). Law 8: operations on a handle happen in some order, whole, also of several members.

use super::super::fork::{self, Across};
use super::format::SECRET;
use super::state::{Put, SharedStats, State};
use crate::coders::{Coder, Coders};
use crate::lease::{Holder, Kind, Mailbox, Report};
use crate::object::ObjectId;
use crate::ops::{Loaded, Outcome, Reason};
use crate::outside::Taken;
use crate::sync::{Lock, LockGuard, locked};
use std::sync::Arc;
use tmem_sys::lease::LeaseFd;
use tmem_sys::{Errno, Page};

/// The longest wait of a put for an extent that is under way.
const WAIT_MS: u64 = 20;
/// How long one question for the index lasts at most.
const STEP_MS: u64 = 20;

/// A pool of ephemeral pages of which this guest is a member.
pub struct SharedPool {
    pub(super) state: Lock<State>,
    coders: Coders,
    data: Arc<Mailbox>,
    index: Arc<Mailbox>,
}

impl SharedPool {
    /// A pool that has not been joined yet: gets miss, and puts are refused. `max_bytes` bounds the data that it asks memory for.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(secret: &[u8; SECRET], max_bytes: usize) -> Result<Arc<SharedPool>, Errno> {
        let (data, index) = (Mailbox::new(Kind::SharedData)?, Mailbox::new(Kind::SharedIndex)?);
        let state = locked(State::new(secret, Arc::clone(&data), Arc::clone(&index), max_bytes));
        let made = Arc::new(SharedPool { state, coders: Coders::new()?, data, index });
        let known = Arc::downgrade(&made);
        fork::join(known)?;
        Ok(made)
    }

    /// Where extents of data come from, and where the one of the index does.
    pub fn mailboxes(&self) -> [&Arc<Mailbox>; 2] {
        [&self.data, &self.index]
    }

    /// Asks for what the connection asks of whom it fetches extents for: one for each mailbox.
    pub fn holders(self: &Arc<SharedPool>) -> [Arc<dyn Holder>; 2] {
        [Kind::SharedData, Kind::SharedIndex]
            .map(|kind| Arc::new(Half { pool: Arc::clone(self), kind }) as Arc<dyn Holder>)
    }

    /// The host took this guest in as that member.
    pub fn enter(&self, pool: u64, member: usize, board: LeaseFd) {
        self.state.lock().enter(pool, member, board);
        self.index.want(1);
        // So that the first put need not wait, nor be refused.
        self.data.want(1);
    }

    /// Waits for the index, without which nothing can be put; whether it is there.
    pub fn wait_for_index(&self, most_ms: u64) -> bool {
        let end = tmem_sys::time::now_ns() + most_ms * 1_000_000;
        loop {
            if self.state.lock().has_index() {
                return true;
            }
            let now = tmem_sys::time::now_ns();
            if now >= end {
                return false;
            }
            // What comes is left in the mailbox for the state to take.
            std::thread::sleep(std::time::Duration::from_millis(STEP_MS.min(1 + (end - now) / 1_000_000)));
        }
    }

    /// Ends the membership here; the pool's number, for the host to be told.
    pub fn leave(&self) -> Option<u64> {
        let number = self.state.lock().leave();
        // What lies there is of the pool that was: in another, nobody would be told of it.
        self.mailboxes().into_iter().for_each(|mail| {
            mail.want(0);
            while mail.withdraw().is_some() {}
        });
        number
    }

    /// The host's number of the pool, while this guest is a member.
    pub fn number(&self) -> Option<u64> {
        self.state.lock().pool()
    }

    /// Another member has an extent.
    pub fn member(&self, member: usize, extent: u64, kind: Kind, fd: LeaseFd) {
        self.state.lock().others.add(member, extent, kind, fd);
    }

    /// Another member is gone.
    pub fn gone(&self, member: usize) {
        self.state.lock().others.remove(member);
    }

    fn coder(&self) -> LockGuard<'_, Coder> {
        let mut coder = self.coders.take();
        if coder.is_first_use() {
            self.coders.count_one();
        }
        coder
    }

    /// Offers a page. Whatever the answer, what any member put there before is gone.
    pub fn put(&self, object: ObjectId, index: u64, page: &Page) -> Outcome {
        let mut coder = self.coder();
        let packs = self.state.lock().packs();
        let coded = coder.encode(page, packs);
        let mut wait = true;
        loop {
            if let Put::Done(outcome) = self.state.lock().put(object, index, page, &coded, wait) {
                return outcome;
            }
            wait = false;
            if let Some(extent) = self.data.take(WAIT_MS) {
                self.state.lock().part.adopt(extent);
            }
        }
    }

    /// Copies a page out, which stays. `into` is untouched by a miss.
    pub fn get(&self, object: ObjectId, index: u64, into: &mut Page) -> Loaded {
        let mut coder = self.coder();
        let (room, at) = coder.room();
        let taken = self.state.lock().take(object, index, room);
        if taken == Taken::Absent {
            return Loaded::Absent;
        }
        // Another member made the bytes: what does not decode is a miss, and harms nothing but the copy.
        let mut page = [0; tmem_sys::PAGE_SIZE];
        match coder.unpack(taken, at, &mut page) {
            Ok(true) => {
                *into = page;
                Loaded::Loaded
            }
            _ => {
                self.state.lock().count_damaged();
                Loaded::Absent
            }
        }
    }

    /// Whether a page is there as far as the indexes say.
    pub fn contains(&self, object: ObjectId, index: u64) -> bool {
        self.state.lock().contains(object, index)
    }

    /// Forgets a page, whoever put it; whether there was one. `None` while this guest is no member, and cannot tell the others.
    pub fn flush_page(&self, object: ObjectId, index: u64) -> Option<bool> {
        self.state.lock().flush_page(object, index)
    }

    /// Forgets all pages of an object, whoever put them; how many. Reads all indexes. `None` as for `flush_page`.
    pub fn flush_object(&self, object: ObjectId) -> Option<u64> {
        self.state.lock().flush_object(object)
    }

    /// Refuses this member's puts from now on, or takes them again.
    pub fn set_frozen(&self, frozen: bool) {
        self.state.lock().set_frozen(frozen);
    }

    pub fn stats(&self) -> SharedStats {
        let mut stats = self.state.lock().stats();
        stats.footprint_bytes += self.coders.footprint() as u64;
        stats
    }
}

impl Across for SharedPool {
    fn hold(&self) {
        self.coders.hold();
        self.state.lock().keep_across_fork();
        self.data.before_fork();
        self.index.before_fork();
    }

    fn let_go_in_parent(&self) {
        self.index.after_fork_in_parent();
        self.data.after_fork_in_parent();
        drop(self.state.reclaim());
        self.coders.let_go();
    }

    fn let_go_in_child(&self) {
        self.index.after_fork_in_child();
        self.data.after_fork_in_child();
        let _ = self.state.reclaim().leave();
        self.coders.let_go();
    }
}

/// What the connection asks about the extents of one kind.
struct Half {
    pool: Arc<SharedPool>,
    kind: Kind,
}

impl Half {
    fn is_data(&self) -> bool {
        self.kind == Kind::SharedData
    }
}

impl Holder for Half {
    fn held(&self, each: &mut dyn FnMut(u64, i32, Kind)) {
        let state = self.pool.state.lock();
        if self.is_data() {
            state.part.each_data(&mut |extent| each(extent.id, extent.fd.raw(), self.kind));
        } else if let Some(index) = state.part.index() {
            each(index.id, index.fd.raw(), self.kind);
        }
    }

    fn renumber(&self, old: u64, new: u64) {
        self.pool.state.lock().part.renumber(old, new);
    }

    fn lose(&self, id: u64) {
        self.pool.state.lock().part.revoked(&[id]);
    }

    fn give(&self, bytes: usize, give: &mut dyn FnMut(u64)) {
        if self.is_data() {
            self.pool.state.lock().part.give(bytes, give);
        }
    }

    fn surplus(&self) -> usize {
        if self.is_data() { self.pool.state.lock().part.spare_bytes() } else { 0 }
    }

    fn revoked(&self, ids: &[u64]) {
        let mut state = self.pool.state.lock();
        state.part.revoked(ids);
        state.others.forget(ids);
    }

    fn set(&self, frozen: bool, compress: bool) {
        self.pool.state.lock().set(frozen, compress);
    }

    fn balloon(&self, _ram: usize) -> usize {
        0
    }

    fn report(&self) -> Report {
        if !self.is_data() {
            return Report::default();
        }
        let stats = self.pool.state.lock().quick_stats();
        Report {
            store_bytes: self.pool.coders.footprint() as u64,
            leased_used: stats.data_bytes,
            loads: stats.traffic.hits,
            stores: stats.traffic.stored,
            refused_full: stats.traffic.refused.get(Reason::StoreFull),
            ..Report::default()
        }
    }
}

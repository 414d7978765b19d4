// SPDX-License-Identifier: Apache-2.0
//! Owns: a host of users' pools that takes memory on lease from the daemon, beside its own: what the daemon's connection asks of it,
//! and its leased memory around a fork. Callers: the doors, the connection's thread, `host`. Locks: the shard's, for a bounded step
//! at a time. Law 5: an extent goes back only when it is empty. Law 15: a forked child has copies of the pages of its own.

use crate::host::{Host, HostConfig};
use crate::lease::{Extent, Holder, Kind, Mailbox, Report};
use crate::ops::Reason;
use crate::pool::PageStore;
use crate::vacate::{Vacated, Vacating};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tmem_sys::fork::{done_pipe, tell_done, wait_done};
use tmem_sys::syscall::die;
use tmem_sys::{Errno, Lock};

/// Pages moved in one hold of the lock.
const STEP: usize = 32;
/// Extents told of in one hold of the lock.
const TOLD: usize = 64;
/// Steps in which extents that the daemon forgot are emptied, between two looks at what could be given.
const LOST_STEPS: usize = 64;

impl Host {
    /// A host of one store, which takes up to so many bytes on lease, through this mailbox, beside its limit.
    ///
    /// # Errors
    /// As [`Host::new`].
    pub fn leasing(
        config: HostConfig,
        lease_reserve: usize,
        mailbox: Arc<Mailbox>,
    ) -> Result<Arc<Host>, Errno> {
        let host = Host::of_one_with(config, lease_reserve)?;
        host.lock().set_mailbox(Some(mailbox));
        Ok(host)
    }

    /// Empties extents that the daemon forgot, as far as there is room elsewhere.
    fn go_on_losing(&self) {
        for _ in 0..LOST_STEPS {
            let mut store = self.lock();
            let Some(mut lost) = store.go_on_losing() else { return };
            if !matches!(store.vacate(&mut lost, STEP), Vacated::More | Vacated::Done(_)) {
                return;
            }
        }
    }

    /// One step of emptying extents; `None` where none can be.
    fn give_step(&self, vacating: &mut Option<Vacating>) -> Option<Option<Extent>> {
        let mut store = self.lock();
        let Some(now) = vacating.as_mut() else {
            *vacating = store.begin_vacating();
            return vacating.is_some().then_some(None);
        };
        match store.vacate(now, STEP) {
            Vacated::More => Some(None),
            Vacated::Done(extent) => {
                *vacating = None;
                Some(Some(extent))
            }
            Vacated::Stuck | Vacated::Kept => {
                end_giving(&mut store, vacating);
                None
            }
        }
    }
}

/// What was not emptied is filled again.
fn end_giving(store: &mut PageStore, vacating: &mut Option<Vacating>) {
    if let Some(vacating) = vacating.take() {
        store.end_vacating(vacating);
    }
}

impl Holder for Host {
    fn held(&self, each: &mut dyn FnMut(u64, i32, Kind)) {
        let mut told = 0;
        loop {
            let (mut some, mut count) = ([(0, 0); TOLD], 0);
            for (place, extent) in some.iter_mut().zip(self.lock().extents_from(told)) {
                *place = extent;
                count += 1;
            }
            some[..count].iter().for_each(|(id, fd)| each(*id, *fd, Kind::Persistent));
            told += count;
            if count < TOLD {
                return;
            }
        }
    }

    fn renumber(&self, old: u64, new: u64) {
        self.lock().renumber_extent(old, new);
    }

    fn lose(&self, id: u64) {
        let _ = self.lock().begin_losing(id);
        self.go_on_losing();
    }

    fn give(&self, bytes: usize, give: &mut dyn FnMut(u64)) {
        let (mut given, mut vacating) = (0, None);
        while given < bytes
            && let Some(step) = self.give_step(&mut vacating)
        {
            if let Some(extent) = step {
                given += extent.bytes;
                give(extent.id);
            }
        }
        end_giving(&mut self.lock(), &mut vacating);
    }

    fn surplus(&self) -> usize {
        self.go_on_losing();
        self.lock().surplus_bytes()
    }

    fn revoked(&self, ids: &[u64]) {
        ids.iter().for_each(|id| self.lock().cut_off(*id));
    }

    fn set(&self, frozen: bool, compress: bool) {
        let mut store = self.lock();
        store.set_manner(frozen, compress);
        self.show_frozen(&store);
    }

    /// What it takes of its own are the tables of its pages, and pages that found no leased memory.
    fn balloon(&self, _ram: usize) -> usize {
        self.lock().footprint()
    }

    fn report(&self) -> Report {
        let (stats, store) = (self.stats(), self.lock());
        let wanted = store.mailbox().map_or(0, |mailbox| mailbox.wanted() as usize * store.extent_bytes());
        Report {
            ram: self.limit() as u64,
            store_bytes: stats.footprint_bytes,
            leased_used: stats.leased_used,
            stored_pages: stats.held.pages(),
            loads: stats.traffic.hits,
            stores: stats.traffic.stored,
            refused_full: stats.traffic.refused.get(Reason::StoreFull),
            want_bytes: wanted as u64,
            ..Report::default()
        }
    }
}

/// By which a child tells that it has copied leased memory.
static COPIED: Lock<Option<(OwnedFd, OwnedFd)>> = Lock::new(None);

/// Before a fork, all hosts being held: the child is to inherit leased memory, to copy it.
pub(crate) fn before_fork(hosts: &[Arc<Host>]) {
    let mut leases = false;
    each_held(hosts, |store| {
        leases |= store.before_fork();
        Ok(())
    });
    let mut copied = COPIED.lock();
    // Without it the child does not inherit leased memory, and stops by name.
    *copied = if leases { done_pipe().ok() } else { None };
    if copied.is_some() {
        each_held(hosts, |store| store.set_leases_inherited(true));
    }
    copied.keep_across_fork();
}

/// In the parent: nothing in leased memory changes until the child has its copy, or is gone.
pub(crate) fn after_fork_in_parent(hosts: &[Arc<Host>]) {
    let copied = COPIED.reclaim().take();
    if let Some((read, write)) = copied {
        drop(write);
        wait_done(&read);
        each_held(hosts, |store| store.set_leases_inherited(false));
    }
    each_held(hosts, |store| {
        store.after_fork_in_parent();
        Ok(())
    });
}

pub(crate) fn after_fork_in_child(hosts: &[Arc<Host>]) {
    each_held(hosts, PageStore::own_leased_memory);
    let copied = COPIED.reclaim().take();
    if let Some((_read, write)) = copied {
        tell_done(&write);
    }
}

/// Does something with each store that may lease, whose lock is held across the fork.
fn each_held(hosts: &[Arc<Host>], mut act: impl FnMut(&mut PageStore) -> Result<(), Errno>) {
    let mut act = |store: &mut PageStore| {
        if store.may_lease() && act(store).is_err() {
            die("a forked child cannot have the stored pages that lie in leased memory (law 15)");
        }
    };
    hosts.iter().for_each(|host| host.shards.each_held(&mut act));
}

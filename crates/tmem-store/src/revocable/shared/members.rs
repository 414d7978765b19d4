// SPDX-License-Identifier: Apache-2.0
//! Owns: the shared pools of one connection, by the host's numbers, and what the host says of others before their member here
//! is ready to hear it. Callers: the door, as it joins and leaves; the connection's thread, which may have no heap. Locks: its own,
//! then a pool's.

use super::super::fork::{self, Across};
use super::pool::SharedPool;
use crate::lease::Kind;
use crate::sync::{Lock, locked};
use std::sync::Arc;
use tmem_sys::Errno;
use tmem_sys::lease::LeaseFd;

/// Shared pools of a connection.
const MOST_POOLS: usize = 16;
/// Extents of others that are kept while a join is under way.
const MOST_EARLY: usize = 1024;

struct Early {
    pool: u64,
    member: usize,
    extent: u64,
    kind: Kind,
    fd: LeaseFd,
}

struct Inside {
    pools: [Option<(u64, Arc<SharedPool>)>; MOST_POOLS],
    early: Vec<Early>,
}

/// Which pools this guest is a member of.
pub struct Members(Lock<Inside>);

impl Members {
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Members>, Errno> {
        let inside = Inside { pools: [const { None }; MOST_POOLS], early: Vec::with_capacity(MOST_EARLY) };
        let made = Arc::new(Members(locked(inside)));
        let known = Arc::downgrade(&made);
        fork::join(known)?;
        Ok(made)
    }

    /// The host took this guest in: the pool hears of the others from now on. False where there are too many.
    pub fn enter(&self, pool: &Arc<SharedPool>, number: u64, member: usize, board: LeaseFd) -> bool {
        let mut inside = self.0.lock();
        let Some(place) = inside.pools.iter_mut().find(|place| place.is_none()) else { return false };
        *place = Some((number, Arc::clone(pool)));
        pool.enter(number, member, board);
        while let Some(at) = inside.early.iter().position(|early| early.pool == number) {
            let Early { member, extent, kind, fd, .. } = inside.early.swap_remove(at);
            pool.member(member, extent, kind, fd);
        }
        true
    }

    /// A pool hears no more.
    pub fn remove(&self, pool: &Arc<SharedPool>) {
        let is_it = |place: &&mut Option<(u64, Arc<SharedPool>)>| {
            place.as_ref().is_some_and(|(_, known)| Arc::ptr_eq(known, pool))
        };
        let gone: Vec<_> = self.0.lock().pools.iter_mut().filter(is_it).filter_map(Option::take).collect();
        drop(gone);
    }

    // What the host says.

    pub fn member(&self, number: u64, member: u64, extent: u64, kind: Kind, fd: LeaseFd) {
        let mut inside = self.0.lock();
        let member = member as usize;
        let known = inside.pools.iter().flatten().find(|(known, _)| *known == number);
        if let Some((_, pool)) = known {
            pool.member(member, extent, kind, fd);
        } else if inside.early.len() < MOST_EARLY {
            inside.early.push(Early { pool: number, member, extent, kind, fd });
        }
    }

    pub fn gone(&self, number: u64, member: u64) {
        let mut inside = self.0.lock();
        inside.early.retain(|early| (early.pool, early.member) != (number, member as usize));
        if let Some((_, pool)) = inside.pools.iter().flatten().find(|(known, _)| *known == number) {
            pool.gone(member as usize);
        }
    }

    /// The connection has ended, and all memberships with it. Whoever uses a pool next joins again.
    pub fn lost(&self) {
        let mut inside = self.0.lock();
        inside.early.clear();
        inside.pools.iter().flatten().for_each(|(_, pool)| {
            let _ = pool.leave();
        });
    }
}

impl Across for Members {
    fn hold(&self) {
        self.0.lock().keep_across_fork();
    }

    fn let_go_in_parent(&self) {
        drop(self.0.reclaim());
    }

    fn let_go_in_child(&self) {
        self.0.reclaim().early.clear();
    }
}

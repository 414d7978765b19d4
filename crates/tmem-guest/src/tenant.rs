// SPDX-License-Identifier: Apache-2.0
//! Owns: how the connection's thread reaches a store's owner that may end before the connection does, or that lives for ever. Callers:
//! the doors. No locks but the owner's.

use std::ops::Deref;
use tmem_store::lease::{Holder, Kind, Report};

/// An owner that is looked for each time; one that is no more holds nothing.
pub struct Tenant<F>(pub F);

impl<F, P> Tenant<F>
where
    F: Fn() -> Option<P>,
    P: Deref<Target: Holder>,
{
    fn ask<R: Default>(&self, what: impl FnOnce(&P::Target) -> R) -> R {
        (self.0)().map_or_else(R::default, |owner| what(&owner))
    }
}

impl<F, P> Holder for Tenant<F>
where
    F: Fn() -> Option<P> + Send + Sync,
    P: Deref<Target: Holder>,
{
    fn held(&self, each: &mut dyn FnMut(u64, i32, Kind)) {
        self.ask(|owner| owner.held(each));
    }

    fn renumber(&self, old: u64, new: u64) {
        self.ask(|owner| owner.renumber(old, new));
    }

    fn lose(&self, id: u64) {
        self.ask(|owner| owner.lose(id));
    }

    fn give(&self, bytes: usize, give: &mut dyn FnMut(u64)) {
        self.ask(|owner| owner.give(bytes, give));
    }

    fn surplus(&self) -> usize {
        self.ask(Holder::surplus)
    }

    fn revoked(&self, ids: &[u64]) {
        self.ask(|owner| owner.revoked(ids));
    }

    fn set(&self, frozen: bool, compress: bool) {
        self.ask(|owner| owner.set(frozen, compress));
    }

    fn balloon(&self, ram: usize) -> usize {
        self.ask(|owner| owner.balloon(ram))
    }

    fn report(&self) -> Report {
        self.ask(Holder::report)
    }
}

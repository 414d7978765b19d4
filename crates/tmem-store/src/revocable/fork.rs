// SPDX-License-Identifier: Apache-2.0
//! Owns: what holds revocable memory and must be quiet at a fork. Callers: `owner`, `shared`. Locks: the list's, then those of all
//! on it, in the order in which they were made. Law 15: a forked child finds each whole, without the extents of its parent.

use std::sync::{Arc, Weak};
use tmem_sys::{Errno, Lock, fork};

/// What takes part in a fork.
pub(super) trait Across: Send + Sync {
    /// Waits until no thread works in it, and keeps it so.
    fn hold(&self);
    /// Lets threads in again.
    fn let_go_in_parent(&self);
    /// As above, in the child, which has none of the extents: their descriptors are closed at once, so that one that the parent
    /// lets go of ends.
    fn let_go_in_child(&self);
}

/// All that may still be alive.
static ALL: Lock<Vec<Weak<dyn Across>>> = Lock::new(Vec::new());
/// Those whose locks are held across the fork that is under way.
static HELD: Lock<Vec<Arc<dyn Across>>> = Lock::new(Vec::new());

/// It takes part in every fork from now on.
pub(super) fn join(one: Weak<dyn Across>) -> Result<(), Errno> {
    fork::register(prepare, parent, child)?;
    let mut all = ALL.lock();
    all.retain(|known| known.strong_count() > 0);
    all.push(one);
    Ok(())
}

extern "C" fn prepare() {
    let (all, mut held) = (ALL.lock(), HELD.lock());
    held.extend(all.iter().filter_map(Weak::upgrade));
    held.iter().for_each(|one| one.hold());
    held.keep_across_fork();
    all.keep_across_fork();
}

extern "C" fn parent() {
    release(|one| one.let_go_in_parent());
}

extern "C" fn child() {
    release(|one| one.let_go_in_child());
}

fn release(each: impl Fn(&dyn Across)) {
    let (mut held, all) = (HELD.reclaim(), ALL.reclaim());
    let ours = std::mem::take(&mut *held);
    ours.iter().for_each(|one| each(&**one));
    drop((held, all));
}

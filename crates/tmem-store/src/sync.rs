// SPDX-License-Identifier: Apache-2.0
//! Owns: which locks and atomics a host is made of: the machine's, or under `--cfg loom` those of the model, which
//! runs the same code in every order of threads.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(loom))]
pub(crate) use tmem_sys::{Lock, LockGuard};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(loom)]
pub(crate) type Lock<T> = tmem_sys::Lock<T, tmem_sys::model::ModelLock>;
#[cfg(loom)]
pub(crate) type LockGuard<'a, T> = tmem_sys::LockGuard<'a, T, tmem_sys::model::ModelLock>;

/// A value behind a lock.
pub(crate) fn locked<T>(value: T) -> Lock<T> {
    #[cfg(not(loom))]
    return Lock::new(value);
    #[cfg(loom)]
    return Lock::of_model(value);
}

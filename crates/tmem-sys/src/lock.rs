// SPDX-License-Identifier: Apache-2.0
//! Owns: the mutex of the lower floors: a futex word taken and released through the stub, without allocation,
//! poisoning or thread-local state, so that signal handlers and at-fork handlers may use it.
//! Law: not re-entrant. Whoever can be interrupted by a handler that takes the same lock blocks signals first.

use crate::syscall::{call, sched_yield};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;
/// Spins before sleeping: a fault is a few microseconds, a futex sleep and wake cost more.
const SPINS: u32 = 200;

/// The bare futex word.
pub struct RawLock(AtomicU32);

impl RawLock {
    pub const fn new() -> RawLock {
        RawLock(AtomicU32::new(FREE))
    }

    #[inline]
    pub fn lock(&self) {
        static NEVER: AtomicBool = AtomicBool::new(false);
        self.lock_asleep_if(&NEVER);
    }

    /// Takes the lock; where it is held and `asleep` is set, waits asleep from the start.
    #[inline]
    pub fn lock_asleep_if(&self, asleep: &AtomicBool) {
        if self.0.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_slow(asleep);
        }
    }

    /// Whether somebody waits asleep, or is about to.
    pub fn has_sleeper(&self) -> bool {
        self.0.load(Ordering::Relaxed) == CONTENDED
    }

    pub fn try_lock(&self) -> bool {
        self.0.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn lock_slow(&self, asleep: &AtomicBool) {
        for _ in 0..SPINS {
            if asleep.load(Ordering::Relaxed) {
                break;
            }
            if self.0.load(Ordering::Relaxed) == FREE && self.try_lock() {
                return;
            }
            std::hint::spin_loop();
        }
        while self.0.swap(CONTENDED, Ordering::Acquire) != FREE {
            let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
            // SAFETY: the word outlives the call, it is a field of `self`; no timeout.
            let answer = unsafe {
                call(libc::SYS_futex, [self.0.as_ptr() as usize, op as usize, CONTENDED as usize, 0])
            };
            if answer.is_err() {
                sched_yield();
            }
        }
    }

    /// Releases the lock. Only its holder may call this; at-fork handlers release in both processes.
    #[inline]
    pub fn unlock(&self) {
        if self.0.swap(FREE, Ordering::Release) == CONTENDED {
            let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            // SAFETY: the word outlives the call.
            let _ = unsafe { call(libc::SYS_futex, [self.0.as_ptr() as usize, op as usize, 1]) };
        }
    }
}

/// What a [`Lock`] is made of.
///
/// # Safety
/// Between `lock`, or a `try_lock` that answers true, and `unlock` no other thread gets as far.
pub unsafe trait Raw {
    fn lock(&self);
    fn try_lock(&self) -> bool;
    /// Only for the holder.
    fn unlock(&self);
}

// SAFETY: the word goes from free to held in one step.
unsafe impl Raw for RawLock {
    #[inline]
    fn lock(&self) {
        RawLock::lock(self);
    }

    #[inline]
    fn try_lock(&self) -> bool {
        RawLock::try_lock(self)
    }

    #[inline]
    fn unlock(&self) {
        RawLock::unlock(self);
    }
}

impl Default for RawLock {
    fn default() -> Self {
        RawLock::new()
    }
}

/// A value behind a [`RawLock`], or in a model of threads behind that of a lock.
pub struct Lock<T, R: Raw = RawLock> {
    raw: R,
    /// Only true between the handlers before and after a fork, while the lock is held.
    kept: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the raw lock lets one thread at a time reach the value.
unsafe impl<T: Send, R: Raw + Sync> Sync for Lock<T, R> {}

impl<T> Lock<T> {
    pub const fn new(value: T) -> Lock<T> {
        Lock { raw: RawLock::new(), kept: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// As [`RawLock::lock_asleep_if`].
    pub fn lock_asleep_if(&self, asleep: &AtomicBool) -> LockGuard<'_, T> {
        self.raw.lock_asleep_if(asleep);
        LockGuard { lock: self }
    }

    /// Whether somebody waits for the lock asleep, or is about to.
    pub fn has_sleeper(&self) -> bool {
        self.raw.has_sleeper()
    }
}

#[cfg(loom)]
impl<T> Lock<T, crate::model::ModelLock> {
    pub fn of_model(value: T) -> Lock<T, crate::model::ModelLock> {
        let raw = crate::model::ModelLock::new();
        Lock { raw, kept: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }
}

impl<T, R: Raw> Lock<T, R> {
    pub fn lock(&self) -> LockGuard<'_, T, R> {
        self.raw.lock();
        LockGuard { lock: self }
    }

    pub fn try_lock(&self) -> Option<LockGuard<'_, T, R>> {
        // Made only where the lock was taken: to drop a guard is to unlock.
        self.raw.try_lock().then(|| LockGuard { lock: self })
    }

    /// The guard of a lock that [`LockGuard::keep_across_fork`] left held, in parent or child. A lock that nobody
    /// left held is taken.
    pub fn reclaim(&self) -> LockGuard<'_, T, R> {
        if !self.kept.swap(false, Ordering::AcqRel) {
            self.raw.lock();
        }
        LockGuard { lock: self }
    }
}

pub struct LockGuard<'a, T, R: Raw = RawLock> {
    lock: &'a Lock<T, R>,
}

impl<T, R: Raw> LockGuard<'_, T, R> {
    /// Leaves the lock held without a guard, for the handlers after a fork to [`Lock::reclaim`].
    pub fn keep_across_fork(self) {
        self.lock.kept.store(true, Ordering::Release);
        std::mem::forget(self);
    }
}

impl<T, R: Raw> Deref for LockGuard<'_, T, R> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard exists only while the lock is held by this thread.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, R: Raw> DerefMut for LockGuard<'_, T, R> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; the guard is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T, R: Raw> Drop for LockGuard<'_, T, R> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_excludes_under_contention() {
        static COUNT: Lock<u64> = Lock::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..20_000).for_each(|_| *COUNT.lock() += 1));
            }
        });
        assert_eq!(*COUNT.lock(), 80_000);
    }

    #[test]
    fn a_lock_that_is_held_is_not_taken_and_stays_held() {
        let lock = Lock::new(());
        let guard = lock.lock();
        assert!(lock.try_lock().is_none());
        assert!(lock.try_lock().is_none(), "the first try must not have unlocked it");
        drop(guard);
        assert!(lock.try_lock().is_some());
    }
}

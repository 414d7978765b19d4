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

impl Default for RawLock {
    fn default() -> Self {
        RawLock::new()
    }
}

/// A value behind a [`RawLock`].
pub struct Lock<T> {
    raw: RawLock,
    /// Only true between the handlers before and after a fork, while the lock is held.
    kept: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the raw lock lets one thread at a time reach the value.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub const fn new(value: T) -> Lock<T> {
        Lock { raw: RawLock::new(), kept: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    pub fn lock(&self) -> LockGuard<'_, T> {
        self.raw.lock();
        LockGuard { lock: self }
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

    pub fn try_lock(&self) -> Option<LockGuard<'_, T>> {
        // Made only where the lock was taken: to drop a guard is to unlock.
        self.raw.try_lock().then(|| LockGuard { lock: self })
    }

    /// The guard of a lock that [`LockGuard::keep_across_fork`] left held, in parent or child. A lock that nobody
    /// left held is taken.
    pub fn reclaim(&self) -> LockGuard<'_, T> {
        if !self.kept.swap(false, Ordering::AcqRel) {
            self.raw.lock();
        }
        LockGuard { lock: self }
    }
}

pub struct LockGuard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> LockGuard<'_, T> {
    /// Leaves the lock held without a guard, for the handlers after a fork to [`Lock::reclaim`].
    pub fn keep_across_fork(self) {
        self.lock.kept.store(true, Ordering::Release);
        std::mem::forget(self);
    }
}

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard exists only while the lock is held by this thread.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; the guard is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for LockGuard<'_, T> {
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

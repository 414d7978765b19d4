// SPDX-License-Identifier: Apache-2.0
//! Owns: a lock for models of threads: as the real one for its users, with every order in which threads may take it.
//! Callers: the store's model of a host (`--cfg loom`). It waits as loom has it, without spinning.

use crate::lock::Raw;
use loom::sync::{Condvar, Mutex};

pub struct ModelLock {
    held: Mutex<bool>,
    free: Condvar,
}

impl ModelLock {
    #[must_use]
    pub fn new() -> ModelLock {
        ModelLock { held: Mutex::new(false), free: Condvar::new() }
    }

    fn word(&self) -> loom::sync::MutexGuard<'_, bool> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for ModelLock {
    fn default() -> ModelLock {
        ModelLock::new()
    }
}

// SAFETY: the flag goes from free to held under the model's mutex.
unsafe impl Raw for ModelLock {
    fn lock(&self) {
        let mut held = self.word();
        while *held {
            held = self.free.wait(held).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        *held = true;
    }

    fn try_lock(&self) -> bool {
        !std::mem::replace(&mut *self.word(), true)
    }

    fn unlock(&self) {
        assert!(std::mem::replace(&mut *self.word(), false), "a lock was released that nobody held");
        self.free.notify_one();
    }
}

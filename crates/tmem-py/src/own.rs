// SPDX-License-Identifier: Apache-2.0
//! Owns: the lock of what Python threads share, as they must take it: without the GIL, never twice by one thread, and only in
//! the process that made it. Callers: `frontswap`, `backend`. Law 15: a forked child might find the lock held by a thread that
//! it does not have, and writes to no file of its parent's: it is told so instead.

use crate::error::raise;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicI32, Ordering};
use tmem_sys::Lock;
use tmem_sys::syscall::{getpid, gettid};

/// A value behind a lock, gone once it was closed.
pub struct Own<T> {
    value: Lock<Option<T>>,
    /// The thread that holds the lock.
    holder: AtomicI32,
    process: i32,
    what: &'static str,
}

impl<T: Send> Own<T> {
    pub fn new(value: T, what: &'static str) -> Own<T> {
        Own { value: Lock::new(Some(value)), holder: AtomicI32::new(0), process: getpid(), what }
    }

    /// Runs `work` under the lock and without the GIL.
    ///
    /// # Errors
    /// `ClosedError`; `TmemError` in a forked child, and for a thread that has the lock already.
    pub fn with<R: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut T) -> R + Send) -> PyResult<R> {
        self.permit(py)?;
        let done = py.detach(|| {
            let mut guard = self.value.lock();
            let _held = Held::new(&self.holder);
            guard.as_mut().map(work)
        });
        done.ok_or_else(|| raise(py, "ClosedError", format!("the {} is closed: make a new one", self.what)))
    }

    /// Takes the value out; `None` when it is gone already.
    ///
    /// # Errors
    /// `TmemError` as for `with`.
    pub fn take(&self, py: Python<'_>) -> PyResult<Option<T>> {
        self.permit(py)?;
        Ok(py.detach(|| self.value.lock().take()))
    }

    fn permit(&self, py: Python<'_>) -> PyResult<()> {
        let text = if getpid() != self.process {
            format!(
                "the {} was made by process {} and is not for its forked children: make one of its own there",
                self.what, self.process
            )
        } else if self.holder.load(Ordering::Relaxed) == gettid() {
            format!("a backend called the {} that was calling it: it may use anything but that", self.what)
        } else {
            return Ok(());
        };
        Err(raise(py, "TmemError", text))
    }
}

struct Held<'a>(&'a AtomicI32);

impl Held<'_> {
    fn new(holder: &AtomicI32) -> Held<'_> {
        holder.store(gettid(), Ordering::Relaxed);
        Held(holder)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

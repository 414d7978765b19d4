// SPDX-License-Identifier: Apache-2.0
//! Owns: the shipped backends with their five verbs in Python, and their loan to a frontswap hook. Callers:
//! `python/tmem/backends.py`, `frontswap`. Locks: a backend's own, taken after a hook's; nobody waits for the GIL under it.

use crate::buffer::Buffer;
use crate::error::raise;
use crate::own::Own;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;
use tmem_store::testback::{PlainCopies, RefuseAll};
use tmem_store::{
    BackendOps, Corrupt, Loaded, LocalBackend, Outcome, PoolConfig, ProcessBackend, StoreConfig,
};
use tmem_sys::{Lock, PAGE_SIZE, Page};

enum Ops {
    Store(Box<LocalBackend>),
    Other(Box<dyn BackendOps>),
}

impl Ops {
    fn get(&mut self) -> &mut dyn BackendOps {
        match self {
            Ops::Store(store) => store.as_mut(),
            Ops::Other(other) => other.as_mut(),
        }
    }
}

type Shared = Arc<Lock<Ops>>;

/// A backend that is not Python.
#[pyclass(frozen, module = "tmem._core", weakref)]
pub struct Backend {
    /// For the rules of who may call; the backend itself is behind a lock that hooks take too.
    own: Own<Shared>,
    shared: Shared,
}

impl Backend {
    /// The backend for a hook, which shares it with whoever else has it.
    pub fn lend(&self) -> Box<dyn BackendOps> {
        Box::new(Lent(Arc::clone(&self.shared)))
    }
}

#[pymethods]
impl Backend {
    #[new]
    #[pyo3(signature = (kind, *, pages=0, capacity=0, raw=false, fd=0, limit_ms=0))]
    fn new(
        py: Python<'_>,
        kind: &str,
        pages: usize,
        capacity: usize,
        raw: bool,
        fd: i32,
        limit_ms: u64,
    ) -> PyResult<Backend> {
        let pool = PoolConfig { raw, ..PoolConfig::default() };
        let made = match kind {
            "store" => LocalBackend::new(StoreConfig::for_pages(pages as u64, capacity), pool)
                .map(|b| Ops::Store(Box::new(b))),
            "plain" => PlainCopies::new(pages).map(|b| Ops::Other(Box::new(b))),
            "refuse" => Ok(Ops::Other(Box::new(RefuseAll::default()))),
            "process" => ProcessBackend::new(fd, limit_ms, pages).map(|b| Ops::Other(Box::new(b))),
            other => {
                return Err(PyValueError::new_err(format!(
                    "unknown backend {other:?}: use store, plain, refuse or process"
                )));
            }
        };
        let ops = made.map_err(|errno| {
            let text = format!("a backend for {pages} pages cannot be made: {errno}. Ask for fewer pages");
            raise(py, "BudgetError", text)
        })?;
        let shared = Arc::new(Lock::new(ops));
        Ok(Backend { own: Own::new(Arc::clone(&shared), "backend"), shared })
    }

    /// Announces an area.
    fn init(&self, py: Python<'_>, area: u32, pages: u64) -> PyResult<()> {
        self.own.with(py, |b| b.lock().get().init(area, pages))
    }

    /// Offers a page; the outcome's code.
    fn store(&self, py: Python<'_>, area: u32, page: u64, data: &Bound<'_, PyAny>) -> PyResult<u8> {
        let buffer = Buffer::read(data)?;
        // Copied before the lock: the buffer may be paged, or change meanwhile.
        let copy: Page = buffer.pages(1)?[0];
        self.own.with(py, |b| b.lock().get().store(area, page, &copy).code())
    }

    /// A stored page as bytes, or None.
    fn load<'py>(&self, py: Python<'py>, area: u32, page: u64) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut into = [0; PAGE_SIZE];
        match self.own.with(py, |b| b.lock().get().load(area, page, &mut into))? {
            Ok(Loaded::Loaded) => Ok(Some(PyBytes::new(py, &into))),
            Ok(Loaded::Absent) => Ok(None),
            Err(lost) => Err(raise(py, "PageLostError", format!("page {page} of area {area}: {lost}"))),
        }
    }

    /// Forgets a page.
    fn invalidate_page(&self, py: Python<'_>, area: u32, page: u64) -> PyResult<()> {
        self.own.with(py, |b| b.lock().get().invalidate_page(area, page))
    }

    /// Forgets an area.
    fn invalidate_area(&self, py: Python<'_>, area: u32) -> PyResult<()> {
        self.own.with(py, |b| b.lock().get().invalidate_area(area))
    }

    /// Makes a page store refuse all pages, or take them again.
    fn set_frozen(&self, py: Python<'_>, frozen: bool) -> PyResult<()> {
        let done = self.own.with(py, |b| match &mut *b.lock() {
            Ops::Store(store) => {
                store.set_frozen(frozen);
                true
            }
            Ops::Other(_) => false,
        })?;
        if done { Ok(()) } else { Err(PyValueError::new_err("only a page store can be frozen")) }
    }

    /// Bytes of memory taken in this process.
    fn footprint(&self, py: Python<'_>) -> PyResult<usize> {
        self.own.with(py, |b| b.lock().get().footprint())
    }

    /// In a forked child: lets go of the channel to a process, which would wait for the end of the child, too. A lock that
    /// another thread held at the fork is let be: the channel then stays open until the child ends.
    fn forked(&self) {
        if let Some(mut ops) = self.shared.try_lock() {
            ops.get().after_fork_in_child();
        }
    }

    /// Lets go of all pages; hooks that still have it are refused. Twice does no harm.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(shared) = self.own.take(py)? {
            py.detach(|| *shared.lock() = Ops::Other(Box::new(RefuseAll::default())));
        }
        Ok(())
    }

    /// Every broken law, in words.
    fn check(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.own.with(py, |b| b.lock().get().check())
    }
}

/// A share in a backend.
struct Lent(Shared);

impl BackendOps for Lent {
    fn init(&mut self, area: u32, pages: u64) {
        self.0.lock().get().init(area, pages);
    }

    fn store(&mut self, area: u32, page: u64, data: &Page) -> Outcome {
        self.0.lock().get().store(area, page, data)
    }

    fn load(&mut self, area: u32, page: u64, into: &mut Page) -> Result<Loaded, Corrupt> {
        self.0.lock().get().load(area, page, into)
    }

    fn invalidate_page(&mut self, area: u32, page: u64) {
        self.0.lock().get().invalidate_page(area, page);
    }

    fn invalidate_area(&mut self, area: u32) {
        self.0.lock().get().invalidate_area(area);
    }

    fn footprint(&self) -> usize {
        self.0.lock().get().footprint()
    }

    fn check(&self) -> Vec<String> {
        self.0.lock().get().check()
    }
}

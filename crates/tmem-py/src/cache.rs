// SPDX-License-Identifier: Apache-2.0
//! Owns: the Python face of a cache of entries, and its asking a memory for room. Callers: `python/tmem/cache.py`. The
//! GIL is let go before any lock is taken. Locks, in order: the pager's, then the host's; a cache asks for room before it
//! takes its host's.

use crate::buffer::Buffer;
use crate::error::{host_to_python, raise, reserve_to_python, store_to_python, to_python};
use crate::memory::Memory;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tmem_pager::Pager;
use tmem_store::StoreError;
use tmem_store::cache::{CacheError, Head};
use tmem_sys::{PAGE_SIZE, Page};

/// An entry that changes each time it is being read is given up.
const TRIES: usize = 16;
/// Puts that a cache makes do with what it has after its memory had no more to give.
const PATIENCE: u32 = 64;
/// Keys that are handed out at once.
const KEYS: usize = 64;

/// A cache and, where its room is a memory's, that memory's pager.
struct Open {
    cache: tmem_store::Cache,
    lender: Option<Arc<Pager>>,
    patience: AtomicU32,
}

/// Entries by key.
#[pyclass(frozen, module = "tmem._core")]
pub struct Cache {
    open: RwLock<Option<Arc<Open>>>,
    most: usize,
}

impl Open {
    /// Asks for room where there is too little and the memory may have some.
    fn grow(&self, bytes: usize) {
        let Some(pager) = &self.lender else { return };
        let short = self.cache.shortage(bytes);
        if short == 0 {
            return;
        }
        if self.patience.load(Ordering::Relaxed) > 0 {
            self.patience.fetch_sub(1, Ordering::Relaxed);
        } else if !pager.lend_to(self.cache.host(), short) {
            self.patience.store(PATIENCE, Ordering::Relaxed);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(pager) = &self.lender {
            pager.end_lending(self.cache.host());
        }
    }
}

impl Cache {
    fn open(&self, py: Python<'_>) -> PyResult<Arc<Open>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner).clone();
        open.ok_or_else(|| raise(py, "ClosedError", "the cache is closed: make a new Cache".into()))
    }

    /// Runs a verb without the GIL.
    fn run<R: Send>(
        &self,
        py: Python<'_>,
        verb: impl FnOnce(&Open) -> Result<R, StoreError> + Send,
    ) -> PyResult<R> {
        let open = self.open(py)?;
        // The last reference may be dropped here, which takes a pager's lock: without the GIL, too.
        let done = py.detach(move || verb(&open));
        done.map_err(|e| store_to_python(py, e))
    }

    /// The value of a key, and its head.
    fn value<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        young: bool,
    ) -> PyResult<Option<(Bound<'py, PyBytes>, Head)>> {
        let open = self.open(py)?;
        let id = open.cache.id_of(key);
        for _ in 0..TRIES {
            let mut page: Page = [0; PAGE_SIZE];
            let found = py.detach(|| open.cache.find(id, key, &mut page, young));
            let Some(head) = found.map_err(|e| store_to_python(py, e))? else { return Ok(None) };
            let mut all = false;
            let value = PyBytes::new_with(py, head.value_len, |into| {
                let copied = py.detach(|| open.cache.copy_value(id, &head, &page, into, young));
                all = copied.map_err(|e| store_to_python(py, e))?;
                Ok(())
            })?;
            if all {
                return Ok(Some((value, head)));
            }
            if young {
                open.cache.count_lost();
            }
        }
        Ok(None)
    }
}

#[pymethods]
impl Cache {
    #[new]
    #[pyo3(signature = (most, *, memory))]
    fn new(py: Python<'_>, most: usize, memory: Option<&Bound<'_, Memory>>) -> PyResult<Cache> {
        let lender = memory.map(|memory| memory.get().pager());
        let limit = if lender.is_some() { 0 } else { most };
        let lodges = lender.is_some();
        let cache = py.detach(|| tmem_store::Cache::new(limit, most, lodges)).map_err(|e| match e {
            CacheError::Reserve(errno) => reserve_to_python(py, errno),
            CacheError::Host(e) => host_to_python(py, e),
        })?;
        if let Some(pager) = &lender {
            py.detach(|| pager.take_in(cache.host())).map_err(|e| to_python(py, e))?;
        }
        let open = Open { cache, lender, patience: AtomicU32::new(0) };
        Ok(Cache { open: RwLock::new(Some(Arc::new(open))), most })
    }

    /// Puts an entry; whether it found a place.
    fn put(&self, py: Python<'_>, key: &[u8], value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let value = Buffer::read(value)?;
        let value = value.bytes();
        if key.len().saturating_add(value.len()) > self.most {
            // Law 3: refused, and what was there is gone.
            self.run(py, |open| open.cache.refuse(open.cache.id_of(key)))?;
            return Err(PyValueError::new_err(format!(
                "value too large: {} bytes, where the whole cache may take {}: raise max_bytes=, or keep it elsewhere",
                value.len(),
                self.most
            )));
        }
        self.run(py, |open| {
            open.grow(key.len() + value.len());
            Ok(open.cache.put(open.cache.id_of(key), key, value)?.is_stored())
        })
    }

    /// The value of a key, or None; with `young` it counts, and the entry is the youngest.
    #[pyo3(signature = (key, *, young))]
    fn get<'py>(&self, py: Python<'py>, key: &[u8], young: bool) -> PyResult<Option<Bound<'py, PyBytes>>> {
        Ok(self.value(py, key, young)?.map(|(value, _)| value))
    }

    /// The value of a key, or None; it is forgotten.
    fn take<'py>(&self, py: Python<'py>, key: &[u8]) -> PyResult<Option<Bound<'py, PyBytes>>> {
        while let Some((value, head)) = self.value(py, key, true)? {
            if self.run(py, |open| open.cache.forget(open.cache.id_of(key), &head))? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Whether a key has an entry, which gets no younger.
    fn contains(&self, py: Python<'_>, key: &[u8]) -> PyResult<bool> {
        let mut page: Page = [0; PAGE_SIZE];
        Ok(self.run(py, |open| open.cache.find(open.cache.id_of(key), key, &mut page, false))?.is_some())
    }

    /// Forgets a key's entry; whether there was one.
    fn remove(&self, py: Python<'_>, key: &[u8]) -> PyResult<bool> {
        self.run(py, |open| open.cache.remove(open.cache.id_of(key), key))
    }

    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |open| open.cache.clear())
    }

    /// The key of the oldest entry, or None.
    fn oldest<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let found = self.run(py, |open| open.cache.oldest())?;
        Ok(found.map(|(_, key)| PyBytes::new(py, &key)))
    }

    /// Some keys after a place, of entries put up to `newest`; and where to go on.
    fn keys<'py>(&self, py: Python<'py>, after: u32, newest: u64) -> PyResult<(u32, Bound<'py, PyList>)> {
        let (at, found) = self.run(py, |open| {
            let (mut at, mut found) = (after, Vec::with_capacity(KEYS));
            while found.len() < KEYS
                && let Some((next, key)) = open.cache.next_key(at, newest)?
            {
                at = next;
                found.push(key);
            }
            Ok((at, found))
        })?;
        let keys = PyList::empty(py);
        for key in &found {
            keys.append(PyBytes::new(py, key))?;
        }
        Ok((at, keys))
    }

    /// The number of the newest put.
    #[getter]
    fn newest(&self, py: Python<'_>) -> PyResult<u64> {
        self.run(py, |open| Ok(open.cache.newest()))
    }

    /// Entries there are.
    fn count(&self, py: Python<'_>) -> PyResult<usize> {
        self.run(py, |open| Ok(open.cache.stats()?.entries as usize))
    }

    /// All counters.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.run(py, |open| open.cache.stats())?;
        let numbers = PyDict::new(py);
        for (name, value) in [
            ("max_bytes", self.most as u64),
            ("limit", stats.limit),
            ("bytes", stats.footprint),
            ("entries", stats.entries),
            ("pages", stats.pages),
            ("hits", stats.hits),
            ("misses", stats.misses),
            ("stored", stats.stored),
            ("refused", stats.refused),
            ("evicted", stats.evicted),
        ] {
            numbers.set_item(name, value)?;
        }
        Ok(numbers)
    }

    /// Every broken law, in words.
    fn check(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.run(py, |open| Ok(open.cache.check()))
    }

    /// Forgets everything, and gives all memory back. Twice does no harm.
    fn close(&self, py: Python<'_>) {
        let open = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(move || drop(open));
    }

    #[getter]
    fn closed(&self) -> bool {
        self.open.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the Python face of one pool: handles and buffers as Python has them. Callers: `python/tmem/pool.py`. The GIL
//! is let go before the host's lock is taken. Law 17: a caller's page that is paged memory is copied to or from
//! private memory outside the lock.

use crate::buffer::Buffer;
use crate::error::{host_to_python, reserve_to_python, store_to_python};
use crate::host::{Host, traffic};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tmem_store::host::RUN;
use tmem_store::{Dedup, Loaded, ObjectId, PoolConfig, PoolId, PoolKind, StoreError};
use tmem_sys::{PAGE_SIZE, Page, Table};

const ID_BYTES: usize = size_of::<ObjectId>();

/// A pool of a host. Destroyed with the last reference, if not before.
#[pyclass(frozen, module = "tmem._core")]
pub struct Pool {
    pub host: Arc<tmem_store::Host>,
    pub id: PoolId,
    destroyed: AtomicBool,
}

/// An object's id: a number below 2**192, or up to 24 bytes that are one, little-endian.
pub fn object_id(object: &Bound<'_, PyAny>) -> PyResult<ObjectId> {
    if let Ok(small) = object.extract::<u64>() {
        return Ok(ObjectId([small, 0, 0]));
    }
    let words = |bytes: &[u8]| {
        let mut whole = [0; ID_BYTES];
        whole[..bytes.len()].copy_from_slice(bytes);
        ObjectId(std::array::from_fn(|w| u64::from_le_bytes(std::array::from_fn(|i| whole[w * 8 + i]))))
    };
    if let Ok(bytes) = object.cast::<PyBytes>() {
        let bytes = bytes.as_bytes();
        return if bytes.len() <= ID_BYTES {
            Ok(words(bytes))
        } else {
            let text =
                format!("an object id has at most {ID_BYTES} bytes, not {}: hash it first", bytes.len());
            Err(PyValueError::new_err(text))
        };
    }
    let py = object.py();
    let number = match object.cast::<PyInt>() {
        Ok(number) => number.clone().into_any(),
        Err(_) if object.hasattr("__index__")? => object.call_method0("__index__")?,
        Err(_) => {
            let text = format!("an object id is an int or bytes, not {}", object.get_type().name()?);
            return Err(PyTypeError::new_err(text));
        }
    };
    let bytes = number.call_method1("to_bytes", (ID_BYTES, "little")).map_err(|e| {
        if e.is_instance_of::<PyOverflowError>(py) {
            PyOverflowError::new_err("an object id is at least 0 and below 2**192")
        } else {
            e
        }
    })?;
    Ok(words(bytes.cast::<PyBytes>()?.as_bytes()))
}

pub fn page_index(index: &Bound<'_, PyAny>) -> PyResult<u64> {
    index.extract::<u64>().map_err(|e| {
        if e.is_instance_of::<PyOverflowError>(index.py()) {
            PyOverflowError::new_err("an index is at least 0 and below 2**64")
        } else {
            e
        }
    })
}

fn kind(name: &str) -> PyResult<PoolKind> {
    match name {
        "persistent" => Ok(PoolKind::Persistent),
        "exclusive" => Ok(PoolKind::Exclusive),
        "nonexclusive" => Ok(PoolKind::NonExclusive),
        other => Err(PyValueError::new_err(format!(
            "unknown kind {other:?}: use persistent, exclusive or nonexclusive"
        ))),
    }
}

/// The switch of deduplication, by the names that all doors have.
pub fn dedup(name: &str) -> PyResult<Dedup> {
    match name {
        "off" => Ok(Dedup::Off),
        "auto" => Ok(Dedup::Auto),
        "on" => Ok(Dedup::On),
        other => Err(PyValueError::new_err(format!("unknown dedup={other:?}: use auto, on or off"))),
    }
}

impl Pool {
    /// Runs a verb without the GIL.
    fn run<R: Send>(
        &self,
        py: Python<'_>,
        verb: impl FnOnce(&tmem_store::Host, PoolId) -> Result<R, StoreError> + Send,
    ) -> PyResult<R> {
        py.detach(|| verb(&self.host, self.id)).map_err(|e| store_to_python(py, e))
    }
}

#[pymethods]
impl Pool {
    #[new]
    #[pyo3(signature = (host, *, guest, kind_name, pack, raw, dedup))]
    fn new(
        py: Python<'_>,
        host: &Bound<'_, Host>,
        guest: &str,
        kind_name: &str,
        pack: bool,
        raw: bool,
        dedup: &str,
    ) -> PyResult<Pool> {
        let host = Arc::clone(&host.get().host);
        let (kind, config) = (kind(kind_name)?, PoolConfig { pack, raw, dedup: self::dedup(dedup)? });
        let made = py.detach(|| host.new_pool(guest, kind, config));
        let id = made.map_err(|e| host_to_python(py, e))?;
        Ok(Pool { host, id, destroyed: AtomicBool::new(false) })
    }

    /// Offers a page; the code of the outcome.
    fn put(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = object_id)] object: ObjectId,
        #[pyo3(from_py_with = page_index)] index: u64,
        page: &Bound<'_, PyAny>,
    ) -> PyResult<u8> {
        let buffer = Buffer::read(page)?;
        let paged = buffer.is_paged();
        let page = &buffer.pages(1)?[0];
        let outcome = self.run(py, |host, pool| {
            if paged {
                let copy = *page;
                return host.put(pool, object, index, &copy);
            }
            host.put(pool, object, index, page)
        })?;
        Ok(outcome.code())
    }

    /// The page as bytes, or None.
    fn get<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = object_id)] object: ObjectId,
        #[pyo3(from_py_with = page_index)] index: u64,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut page = [0; PAGE_SIZE];
        let loaded = self.run(py, |host, pool| host.get(pool, object, index, &mut page))?;
        Ok((loaded == Loaded::Loaded).then(|| PyBytes::new(py, &page)))
    }

    /// Copies the page out; whether there was one.
    fn get_into(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = object_id)] object: ObjectId,
        #[pyo3(from_py_with = page_index)] index: u64,
        into: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let mut buffer = Buffer::write(into)?;
        let paged = buffer.is_paged();
        let into = &mut buffer.pages_mut(1)?[0];
        let loaded = self.run(py, |host, pool| {
            if !paged {
                return host.get(pool, object, index, into);
            }
            let mut copy = [0; PAGE_SIZE];
            let loaded = host.get(pool, object, index, &mut copy)?;
            if loaded == Loaded::Loaded {
                *into = copy;
            }
            Ok(loaded)
        })?;
        Ok(loaded == Loaded::Loaded)
    }

    /// Offers `count` pages and writes the codes of the outcomes. `indexes` are 64-bit numbers, `codes` bytes.
    fn put_many(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = object_id)] object: ObjectId,
        count: usize,
        indexes: &Bound<'_, PyAny>,
        pages: &Bound<'_, PyAny>,
        codes: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (indexes, pages, mut codes) =
            (Buffer::read(indexes)?, Buffer::read(pages)?, Buffer::write(codes)?);
        let paged = pages.is_paged();
        let (indexes, pages, codes) =
            (indexes.numbers(count)?, pages.pages(count)?, codes.numbers_mut(count)?);
        let mut scratch = scratch(py, paged)?;
        self.run(py, |host, pool| {
            if !paged {
                return host.put_many(pool, object, indexes, pages, codes);
            }
            for ((at, run), made) in indexes.chunks(RUN).zip(pages.chunks(RUN)).zip(codes.chunks_mut(RUN)) {
                scratch[..run.len()].copy_from_slice(run);
                host.put_many(pool, object, at, &scratch[..run.len()], made)?;
            }
            Ok(())
        })
    }

    /// Copies out what is there of `count` pages, and writes for each whether it was, as bytes of 0 and 1.
    fn get_many(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = object_id)] object: ObjectId,
        count: usize,
        indexes: &Bound<'_, PyAny>,
        into: &Bound<'_, PyAny>,
        found: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (indexes, mut into, mut found) =
            (Buffer::read(indexes)?, Buffer::write(into)?, Buffer::write(found)?);
        let paged = into.is_paged();
        let (indexes, into, found) =
            (indexes.numbers(count)?, into.pages_mut(count)?, found.numbers_mut(count)?);
        let mut scratch = scratch(py, paged)?;
        self.run(py, |host, pool| {
            if !paged {
                return host.get_many(pool, object, indexes, into, found);
            }
            for ((at, run), hits) in indexes.chunks(RUN).zip(into.chunks_mut(RUN)).zip(found.chunks_mut(RUN))
            {
                host.get_many(pool, object, at, &mut scratch[..run.len()], hits)?;
                let there = run.iter_mut().zip(scratch.iter()).zip(hits.iter()).filter(|(_, hit)| **hit == 1);
                there.for_each(|((page, copy), _)| *page = *copy);
            }
            Ok(())
        })
    }

    /// Whether a page is stored, without reading it.
    fn contains(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = object_id)] object: ObjectId,
        #[pyo3(from_py_with = page_index)] index: u64,
    ) -> PyResult<bool> {
        self.run(py, |host, pool| host.contains(pool, object, index))
    }

    /// Forgets a page; whether there was one.
    fn flush_page(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = object_id)] object: ObjectId,
        #[pyo3(from_py_with = page_index)] index: u64,
    ) -> PyResult<bool> {
        self.run(py, |host, pool| host.flush_page(pool, object, index))
    }

    /// Forgets all pages of an object; how many.
    fn flush_object(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = object_id)] object: ObjectId,
    ) -> PyResult<u64> {
        self.run(py, |host, pool| host.flush_object(pool, object))
    }

    /// Refuses puts from now on, or takes them again.
    fn set_frozen(&self, py: Python<'_>, frozen: bool) -> PyResult<()> {
        self.run(py, |host, pool| host.set_frozen(pool, frozen))
    }

    /// Ends the pool; how many pages it held. Twice does no harm.
    fn destroy(&self, py: Python<'_>) -> PyResult<u64> {
        if self.destroyed.swap(true, Ordering::AcqRel) {
            return Ok(0);
        }
        self.run(py, |host, pool| host.destroy(pool))
    }

    #[getter]
    fn destroyed(&self) -> bool {
        self.destroyed.load(Ordering::Acquire)
    }

    /// All counters.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.run(py, |host, pool| host.pool_stats(pool))?;
        let numbers = traffic(py, &stats.traffic)?;
        numbers.set_item("pages", stats.pages)?;
        numbers.set_item("frozen", stats.frozen)?;
        numbers.set_item("dedup_all", stats.dedup_all)?;
        Ok(numbers)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Python drops pools while it holds the GIL; a host's lock is short and its holder never wants the GIL.
        if !self.destroyed.load(Ordering::Acquire) {
            let gone = self.host.destroy(self.id);
            debug_assert!(gone.is_ok());
        }
    }
}

/// Private memory for one run of pages, where the caller's is paged.
fn scratch(py: Python<'_>, paged: bool) -> PyResult<Table<Page>> {
    Table::new(if paged { RUN } else { 0 }).map_err(|e| reserve_to_python(py, e))
}

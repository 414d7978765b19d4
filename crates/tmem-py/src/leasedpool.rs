// SPDX-License-Identifier: Apache-2.0
//! Owns: the Python face of one pool in memory that the daemon may take back: a private one, or one that several guests share. Caller:
//! `python/tmem/pool.py` and `guest.py`, by the verbs of `pool`. The GIL is let go before any lock is taken. Law 17: a caller's
//! page that is paged memory is copied to or from private memory outside the lock.

use crate::buffer::Buffer;
use crate::error::{raise, store_to_python};
use crate::guest::{Connection, Joint};
use crate::host::traffic;
use crate::pool::{object_id, page_index};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tmem_store::{Loaded, ObjectId, Outcome, PoolId, StoreError, Traffic};
use tmem_sys::{PAGE_SIZE, Page};

/// Why a verb was not done.
pub enum Wrong {
    Store(StoreError),
    /// This guest is no member of the shared pool any more.
    Lost,
}

impl From<StoreError> for Wrong {
    fn from(error: StoreError) -> Wrong {
        Wrong::Store(error)
    }
}

/// What a pool knows of itself.
pub struct Numbers {
    traffic: Traffic,
    pages: u64,
    frozen: bool,
    /// What only a shared pool has.
    others: Vec<(&'static str, u64)>,
}

/// The verbs of a pool.
pub trait Verbs: Send + Sync {
    fn put(&self, object: ObjectId, index: u64, page: &Page) -> Result<Outcome, Wrong>;
    fn get(&self, object: ObjectId, index: u64, into: &mut Page) -> Result<Loaded, Wrong>;
    fn contains(&self, object: ObjectId, index: u64) -> Result<bool, Wrong>;
    fn flush_page(&self, object: ObjectId, index: u64) -> Result<bool, Wrong>;
    fn flush_object(&self, object: ObjectId) -> Result<u64, Wrong>;
    fn set_frozen(&self, frozen: bool) -> Result<(), Wrong>;
    fn destroy(&self) -> Result<u64, Wrong>;
    fn numbers(&self) -> Result<Numbers, Wrong>;
}

/// A pool of this guest's own.
pub struct Private {
    connection: Arc<Connection>,
    id: PoolId,
}

impl Private {
    pub fn new(connection: Arc<Connection>, id: PoolId) -> Private {
        Private { connection, id }
    }
}

impl Verbs for Private {
    fn put(&self, object: ObjectId, index: u64, page: &Page) -> Result<Outcome, Wrong> {
        Ok(self.connection.store.put(self.id, object, index, page)?)
    }

    fn get(&self, object: ObjectId, index: u64, into: &mut Page) -> Result<Loaded, Wrong> {
        Ok(self.connection.store.get(self.id, object, index, into)?)
    }

    fn contains(&self, object: ObjectId, index: u64) -> Result<bool, Wrong> {
        Ok(self.connection.store.contains(self.id, object, index)?)
    }

    fn flush_page(&self, object: ObjectId, index: u64) -> Result<bool, Wrong> {
        Ok(self.connection.store.flush_page(self.id, object, index)?)
    }

    fn flush_object(&self, object: ObjectId) -> Result<u64, Wrong> {
        Ok(self.connection.store.flush_object(self.id, object)?)
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), Wrong> {
        Ok(self.connection.store.set_frozen(self.id, frozen)?)
    }

    fn destroy(&self) -> Result<u64, Wrong> {
        Ok(self.connection.store.destroy(self.id)?)
    }

    fn numbers(&self) -> Result<Numbers, Wrong> {
        let stats = self.connection.store.pool_stats(self.id)?;
        let (traffic, pages, frozen) = (stats.traffic, stats.pages, stats.frozen);
        Ok(Numbers { traffic, pages, frozen, others: Vec::new() })
    }
}

/// A pool that several guests share. Where the membership was lost with the host, whoever uses it joins again.
pub struct Shared(pub Arc<Joint>);

impl Verbs for Shared {
    fn put(&self, object: ObjectId, index: u64, page: &Page) -> Result<Outcome, Wrong> {
        self.0.is_member();
        Ok(self.0.pool.put(object, index, page))
    }

    fn get(&self, object: ObjectId, index: u64, into: &mut Page) -> Result<Loaded, Wrong> {
        self.0.is_member();
        Ok(self.0.pool.get(object, index, into))
    }

    fn contains(&self, object: ObjectId, index: u64) -> Result<bool, Wrong> {
        self.0.is_member();
        Ok(self.0.pool.contains(object, index))
    }

    fn flush_page(&self, object: ObjectId, index: u64) -> Result<bool, Wrong> {
        self.0.is_member();
        self.0.pool.flush_page(object, index).ok_or(Wrong::Lost)
    }

    fn flush_object(&self, object: ObjectId) -> Result<u64, Wrong> {
        self.0.is_member();
        self.0.pool.flush_object(object).ok_or(Wrong::Lost)
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), Wrong> {
        self.0.pool.set_frozen(frozen);
        Ok(())
    }

    /// Leaves, where no other of this guest's handles is left.
    fn destroy(&self) -> Result<u64, Wrong> {
        let pages = self.0.pool.stats().pages;
        self.0.release();
        Ok(pages)
    }

    fn numbers(&self) -> Result<Numbers, Wrong> {
        let stats = self.0.pool.stats();
        let others = vec![
            ("members", stats.members),
            ("joined", stats.joined.into()),
            ("data_bytes", stats.data_bytes),
            ("leased_bytes", stats.leased_bytes),
            ("extents", stats.extents),
            ("others_extents", stats.others_extents),
            ("footprint", stats.footprint_bytes),
            ("blind", stats.blind),
            ("damaged", stats.damaged),
        ];
        Ok(Numbers { traffic: stats.traffic, pages: stats.pages, frozen: stats.frozen, others })
    }
}

/// A pool in memory that may be taken back. Ended with the last reference, if not before.
#[pyclass(frozen, module = "tmem._core")]
pub struct LeasedPool {
    verbs: Box<dyn Verbs>,
    destroyed: AtomicBool,
}

impl LeasedPool {
    pub fn new(verbs: Box<dyn Verbs>) -> LeasedPool {
        LeasedPool { verbs, destroyed: AtomicBool::new(false) }
    }

    /// Runs a verb without the GIL.
    fn run<R: Send>(
        &self,
        py: Python<'_>,
        verb: impl FnOnce(&dyn Verbs) -> Result<R, Wrong> + Send,
    ) -> PyResult<R> {
        // A pool that is destroyed meanwhile answers for itself.
        let ended = self.destroyed.load(Ordering::Acquire);
        let gone = Wrong::Store(StoreError::NoSuchPool);
        let done = if ended { Err(gone) } else { py.detach(|| verb(&*self.verbs)) };
        done.map_err(|wrong| match wrong {
            Wrong::Store(error) => store_to_python(py, error),
            Wrong::Lost => {
                let text = "the membership in the shared pool was lost with its daemon, and nobody could be told: try again \
                            when the daemon is back, or join a new pool";
                raise(py, "PoolError", text.to_owned())
            }
        })
    }

    fn end(&self) -> Result<u64, Wrong> {
        if self.destroyed.swap(true, Ordering::AcqRel) {
            return Ok(0);
        }
        self.verbs.destroy()
    }
}

#[pymethods]
impl LeasedPool {
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
        let outcome = self.run(py, |verbs| put_one(verbs, (object, index), page, paged))?;
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
        let loaded = self.run(py, |verbs| verbs.get(object, index, &mut page))?;
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
        let loaded = self.run(py, |verbs| get_one(verbs, (object, index), into, paged))?;
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
        let (indexes, pages) = (indexes.numbers::<u64>(count)?, pages.pages(count)?);
        let codes = codes.numbers_mut::<u8>(count)?;
        self.run(py, |verbs| {
            for ((index, page), code) in indexes.iter().zip(pages).zip(codes) {
                *code = put_one(verbs, (object, *index), page, paged)?.code();
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
        let (indexes, into) = (indexes.numbers::<u64>(count)?, into.pages_mut(count)?);
        let found = found.numbers_mut::<u8>(count)?;
        self.run(py, |verbs| {
            for ((index, page), hit) in indexes.iter().zip(into).zip(found) {
                *hit = u8::from(get_one(verbs, (object, *index), page, paged)? == Loaded::Loaded);
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
        self.run(py, |verbs| verbs.contains(object, index))
    }

    /// Forgets a page; whether there was one.
    fn flush_page(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = object_id)] object: ObjectId,
        #[pyo3(from_py_with = page_index)] index: u64,
    ) -> PyResult<bool> {
        self.run(py, |verbs| verbs.flush_page(object, index))
    }

    /// Forgets all pages of an object; how many.
    fn flush_object(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = object_id)] object: ObjectId,
    ) -> PyResult<u64> {
        self.run(py, |verbs| verbs.flush_object(object))
    }

    /// Refuses puts from now on, or takes them again.
    fn set_frozen(&self, py: Python<'_>, frozen: bool) -> PyResult<()> {
        self.run(py, |verbs| verbs.set_frozen(frozen))
    }

    /// Ends the pool; how many pages it held. Twice does no harm.
    fn destroy(&self, py: Python<'_>) -> PyResult<u64> {
        py.detach(|| self.end()).or_else(|_| Ok(0))
    }

    #[getter]
    fn destroyed(&self) -> bool {
        self.destroyed.load(Ordering::Acquire)
    }

    /// All counters.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Numbers { traffic: done, pages, frozen, others } = self.run(py, |verbs| verbs.numbers())?;
        let numbers = traffic(py, &done)?;
        numbers.set_item("pages", pages)?;
        numbers.set_item("frozen", frozen)?;
        for (name, value) in others {
            numbers.set_item(name, value)?;
        }
        Ok(numbers)
    }
}

impl Drop for LeasedPool {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

type Handle = (ObjectId, u64);

fn put_one(verbs: &dyn Verbs, (object, index): Handle, page: &Page, paged: bool) -> Result<Outcome, Wrong> {
    if paged {
        let copy = *page;
        return verbs.put(object, index, &copy);
    }
    verbs.put(object, index, page)
}

fn get_one(
    verbs: &dyn Verbs,
    (object, index): Handle,
    into: &mut Page,
    paged: bool,
) -> Result<Loaded, Wrong> {
    if !paged {
        return verbs.get(object, index, into);
    }
    let mut copy = [0; PAGE_SIZE];
    let loaded = verbs.get(object, index, &mut copy)?;
    if loaded == Loaded::Loaded {
        *into = copy;
    }
    Ok(loaded)
}

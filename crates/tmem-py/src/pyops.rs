// SPDX-License-Identifier: Apache-2.0
//! Owns: Python objects as backends, and what they raised. Callers: `frontswap`, under the lock of its hook and without the
//! GIL, which is taken for each verb. Law 2: a backend sees a page through a view that ends with the call, over bytes that are
//! nobody else's. What it raises is no answer: stores are refused, and whoever holds the lock tells once it has let go of it.

use crate::buffer::Buffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use std::sync::{Arc, Mutex, PoisonError};
use tmem_store::{BackendOps, Corrupt, Loaded, Outcome, Reason};
use tmem_sys::Page;

/// An exception that a backend raised.
pub struct Raised {
    pub verb: &'static str,
    pub backend: Py<PyAny>,
    pub error: PyErr,
}

/// What the backends of one hook raised and nobody was told yet.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<Raised>>>);

impl Faults {
    pub fn take(&self) -> Vec<Raised> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, raised: Raised) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(raised);
    }
}

/// An object with the five verbs.
pub struct PyBackend {
    object: Py<PyAny>,
    code_of: Py<PyAny>,
    faults: Faults,
}

impl PyBackend {
    pub fn new(object: &Bound<'_, PyAny>, faults: &Faults) -> PyResult<PyBackend> {
        let code_of = object.py().import("tmem.outcome")?.getattr("code_of")?.unbind();
        Ok(PyBackend { object: object.clone().unbind(), code_of, faults: faults.clone() })
    }

    /// Runs a verb under the GIL; `None` when it raised, or the interpreter is going down.
    fn run<R>(
        &self,
        verb: &'static str,
        call: impl FnOnce(Python<'_>, &Bound<'_, PyAny>) -> PyResult<R>,
    ) -> Option<R> {
        Python::try_attach(|py| match call(py, self.object.bind(py)) {
            Ok(result) => Some(result),
            Err(error) => {
                self.faults.add(Raised { verb, backend: self.object.clone_ref(py), error });
                None
            }
        })
        .flatten()
    }
}

impl BackendOps for PyBackend {
    fn init(&mut self, area: u32, pages: u64) {
        self.run("init", |_, object| object.call_method1("init", (area, pages)).map(drop));
    }

    fn store(&mut self, area: u32, page: u64, data: &Page) -> Outcome {
        let code = self.run("store", |py, object| {
            let view = PyMemoryView::from(PyBytes::new(py, data).as_any())?;
            let answer = object.call_method1("store", (area, page, &view));
            // A view of the view that the backend made and kept cannot be ended; it shows these bytes, not the caller's.
            drop(view.call_method0("release"));
            self.code_of.bind(py).call1((answer?,))?.extract::<u8>()
        });
        code.and_then(Outcome::from_code).unwrap_or(Outcome::Refused(Reason::BackendFailed))
    }

    fn load(&mut self, area: u32, page: u64, into: &mut Page) -> Result<Loaded, Corrupt> {
        let loaded = self.run("load", |_, object| {
            let answer = object.call_method1("load", (area, page))?;
            if answer.is_none() {
                return Ok(Loaded::Absent);
            }
            let buffer = Buffer::read(&answer)?;
            let pages = buffer.pages(1).map_err(|_| {
                PyValueError::new_err(format!("a backend gave {} bytes for a page of 4096", buffer.len()))
            })?;
            if buffer.is_paged() {
                return Err(PyValueError::new_err(
                    "a backend gave a page in paged memory, which is not touched under a lock: give bytes",
                ));
            }
            into.copy_from_slice(&pages[0]);
            Ok(Loaded::Loaded)
        });
        loaded.ok_or(Corrupt::NotGiven)
    }

    fn invalidate_page(&mut self, area: u32, page: u64) {
        self.run("invalidate_page", |_, object| {
            object.call_method1("invalidate_page", (area, page)).map(drop)
        });
    }

    fn invalidate_area(&mut self, area: u32) {
        self.run("invalidate_area", |_, object| object.call_method1("invalidate_area", (area,)).map(drop));
    }

    /// Python's own, which nobody can tell from the rest of the interpreter's.
    fn footprint(&self) -> usize {
        0
    }

    fn check(&self) -> Vec<String> {
        Vec::new()
    }
}

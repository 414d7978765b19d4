// SPDX-License-Identifier: Apache-2.0
//! Owns: the Python face of saving pools and restoring them: pieces of a file as bytes, a file as pools. Callers:
//! `python/tmem/saving.py`. Locks: one around each save or restore, which nobody holds who wants the GIL.

use crate::error::{open_to_python, restore_to_python, save_to_python};
use crate::host::Host;
use crate::pool::Pool;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tmem_store::save::{self, RestoreError, SaveError, Step};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A save that is under way, and its last piece.
#[pyclass(frozen, module = "tmem._core")]
pub struct Saver {
    work: Mutex<(save::Saver, Vec<u8>)>,
}

impl Saver {
    /// Makes a piece, and shows it with what came of it.
    fn make<'py, R: Send>(
        &self,
        py: Python<'py>,
        step: impl FnOnce(&mut save::Saver, &mut Vec<u8>) -> Result<R, SaveError> + Send,
    ) -> PyResult<(Bound<'py, PyBytes>, R)> {
        let made = py.detach(|| {
            let (saver, piece) = &mut *lock(&self.work);
            piece.clear();
            step(saver, piece)
        });
        let made = made.map_err(|e| save_to_python(py, e))?;
        Ok((PyBytes::new(py, &lock(&self.work).1), made))
    }
}

#[pymethods]
impl Saver {
    /// Of pools of one host, each with its name and its guest's.
    #[new]
    #[pyo3(signature = (pools))]
    fn new(py: Python<'_>, pools: Vec<(Py<Pool>, String, String)>) -> PyResult<Saver> {
        let Some((first, ..)) = pools.first() else {
            return Err(PyValueError::new_err("there is no pool to save: name at least one"));
        };
        let host = Arc::clone(&first.get().host);
        if !pools.iter().all(|(pool, ..)| Arc::ptr_eq(&pool.get().host, &host)) {
            let text =
                "pools of several hosts do not go into one file: save those of each host by themselves";
            return Err(PyValueError::new_err(text));
        }
        let named = pools.iter().map(|(pool, name, guest)| (pool.get().id, name.clone(), guest.clone()));
        let named = named.collect();
        let saver = py.detach(|| save::Saver::new(host, named)).map_err(|e| save_to_python(py, e))?;
        Ok(Saver { work: Mutex::new((saver, Vec::new())) })
    }

    /// From now on the pools take nothing.
    fn begin(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| lock(&self.work).0.begin()).map_err(|e| save_to_python(py, e))
    }

    /// The next piece of the file; None after the last page.
    fn piece<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let (piece, more) = self.make(py, save::Saver::piece)?;
        Ok(more.then_some(piece))
    }

    /// The end of the file, and how many pages are in it.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, u64)> {
        let (piece, saved) = self.make(py, save::Saver::finish)?;
        Ok((piece, saved.pages))
    }

    /// Lets go of the pools. Twice does no harm.
    fn release(&self, py: Python<'_>) {
        py.detach(|| lock(&self.work).0.release());
    }
}

/// A restore that is under way.
#[pyclass(frozen, module = "tmem._core")]
pub struct Restorer {
    work: Mutex<save::Restorer<File>>,
    path: PathBuf,
    pools: u32,
}

#[pymethods]
impl Restorer {
    #[new]
    #[pyo3(signature = (host, path))]
    fn new(py: Python<'_>, host: &Bound<'_, Host>, path: PathBuf) -> PyResult<Restorer> {
        let host = Arc::clone(&host.get().host);
        let opened = py.detach(|| {
            // Asked first: to open a pipe would wait for its writer.
            if !std::fs::metadata(&path)?.is_file() {
                return Ok(Err(RestoreError::Strange));
            }
            let file = File::open(&path)?;
            Ok(save::Restorer::open(host, file))
        });
        let opened = opened.map_err(|e| open_to_python(&path, &e))?;
        let restorer = opened.map_err(|e| restore_to_python(py, e, &path))?;
        let pools = restorer.pools();
        Ok(Restorer { work: Mutex::new(restorer), path, pools })
    }

    /// Reads on: a description where a pool is wanted, the number of pages at the end, else None.
    fn step<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let step = py.detach(|| lock(&self.work).step());
        match step.map_err(|e| restore_to_python(py, e, &self.path))? {
            Step::More => Ok(None),
            Step::Done(pages) => Ok(Some(pages.into_pyobject(py)?.into_any())),
            Step::Pool(described) => {
                let told = PyDict::new(py);
                told.set_item("name", described.name)?;
                told.set_item("guest", described.guest)?;
                told.set_item("pack", described.pack)?;
                told.set_item("raw", described.raw)?;
                Ok(Some(told.into_any()))
            }
        }
    }

    /// Takes the pool that was wanted.
    fn give(&self, py: Python<'_>, pool: &Bound<'_, Pool>) -> PyResult<()> {
        let id = pool.get().id;
        let taken = py.detach(|| lock(&self.work).give(id));
        taken.map_err(|e| restore_to_python(py, e, &self.path))
    }

    /// How many pools the file has.
    #[getter]
    fn pools(&self) -> u32 {
        self.pools
    }
}

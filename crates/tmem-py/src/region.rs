// SPDX-License-Identifier: Apache-2.0
//! Owns: the buffer that arrays are made over: one extent, freed with the last reference. Law: an exported buffer
//! keeps the region, the region keeps the pager.

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::{c_int, c_void};
use std::sync::Arc;
use tmem_pager::Pager;

/// A writable range of paged bytes.
#[pyclass(frozen, module = "tmem._core", weakref)]
pub struct Region {
    pager: Arc<Pager>,
    #[pyo3(get)]
    address: usize,
    #[pyo3(get)]
    nbytes: usize,
}

impl Region {
    pub fn new(pager: Arc<Pager>, address: usize, nbytes: usize) -> Region {
        Region { pager, address, nbytes }
    }
}

#[pymethods]
impl Region {
    fn __len__(&self) -> usize {
        self.nbytes
    }

    /// # Safety
    /// Called by the interpreter with a view to fill in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill in"));
        }
        let (address, nbytes) = (slf.get().address, slf.get().nbytes);
        let len = ffi::Py_ssize_t::try_from(nbytes)?;
        // SAFETY: the view is the interpreter's, the extent lives as long as `slf`, which the view comes to own.
        let code =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), address as *mut c_void, len, 0, flags) };
        if code == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Python drops regions while it holds the GIL; the pager's lock is short and its holder never wants the GIL.
        self.pager.release(self.address, self.nbytes);
    }
}

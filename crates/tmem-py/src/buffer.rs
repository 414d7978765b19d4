// SPDX-License-Identifier: Apache-2.0
//! Owns: memory that a caller lends for one call: any contiguous buffer, in the order in which its bytes lie.
//! Callers: `pool`, `cache`, `frontswap`, `backend`. Law 2: the loan ends with the call. Law 17: whether the memory is paged is asked
//! first, because no paged memory is touched under a lock of ours.
//!
//! Like NumPy's own loops, calls read and write the buffer without the GIL: a program that changes it meanwhile from
//! another thread gets some mixture of old and new bytes, and no other harm.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::CStr;
use tmem_pager::registry;
use tmem_sys::{PAGE_SIZE, Page, Pod};

/// A buffer on loan. Dropped under the GIL, which is where calls begin and end.
pub struct Buffer {
    // Boxed: the exporter may keep the address of the view.
    view: Box<ffi::Py_buffer>,
}

impl Buffer {
    /// # Errors
    /// `TypeError` for what is no buffer or holds references to Python objects, `BufferError` for one that is not
    /// contiguous.
    pub fn read(object: &Bound<'_, PyAny>) -> PyResult<Buffer> {
        Buffer::new(object, ffi::PyBUF_ANY_CONTIGUOUS)
    }

    /// # Errors
    /// As [`Buffer::read`], and `BufferError` for one that is read-only.
    pub fn write(object: &Bound<'_, PyAny>) -> PyResult<Buffer> {
        Buffer::new(object, ffi::PyBUF_ANY_CONTIGUOUS | ffi::PyBUF_WRITABLE)
    }

    fn new(object: &Bound<'_, PyAny>, flags: std::ffi::c_int) -> PyResult<Buffer> {
        // Some element types (dates, say) have bytes, but no format that the protocol knows.
        let buffer =
            Buffer::request(object, flags | ffi::PyBUF_FORMAT).or_else(|_| Buffer::request(object, flags))?;
        if buffer.holds_references() {
            return Err(PyTypeError::new_err(
                "the buffer holds references to Python objects, which are no data",
            ));
        }
        Ok(buffer)
    }

    fn request(object: &Bound<'_, PyAny>, flags: std::ffi::c_int) -> PyResult<Buffer> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: the object is alive, the view is ours to fill in and stays where it is.
        let code = unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *view, flags) };
        if code == 0 { Ok(Buffer { view }) } else { Err(PyErr::fetch(object.py())) }
    }

    fn holds_references(&self) -> bool {
        if self.view.format.is_null() {
            return false;
        }
        // SAFETY: the exporter keeps the format alive until the release, ended by a zero.
        let format = unsafe { CStr::from_ptr(self.view.format) }.to_bytes();
        // Names of fields stand between colons.
        let mut outside = true;
        format.iter().any(|&c| {
            outside ^= c == b':';
            outside && c == b'O'
        })
    }

    pub fn len(&self) -> usize {
        self.view.len as usize
    }

    pub fn addr(&self) -> usize {
        self.view.buf as usize
    }

    /// Whether touching it may fault into a pager.
    pub fn is_paged(&self) -> bool {
        registry::owns(self.addr(), self.len())
    }

    /// The buffer as whole pages.
    ///
    /// # Errors
    /// `ValueError` where it is not `count` pages long.
    pub fn pages(&self, count: usize) -> PyResult<&[Page]> {
        self.check(count)?;
        // SAFETY: the exporter keeps that many bytes alive until the release; bytes have no alignment.
        Ok(unsafe { std::slice::from_raw_parts(self.start().cast(), count) })
    }

    /// The buffer as whole pages to write to; only of a buffer made by [`Buffer::write`].
    ///
    /// # Errors
    /// As [`Buffer::pages`].
    pub fn pages_mut(&mut self, count: usize) -> PyResult<&mut [Page]> {
        self.check(count)?;
        if self.view.readonly != 0 {
            return Err(PyValueError::new_err("a read-only buffer cannot be written to"));
        }
        // SAFETY: as in `pages`; the exporter gave it as writable, and `self` is borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start().cast(), count) })
    }

    /// The buffer as it is.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the exporter keeps that many bytes alive until the release.
        unsafe { std::slice::from_raw_parts(self.start(), self.len()) }
    }

    /// The buffer as plain numbers.
    ///
    /// # Errors
    /// `ValueError` where it is not `count` of them, or not aligned.
    pub fn numbers<T: Pod>(&self, count: usize) -> PyResult<&[T]> {
        self.check_numbers::<T>(count)?;
        // SAFETY: the exporter keeps that many bytes alive until the release, aligned; any bits are a number.
        Ok(unsafe { std::slice::from_raw_parts(self.start().cast(), count) })
    }

    /// The buffer as plain numbers to write to; only of a buffer made by [`Buffer::write`].
    ///
    /// # Errors
    /// As [`Buffer::numbers`].
    pub fn numbers_mut<T: Pod>(&mut self, count: usize) -> PyResult<&mut [T]> {
        self.check_numbers::<T>(count)?;
        if self.view.readonly != 0 {
            return Err(PyValueError::new_err("a read-only buffer cannot be written to"));
        }
        // SAFETY: as in `numbers`; the exporter gave it as writable, and `self` is borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start().cast(), count) })
    }

    /// An empty buffer may have no address at all.
    fn start(&self) -> *mut u8 {
        if self.view.buf.is_null() { std::ptr::dangling_mut::<u64>().cast() } else { self.view.buf.cast() }
    }

    fn check_numbers<T: Pod>(&self, count: usize) -> PyResult<()> {
        let fits = count.checked_mul(size_of::<T>()) == Some(self.len());
        if fits && self.start().cast::<T>().is_aligned() {
            return Ok(());
        }
        Err(PyValueError::new_err(format!(
            "{count} aligned numbers of {} bytes are needed, not {} bytes",
            size_of::<T>(),
            self.len()
        )))
    }

    fn check(&self, count: usize) -> PyResult<()> {
        let wanted = count.checked_mul(PAGE_SIZE);
        if wanted == Some(self.len()) {
            return Ok(());
        }
        Err(PyValueError::new_err(format!(
            "a buffer of {count} page(s) of {PAGE_SIZE} bytes is needed, not of {} bytes",
            self.len()
        )))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: filled in by `PyObject_GetBuffer`, released once; callers drop under the GIL.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.view) };
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the frontswap hook as a Python program uses it, and the swap device that may lie below. Callers:
//! `python/tmem/frontswap.py`. Locks, in order: a hook's, then a backend's or the device's; a hook's is waited for without the
//! GIL, and Python backends take the GIL under it. Pages are copied outside of it: they may be paged memory.

use crate::backend::Backend;
use crate::buffer::Buffer;
use crate::error::{raise, to_python};
use crate::own::Own;
use crate::pyops::{Faults, PyBackend, Raised};
use pyo3::exceptions::{PyException, PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::path::PathBuf;
use std::sync::Arc;
use tmem_pager::PagerError;
use tmem_store::frontswap::MAX_BACKENDS;
use tmem_store::stack::SharedDevice;
use tmem_store::swap::{SwapConfig, SwapOpenError};
use tmem_store::{BackendOps, Loaded, Lost, Mode, Reason, Stack, stack::DeviceCounters};
use tmem_sys::{Errno, Lock, PAGE_SIZE, Page};

/// A nameless, capped, checksummed file.
#[pyclass(frozen, module = "tmem._core")]
pub struct SwapDevice {
    own: Own<SharedDevice>,
    shared: SharedDevice,
}

#[pymethods]
impl SwapDevice {
    #[new]
    fn new(py: Python<'_>, directory: PathBuf, nbytes: u64) -> PyResult<SwapDevice> {
        let config =
            SwapConfig { dir: directory.clone(), cap_pages: nbytes / PAGE_SIZE as u64, allow_memory: true };
        let device = py.detach(|| tmem_store::SwapDevice::new(&config)).map_err(|error| {
            let errno = if let SwapOpenError::Errno(errno) = error { errno } else { Errno::EINVAL };
            let text = format!(
                "no swap file can be made in {}: {error}. Name another directory",
                directory.display()
            );
            to_python(py, PagerError::Swap(errno, text))
        })?;
        let shared = Arc::new(Lock::new(Some(device)));
        Ok(SwapDevice { own: Own::new(Arc::clone(&shared), "swap device"), shared })
    }

    /// The counters by name, in pages.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.own.with(py, |d| d.lock().as_ref().map(tmem_store::SwapDevice::stats))?;
        let (s, d) = (stats.unwrap_or_default(), PyDict::new(py));
        let named = [("cap", s.cap), ("used", s.used), ("written", s.written), ("read", s.read)];
        for (name, value) in named.into_iter().chain([("corrupt", s.corrupt), ("io_errors", s.io_errors)]) {
            d.set_item(name, value)?;
        }
        d.set_item("refused", by_reason(py, |reason| s.refused.get(reason))?)?;
        Ok(d)
    }

    /// Whether the file is itself memory.
    fn in_memory(&self, py: Python<'_>) -> PyResult<bool> {
        self.own.with(py, |d| d.lock().as_ref().is_some_and(tmem_store::SwapDevice::in_memory))
    }

    /// Every broken law, in words.
    fn check(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.own.with(py, |d| d.lock().as_ref().map(tmem_store::SwapDevice::check).unwrap_or_default())
    }

    /// Ends the file, unless it holds pages: then how many.
    fn close(&self, py: Python<'_>) -> PyResult<u64> {
        let left = self.own.with(py, |shared| {
            let mut device = shared.lock();
            let used = device.as_ref().map_or(0, |d| d.stats().used);
            if used == 0 {
                *device = None;
            }
            used
        });
        match left {
            Ok(0) => self.own.take(py).map(|_| 0),
            other => other,
        }
    }
}

/// The hook, its backends and the device below it.
#[pyclass(frozen, module = "tmem._core")]
pub struct Frontswap {
    own: Own<Stack>,
    area: u32,
    faults: Faults,
    report: Py<PyAny>,
}

impl Frontswap {
    /// Runs a verb under the lock, then tells what backends raised meanwhile.
    fn run<R: Send>(
        &self,
        py: Python<'_>,
        verb: impl FnOnce(&mut Stack) -> R + Send,
    ) -> PyResult<(R, Vec<Raised>)> {
        let faults = &self.faults;
        let (result, raised) = self.own.with(py, |stack| (verb(stack), faults.take()))?;
        self.tell(py, &raised)?;
        Ok((result, raised))
    }

    fn quiet<R: Send>(&self, py: Python<'_>, verb: impl FnOnce(&mut Stack) -> R + Send) -> PyResult<R> {
        self.run(py, verb).map(|(result, _)| result)
    }

    /// Logs errors; what is none, such as an interrupt, goes on to the caller.
    fn tell(&self, py: Python<'_>, raised: &[Raised]) -> PyResult<()> {
        for one in raised {
            if !one.error.is_instance_of::<PyException>(py) {
                return Err(one.error.clone_ref(py));
            }
            self.report.bind(py).call1((one.verb, &one.backend, one.error.value(py)))?;
        }
        Ok(())
    }

    fn load_page(&self, py: Python<'_>, page: u64, into: &mut Page) -> PyResult<bool> {
        let (found, raised) = self.run(py, |stack| stack.load(index(page), into))?;
        found.map(|loaded| loaded == Loaded::Loaded).map_err(|lost| {
            let text = match lost {
                Lost::Backend(_) => {
                    format!("page {page}: {lost}. Store it again, or invalidate it")
                }
                Lost::Device(_) => format!("page {page}: {lost} (law 12). Check the disk"),
            };
            let error = raise(py, "PageLostError", text);
            let cause = raised.iter().rev().find(|one| one.verb == "load");
            error.set_cause(py, cause.map(|one| one.error.clone_ref(py)));
            error
        })
    }
}

#[pymethods]
impl Frontswap {
    #[new]
    #[pyo3(signature = (device, backends, *, area, pages, writethrough, exclusive, report))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        device: Option<PyRef<'_, SwapDevice>>,
        backends: Vec<Bound<'_, PyAny>>,
        area: u32,
        pages: usize,
        writethrough: bool,
        exclusive: bool,
        report: Py<PyAny>,
    ) -> PyResult<Frontswap> {
        let faults = Faults::default();
        let made: Vec<_> = backends.iter().map(|b| adapt(b, &faults)).collect::<PyResult<_>>()?;
        let device = device.map(|d| Arc::clone(&d.shared));
        let mode = Mode { writethrough, exclusive };
        let stack = py
            .detach(|| Stack::new(device, made, area, pages, mode))
            .map_err(|errno| refused(errno, pages))?;
        let this = Frontswap { own: Own::new(stack, "Frontswap"), area, faults, report };
        this.quiet(py, |_| ())?;
        Ok(this)
    }

    #[getter]
    fn area(&self) -> u32 {
        self.area
    }

    /// The swap-out of a page; the outcome's code.
    fn store(&self, py: Python<'_>, page: u64, data: &Bound<'_, PyAny>) -> PyResult<u8> {
        let buffer = Buffer::read(data)?;
        let copy: Page = buffer.pages(1)?[0];
        self.quiet(py, |stack| stack.store(index(page), &copy).code())
    }

    /// The swap-in of a page, or None.
    fn load<'py>(&self, py: Python<'py>, page: u64) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut copy = [0; PAGE_SIZE];
        let found = self.load_page(py, page, &mut copy)?;
        Ok(found.then(|| PyBytes::new(py, &copy)))
    }

    /// The swap-in of a page to a buffer; whether there was one.
    fn load_into(&self, py: Python<'_>, page: u64, into: &Bound<'_, PyAny>) -> PyResult<bool> {
        let mut buffer = Buffer::write(into)?;
        let target = &mut buffer.pages_mut(1)?[0];
        let mut copy = [0; PAGE_SIZE];
        let found = self.load_page(py, page, &mut copy)?;
        if found {
            target.copy_from_slice(&copy);
        }
        Ok(found)
    }

    /// Forgets a page.
    fn invalidate_page(&self, py: Python<'_>, page: u64) -> PyResult<()> {
        self.quiet(py, |stack| stack.invalidate_page(index(page)))
    }

    /// Forgets all pages; stores are refused until the next init.
    fn invalidate_area(&self, py: Python<'_>) -> PyResult<()> {
        self.quiet(py, Stack::invalidate_area)
    }

    /// Announces the area.
    fn init(&self, py: Python<'_>, pages: usize) -> PyResult<()> {
        self.quiet(py, |stack| stack.init(pages))?.map_err(|errno| refused(errno, pages))
    }

    /// Takes one more backend, asked last.
    fn register(&self, py: Python<'_>, backend: &Bound<'_, PyAny>) -> PyResult<()> {
        let backend = adapt(backend, &self.faults)?;
        self.quiet(py, |stack| stack.hook.register(backend))?.map_err(|errno| refused(errno, 0))
    }

    /// Whether a load will hit.
    fn holds(&self, py: Python<'_>, page: u64) -> PyResult<bool> {
        self.quiet(py, |stack| stack.holds(index(page)))
    }

    /// The counters by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (c, pages, refused, device) = self.quiet(py, |stack| {
            let hook = &stack.hook;
            (hook.counters, hook.present_count() as u64, hook.refused, stack.counters)
        })?;
        let DeviceCounters { writes, reads, pages: device_pages, refused: device_refused } = device;
        let d = PyDict::new(py);
        let hook = [("loads", c.loads), ("succ_stores", c.succ_stores), ("failed_stores", c.failed_stores)];
        let below =
            [("device_pages", device_pages as u64), ("device_writes", writes), ("device_reads", reads)];
        let rest = [("invalidates", c.invalidates), ("pages", pages)];
        for (name, value) in hook.into_iter().chain(below).chain(rest) {
            d.set_item(name, value)?;
        }
        d.set_item("refused", by_reason(py, |reason| refused.get(reason))?)?;
        d.set_item("device_refused", by_reason(py, |reason| device_refused.get(reason))?)?;
        Ok(d)
    }

    /// Every broken law, in words.
    fn check(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.quiet(py, |stack| stack.check())
    }

    /// Forgets everything; the backends learn that the area has ended. Twice does no harm.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Some(mut stack) = self.own.take(py)? else { return Ok(()) };
        py.detach(|| {
            stack.invalidate_area();
            drop(stack);
        });
        self.tell(py, &self.faults.take())
    }
}

/// Beyond any area where the number does not fit.
fn index(page: u64) -> usize {
    usize::try_from(page).unwrap_or(usize::MAX)
}

fn adapt(object: &Bound<'_, PyAny>, faults: &Faults) -> PyResult<Box<dyn BackendOps>> {
    match object.cast::<Backend>() {
        Ok(native) => Ok(native.get().lend()),
        Err(_) => Ok(Box::new(PyBackend::new(object, faults)?)),
    }
}

fn refused(errno: Errno, pages: usize) -> PyErr {
    if errno == Errno::ENOSPC {
        return PyValueError::new_err(format!("a Frontswap has at most {MAX_BACKENDS} backends"));
    }
    if errno == Errno::EINVAL {
        return PyValueError::new_err(
            "writethrough needs a swap device to write through to: give swap_device",
        );
    }
    PyMemoryError::new_err(format!("no table for {pages} pages can be made: {errno}. Ask for fewer pages"))
}

fn by_reason<'py>(py: Python<'py>, count: impl Fn(Reason) -> u64) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    for reason in Reason::ALL {
        if count(reason) > 0 {
            d.set_item(reason.name(), count(reason))?;
        }
    }
    Ok(d)
}

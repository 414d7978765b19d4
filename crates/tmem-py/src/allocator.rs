// SPDX-License-Identifier: Apache-2.0
//! Owns: the data allocator that NumPy is handed (NEP 49): blocks from a threshold on are paged, smaller ones are
//! the C library's, or packed together into paged pages. Callers: NumPy, with the GIL, from any thread whose context
//! holds the handler; `python/tmem/numpylimit.py` sets it. Locks: the pager's own, never while a block is touched.
//! Law: an array keeps the handler that made it, the handler keeps the pager, so whoever frees finds the right one.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tmem_pager::Pager;
use tmem_sys::heap;
use tmem_sys::syscall::gettid;

const CAPSULE: &CStr = c"mem_handler";
const NAME: &[u8] = b"tmem";
/// Places in NumPy's table of C functions, fixed since 1.22 (numpy/_core/include/numpy/__multiarray_api.h).
const SET_HANDLER: usize = 304;
const GET_HANDLER: usize = 305;

/// NumPy's `PyDataMemAllocator`.
#[repr(C)]
struct Functions {
    ctx: *mut c_void,
    malloc: extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: extern "C" fn(*mut c_void, *mut c_void, usize),
}

/// NumPy's `PyDataMem_Handler`, and behind it what ours needs. NumPy sees the first three fields only.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    functions: Functions,
    pager: Arc<Pager>,
    threshold: usize,
    packs_small: bool,
    counts: Arc<Counts>,
}

/// What a handler did, why it last refused, and what it is asked to do beside.
#[derive(Default)]
struct Counts {
    /// Everything is evicted each time so many blocks were made; 0 for never.
    evict_every: AtomicU64,
    paged: AtomicU64,
    plain: AtomicU64,
    refused: AtomicU64,
    /// The thread that was refused, and why.
    why: Mutex<Option<(i32, String)>>,
}

impl Handler {
    fn allocate(&self, bytes: usize, zeroed: bool) -> *mut c_void {
        if bytes < self.threshold && !self.packs_small {
            self.counts.plain.fetch_add(1, Ordering::Relaxed);
            return heap::allocate(bytes.max(1), zeroed);
        }
        match self.pager.allocate_block(bytes) {
            Ok(block) => {
                self.count_made();
                let at = block.addr as *mut c_void;
                if zeroed && !block.zeroed {
                    // SAFETY: a block of that size that nobody else knows yet.
                    unsafe { heap::clear(at, bytes) };
                }
                at
            }
            Err(why) => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                *self.counts.why.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((gettid(), format!("{bytes} bytes for an array were refused: {why}")));
                ptr::null_mut()
            }
        }
    }

    fn count_made(&self) {
        let made = self.counts.paged.fetch_add(1, Ordering::Relaxed) + 1;
        let every = self.counts.evict_every.load(Ordering::Relaxed);
        if every > 0 && made.is_multiple_of(every) {
            // Where nothing may leave (a thread that is not covered), pages stay and the pager tells why.
            let _ = self.pager.evict_all();
        }
    }

    fn is_paged(&self, block: *mut c_void) -> bool {
        self.pager.has(block as usize)
    }

    /// Bytes of a block that is not null; `None` for an address where no block of ours begins.
    fn room(&self, block: *mut c_void) -> Option<usize> {
        if self.is_paged(block) {
            return self.pager.block_bytes(block as usize);
        }
        // SAFETY: NumPy gives back what it was given, and what is not paged is the C library's.
        Some(unsafe { heap::room(block) })
    }

    fn resize(&self, block: *mut c_void, bytes: usize) -> *mut c_void {
        let wants_plain = bytes < self.threshold && !self.packs_small;
        if !self.is_paged(block) && wants_plain {
            // SAFETY: a live block of the C library's, which NumPy alone knows.
            return unsafe { heap::resize(block, bytes.max(1)) };
        }
        let Some(room) = self.room(block) else { return ptr::null_mut() };
        if self.is_paged(block) && !wants_plain && bytes <= room && bytes > room / 2 {
            return block;
        }
        let made = self.allocate(bytes, false);
        if made.is_null() {
            // An array that shrinks always may: the memory it has is enough.
            return if bytes <= room { block } else { made };
        }
        // SAFETY: both are live, apart, and have that many bytes.
        unsafe { heap::copy(block, made, room.min(bytes)) };
        self.release(block);
        made
    }

    fn release(&self, block: *mut c_void) {
        if self.is_paged(block) {
            // False only for what is no block of ours, and that is NumPy's to know.
            self.pager.release_block(block as usize);
        } else {
            // SAFETY: NumPy gives back what it was given, once.
            unsafe { heap::release(block) };
        }
    }
}

/// The handler behind a context pointer of NumPy's.
fn handler<'a>(ctx: *mut c_void) -> &'a Handler {
    // SAFETY: NumPy passes the pointer that it found in the handler, and keeps the capsule while it calls.
    unsafe { &*ctx.cast::<Handler>() }
}

extern "C" fn malloc(ctx: *mut c_void, bytes: usize) -> *mut c_void {
    handler(ctx).allocate(bytes, false)
}

extern "C" fn calloc(ctx: *mut c_void, count: usize, bytes: usize) -> *mut c_void {
    count.checked_mul(bytes).map_or(ptr::null_mut(), |all| handler(ctx).allocate(all, true))
}

extern "C" fn realloc(ctx: *mut c_void, block: *mut c_void, bytes: usize) -> *mut c_void {
    let handler = handler(ctx);
    if block.is_null() { handler.allocate(bytes, false) } else { handler.resize(block, bytes) }
}

/// The size that NumPy passes is not always the one it asked for (numpy issue 19663): the address alone counts.
extern "C" fn free(ctx: *mut c_void, block: *mut c_void, _bytes: usize) {
    if !block.is_null() {
        handler(ctx).release(block);
    }
}

unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: called once by the interpreter, for a capsule that was made over a leaked box.
    unsafe {
        let handler = ffi::PyCapsule_GetPointer(capsule, CAPSULE.as_ptr()).cast::<Handler>();
        if !handler.is_null() {
            drop(Box::from_raw(handler));
        }
    }
}

/// A handler for NumPy's data over one pager.
#[pyclass(frozen, module = "tmem._core")]
pub struct Allocator {
    capsule: Py<PyAny>,
    counts: Arc<Counts>,
}

impl Allocator {
    pub fn new(
        py: Python<'_>,
        pager: Arc<Pager>,
        threshold: usize,
        packs_small: bool,
    ) -> PyResult<Allocator> {
        let counts = Arc::new(Counts::default());
        let mut name = [0; 127];
        name.iter_mut().zip(NAME).for_each(|(to, from)| *to = *from as c_char);
        let functions = Functions { ctx: ptr::null_mut(), malloc, calloc, realloc, free };
        let counted = Arc::clone(&counts);
        let made =
            Box::new(Handler { name, version: 1, functions, pager, threshold, packs_small, counts: counted });
        let raw = Box::into_raw(made);
        // SAFETY: the box is ours until the capsule owns it; `drop_capsule` undoes this.
        let capsule = unsafe {
            (*raw).functions.ctx = raw.cast();
            let capsule = ffi::PyCapsule_New(raw.cast(), CAPSULE.as_ptr(), Some(drop_capsule));
            Bound::from_owned_ptr_or_err(py, capsule).inspect_err(|_| drop(Box::from_raw(raw)))?
        };
        Ok(Allocator { capsule: capsule.unbind(), counts })
    }
}

#[pymethods]
impl Allocator {
    /// The handler, for `set_handler`.
    #[getter]
    fn handler(&self, py: Python<'_>) -> Py<PyAny> {
        self.capsule.clone_ref(py)
    }

    /// How many blocks were paged, left plain, refused.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = PyDict::new(py);
        for (name, count) in
            [("paged", &self.counts.paged), ("plain", &self.counts.plain), ("refused", &self.counts.refused)]
        {
            counts.set_item(name, count.load(Ordering::Relaxed))?;
        }
        Ok(counts)
    }

    /// From now on sends every page out each time so many blocks were made; 0 for never.
    fn evict_every(&self, blocks: u64) {
        self.counts.evict_every.store(blocks, Ordering::Relaxed);
    }

    /// Why this thread was refused last, if it was the last to be; told once.
    fn refusal(&self) -> Option<String> {
        let mut why = self.counts.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.take_if(|(tid, _)| *tid == gettid()).map(|(_, text)| text)
    }
}

/// The handler of the calling context.
#[pyfunction]
pub fn get_handler(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let get = numpy_function(py, GET_HANDLER)?;
    // SAFETY: the place in the table is that of `PyObject *PyDataMem_GetHandler(void)`.
    let get: extern "C" fn() -> *mut ffi::PyObject = unsafe { std::mem::transmute(get) };
    // SAFETY: NumPy returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, get()) }.map(Bound::unbind)
}

/// Sets the handler of the calling context, and the context variable that says so with it. No Python code runs in between, so that
/// an exception from a signal handler (Ctrl-C) finds both changed or neither.
#[pyfunction]
pub fn set_handler(
    handler: &Bound<'_, PyAny>,
    variable: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = handler.py();
    let before = get_handler(py)?;
    change_handler(handler)?;
    if let Err(error) = variable.call_method1("set", (value,)) {
        change_handler(before.bind(py))?;
        return Err(error);
    }
    Ok(())
}

fn change_handler(handler: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = handler.py();
    // SAFETY: the name is a live C string; a wrong or missing capsule gives a null pointer.
    if unsafe { ffi::PyCapsule_IsValid(handler.as_ptr(), CAPSULE.as_ptr()) } == c_int::from(false) {
        return Err(PyValueError::new_err("not a NumPy memory handler"));
    }
    let set = numpy_function(py, SET_HANDLER)?;
    // SAFETY: the place in the table is that of `PyObject *PyDataMem_SetHandler(PyObject *)`.
    let set: extern "C" fn(*mut ffi::PyObject) -> *mut ffi::PyObject = unsafe { std::mem::transmute(set) };
    // SAFETY: NumPy returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, set(handler.as_ptr())) }.map(drop)
}

/// A function of NumPy's C table. No binding of it that is kept has the handler's functions.
fn numpy_function(py: Python<'_>, place: usize) -> PyResult<*mut c_void> {
    let module = py.import("numpy._core.multiarray").or_else(|_| py.import("numpy.core.multiarray"))?;
    let table = module.getattr("_ARRAY_API")?;
    // SAFETY: NumPy's own capsule, which it made without a name, over a table that is never freed.
    let function = unsafe {
        let table = ffi::PyCapsule_GetPointer(table.as_ptr(), ptr::null()).cast::<*mut c_void>();
        if table.is_null() {
            return Err(PyErr::fetch(py));
        }
        *table.add(place)
    };
    if function.is_null() {
        return Err(PyRuntimeError::new_err(
            "this NumPy has no memory handlers: install NumPy 1.26 or newer",
        ));
    }
    Ok(function)
}

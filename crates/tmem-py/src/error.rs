// SPDX-License-Identifier: Apache-2.0
//! Owns: the one conversion of the lower floors' errors to the exceptions of `tmem.errors`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tmem_pager::PagerError;
use tmem_store::{GuestError, HostError, StoreError};
use tmem_sys::Errno;

/// The exception for an error; its class is looked up by name, so that Python owns the tree.
pub fn to_python(py: Python<'_>, error: PagerError) -> PyErr {
    let text = error.to_string();
    let made = match &error {
        PagerError::Budget(_) => make(py, "BudgetError", (text.clone(),)),
        PagerError::Closed => make(py, "ClosedError", (text.clone(),)),
        PagerError::Unsupported(_) => make(py, "KernelUnsupported", (text.clone(),)),
        PagerError::Swap(errno, _) => make(py, "SwapError", (errno.0, text.clone())),
        PagerError::NotOurs => Ok(PyValueError::new_err(text)),
        PagerError::Kernel(_, errno) if errno.0 == libc_enomem() => make(py, "BudgetError", (text.clone(),)),
        PagerError::Kernel(..) => make(py, "KernelUnsupported", (text.clone(),)),
    };
    made.unwrap_or_else(|import_error| import_error)
}

/// The exception for an error of a page store.
pub fn store_to_python(py: Python<'_>, error: StoreError) -> PyErr {
    let (class, next) = match error {
        StoreError::NoSuchPool => ("ClosedError", ": make a new Pool"),
        StoreError::Corrupt(_) => ("PageLostError", ". Do not go on with this data"),
        StoreError::TooManyPools | StoreError::NoEphemeralPools => ("PoolError", ""),
    };
    raise(py, class, format!("{error}{next}"))
}

/// The exception for a pool that cannot be made.
pub fn host_to_python(py: Python<'_>, error: HostError) -> PyErr {
    match error {
        HostError::Store(error) => store_to_python(py, error),
        HostError::Guest(error) => guest_to_python(py, error),
    }
}

/// The exception for a guest that cannot be made.
pub fn guest_to_python(py: Python<'_>, error: GuestError) -> PyErr {
    match error {
        GuestError::BadName => PyValueError::new_err(error.to_string()),
        GuestError::TooMany => raise(py, "PoolError", error.to_string()),
    }
}

/// The exception for a host that cannot be made.
pub fn reserve_to_python(py: Python<'_>, errno: Errno) -> PyErr {
    let text = format!("no address space for a host ({errno}): raise `ulimit -v`, or ask for less");
    raise(py, "BudgetError", text)
}

fn libc_enomem() -> i32 {
    tmem_sys::Errno::ENOMEM.0
}

/// The exception of that name in `tmem.errors`, with one text.
pub fn raise(py: Python<'_>, class: &str, text: String) -> PyErr {
    make(py, class, (text,)).unwrap_or_else(|import_error| import_error)
}

fn make<'py, A>(py: Python<'py>, class: &str, args: A) -> PyResult<PyErr>
where
    A: pyo3::call::PyCallArgs<'py>,
{
    let class = py.import("tmem.errors")?.getattr(class)?;
    Ok(PyErr::from_value(class.call1(args)?))
}

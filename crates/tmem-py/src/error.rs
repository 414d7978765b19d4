// SPDX-License-Identifier: Apache-2.0
//! Owns: the one conversion of the lower floors' errors to the exceptions of `tmem.errors`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tmem_pager::PagerError;

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

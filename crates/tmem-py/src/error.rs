// SPDX-License-Identifier: Apache-2.0
//! Owns: the one conversion of the lower floors' errors to the exceptions of `tmem.errors`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tmem_pager::PagerError;

/// The exception for an error; its class is looked up by name, so that Python owns the tree.
pub fn to_python(py: Python<'_>, error: PagerError) -> PyErr {
    let text = error.to_string();
    let made = match &error {
        PagerError::Budget(_) => raise(py, "BudgetError", (text.clone(),)),
        PagerError::Closed => raise(py, "ClosedError", (text.clone(),)),
        PagerError::Unsupported(_) => raise(py, "KernelUnsupported", (text.clone(),)),
        PagerError::Swap(errno, _) => raise(py, "SwapError", (errno.0, text.clone())),
        PagerError::NotOurs => Ok(PyValueError::new_err(text)),
        PagerError::Kernel(_, errno) if errno.0 == libc_enomem() => raise(py, "BudgetError", (text.clone(),)),
        PagerError::Kernel(..) => raise(py, "KernelUnsupported", (text.clone(),)),
    };
    made.unwrap_or_else(|import_error| import_error)
}

fn libc_enomem() -> i32 {
    tmem_sys::Errno::ENOMEM.0
}

fn raise<'py, A>(py: Python<'py>, class: &str, args: A) -> PyResult<PyErr>
where
    A: pyo3::call::PyCallArgs<'py>,
{
    let class = py.import("tmem.errors")?.getattr(class)?;
    Ok(PyErr::from_value(class.call1(args)?))
}

// SPDX-License-Identifier: Apache-2.0
//! Owns: the one conversion of the lower floors' errors to the exceptions of `tmem.errors`.

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use std::path::Path;
use tmem_pager::PagerError;
use tmem_store::save::{RestoreError, SaveError};
use tmem_store::{GuestError, HostError, Reason, StoreError};
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

/// The exception for pools that cannot be saved.
pub fn save_to_python(py: Python<'_>, error: SaveError) -> PyErr {
    let text = error.to_string();
    let made = match error {
        SaveError::Store(error) => return store_to_python(py, error),
        SaveError::Held => make(py, "SaveError", (Errno::EBUSY.0, text)),
        SaveError::Over => make(py, "SaveError", (Errno::ECANCELED.0, text)),
        SaveError::Lost(..) => make(py, "PageLostError", (text,)),
        SaveError::Room(_) => make(py, "BudgetError", (text,)),
    };
    made.unwrap_or_else(|import_error| import_error)
}

/// The exception for a file that pools cannot be restored from.
pub fn restore_to_python(py: Python<'_>, error: RestoreError, path: &Path) -> PyErr {
    let text = error.to_string();
    let errno = match error {
        RestoreError::Store(error) => return store_to_python(py, error),
        RestoreError::Refused(Reason::StoreFull | Reason::IndexFull | Reason::OverCap, _)
        | RestoreError::Room(_) => return raise(py, "BudgetError", format!("{}: {text}", path.display())),
        RestoreError::Refused(..) => Errno::EBUSY.0,
        RestoreError::Io(error) => error.raw_os_error().unwrap_or(Errno::EIO.0),
        RestoreError::Version(_)
        | RestoreError::PageSize(_)
        | RestoreError::Codec(_)
        | RestoreError::Unknown(_) => Errno::ENOTSUP.0,
        RestoreError::Strange
        | RestoreError::Short(_)
        | RestoreError::Damaged(..)
        | RestoreError::Misused(_) => Errno::EBADMSG.0,
    };
    make(py, "SaveError", (errno, text, path.as_os_str())).unwrap_or_else(|import_error| import_error)
}

/// The exception for a file that cannot be opened: Python's own for its number, such as FileNotFoundError.
pub fn open_to_python(path: &Path, error: &std::io::Error) -> PyErr {
    let text = error.to_string();
    let plain = text.split(" (os error").next().unwrap_or_default().to_owned();
    PyOSError::new_err((error.raw_os_error(), plain, path.as_os_str().to_owned()))
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

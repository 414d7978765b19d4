// SPDX-License-Identifier: Apache-2.0
//! Owns: the list of what the garbage collector tracks, less what must not be held. Callers: `python/tmem/census.py`.
//! Locks: none; the GIL is kept from the first object to the last, and no Python code runs between.
//! Law: nobody notices that somebody looked. Before 3.14 the collector tracks a tuple that another thread is still making,
//! and that thread fails with SystemError where the tuple is held elsewhere when it is done. So no tuple is handed out:
//! those that are done are reached through what holds them.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

/// Returns the objects that the garbage collector tracks, without tuples.
#[pyfunction]
pub fn tracked(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let every = py.import("gc")?.getattr("get_objects")?;
    let found = every.call0()?.cast_into::<PyList>()?;
    let kept = PyList::empty(py);
    for object in found.iter() {
        if !object.is_exact_instance_of::<PyTuple>() {
            kept.append(object)?;
        }
    }
    Ok(kept)
}

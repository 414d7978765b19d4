// SPDX-License-Identifier: Apache-2.0
//! Owns: what `tmem doctor` learns from the kernel, as plain Python values.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tmem_sys::caps::Caps;
use tmem_sys::entry::Entry;
use tmem_sys::proc;

/// Tries what this machine permits this process.
#[pyfunction]
pub fn probe(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let caps = py.detach(Caps::probe);
    let d = PyDict::new(py);
    d.set_item("page_size", caps.page_size)?;
    d.set_item("kernel", proc::kernel_release())?;
    d.set_item("uffd_full", caps.uffd_full.is_ok())?;
    d.set_item("uffd_user", caps.uffd_user.is_ok())?;
    d.set_item("uffd_device", caps.uffd_device)?;
    d.set_item("move", caps.moves)?;
    d.set_item("sigbus", caps.sigbus)?;
    d.set_item("dispatch", caps.dispatch.is_ok())?;
    d.set_item("max_map_count", proc::max_map_count())?;
    let sysctl = proc::unprivileged_userfaultfd().and_then(|n| i64::try_from(n).ok());
    d.set_item("unprivileged_sysctl", sysctl.unwrap_or(-1))?;
    let (entries, guarded) = (PyDict::new(py), PyDict::new(py));
    for entry in [Entry::Signal, Entry::Thread] {
        entries.set_item(entry.name(), caps.refusal(entry).unwrap_or_default())?;
        guarded.set_item(entry.name(), caps.guarded(entry))?;
    }
    d.set_item("entries", entries)?;
    d.set_item("guarded", guarded)?;
    Ok(d)
}

// SPDX-License-Identifier: Apache-2.0
//! `tmem._core`: the export list of the bindings. PyO3 is used in this crate only; the floors below know no Python.

mod allocator;
mod backend;
mod buffer;
mod cache;
mod error;
mod frontswap;
mod guest;
mod host;
mod lease;
mod leasedpool;
mod memory;
mod objects;
mod own;
mod pool;
mod probe;
mod pyops;
mod region;
mod saving;
mod walk;

use pyo3::prelude::*;
use tmem_store::Reason;

/// From here on nothing is unmapped any more; registered with `atexit` by the package.
#[pyfunction]
fn finalize() {
    tmem_pager::finalize();
}

/// The compiled part of tmem.
#[pymodule(gil_used = false)]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("BUILD_PROFILE", if cfg!(debug_assertions) { "debug" } else { "release" })?;
    m.add("MIN_RAM", tmem_pager::MIN_RAM)?;
    m.add("REASONS", Reason::ALL.map(Reason::name))?;
    m.add_class::<backend::Backend>()?;
    m.add_class::<frontswap::Frontswap>()?;
    m.add_class::<frontswap::SwapDevice>()?;
    m.add_class::<memory::Memory>()?;
    m.add_class::<region::Region>()?;
    m.add_class::<allocator::Allocator>()?;
    m.add("MIN_HOST", tmem_store::PageStore::SMALLEST_LIMIT)?;
    m.add("PAGE_METADATA", tmem_store::guests::PAGE_METADATA)?;
    m.add_class::<host::Host>()?;
    m.add_class::<pool::Pool>()?;
    m.add_class::<guest::Guest>()?;
    m.add_class::<leasedpool::LeasedPool>()?;
    m.add_class::<cache::Cache>()?;
    m.add_class::<saving::Saver>()?;
    m.add_class::<saving::Restorer>()?;
    m.add_function(wrap_pyfunction!(probe::probe, m)?)?;
    m.add_function(wrap_pyfunction!(memory::stats_read, m)?)?;
    m.add_function(wrap_pyfunction!(memory::memories, m)?)?;
    m.add_function(wrap_pyfunction!(memory::find, m)?)?;
    m.add_function(wrap_pyfunction!(allocator::get_handler, m)?)?;
    m.add_function(wrap_pyfunction!(allocator::set_handler, m)?)?;
    m.add_function(wrap_pyfunction!(objects::tracked, m)?)?;
    m.add_function(wrap_pyfunction!(walk::walk, m)?)?;
    m.add_function(wrap_pyfunction!(walk::walk_verify, m)?)?;
    m.add_function(wrap_pyfunction!(finalize, m)?)?;
    Ok(())
}

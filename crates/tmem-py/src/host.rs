// SPDX-License-Identifier: Apache-2.0
//! Owns: the Python face of an embedded host. Callers: `python/tmem/host.py`. The GIL is let go before the host's
//! lock is taken, and nothing below ever asks for it.

use crate::error::{guest_to_python, reserve_to_python};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::Arc;
use tmem_store::{HostConfig, Traffic};

/// RAM for pools, under one limit for everything.
#[pyclass(frozen, module = "tmem._core")]
pub struct Host {
    pub host: Arc<tmem_store::Host>,
}

#[pymethods]
impl Host {
    #[new]
    #[pyo3(signature = (limit, *, reserve))]
    fn new(py: Python<'_>, limit: usize, reserve: usize) -> PyResult<Host> {
        let config = HostConfig { limit_bytes: limit, reserve_bytes: reserve };
        let host = py.detach(|| tmem_store::Host::new(config)).map_err(|e| reserve_to_python(py, e))?;
        Ok(Host { host })
    }

    /// Sets the limit in bytes; ephemeral pages go until what is there fits.
    fn resize(&self, py: Python<'_>, limit: usize) {
        py.detach(|| self.host.set_limit(limit));
    }

    /// Sets a guest's weight where one is given, and its cap where `capped` says so.
    #[pyo3(signature = (guest, *, weight, cap, capped))]
    fn set(
        &self,
        py: Python<'_>,
        guest: &str,
        weight: Option<u32>,
        cap: Option<u64>,
        capped: bool,
    ) -> PyResult<()> {
        let set = py.detach(|| {
            self.host.set_guest(guest, |mut limits| {
                limits.weight = weight.unwrap_or(limits.weight);
                limits.cap = if capped { cap } else { limits.cap };
                limits
            })
        });
        set.map_err(|e| guest_to_python(py, e))
    }

    /// Freezes or thaws all pools of a guest; how many, or None where there is no such guest.
    fn set_frozen(&self, py: Python<'_>, guest: &str, frozen: bool) -> Option<usize> {
        py.detach(|| self.host.set_guest_frozen(guest, frozen))
    }

    /// Every guest with its numbers.
    fn guests<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        for (name, stats) in py.detach(|| self.host.guests()) {
            let numbers = PyDict::new(py);
            numbers.set_item("weight", stats.limits.weight)?;
            numbers.set_item("cap", stats.limits.cap)?;
            numbers.set_item("pools", stats.pools)?;
            numbers.set_item("pages", stats.held.pages)?;
            numbers.set_item("ephemeral_pages", stats.held.ephemeral_pages)?;
            numbers.set_item("charge", stats.held.charge)?;
            numbers.set_item("freeable", stats.held.ephemeral_charge)?;
            numbers.set_item("evicted", stats.evicted)?;
            all.set_item(name, numbers)?;
        }
        Ok(all)
    }

    /// All counters.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (stats, freeable, limit) =
            py.detach(|| (self.host.stats(), self.host.freeable(), self.host.limit()));
        let numbers = traffic(py, &stats.traffic)?;
        for (name, value) in [
            ("capacity", limit as u64),
            ("footprint", stats.footprint_bytes),
            ("freeable", freeable),
            ("pages", stats.held.pages()),
            ("same_pages", stats.held.same_pages),
            ("packed_pages", stats.held.packed_pages),
            ("raw_pages", stats.held.raw_pages),
            ("data_bytes", stats.held.data_bytes),
            ("slot_bytes", stats.slot_bytes),
            ("mapped_bytes", stats.mapped_bytes),
            ("index_bytes", stats.index_bytes),
            ("objects", stats.objects),
            ("moved", stats.moved),
            ("shared_pages", stats.held.shared_pages),
            ("saved_bytes", stats.dedup.saved_bytes),
            ("dedup_all", stats.dedup.pools_all),
            ("dedup_hashed", stats.dedup.hashed),
            ("dedup_found", stats.dedup.found),
            ("dedup_failed", stats.dedup.failed),
            ("dedup_ns", stats.dedup.ns),
            ("dedup_bytes", stats.dedup.table_bytes),
        ] {
            numbers.set_item(name, value)?;
        }
        Ok(numbers)
    }

    /// Every broken law, in words.
    fn check(&self, py: Python<'_>) -> Vec<String> {
        py.detach(|| self.host.check())
    }

    #[getter]
    fn limit(&self, py: Python<'_>) -> usize {
        py.detach(|| self.host.limit())
    }

    #[getter]
    fn reserve(&self) -> usize {
        self.host.reserve_bytes()
    }

    #[getter]
    fn freeable(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.host.freeable())
    }
}

/// The counters of a pool or a host, by their historical names; refusals by reason.
pub fn traffic<'py>(py: Python<'py>, traffic: &Traffic) -> PyResult<Bound<'py, PyDict>> {
    let (numbers, refused) = (PyDict::new(py), PyDict::new(py));
    for (reason, n) in traffic.refused.iter() {
        refused.set_item(reason.name(), n)?;
    }
    for (name, value) in [
        ("puts", traffic.puts),
        ("succ_puts", traffic.stored),
        ("failed_puts", traffic.refused.total()),
        ("dup_puts", traffic.duplicates),
        ("gets", traffic.gets),
        ("succ_gets", traffic.hits),
        ("flushed", traffic.flushed),
        ("evicted", traffic.evicted),
    ] {
        numbers.set_item(name, value)?;
    }
    numbers.set_item("refused", refused)?;
    Ok(numbers)
}

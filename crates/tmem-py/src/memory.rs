// SPDX-License-Identifier: Apache-2.0
//! Owns: the Python face of one pager. Callers: `python/tmem/memory.py`. The GIL is let go before any lock of the
//! pager is taken, and nothing below ever asks for it.

use crate::allocator::Allocator;
use crate::error::to_python;
use crate::lease::{Host, Lease, reserve};
use crate::region::Region;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tmem_pager::{Advice, Backend, Choice, Config, Pager, PagerError, Pattern, stats};
use tmem_sys::background::known_to_libc;
use tmem_sys::entry::Entry;

/// A budget of RAM and what is paged under it.
#[pyclass(frozen, module = "tmem._core")]
pub struct Memory {
    pager: Arc<Pager>,
    lease: Option<Arc<Lease>>,
    #[pyo3(get)]
    name: String,
}

const CONNECTING: &str = "starting the connection to the daemon";

/// The pagers of this process, for whoever has an array and no `Memory`.
static LIVE: Mutex<Vec<Known>> = Mutex::new(Vec::new());

struct Known {
    pager: Weak<Pager>,
    lease: Option<Arc<Lease>>,
    name: String,
}

/// Every memory that has a handle or an array left.
#[pyfunction]
pub fn memories() -> Vec<Memory> {
    let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    live.retain(|known| known.pager.strong_count() > 0);
    let alive = |known: &Known| {
        let (lease, name) = (known.lease.clone(), known.name.clone());
        Some(Memory { pager: known.pager.upgrade()?, lease, name })
    };
    live.iter().filter_map(alive).collect()
}

/// The memory that has a byte range in one live extent.
#[pyfunction]
pub fn find(address: usize, nbytes: usize) -> Option<Memory> {
    memories().into_iter().find(|memory| memory.pager.owns(address, nbytes))
}

impl Memory {
    /// Its pager, for what lodges in it.
    pub fn pager(&self) -> Arc<Pager> {
        Arc::clone(&self.pager)
    }

    /// Runs a verb without the GIL.
    fn run<R: Send>(
        &self,
        py: Python<'_>,
        verb: impl FnOnce(&Pager) -> Result<R, PagerError> + Send,
    ) -> PyResult<R> {
        let pager = &self.pager;
        py.detach(|| verb(pager)).map_err(|e| to_python(py, e))
    }
}

#[pymethods]
impl Memory {
    #[new]
    #[pyo3(signature = (ram, *, swap_dir, swap_bytes, faults, name, backends=vec![Kind::Named("store".into())], limit_ms=10_000, background=true, dedup="auto", host=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        ram: usize,
        swap_dir: Option<PathBuf>,
        swap_bytes: u64,
        faults: &str,
        name: Option<String>,
        backends: Vec<Kind>,
        limit_ms: u64,
        background: bool,
        dedup: &str,
        host: Option<Host>,
    ) -> PyResult<Memory> {
        let has_store = || backends.iter().any(|one| matches!(one, Kind::Named(name) if name == "store"));
        if host.is_some() && !has_store() {
            let text =
                "host lends memory to the page store, and ops has none: add 'store', or leave host out";
            return Err(PyValueError::new_err(text));
        }
        let name = name.unwrap_or_default();
        let config = Config {
            ram,
            swap: swap_dir.map(|dir| (dir, swap_bytes)),
            faults: choice(faults)?,
            name: name.clone(),
            backends: backends
                .iter()
                .map(|kind| kind.backend(limit_ms, host.is_some()))
                .collect::<PyResult<_>>()?,
            background: background.then_some(known_to_libc),
            dedup: crate::pool::dedup(dedup)?,
            arena: tmem_pager::ARENA_BYTES,
            guarded: false,
        };
        let has_swap = config.swap.is_some();
        let made = py.detach(|| {
            let pager = Arc::new(Pager::new(config)?);
            let begin =
                |host| Lease::begin(&pager, host, has_swap).map_err(|e| PagerError::Kernel(CONNECTING, e));
            let lease = host.map(begin).transpose()?.map(Arc::new);
            Ok((pager, lease))
        });
        let (pager, lease) = made.map_err(|e| to_python(py, e))?;
        let known = Known { pager: Arc::downgrade(&pager), lease: lease.clone(), name: name.clone() };
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).push(known);
        Ok(Memory { pager, lease, name })
    }

    /// A zeroed extent of at least `nbytes`, freed with the last reference to it.
    fn allocate(&self, py: Python<'_>, nbytes: usize) -> PyResult<Region> {
        let address = self.run(py, |p| p.allocate(nbytes))?;
        Ok(Region::new(Arc::clone(&self.pager), address, nbytes))
    }

    /// A data allocator for NumPy over this memory: blocks of `threshold` bytes or more are paged, smaller ones too where
    /// `small` is `packed`.
    fn allocator(&self, py: Python<'_>, threshold: usize, small: &str) -> PyResult<Allocator> {
        let packs_small = match small {
            "plain" => false,
            "packed" => true,
            other => {
                return Err(PyValueError::new_err(format!("unknown small={other:?}: use plain or packed")));
            }
        };
        Allocator::new(py, Arc::clone(&self.pager), threshold, packs_small)
    }

    /// Changes the budget.
    fn resize(&self, py: Python<'_>, ram: usize) -> PyResult<()> {
        self.run(py, |p| p.resize(ram))
    }

    /// Has up to so many pages leave the store for RAM that is unused, the oldest first; how many did.
    fn unstore(&self, py: Python<'_>, pages: usize) -> PyResult<usize> {
        self.run(py, |p| p.unstore(pages))
    }

    /// The budget in bytes.
    #[getter]
    fn ram(&self) -> usize {
        self.pager.ram()
    }

    /// Packs everything stored as tightly as can be.
    fn settle(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, Pager::settle)
    }

    /// Brings a range in as far as the budget lets it stay.
    fn prefetch(&self, py: Python<'_>, address: usize, nbytes: usize) -> PyResult<()> {
        self.run(py, |p| p.prefetch(address, nbytes))
    }

    /// Sends a range out; the number of pages that left.
    fn evict(&self, py: Python<'_>, address: usize, nbytes: usize) -> PyResult<usize> {
        self.run(py, |p| p.evict(address, nbytes))
    }

    /// Where each page of a range is: a byte a page, the place of its tier in `tmem.TIERS`.
    fn tiers<'py>(&self, py: Python<'py>, address: usize, nbytes: usize) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.run(py, |p| p.tiers(address, nbytes))?))
    }

    /// Keeps a range resident until it is unpinned.
    fn pin(&self, py: Python<'_>, address: usize, nbytes: usize) -> PyResult<()> {
        self.run(py, |p| p.pin(address, nbytes))
    }

    /// Ends one pin of a range.
    fn unpin(&self, py: Python<'_>, address: usize, nbytes: usize) -> PyResult<()> {
        self.run(py, |p| p.unpin(address, nbytes))
    }

    /// Says how a range will be used.
    fn advise(&self, py: Python<'_>, address: usize, nbytes: usize, advice: &str) -> PyResult<()> {
        let advice = match advice {
            "normal" => Advice::Pattern(Pattern::Normal),
            "sequential" => Advice::Pattern(Pattern::Sequential),
            "random" => Advice::Pattern(Pattern::Random),
            "willneed" => Advice::WillNeed,
            "cold" => Advice::Cold,
            other => {
                return Err(PyValueError::new_err(format!(
                    "unknown advice {other:?}: use normal, sequential, random, willneed or cold"
                )));
            }
        };
        self.run(py, |p| p.advise(address, nbytes, advice))
    }

    /// Whether a range lies in one live extent of this memory.
    fn owns(&self, address: usize, nbytes: usize) -> bool {
        self.pager.owns(address, nbytes)
    }

    /// All counters, brought up to date.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let values =
            self.run(py, |p| p.stats(|s| stats::places().map(|(n, i)| (n, s.at(i))).collect::<Vec<_>>()))?;
        let told = describe(py, values, &self.name, u64::from(std::process::id()), Some(self.pager.entry()))?;
        told.set_item("host", self.lease.as_ref().map_or("", |lease| lease.standing()))?;
        Ok(told)
    }

    /// Every broken law, in words.
    fn check(&self, py: Python<'_>) -> Vec<String> {
        let pager = &self.pager;
        py.detach(|| pager.check())
    }

    /// Warnings that the path of a page could not raise itself; each is given once.
    fn notices(&self) -> Vec<String> {
        let mut notices = self.pager.notices();
        notices.extend(self.lease.as_ref().and_then(|lease| lease.notice()));
        notices
    }

    /// No new allocations; the number of live extents.
    fn close(&self, py: Python<'_>) -> usize {
        let pager = &self.pager;
        py.detach(|| pager.close())
    }

    #[getter]
    fn closed(&self) -> bool {
        self.pager.is_closed()
    }

    #[getter]
    fn faults(&self) -> &'static str {
        self.pager.entry().name()
    }
}

fn choice(faults: &str) -> PyResult<Choice> {
    match faults {
        "auto" => Ok(Choice::Auto),
        "signal" => Ok(Choice::Only(Entry::Signal)),
        "thread" => Ok(Choice::Only(Entry::Thread)),
        other => Err(PyValueError::new_err(format!("unknown faults={other:?}: use auto, signal or thread"))),
    }
}

/// A backend of this process by name, or the socket to one of its own.
#[derive(FromPyObject)]
enum Kind {
    Process(i32),
    Named(String),
}

impl Kind {
    fn backend(&self, limit_ms: u64, leases: bool) -> PyResult<Backend> {
        match self {
            Kind::Process(fd) => Ok(Backend::Process { fd: *fd, limit_ms }),
            Kind::Named(name) => match name.as_str() {
                "store" if leases => Ok(Backend::Leasing { reserve: reserve() }),
                "store" => Ok(Backend::Store),
                "refuse" => Ok(Backend::RefuseAll),
                "plain" => Ok(Backend::Plain),
                other => Err(PyValueError::new_err(format!(
                    "unknown backend {other:?}: use store, refuse or plain"
                ))),
            },
        }
    }
}

fn describe<'py>(
    py: Python<'py>,
    values: Vec<(String, u64)>,
    name: &str,
    pid: u64,
    entry: Option<Entry>,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let mut published = 0;
    for (key, value) in values {
        if key == "entry" {
            published = value;
        } else {
            dict.set_item(key, value)?;
        }
    }
    let in_force = match published {
        1 => Some(Entry::Signal),
        2 => Some(Entry::Thread),
        _ => entry,
    };
    dict.set_item("entry", in_force.map_or("", Entry::name))?;
    dict.set_item("name", name)?;
    dict.set_item("pid", pid)?;
    Ok(dict)
}

/// Reads the counters that another process publishes, from the path of its descriptor.
#[pyfunction]
pub fn stats_read<'py>(py: Python<'py>, fd_path: PathBuf) -> PyResult<Bound<'py, PyDict>> {
    let bytes = std::fs::read(&fd_path).map_err(PyErr::from)?;
    let snapshot = tmem_sys::counters::decode(&bytes).ok_or_else(|| {
        PyOSError::new_err(format!("{} holds no tmem statistics of this version", fd_path.display()))
    })?;
    let values = stats::places().map(|(n, i)| (n, snapshot.values[i])).collect();
    describe(py, values, &snapshot.name, snapshot.pid, None)
}

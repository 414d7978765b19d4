// SPDX-License-Identifier: Apache-2.0
//! Owns: the handle of one pager, as the bindings use it: construction, and every verb with its locking.
//! Callers: `tmem-py`. Locks, in order: extents, then state, then a lodger's host. Never called from a fault.

use crate::arm::{self, Choice};
use crate::background;
use crate::error::PagerError;
use crate::extents::Extents;
use crate::fork;
use crate::notices::Notice;
use crate::registry::{self, Slot};
use crate::state::{Setup, State};
use crate::stats::{Stat, Stats};
use crate::swapout::SwapOut;
use crate::verbs::Advice;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tmem_store::swap::{SwapConfig, SwapOpenError};
use tmem_store::{
    BackendOps, Dedup, Dictionaries, Frontswap, LocalBackend, Mode, PoolConfig, ProcessBackend, StoreConfig,
    SwapDevice, testback,
};
use tmem_sys::LockGuard;
use tmem_sys::background::Maker;
use tmem_sys::counters::Counters;
use tmem_sys::entry::Entry;
use tmem_sys::frames::Access;
use tmem_sys::page::{HUGE_SIZE, PAGE_SIZE, pages_for};

/// The smallest budget: tables, a standby list and room for a few threads' instructions.
pub const MIN_RAM: usize = 16 << 20;
/// Address space of an arena where nothing limits it: it bounds what one `Memory` can hold, not what it uses.
pub const ARENA_BYTES: usize = if cfg!(feature = "fake-kernel") { 1 << 30 } else { 1 << 40 };

/// Where pages go before the swap device: the backends behind frontswap, asked in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The page store in this process.
    Store,
    /// As `Store`, and it may take memory on lease beside the budget, up to so many bytes: see [`Pager::set_mailbox`].
    Leasing { reserve: usize },
    /// Refuses every page, so that all fall through to the swap device.
    RefuseAll,
    /// Plain copies: prices the pager without compression.
    Plain,
    /// A process of its own at the other end of a socket, which stays the caller's. Nobody waits longer for it than `limit_ms`.
    Process { fd: i32, limit_ms: u64 },
}

#[derive(Clone, Debug)]
pub struct Config {
    /// The budget in bytes.
    pub ram: usize,
    /// Directory and size in bytes of the swap device.
    pub swap: Option<(PathBuf, u64)>,
    pub faults: Choice,
    pub name: String,
    pub backends: Vec<Backend>,
    /// Have the process's background thread pack cold pages tighter, a thread made so: see [`Maker`].
    pub background: Option<Maker>,
    /// Which pages the store looks up among those it has.
    pub dedup: Dedup,
    /// Bytes of address space for extents, whole huge pages; it takes no memory.
    pub arena: usize,
    /// Whether a touch of what no extent has committed is SIGSEGV, as on memory that is not mapped.
    pub guarded: bool,
}

/// One pager. Dropping the handle does not end it: arrays may live on; see [`Pager::close`].
pub struct Pager {
    index: usize,
    pub(crate) choice: Choice,
    pub(crate) planned: Entry,
    background: Option<Maker>,
}

pub(crate) fn too_small(ram: usize) -> PagerError {
    PagerError::Budget(format!("a budget of {} KiB is below the minimum of {} MiB", ram >> 10, MIN_RAM >> 20))
}

pub(crate) fn is_finalized() -> bool {
    FINALIZED.load(Ordering::Acquire)
}

static FINALIZED: AtomicBool = AtomicBool::new(false);

/// From here on nothing is unmapped any more: the interpreter is going down and threads may still touch arrays.
pub fn finalize() {
    FINALIZED.store(true, Ordering::Release);
}

impl Pager {
    /// # Errors
    /// `Budget` below the minimum, `Unsupported` with the remedy, `Swap` when no file can be made.
    pub fn new(config: Config) -> Result<Pager, PagerError> {
        if config.ram < MIN_RAM {
            return Err(too_small(config.ram));
        }
        let planned = arm::choose(config.faults)?;
        tmem_sys::time::calibrate();
        fork::register()?;
        let state = build(&config)?;
        let workers = registry::workers(&state)?;
        let index = registry::claim().ok_or_else(|| {
            PagerError::Budget(format!("{} Memory objects live already; close some", registry::MAX_PAGERS))
        })?;
        registry::slot(index).fill(state, workers);
        registry::slot(index).set_kept(config.background.is_some());
        Ok(Pager { index, choice: config.faults, planned, background: config.background })
    }

    pub(crate) fn slot(&self) -> &'static Slot {
        registry::slot(self.index)
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> Result<R, PagerError> {
        self.slot().lock().as_mut().map(f).ok_or(PagerError::Closed)
    }

    /// Packs everything stored as tightly as can be, as if it had been cold for long.
    ///
    /// # Errors
    /// `Closed`; `Kernel` without memory for it.
    pub fn settle(&self) -> Result<(), PagerError> {
        self.with(|_| ())?;
        background::settle_all(self.slot()).map_err(|e| PagerError::Kernel("packing cold pages", e))?;
        self.with(State::publish)
    }

    /// Where memory is paged, sees to it that the process has its background thread; a forked child has none at first. Not
    /// for under the pager's lock.
    pub(crate) fn start_background(&self) {
        let wanted = self.background.filter(|_| self.slot().is_paged());
        if wanted.is_some_and(|make| background::start(make).is_err()) {
            let _ = self.with(|state| state.notices.tell(Notice::NoBackground));
        }
    }

    pub fn is_closed(&self) -> bool {
        self.slot().closed.load(Ordering::Acquire)
    }

    pub(crate) fn extents(&self) -> LockGuard<'static, Extents> {
        self.slot().extents.lock()
    }

    /// The extents of a pager that still allocates.
    pub(crate) fn open_extents(&self) -> Result<LockGuard<'static, Extents>, PagerError> {
        let extents = self.extents();
        // Under the lock: a close that saw no extent ends the arena before it lets go of it.
        if self.is_closed() { Err(PagerError::Closed) } else { Ok(extents) }
    }

    /// Where the arena lies; 0 once nothing is left of it. Takes no lock.
    pub(crate) fn base(&self) -> usize {
        self.slot().base()
    }

    /// A zeroed extent; its address.
    ///
    /// # Errors
    /// `Closed`; `Budget` while the budget is overshot or when address space ends; `Unsupported` when the
    /// allocation passes the budget and the machine's state does not permit paging.
    pub fn allocate(&self, bytes: usize) -> Result<usize, PagerError> {
        self.allocate_in(&mut *self.open_extents()?, bytes)
    }

    pub(crate) fn allocate_in(&self, extents: &mut Extents, bytes: usize) -> Result<usize, PagerError> {
        let range = extents.take(bytes).ok_or_else(|| {
            PagerError::Budget(format!(
                "no room for {bytes} bytes in the {} GiB of address space",
                self.slot().arena_bytes() >> 30
            ))
        })?;
        let made = self.admit(extents, &range);
        if made.is_err() {
            extents.give(&range);
        }
        made
    }

    /// Ends the extent that begins at `addr`. At interpreter exit nothing happens.
    pub fn release(&self, addr: usize, bytes: usize) {
        if is_finalized() {
            return;
        }
        let extents = self.extents();
        let Ok(Some(first)) = self.with(|s| s.page_of(addr)) else { return };
        self.release_in(extents, first..first + pages_for(bytes).max(1));
    }

    /// Ends an extent, and the pager where it is closed and that was the last; false when there is no such extent.
    pub(crate) fn release_in(&self, mut extents: LockGuard<'_, Extents>, range: Range<usize>) -> bool {
        let given = extents.give(&range);
        if given {
            // Refused only for locked memory: the frames then stay until the arena goes.
            let _ = self.with(|s| s.release(&range));
        }
        if self.is_closed() {
            self.release_empty_runs(extents);
        }
        given
    }

    /// For a closed pager: what waits for blocks that never come goes, and with the last extent all of it.
    pub(crate) fn release_empty_runs(&self, mut extents: LockGuard<'_, Extents>) {
        self.release_idle(&mut extents, 0);
        while let Some(first) = extents.runs.drop_an_empty_one()
            && let Some(run) = extents.at(first)
        {
            extents.give(&run);
            let _ = self.with(|s| s.release(&run));
        }
        if extents.live() == 0 {
            self.end();
        }
    }

    /// No new allocations from here on; live arrays stay valid. How many there are.
    pub fn close(&self) -> usize {
        let extents = self.extents();
        if self.slot().closed.swap(true, Ordering::AcqRel) {
            return 0;
        }
        self.release_empty_runs(extents);
        self.extents().blocks()
    }

    /// Whether an address lies in this pager's arena. Takes no lock.
    pub fn has(&self, addr: usize) -> bool {
        self.slot().contains(addr)
    }

    fn end(&self) {
        self.slot().empty();
    }

    /// The pages of a byte range, if one live extent holds them all.
    pub(crate) fn pages(&self, addr: usize, bytes: usize) -> Result<Range<usize>, PagerError> {
        let extents = self.extents();
        let first = self.with(|s| s.page_of(addr))?.ok_or(PagerError::NotOurs)?;
        let end = (addr % PAGE_SIZE).checked_add(bytes).map(pages_for).ok_or(PagerError::NotOurs)?;
        let range = first..first.checked_add(end.max(1)).ok_or(PagerError::NotOurs)?;
        extents.holding(&range).map(|_| range).ok_or(PagerError::NotOurs)
    }

    /// As `pages`, for what leaves a mark on the extent.
    fn steered(&self, addr: usize, bytes: usize) -> Result<Range<usize>, PagerError> {
        let range = self.pages(addr, bytes)?;
        let mut extents = self.extents();
        let extent = extents.holding(&range).ok_or(PagerError::NotOurs)?;
        extents.steered.insert(extent.start);
        Ok(range)
    }

    /// Whether a byte range lies in a live extent.
    pub fn owns(&self, addr: usize, bytes: usize) -> bool {
        self.pages(addr, bytes).is_ok()
    }

    /// # Errors
    /// `NotOurs`, `Closed`.
    pub fn prefetch(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.pages(addr, bytes)?;
        self.with(|s| {
            if s.is_armed() {
                s.prefetch(range)
            }
        })
    }

    /// Sends a range out; pages that left. Below the budget pages stay: nothing would be gained.
    ///
    /// # Errors
    /// `NotOurs`, `Closed`, `Unsupported`.
    pub fn evict(&self, addr: usize, bytes: usize) -> Result<usize, PagerError> {
        let range = self.pages(addr, bytes)?;
        self.begin_paging()?;
        self.with(|s| s.evict_on_request(range))
    }

    /// Sends everything out that may leave; pages that left.
    ///
    /// # Errors
    /// `Closed`, `Unsupported`.
    pub fn evict_all(&self) -> Result<usize, PagerError> {
        self.begin_paging()?;
        self.with(|s| s.evict_on_request(0..s.top))
    }

    /// # Errors
    /// `NotOurs`, `Closed`, `Budget`.
    pub fn pin(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.steered(addr, bytes)?;
        self.with(|s| s.pin(range))?
    }

    /// # Errors
    /// `NotOurs`, `Closed`.
    pub fn unpin(&self, addr: usize, bytes: usize) -> Result<(), PagerError> {
        let range = self.pages(addr, bytes)?;
        self.with(|s| s.unpin(range))
    }

    /// # Errors
    /// `NotOurs`, `Closed`.
    pub fn advise(&self, addr: usize, bytes: usize, advice: Advice) -> Result<(), PagerError> {
        let range = self.steered(addr, bytes)?;
        self.with(|s| s.advise(range, advice))
    }

    /// Calls `f` with the published counters, brought up to date.
    ///
    /// # Errors
    /// `Closed` when nothing is left of it.
    pub fn stats<R>(&self, f: impl FnOnce(&Stats) -> R) -> Result<R, PagerError> {
        let extents = self.extents();
        let (idle, waiting) = ((extents.idle.pages() * PAGE_SIZE) as u64, extents.idle.len() as u64);
        drop(extents);
        self.with(|s| {
            s.publish();
            let (mapped, regions) = (s.stats.get(Stat::Mapped), s.stats.get(Stat::Regions));
            s.stats.set(Stat::Idle, idle);
            s.stats.set(Stat::Mapped, mapped.saturating_sub(idle));
            s.stats.set(Stat::Regions, regions.saturating_sub(waiting));
            let result = f(&s.stats);
            s.stats.set(Stat::Regions, regions);
            result
        })
    }

    /// Broken laws in words; none is sound.
    pub fn check(&self) -> Vec<String> {
        self.with(|s| s.check()).unwrap_or_default()
    }

    /// Warnings that the fault path left.
    pub fn notices(&self) -> Vec<String> {
        self.with(|s| s.notices.drain()).unwrap_or_default()
    }

    /// The entry in force, or the one that will be.
    pub fn entry(&self) -> Entry {
        self.with(|s| s.entry).ok().flatten().unwrap_or(self.planned)
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        // The bindings keep the handle as long as any array lives, so that the slot is empty or can be emptied.
        if !is_finalized() {
            self.slot().closed.store(true, Ordering::Release);
            self.end();
            registry::release(self.index);
        }
    }
}

pub(crate) fn build(config: &Config) -> Result<State, PagerError> {
    let arena_pages = config.arena.next_multiple_of(HUGE_SIZE) / PAGE_SIZE;
    let frames = config.ram / PAGE_SIZE;
    // Standby pages, free frames, and holes enough to find runs among.
    let slots = (frames / 4).clamp(1024, 1 << 16);
    let dictionaries = Dictionaries::new();
    let mut shared = Some(dictionaries.clone());
    let backends = config.backends.iter().map(|kind| backend(*kind, config, arena_pages, &mut shared));
    let backends = backends.collect::<Result<Vec<_>, _>>()?;
    let stats =
        Stats(Counters::new(&config.name).map_err(|e| PagerError::Kernel("publishing statistics", e))?);
    stats.set(Stat::Ram, config.ram as u64);
    let setup = Setup {
        ram: config.ram,
        arena_pages,
        access: if config.guarded { Access::Opened } else { Access::Everywhere },
        slots,
        frontswap: Frontswap::new(backends, 0, arena_pages, Mode::default())?,
        swap: swap_device(config, arena_pages, dictionaries.clone())?,
        stats,
        dictionaries,
    };
    let mut state = State::new(setup)?;
    state.publish();
    Ok(state)
}

/// `shared`: the workers' dictionaries, which the first store has too.
fn backend(
    kind: Backend,
    config: &Config,
    pages: usize,
    shared: &mut Option<Arc<Dictionaries>>,
) -> Result<Box<dyn BackendOps>, PagerError> {
    Ok(match kind {
        Backend::Store => Box::new(local_store(config, pages, 0, shared.take())?),
        Backend::Leasing { reserve } => Box::new(local_store(config, pages, reserve, shared.take())?),
        Backend::RefuseAll => Box::new(testback::RefuseAll::default()),
        Backend::Plain => Box::new(testback::PlainCopies::new(pages)?),
        Backend::Process { fd, limit_ms } => Box::new(ProcessBackend::new(fd, limit_ms, pages)?),
    })
}

/// At most seven tenths of the budget; `State::share_out` sets what it may really take.
fn local_store(
    config: &Config,
    pages: usize,
    lease_reserve: usize,
    shared: Option<Arc<Dictionaries>>,
) -> Result<LocalBackend, PagerError> {
    let (capacity, pages) = (config.ram / 10 * 7, pages as u64);
    let store =
        StoreConfig { reserve_bytes: capacity, lease_reserve, ..StoreConfig::for_pages(pages, capacity) };
    // A page that does not shrink gains nothing in the store, but where there is a swap device it waits there for its turn
    // to go down: sent past older pages, it would be fetched again sooner than they.
    let pool = PoolConfig { raw: config.swap.is_some(), dedup: config.dedup, ..PoolConfig::default() };
    Ok(match shared {
        Some(dictionaries) => LocalBackend::sharing(store, pool, dictionaries)?,
        None => LocalBackend::new(store, pool)?,
    })
}

pub(crate) fn swap_device(
    config: &Config,
    pages: usize,
    dictionaries: Arc<Dictionaries>,
) -> Result<SwapOut, PagerError> {
    let Some((dir, bytes)) = &config.swap else { return Ok(SwapOut::none()) };
    let wanted = SwapConfig { dir: dir.clone(), cap_pages: bytes / PAGE_SIZE as u64, allow_memory: true };
    match SwapDevice::sharing(&wanted, dictionaries) {
        Ok(device) => Ok(SwapOut::new(device, pages)?),
        Err(SwapOpenError::Errno(e)) => Err(PagerError::Swap(
            e,
            format!("no swap file can be made in {}: {e}. Name another directory in swap=", dir.display()),
        )),
        Err(e @ SwapOpenError::InMemory) => Err(PagerError::Swap(tmem_sys::Errno::EINVAL, e.to_string())),
    }
}

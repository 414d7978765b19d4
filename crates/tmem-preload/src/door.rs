// SPDX-License-Identifier: Apache-2.0
//! Owns: the process's one pager, and when there comes to be one. A program that maps little is left alone: most processes of a
//! tree (shells, drivers of compilers) are such. Callers: `space`, `brk`, `advice`, `remap`, the ledger's thread, the report.
//! Lock: one thread makes the pager, and others that want it wait.

use crate::guest;
use crate::ledger;
use crate::rlimit;
use crate::settings::Settings;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::ops::Range;
use std::sync::OnceLock;
use tmem_pager::{Choice, Config, Pager, PagerError};
use tmem_store::Dedup;
use tmem_sys::caps::Caps;
use tmem_sys::entry::Entry;
use tmem_sys::syscall::{give_way, write_stderr};
use tmem_sys::{Errno, ThreadKey};

/// Mappings from this size on are managed.
pub const LARGE: usize = 64 << 10;

/// What a process maps of large memory before it gets a pager: 4 MiB. It stays the kernel's.
pub const EARLY: usize = 4 << 20;

/// The pager and the addresses it serves.
pub struct Door {
    pub pager: Pager,
    pub arena: Range<usize>,
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();
static DOOR: AtomicPtr<Door> = AtomicPtr::new(core::ptr::null_mut());
/// The key of the thread that makes the pager; [`SETTLED`] once there is one, or there will be none.
static MAKER: AtomicU64 = AtomicU64::new(ThreadKey::NONE.bits());
const SETTLED: u64 = u64::MAX;
static EARLY_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Before the program's first instruction.
pub fn set_settings(settings: Settings) {
    let _ = SETTINGS.set(settings);
}

pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get()
}

/// The pager, if there is one.
pub fn door() -> Option<&'static Door> {
    // SAFETY: once set, it points to a value that is never freed.
    unsafe { DOOR.load(Ordering::Acquire).as_ref() }
}

/// The pager for a process that maps `bytes` more of large memory; `None` while it has mapped little, or where there is none.
pub fn door_for(bytes: usize) -> Option<&'static Door> {
    if let Some(door) = door() {
        return Some(door);
    }
    if EARLY_BYTES.load(Ordering::Relaxed).saturating_add(bytes) <= EARLY {
        EARLY_BYTES.fetch_add(bytes, Ordering::Relaxed);
        return None;
    }
    make()
}

/// No pager is made in this process any more; false where one was made, or is being made.
pub fn give_up() -> bool {
    claim(SETTLED)
}

fn claim(key: u64) -> bool {
    MAKER.compare_exchange(ThreadKey::NONE.bits(), key, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

#[cold]
fn make() -> Option<&'static Door> {
    let settings = settings()?;
    let me = ThreadKey::current().bits();
    if !claim(me) {
        // It waits for nobody, so that it may be waited for; what it maps itself is the kernel's.
        let mut turns = 0;
        while ![SETTLED, me].contains(&MAKER.load(Ordering::Acquire)) {
            give_way(turns);
            turns += 1;
        }
        return door();
    }
    let made = make_with(settings);
    MAKER.store(SETTLED, Ordering::Release);
    made
}

fn make_with(settings: &Settings) -> Option<&'static Door> {
    let before = rlimit::mapped_bytes();
    let grant = ledger::join(settings, None);
    let config = Config {
        // What is made for its size is made for the most that the process may come to have.
        ram: settings.ram,
        swap: settings.swap.clone(),
        faults: choice(settings.faults),
        name: "tmem run".to_owned(),
        backends: vec![guest::backend(settings, rlimit::may_map())],
        background: Some(tmem_sys::background::unknown_to_libc),
        dedup: Dedup::Auto,
        arena: rlimit::arena_bytes(),
        guarded: true,
    };
    match Pager::new(config) {
        Ok(pager) => {
            rlimit::add_ours(rlimit::mapped_bytes().saturating_sub(before));
            let _ = pager.set_ram(grant);
            let arena = pager.arena();
            let door = Box::leak(Box::new(Door { pager, arena }));
            DOOR.store(door, Ordering::Release);
            ledger::keep();
            guest::begin(settings, door);
            Some(door)
        }
        Err(why) => {
            tell("this process's memory is not managed", &why.to_string());
            None
        }
    }
}

/// How faults arrive where that is left to us: where the kernel serves its own, by threads, so that no system call of a program
/// that knows nothing of us needs to be guarded.
fn choice(told: Choice) -> Choice {
    match told {
        Choice::Auto if Caps::probe().refusal(Entry::Thread).is_none() && Caps::probe().uffd_full.is_ok() => {
            Choice::Only(Entry::Thread)
        }
        told => told,
    }
}

/// Whether faults, or system calls that are guarded, come as signals here.
pub fn needs_signals() -> bool {
    static NEEDED: OnceLock<bool> = OnceLock::new();
    *NEEDED.get_or_init(|| {
        settings().is_some_and(|s| match choice(s.faults) {
            Choice::Only(entry) => Caps::probe().guarded(entry),
            Choice::Auto => true,
        })
    })
}

/// Memory cannot be paged, so that allocations which pass the budget are refused: told once, with the thread or object that
/// stands in the way and the remedy.
#[cold]
fn tell_unpageable(why: &str) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        tell("memory cannot be paged, so what passes the budget is refused with ENOMEM", why);
    }
}

/// A line on standard error.
pub fn tell(what: &str, why: &str) {
    write_stderr("tmem: ");
    write_stderr(what);
    write_stderr(": ");
    write_stderr(why);
    write_stderr("\n");
}

/// What the kernel would have answered.
pub fn errno(error: &PagerError) -> Errno {
    match error {
        PagerError::Kernel(_, e) | PagerError::Swap(e, _) => *e,
        PagerError::NotOurs => Errno::EINVAL,
        PagerError::Unsupported(why) => {
            tell_unpageable(why);
            Errno::ENOMEM
        }
        PagerError::Budget(_) | PagerError::Closed => Errno::ENOMEM,
    }
}

/// A part of a range: its addresses, and the pager where they are in the arena.
pub type Part = (Range<usize>, Option<&'static Door>);

/// A range cut where the arena begins and ends.
pub fn parts(range: Range<usize>) -> impl Iterator<Item = Part> {
    let door = door();
    let arena = door.map_or(0..0, |d| d.arena.clone());
    let cut = |at: usize| at.clamp(range.start, range.end);
    let (first, last) =
        if door.is_some() { (cut(arena.start), cut(arena.end)) } else { (range.end, range.end) };
    [(range.start..first, None), (first..last, door), (last.max(first)..range.end, None)]
        .into_iter()
        .filter(|(part, _)| !part.is_empty())
}

/// Whether any of a range is in the arena.
pub fn touches_arena(range: &Range<usize>) -> bool {
    door().is_some_and(|d| range.start < d.arena.end && range.end > d.arena.start)
}

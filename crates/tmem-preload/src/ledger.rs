// SPDX-License-Identifier: Apache-2.0
//! Owns: this process's share of the tree's budget. Callers: `door` (joining), `space`, `brk` and `remap` (growing), a thread of
//! its own (sharing out anew), `report` (leaving). Lock order: the process's own lock, then the one in the file; the pager is
//! asked and told under neither.
//!
//! What is free is given to whoever grows first. When nothing is, each process gets what it wants, up to one level that is the
//! same for all: four times a second, and when a process comes that finds nothing free, or goes, each looks at what all want
//! and sets its own budget. A process that joins gets the least that a pager can work with at once; the others shrink a moment
//! later, so that the budget may be passed until then.

use crate::door::{self, Door};
use crate::procfs;
use crate::refusal::Refusal;
use crate::rlimit;
use crate::settings::Settings;
use crate::share;
use crate::shared::{Head, Of, SLOTS, Shared};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use tmem_pager::MIN_RAM;
use tmem_sys::background::pause;
use tmem_sys::syscall::{call, getpid, gettid};
use tmem_sys::time::now_ns;
use tmem_sys::{guard, own};

const LOOK_MS: u64 = 250;
/// A process takes so much more than it needs now: the next time comes later.
const STEP: usize = 1 << 20;
/// Tables of what is mapped: at most this, and this part of it.
const TABLES: usize = 256 << 10;
const TABLE_PART: usize = 64;
const STACK: usize = 64 << 10;
const NO_SLOT: usize = usize::MAX;

static SHARED: OnceLock<Option<Shared>> = OnceLock::new();
static NAME: OnceLock<CString> = OnceLock::new();
/// The namespace of this process's number; 0 before it was asked.
static SPACE: AtomicU64 = AtomicU64::new(0);
static SLOT: AtomicUsize = AtomicUsize::new(NO_SLOT);
/// The process whose thread keeps its share.
static KEEPER: AtomicI32 = AtomicI32::new(0);
/// How often this process has made room for itself.
static GROWN: AtomicU64 = AtomicU64::new(0);

/// The ledger, if there is one that can be used.
fn shared() -> Option<Shared> {
    static CUT: AtomicBool = AtomicBool::new(false);
    let shared = opened()?;
    if CUT.load(Ordering::Relaxed) {
        return None;
    }
    let name = NAME.get()?;
    if shared.check(name).is_err() {
        if !CUT.swap(true, Ordering::Relaxed) {
            door::tell("the budget's ledger was cut short", "this process keeps the share it has");
        }
        return None;
    }
    Some(shared)
}

fn opened() -> Option<Shared> {
    *SHARED.get_or_init(|| {
        let settings = door::settings()?;
        let name = CString::new(settings.ledger.as_os_str().as_bytes()).ok()?;
        let _ = NAME.set(name);
        let opened = Shared::open(&settings.ledger);
        if let Err(e) = opened {
            door::tell(
                "the budget's ledger cannot be used, so this process has a budget of its own",
                e.name(),
            );
        }
        opened.ok()
    })
}

fn space() -> u64 {
    match SPACE.load(Ordering::Relaxed) {
        0 => {
            let space = procfs::namespace();
            SPACE.store(space, Ordering::Relaxed);
            space
        }
        space => space,
    }
}

/// Whether this process is the one that the tree began with: its number may have been given to another, or be one of a namespace.
pub fn is_root(settings: &Settings) -> bool {
    let since = head(Head::Since);
    settings.root == getpid() && (since == 0 || procfs::start_time().is_none_or(|start| start == since))
}

/// Anonymous memory of this process that is no pager's. While memory is plain it cannot be told from the pager's: then it is what
/// there was before there was a pager.
fn unmanaged(door: Option<&Door>) -> usize {
    static BEFORE: AtomicUsize = AtomicUsize::new(0);
    match door {
        None => {
            let bytes = rlimit::anonymous_bytes();
            BEFORE.store(bytes, Ordering::Relaxed);
            bytes
        }
        Some(door) if door.pager.is_paging() => {
            rlimit::anonymous_bytes().saturating_sub(door.pager.memory_bytes())
        }
        Some(_) => BEFORE.load(Ordering::Relaxed),
    }
}

/// What a pager may use of a grant. Memory that is not the pager's grows between two looks, too: there is room for a step of it,
/// and while memory is plain, when it cannot be told from the pager's, for all that was mapped before there was a pager.
fn for_pager(grant: usize, unmanaged: usize, is_paging: bool) -> usize {
    grant.saturating_sub(unmanaged + room_beside(is_paging)).max(MIN_RAM)
}

fn room_beside(is_paging: bool) -> usize {
    if is_paging { STEP } else { STEP + door::EARLY }
}

/// Enters this process; the budget its pager begins with, or that a forked child's goes on with.
pub fn join(settings: &Settings, door: Option<&Door>) -> usize {
    let others = unmanaged(door);
    let needs = door.and_then(|door| door.pager.usage().ok()).unwrap_or(0).max(MIN_RAM);
    let Some(shared) = shared() else { return for_pager(settings.ram, others, false) };
    let pid = getpid();
    let start = procfs::start_time().unwrap_or(0);
    let grant = shared.alone(space(), || {
        let slot = free_slot(&shared, pid)?;
        let free = free_bytes(&shared, settings.ram);
        let grant = (MIN_RAM + others).max((needs + STEP + others).min(free));
        shared.set(slot, Of::Pid, pid as u64);
        shared.set(slot, Of::Start, start);
        shared.set(slot, Of::Space, space());
        shared.set(slot, Of::Grant, grant as u64);
        shared.set(slot, Of::Usage, others as u64);
        shared.set(slot, Of::Want, grant as u64);
        shared.head_word(Head::Joined).fetch_add(1, Ordering::Relaxed);
        SLOT.store(slot, Ordering::Relaxed);
        Some((grant, grant > free))
    });
    if let Some((_, true)) = grant {
        shared.call();
    }
    let grant = grant.map(|(grant, _)| grant);
    for_pager(grant.unwrap_or(MIN_RAM + others), others, false)
}

/// A slot for a process: its own from before an `execve`, else an empty one, else that of a process which is no more.
fn free_slot(shared: &Shared, pid: i32) -> Option<usize> {
    let of = |slot: usize| shared.slot(slot, Of::Pid);
    let space = space();
    let own = (0..SLOTS).find(|&s| of(s) == pid as u64 && shared.slot(s, Of::Space) == space);
    let slot = own.or_else(|| (0..SLOTS).find(|&s| !shared.lives(s, space)))?;
    if of(slot) != 0 {
        shared.retire(slot);
    }
    Some(slot)
}

/// What no process has been granted.
fn free_bytes(shared: &Shared, ram: usize) -> usize {
    let granted: u64 = (0..SLOTS).map(|s| shared.slot(s, Of::Grant)).sum();
    ram.saturating_sub(granted as usize)
}

/// Before a process uses `bytes` more: takes of what is free what it would lack.
pub fn make_room(door: &Door, bytes: usize) {
    keep();
    let Some(shared) = shared() else { return };
    // What is lacking by a table's size would begin paging.
    let needs = door.pager.usage().unwrap_or(0) + bytes + bytes / TABLE_PART + TABLES;
    if needs <= door.pager.ram() {
        return;
    }
    rejoin(door);
    let slot = SLOT.load(Ordering::Relaxed);
    let has = door.pager.ram();
    if slot == NO_SLOT || needs <= has {
        return;
    }
    GROWN.fetch_add(1, Ordering::Relaxed);
    let ram = shared.head(Head::Ram) as usize;
    let more = shared.alone(space(), || {
        let more = (needs - has + STEP).min(free_bytes(&shared, ram));
        shared.set(slot, Of::Grant, shared.slot(slot, Of::Grant) + more as u64);
        more
    });
    if more > 0 {
        let _ = door.pager.set_ram(has + more);
    }
}

/// Sees to it that this process has the thread that keeps its share.
pub fn keep() {
    let pid = getpid();
    let keeper = KEEPER.load(Ordering::Acquire);
    if keeper == pid || KEEPER.compare_exchange(keeper, pid, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return;
    }
    if own::spawn(c"tmem-ledger", STACK, watch).is_err() {
        door::tell("this process keeps the share it has", "a thread cannot be made");
    }
}

fn watch() {
    // It hands the kernel no memory but its own stack.
    guard::exempt(gettid());
    loop {
        match shared() {
            Some(shared) => shared.sleep(LOOK_MS),
            None => pause(LOOK_MS),
        }
        // Several that come or go at once are one call.
        pause(1);
        look();
    }
}

/// Enters a forked child.
fn rejoin(door: &Door) {
    if SLOT.load(Ordering::Relaxed) == NO_SLOT
        && let Some(settings) = door::settings()
    {
        let _ = door.pager.set_ram(join(settings, Some(door)));
    }
}

/// As [`look`], for the last time. A forked child that never needed a share of its own does not take one now.
pub fn look_at_exit() {
    if SLOT.load(Ordering::Relaxed) != NO_SLOT {
        look();
    }
}

/// Publishes what this process uses and wants, and takes the share that is its own now.
pub fn look() {
    let Some(door) = door::door() else { return };
    crate::guest::look();
    let Some(shared) = shared() else { return };
    rejoin(door);
    let slot = SLOT.load(Ordering::Relaxed);
    if slot == NO_SLOT {
        return;
    }
    let others = unmanaged(Some(door));
    let want = publish(&shared, slot, door, others);
    let ram = shared.head(Head::Ram) as usize;
    let space = space();
    let has_grown = has_grown();
    let grant = shared.alone(space, || {
        for slot in (0..SLOTS).filter(|&s| shared.slot(s, Of::Pid) != 0) {
            if !shared.lives(slot, space) {
                shared.retire(slot);
            }
        }
        let wants = (0..SLOTS).map(|s| shared.slot(s, Of::Want) as usize);
        let used: u64 = (0..SLOTS).map(|s| shared.slot(s, Of::Usage)).sum();
        shared.head_word(Head::Peak).fetch_max(used, Ordering::Relaxed);
        let level = share::level(ram, wants);
        let grant = (shared.slot(slot, Of::Want) as usize).min(level).max(MIN_RAM + others.min(ram));
        if has_grown && grant >= want {
            // What it was given may not be in use yet, and nobody lacks it: without it, the program's next step would begin paging.
            return None;
        }
        shared.set(slot, Of::Grant, grant as u64);
        Some(grant)
    });
    let Some(grant) = grant else { return };
    let (budget, has) = (for_pager(grant, others, door.pager.is_paging()), door.pager.ram());
    // A smaller one holds at once; a larger one is worth the change when it is some larger.
    if budget < has || budget - has >= STEP {
        let _ = door.pager.set_ram(budget);
    }
}

/// Whether this process has made room for itself since before the last time that was asked.
fn has_grown() -> bool {
    static BEFORE: AtomicU64 = AtomicU64::new(0);
    let grown = GROWN.load(Ordering::Relaxed);
    BEFORE.swap(grown, Ordering::Relaxed) != grown
}

/// Tells what this process uses and wants; the latter.
fn publish(shared: &Shared, slot: usize, door: &Door, others: usize) -> usize {
    let now = crate::usage::now(door, others);
    let usage = door.pager.usage().unwrap_or(0) + others;
    if door.pager.is_paging() {
        shared.head_word(Head::Entry).store(door.pager.entry() as u64 + 1, Ordering::Relaxed);
    }
    // While memory is plain, what it wants is what it has, and a little to grow.
    let is_paging = door.pager.is_paging();
    let all = door.pager.committed();
    let all = if is_paging { all + all / TABLE_PART + MIN_RAM / 4 + others } else { usage + TABLES + STEP };
    let want = (all + room_beside(is_paging)).max(MIN_RAM);
    shared.set(slot, Of::Usage, usage as u64);
    shared.set(slot, Of::Want, want as u64);
    let peak = |of: Of, value: u64| shared.set(slot, of, shared.slot(slot, of).max(value));
    peak(Of::Managed, now.managed);
    peak(Of::Unmanaged, others as u64);
    peak(Of::Resident, usage as u64);
    peak(Of::SwapUsed, now.swap_used);
    peak(Of::Leased, now.leased);
    for (of, value) in [(Of::Faults, now.faults), (Of::Evictions, now.evictions), (Of::FaultNs, now.fault_ns)]
    {
        shared.set(slot, of, value);
    }
    // The ratio is that of when the store held most: at the end of a process it is empty.
    if now.packed >= shared.slot(slot, Of::Packed) {
        shared.set(slot, Of::Packed, now.packed);
        shared.set(slot, Of::PackedInto, now.packed_into);
    }
    want
}

/// So many bytes are about to be given back: what was in use until now may have been the most. Asked now and then, and always
/// where it is much.
pub fn note_peak(bytes: usize) {
    static LAST_NS: AtomicU64 = AtomicU64::new(0);
    const BETWEEN_NS: u64 = 5_000_000;
    const MUCH: usize = 4 << 20;
    let (now, last) = (now_ns(), LAST_NS.load(Ordering::Relaxed));
    if (bytes < MUCH && now.saturating_sub(last) < BETWEEN_NS)
        || LAST_NS.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
    {
        return;
    }
    let slot = SLOT.load(Ordering::Relaxed);
    if let (Some(door), true) = (door::door(), slot != NO_SLOT)
        && let Some(shared) = shared()
    {
        publish(&shared, slot, door, unmanaged(Some(door)));
    }
}

/// What all processes of the tree did, as far as they have told.
pub fn totals(of: Of) -> u64 {
    let Some(shared) = shared() else { return 0 };
    shared.ended(of) + (0..SLOTS).map(|s| shared.slot(s, of)).sum::<u64>()
}

/// A word of the header.
pub fn head(word: Head) -> u64 {
    shared().map_or(0, |shared| shared.head(word))
}

/// Something is refused to the program for the budget's sake.
pub fn note_refusal(what: Refusal) {
    if let Some(shared) = shared() {
        shared.refused(what).fetch_add(1, Ordering::Relaxed);
    }
}

/// How often something was refused in the whole tree.
pub fn refusals(what: Refusal) -> u64 {
    shared().map_or(0, |shared| shared.refused(what).load(Ordering::Relaxed))
}

/// This process ends.
pub fn leave() {
    let slot = SLOT.swap(NO_SLOT, Ordering::Relaxed);
    if slot != NO_SLOT
        && let Some(shared) = shared()
    {
        shared.alone(space(), || shared.retire(slot));
        shared.call();
    }
}

/// The first program of the tree has ended: its file goes, unless others still use it.
pub fn remove(settings: &Settings) {
    let others = |shared: Shared| (0..SLOTS).any(|s| shared.lives(s, space()));
    if shared().is_some_and(others) {
        return;
    }
    let path = settings.ledger.as_os_str().as_bytes();
    if let Ok(name) = CString::new(path) {
        // SAFETY: a live string.
        let _ = unsafe { call(libc::SYS_unlink, [name.as_ptr() as usize]) };
    }
}

/// In a forked child: it has no slot of its own yet. Its memory is its parent's until one of them writes; it joins when it looks.
pub fn forked() {
    SLOT.store(NO_SLOT, Ordering::Relaxed);
    SPACE.store(0, Ordering::Relaxed);
    KEEPER.store(0, Ordering::Relaxed);
    if let Some(door) = door::door() {
        crate::usage::forked(door);
    }
}

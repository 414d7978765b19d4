// SPDX-License-Identifier: Apache-2.0
//! Owns: the limit on address space as the program knows it. The kernel counts the arena and our tables, a little over a TiB that
//! takes no memory, among what the program maps; so the kernel's limit is the program's with that added, and the program is
//! told its own. What it maps in the arena is counted here. Callers: `hooks`, `space`. No locks but atomics.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tmem_sys::syscall::{call, getpid};
use tmem_sys::{Errno, PAGE_SIZE};

/// `struct rlimit`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

const UNLIMITED: u64 = u64::MAX;

/// Address space of ours, in bytes.
static OURS: AtomicUsize = AtomicUsize::new(0);
/// What the pager maps later for what it sends out, at most: the budget. While there is an arena the kernel leaves room for it.
static ROOM: AtomicUsize = AtomicUsize::new(0);
/// The program's soft limit on address space.
static SOFT: AtomicU64 = AtomicU64::new(UNLIMITED);

/// The limit in force when the process began.
pub fn note_start() {
    SOFT.store(kernel(libc::RLIMIT_AS).map_or(UNLIMITED, |limit| limit.soft), Ordering::Relaxed);
}

/// Address space for an arena: a TiB, or half of what is allowed where that is limited.
pub fn arena_bytes() -> usize {
    const MOST: usize = 1 << 40;
    match SOFT.load(Ordering::Relaxed) {
        UNLIMITED => MOST,
        // The tables take about a hundredth of it.
        bytes => (bytes as usize / 2).min(MOST) & !((2 << 20) - 1),
    }
}

/// Address space that the process may have in all.
pub fn may_map() -> usize {
    usize::try_from(SOFT.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
}

/// Notes that the arena and its tables were made: they count no more.
pub fn add_ours(bytes: usize) {
    OURS.fetch_add(bytes, Ordering::Relaxed);
    ROOM.store(crate::door::settings().map_or(0, |s| s.ram), Ordering::Relaxed);
    let soft = SOFT.load(Ordering::Relaxed);
    if soft != UNLIMITED
        && let Some(limit) = kernel(libc::RLIMIT_AS)
    {
        // Where the hard limit is in the way, the program has less room than it was promised.
        let raised = Limit { soft: soft.saturating_add(extra()).min(limit.hard), hard: limit.hard };
        let _ = ask(0, libc::RLIMIT_AS as i32, Some(&raised));
    }
}

/// What the kernel's limit is above the program's.
fn extra() -> u64 {
    (OURS.load(Ordering::Relaxed) + ROOM.load(Ordering::Relaxed)) as u64
}

/// Before another program takes this one's place, which has no arena: the kernel's limit becomes the program's own. The hard one
/// stays, which could not be raised again should it come to nothing.
pub fn leave() {
    set_soft(SOFT.load(Ordering::Relaxed));
}

/// It came to nothing.
pub fn stay() {
    set_soft(SOFT.load(Ordering::Relaxed).saturating_add(extra()));
}

fn set_soft(soft: u64) {
    if SOFT.load(Ordering::Relaxed) != UNLIMITED
        && OURS.load(Ordering::Relaxed) > 0
        && let Some(limit) = kernel(libc::RLIMIT_AS)
    {
        let _ = ask(0, libc::RLIMIT_AS as i32, Some(&Limit { soft: soft.min(limit.hard), ..limit }));
    }
}

/// Whether the program may map so many bytes more, `managed` of its bytes being in the arena.
pub fn permits(bytes: usize, managed: usize) -> bool {
    let soft = SOFT.load(Ordering::Relaxed);
    if soft == UNLIMITED {
        return true;
    }
    let others = mapped_bytes().saturating_sub(OURS.load(Ordering::Relaxed));
    others.saturating_add(managed).saturating_add(bytes) as u64 <= soft
}

/// All address space of the process, in bytes.
pub fn mapped_bytes() -> usize {
    statm().map_or(0, |pages| pages[0] * PAGE_SIZE)
}

/// Anonymous memory of the process in RAM, in bytes.
pub fn anonymous_bytes() -> usize {
    statm().map_or(0, |pages| pages[1].saturating_sub(pages[2]) * PAGE_SIZE)
}

/// Size, resident and shared pages.
fn statm() -> Option<[usize; 3]> {
    let mut text = [0u8; 128];
    let len = crate::procfs::read(c"/proc/self/statm", &mut text).ok()?;
    let mut numbers = crate::procfs::numbers(&text[..len]);
    Some([numbers.next()? as usize, numbers.next()? as usize, numbers.next()? as usize])
}

/// `prlimit`, with the program's own view of its address space.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// The pointers are null or the program's, for one limit each.
pub unsafe fn change(pid: i32, resource: i32, new: *const Limit, old: *mut Limit) -> Result<(), Errno> {
    // Read and written here, not by the kernel: it could not fetch a page of ours that is out.
    // SAFETY: passed on to the caller.
    let wanted = unsafe { new.as_ref() }.copied();
    let own = resource == libc::RLIMIT_AS as i32 && (pid == 0 || pid == getpid());
    let ours = extra();
    let more = |limit: u64| if limit == UNLIMITED { limit } else { limit.saturating_add(ours) };
    let less = |limit: u64| if limit == UNLIMITED { limit } else { limit.saturating_sub(ours) };
    let asked = wanted.map(|l| if own { Limit { soft: more(l.soft), hard: more(l.hard) } } else { l });
    let mut before = ask(pid, resource, asked.as_ref())?;
    if own {
        before = Limit { soft: SOFT.load(Ordering::Relaxed), hard: less(before.hard) };
        if let Some(limit) = wanted {
            SOFT.store(limit.soft, Ordering::Relaxed);
        }
    }
    if !old.is_null() {
        // SAFETY: passed on to the caller.
        unsafe { old.write(before) };
    }
    Ok(())
}

fn kernel(resource: libc::__rlimit_resource_t) -> Option<Limit> {
    ask(0, resource as i32, None).ok()
}

/// A limit of the kernel's, before it is changed to `new`.
fn ask(pid: i32, resource: i32, new: Option<&Limit>) -> Result<Limit, Errno> {
    let mut old = Limit { soft: 0, hard: 0 };
    let new = new.map_or(0, |l| core::ptr::from_ref(l) as usize);
    // SAFETY: both are null or live, of the kernel's layout.
    unsafe { call(libc::SYS_prlimit64, [pid as usize, resource as usize, new, &raw mut old as usize])? };
    Ok(old)
}

/// Bytes that a process without privilege may lock; `None` where there is no limit for it.
pub fn lockable() -> Option<u64> {
    const CAP_IPC_LOCK: u32 = 14;
    let limit = kernel(libc::RLIMIT_MEMLOCK)?.soft;
    (limit != UNLIMITED && !crate::procfs::has_capability(CAP_IPC_LOCK)).then_some(limit)
}

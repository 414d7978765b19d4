// SPDX-License-Identifier: Apache-2.0
//! The system call guard (law 16): system calls on paged memory give what they give on plain memory, or are refused before they start.
//!
//! Where the kernel cannot fetch a missing page for itself, a system call on one fails with EFAULT, often after it has already
//! consumed something (a datagram, an event). So every thread runs under Syscall User Dispatch: a call from anywhere but the
//! [`stub`](crate::stub) raises SIGSYS *before* it starts, the handler makes the buffers of that call present and holds them
//! there, issues the call from the stub, and lets go. It covers calls from inside the C library and from every thread.
//!
//! Parts: [`trap`] is the handler and sorts the calls, [`frame`] is what it interrupted, [`table`] knows their buffers, [`hold`] keeps those present,
//! [`nested`] finds what structures point to, [`transfer`] and [`message`] move what is too large to hold at once, [`refer`] lets no reference outlive its call,
//! [`standing`] keeps what the kernel uses between calls, [`descriptors`] keeps tmem's own open, [`mask`] keeps our signals deliverable, [`clone`] gets `fork` and new threads through,
//! [`threads`] knows who is covered.
//!
//! Called by the pager (arm, disarm, coverage) and by the kernel (SIGSYS). Lock order: the pager's lock, then the arming lock of
//! [`threads`]. Nothing here allocates, takes a lock while a call of the program runs, or makes a system call outside the stub.

mod clone;
mod descriptors;
mod exec;
mod frame;
mod hold;
mod mask;
mod memory;
mod message;
mod nested;
mod numbers;
mod ordinary;
mod procfs;
mod refer;
mod standing;
mod table;
mod threads;
mod transfer;
mod trap;
mod uncovered;
mod user;

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use core::time::Duration;

pub use descriptors::close_call;
pub use exec::around_exec;
pub use uncovered::{Uncovered, Why};

/// What [`Hooks::hold`] answers: how many bytes from the start are present and held, and what to release them by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldResult {
    /// Bytes from the start of the asked range that may be used now; bytes outside every arena count as held.
    pub held_len: usize,
    /// Given back to [`Hooks::release`] exactly once, also when `held_len` is 0.
    pub token: u64,
}

/// What the guard asks of the pager. All of them run inside a signal handler, on any thread and stack, several at once.
pub struct Hooks {
    /// Whether any byte of `addr..addr+len` is in a managed arena.
    pub owns: fn(addr: usize, len: usize) -> bool,
    /// Makes pages present (writable if `write`) and keeps them from eviction. May hold less than asked, never blocks on holds.
    pub hold: fn(addr: usize, len: usize, write: bool) -> HoldResult,
    /// Ends one hold.
    pub release: fn(token: u64),
    /// How many bytes one call should hold at most.
    pub limit: fn() -> usize,
    /// Tells the program's owner why a call was refused; the text names the remedy. Must not block.
    pub notice: fn(text: &'static str),
}

/// The `prctl` option; the names we build with do not have it.
pub const PR_SET_SYSCALL_USER_DISPATCH: usize = 59;

static HOOKS: AtomicPtr<Hooks> = AtomicPtr::new(core::ptr::null_mut());
static ARMED: AtomicBool = AtomicBool::new(false);

/// Event counts since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// System calls that came through the guard.
    pub calls: u64,
    /// Ranges that were made present and held.
    pub holds: u64,
    /// Pieces that transfers too large to hold were cut into.
    pub windows: u64,
    /// Calls refused before they started.
    pub refused: u64,
}

static CALLS: AtomicU64 = AtomicU64::new(0);
static HOLDS: AtomicU64 = AtomicU64::new(0);
static WINDOWS: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The guard's event counts.
#[must_use]
pub fn counters() -> Counters {
    let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
    Counters { calls: read(&CALLS), holds: read(&HOLDS), windows: read(&WINDOWS), refused: read(&REFUSED) }
}

/// Sends every system call of every thread of the process through the guard, and of those to come.
///
/// Returns when all threads have reported, each for itself; a call that was already waiting in the kernel is interrupted and
/// started again, now through the guard. Those that signals always interrupt, `poll` for one, answer EINTR. May be called again
/// after [`disarm`], or to wait once more after an error.
///
/// # Errors
/// [`Uncovered`] names the thread or object that cannot be guarded and what to do; the guard is off again then.
pub fn arm(hooks: &'static Hooks, timeout: Duration) -> Result<(), Uncovered> {
    HOOKS.store(core::ptr::from_ref(hooks).cast_mut(), Ordering::Release);
    let armed = arm_all(timeout);
    if armed.is_err() {
        disarm();
    }
    armed
}

fn arm_all(timeout: Duration) -> Result<(), Uncovered> {
    procfs::find_async_rings()?;
    user::note_process();
    trap::install()?;
    mask::strip_installed();
    if !ARMED.swap(true, Ordering::AcqRel) {
        threads::clear();
    }
    threads::arm_current()?;
    threads::cover(timeout)?;
    // A ring made by a thread while it was not yet covered.
    procfs::find_async_rings()
}

/// Lets threads leave the guard, each at its next system call. For when nothing is managed any more.
pub fn disarm() {
    ARMED.store(false, Ordering::Release);
    standing::end_all();
}

/// Whether the guard is on.
#[must_use]
pub fn is_armed() -> bool {
    ARMED.load(Ordering::Acquire)
}

/// Whether every thread of the process is covered; arms strangers. Cheap when nothing changed: one `stat`. A process that only
/// borrows this memory answers for itself: whoever lent it goes on asking for the others.
///
/// # Errors
/// [`Uncovered`] names the thread that stays outside.
pub fn all_covered() -> Result<(), Uncovered> {
    if user::is_borrower() || threads::count_matches()? {
        Ok(())
    } else {
        threads::cover(Duration::from_millis(200))
    }
}

/// Counts a thread as covered that is never to be guarded: the pager's own, which uses no paged memory in system calls. Before
/// [`arm`] any thread may say so; under the guard only the thread itself, for which the guard is switched off then.
pub fn exempt(tid: i32) {
    threads::exempt(tid);
}

/// The exempt thread `tid` is about to end.
pub fn forget(tid: i32) {
    threads::remove(tid);
}

/// In the child of a `fork`: only this thread exists, and it runs unguarded until it is armed here. Holds of the parent's calls
/// are released, so the pager must be in order again before.
///
/// # Errors
/// [`Uncovered`] where the kernel refuses.
pub fn arm_after_fork() -> Result<(), Uncovered> {
    user::note_process();
    threads::reset_after_fork();
    hold::reclaim_after_fork();
    standing::end_all();
    if is_armed() { threads::arm_current() } else { Ok(()) }
}

/// Arms the calling thread alone and counts it as covered.
///
/// # Errors
/// [`Uncovered`] where the kernel refuses.
pub fn arm_this_thread() -> Result<(), Uncovered> {
    threads::arm_current()
}

fn hooks() -> Option<&'static Hooks> {
    // SAFETY: only `arm` writes the pointer, from a `&'static Hooks`.
    unsafe { HOOKS.load(Ordering::Acquire).as_ref() }
}

/// Refuses a call before it starts: the program gets `-errno`, its owner gets `text`.
fn refuse(errno: i32, text: &'static str) -> isize {
    count(&REFUSED);
    notice(text);
    -(errno as isize)
}

fn notice(text: &'static str) {
    if let Some(hooks) = hooks() {
        (hooks.notice)(text);
    }
}

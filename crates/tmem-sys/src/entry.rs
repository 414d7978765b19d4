// SPDX-License-Identifier: Apache-2.0
//! Owns: the two ways a page fault reaches the pager, and their descriptors, one of each kind a process.
//! Called by: the kernel (signal handler), `handler` (the thread entry), the pager's `arm` and `fork`. Calls: the fault function.
//! Law 17: no lock of ours is held here; the signal handler allocates nothing and runs on a stack of our own.
//!
//! A fault through SIGBUS makes two system calls: the transfer, and the return from the handler. The second could be done without:
//! load the frame's registers in user mode and jump, 0.2 to 0.9 µs less. But the handler must run with every signal blocked,
//! or one that comes meanwhile finds the pager's lock held by its own thread, and only a system call brings the mask back.
//! What a second, cheaper call would leave of the gain does not pay for shadow stacks, single steps and `SS_AUTODISARM`.

use crate::background;
use crate::errno::Errno;
use crate::handler;
use crate::kept;
use crate::overlay;
use crate::signals::{self, ALL_BUT_SYNCHRONOUS};
use crate::stack;
use crate::syscall::{die, gettid};
use crate::thread::ThreadKey;
use crate::uffd::{self, Reach, Uffd, abi};
use crate::waker;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// How faults arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// SIGBUS in the thread that faulted.
    Signal,
    /// A thread that reads the descriptor.
    Thread,
}

impl Entry {
    pub fn name(self) -> &'static str {
        match self {
            Entry::Signal => "signal",
            Entry::Thread => "thread",
        }
    }

    fn features(self) -> u64 {
        abi::FEATURE_MOVE
            | match self {
                Entry::Signal => abi::FEATURE_SIGBUS,
                Entry::Thread => abi::FEATURE_THREAD_ID,
            }
    }

    pub fn uffd(self) -> &'static Uffd {
        match self {
            Entry::Signal => &SIGNAL,
            Entry::Thread => &THREAD,
        }
    }

    /// Opens the kind of descriptor this entry needs and says whom it serves.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_descriptor(self) -> Result<(i32, Reach), Errno> {
        let user = || uffd::open(Reach::UserOnly, self.features()).map(|fd| (fd, Reach::UserOnly));
        match self {
            // A system call meets EFAULT in this entry whatever the privilege, so none is asked for.
            Entry::Signal => {
                user().or_else(|_| uffd::open(Reach::Kernel, self.features()).map(|fd| (fd, Reach::UserOnly)))
            }
            Entry::Thread => {
                uffd::open(Reach::Kernel, self.features()).map(|fd| (fd, Reach::Kernel)).or_else(|_| user())
            }
        }
    }
}

/// What the pager made of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    Yes,
    /// The address is in no arena, or in no live extent of one.
    NotOurs,
}

/// The pager's side of a fault: address and the thread that touched it.
pub type FaultFn = fn(addr: usize, who: ThreadKey) -> Served;
/// Tells whether an address lies in an arena, in this process or the one it was cloned from.
pub type OwnsFn = fn(addr: usize) -> bool;

static SIGNAL: Uffd = Uffd::closed();
static THREAD: Uffd = Uffd::closed();
static THREAD_KERNEL: AtomicBool = AtomicBool::new(false);
static HOOKS: OnceLock<(FaultFn, OwnsFn)> = OnceLock::new();
static OWNER_PID: AtomicI32 = AtomicI32::new(0);

/// Gives the entries their pager. Once a process; later calls change nothing.
pub fn set_hooks(fault: FaultFn, owns: OwnsFn) {
    let _ = HOOKS.set((fault, owns));
}

/// The threads that the thread entry has made and that the guard need not cover.
pub fn own_threads() -> impl Iterator<Item = i32> {
    [handler::tid(), waker::tid()].into_iter().filter(|&tid| tid != 0)
}

/// The process whose faults are served.
pub(crate) fn owner() -> i32 {
    OWNER_PID.load(Ordering::Acquire)
}

/// Has a fault served by the pager.
pub(crate) fn fault(addr: usize, who: ThreadKey) -> Served {
    HOOKS.get().map_or(Served::NotOurs, |(fault, _)| fault(addr, who))
}

/// Makes an entry ready to serve registered ranges; whom it reaches. Calling again is cheap.
///
/// # Errors
/// The kernel's, when the descriptor or the handler cannot be had.
pub fn start(entry: Entry) -> Result<Reach, Errno> {
    if cfg!(feature = "fake-kernel") {
        // Faults are made by hand, and there are no system calls that could meet one.
        if !entry.uffd().is_open() {
            entry.uffd().adopt(entry.open_descriptor()?.0);
        }
        return Ok(Reach::Kernel);
    }
    stack::prepare()?;
    OWNER_PID.store(crate::syscall::getpid(), Ordering::Release);
    signals::install(libc::SIGSEGV, on_segv, libc::SA_ONSTACK, ALL_BUT_SYNCHRONOUS)?;
    let slot = entry.uffd();
    if !slot.is_open() {
        let (fd, reach) = entry.open_descriptor()?;
        THREAD_KERNEL.store(entry == Entry::Thread && reach == Reach::Kernel, Ordering::Release);
        slot.adopt(fd);
        if entry == Entry::Thread {
            handler::start(slot)?;
            kept::start_keeper(slot.fd())?;
        }
    }
    if entry == Entry::Signal {
        signals::install(libc::SIGBUS, on_bus, 0, ALL_BUT_SYNCHRONOUS)?;
        return Ok(Reach::UserOnly);
    }
    Ok(if THREAD_KERNEL.load(Ordering::Acquire) { Reach::Kernel } else { Reach::UserOnly })
}

/// In a forked child: the descriptors are the parent's, the handler thread does not exist.
///
/// # Errors
/// As [`start`].
pub fn restart_after_fork() -> Result<(), Errno> {
    stack::reset_after_fork();
    handler::reset_after_fork();
    for entry in [Entry::Signal, Entry::Thread] {
        if entry.uffd().is_open() {
            entry.uffd().adopt(-1);
            start(entry)?;
        }
    }
    OWNER_PID.store(crate::syscall::getpid(), Ordering::Release);
    Ok(())
}

/// Whether our handlers still stand in front; puts them back if something went round the guard to replace them.
///
/// # Errors
/// The kernel's.
pub fn ensure_handlers(entry: Entry) -> Result<(), Errno> {
    signals::install(libc::SIGSEGV, on_segv, libc::SA_ONSTACK, ALL_BUT_SYNCHRONOUS)?;
    if entry == Entry::Signal {
        signals::install(libc::SIGBUS, on_bus, 0, ALL_BUT_SYNCHRONOUS)?;
    }
    Ok(())
}

/// Has a SIGBUS in leased memory reported, whichever entry there is, or none.
///
/// # Errors
/// The kernel's.
pub(crate) fn watch_leases() -> Result<(), Errno> {
    stack::prepare()?;
    signals::install(libc::SIGBUS, on_bus, 0, ALL_BUT_SYNCHRONOUS)?;
    // The handler itself may be the one that meets it: blocked there, it would end the process without a word.
    let action = signals::kernel_action(libc::SIGBUS, None)?;
    let flags = action.flags | libc::SA_NODEFER as u64;
    signals::kernel_action(libc::SIGBUS, Some(&signals::Action { flags, ..action })).map(drop)
}

#[repr(C)]
struct Work {
    addr: usize,
    served: bool,
}

extern "C" fn serve(work: *mut u8) {
    // SAFETY: `on_bus` passes a live `Work` and waits for this call to return.
    let work = unsafe { &mut *work.cast::<Work>() };
    work.served = fault(work.addr, ThreadKey::current()) == Served::Yes;
}

/// The signal entry. Faults of missing pages come with a positive code; a sent SIGBUS is the program's.
extern "C" fn on_bus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: these are the kernel's arguments of this handler.
    if !unsafe { signals::is_sent(info) } {
        // SAFETY: a positive code means a fault, and then the address field is the valid one.
        let addr = unsafe { (*info).si_addr() } as usize;
        let mut work = Work { addr, served: false };
        stack::run(serve, (&raw mut work).cast());
        if work.served {
            return;
        }
        overlay::report(addr);
    }
    // SAFETY: these are the kernel's arguments of this handler.
    unsafe { signals::chain(signal, info, context) };
}

/// `si_code` of an address where nothing is mapped.
const SEGV_MAPERR: i32 = 1;

/// Law 15: a process made behind the C library's back has no arena; its first touch ends it by name. Law 17: so does a thread of
/// the pager that is lost.
extern "C" fn on_segv(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: these are the kernel's arguments of this handler.
    if !unsafe { signals::is_sent(info) } {
        // SAFETY: as in `on_bus`.
        let addr = unsafe { (*info).si_addr() } as usize;
        let tid = gettid();
        if [handler::tid(), waker::tid(), background::tid()].contains(&tid) {
            die("a thread of the pager itself failed, so that paged memory cannot be served any more");
        }
        // SAFETY: as in `on_bus`.
        let unmapped = unsafe { (*info).si_code } == SEGV_MAPERR;
        // A process that borrows this memory (`vfork`) has the arenas mapped: what it meets is a protection.
        let ours = unmapped && HOOKS.get().is_some_and(|(_, owns)| owns(addr));
        if ours && OWNER_PID.load(Ordering::Acquire) != crate::syscall::getpid() {
            die(
                "this process was made by a raw clone or _Fork, which does not inherit paged memory, and touched \
                 a paged array. Use os.fork, multiprocessing or fork(3), or copy the array to plain memory first",
            );
        }
    }
    // SAFETY: these are the kernel's arguments of this handler.
    unsafe { signals::chain(signal, info, context) };
}
